// SPDX-License-Identifier: GPL-2.0

//! Errnos as constants, those of USB and networking included.
//!
//! C header: [`include/uapi/asm-generic/errno.h`](srctree/include/uapi/asm-generic/errno.h)
//!
//! The kernel's prelude has some or all of them, depending on the version: import
//! [`crate::prelude`] instead of it where both are needed.

pub use crate::compat::error_code::*;
