// SPDX-License-Identifier: GPL-2.0

//! Errnos as constants, those of USB and networking included.
//!
//! C header: [`include/uapi/asm-generic/errno.h`](srctree/include/uapi/asm-generic/errno.h)

pub use crate::compat::error_code::*;
pub use kernel::error::code::*;
