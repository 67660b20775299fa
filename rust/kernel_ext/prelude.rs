// SPDX-License-Identifier: GPL-2.0

//! The kernel's prelude and all errnos.
//!
//! A single import: of two that overlap, which one is unused would depend on the kernel's version.

pub use crate::errno::*;
pub use kernel::prelude::*;
