// SPDX-License-Identifier: GPL-2.0

//! What the `kernel` crate lacks for USB over a network, in its style: host controllers, sockets,
//! kernel threads, sysfs files, platform devices and a few smaller things.
//!
//! Nothing here knows USB/IP. Paths mirror `rust/kernel/`. All `unsafe` of the project is here (and
//! in the bindings): the drivers that use this crate have none.
//!
//! Everything assumes that a module drops what it has created before its text goes away, as the
//! `kernel` crate does: `core::mem::forget` of a thread, a work queue or a registration and a
//! subsequent unload of the module cannot be guarded against.

use bindings_ext as bindings;

pub mod compat;
pub mod errno;
pub mod kthread;
pub mod mm;
pub mod module_param;
pub mod net;
pub mod platform;
pub mod prelude;
pub mod random;
pub mod ratelimit;
pub mod sync;
pub mod sysfs;
pub mod task;
pub mod time;
pub mod usb;
pub mod workqueue;

/// What this crate's log lines begin with.
#[allow(dead_code, reason = "the name is what `kernel::print_macro` expects")]
const __LOG_PREFIX: &[u8] = b"kernel_ext\0";

/// Whether USB was switched off on the kernel's command line (C: `usb_disabled()`). Any context.
#[inline]
pub fn usb_disabled() -> bool {
    // SAFETY: Reads a flag; no requirements.
    unsafe { bindings::usb_disabled() != 0 }
}
