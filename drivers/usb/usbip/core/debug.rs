// SPDX-License-Identifier: GPL-2.0

//! The debug switch of all USB/IP modules.
//!
//! C: `usbip_debug_flag` and the `usbip_dbg_*` macros of `usbip_common.h`, with the same bits.

use core::fmt::Write;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel_ext::prelude::*;
use kernel_ext::sysfs::Page;

/// The bits, shared by the module parameter `usbip_debug_flag` and the attribute `usbip_debug`.
pub static FLAG: Atomic<usize> = Atomic::new(0);

/// What a debug line is about; a bit of [`FLAG`].
#[derive(Clone, Copy)]
pub enum Topic {
    /// Sending and receiving.
    Xmit = 0,
    /// sysfs files.
    Sysfs = 1,
    /// URBs.
    Urb = 2,
    /// Teardown.
    Event = 3,
    /// vhci: root hubs.
    VhciRootHub = 8,
    /// vhci: the host controller.
    VhciHc = 9,
    /// vhci and host: receiving.
    Rx = 10,
    /// vhci and host: sending.
    Tx = 11,
    /// vhci: sysfs files.
    VhciSysfs = 12,
}

/// Whether lines about `topic` are wanted. Any context.
#[inline]
pub fn enabled(topic: Topic) -> bool {
    FLAG.load(Relaxed) & (1 << topic as usize) != 0
}

/// What the attribute `usbip_debug` shows.
///
/// # Errors
///
/// None, as the line fits on a page.
pub fn show(page: &mut Page<'_>) -> Result {
    Ok(writeln!(page, "{:x}", FLAG.load(Relaxed))?)
}

/// Takes what was written to the attribute `usbip_debug`: a hexadecimal number.
///
/// # Errors
///
/// `EINVAL`: it is none.
pub fn store(text: &[u8]) -> Result {
    let text = core::str::from_utf8(text).map_err(|_| EINVAL)?.trim();
    let digits = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .unwrap_or(text);
    let value = usize::from_str_radix(digits, 16).map_err(|_| EINVAL)?;
    FLAG.store(value, Relaxed);
    Ok(())
}

/// Prints a line at debug level if its topic is switched on, at a limited rate.
#[macro_export]
macro_rules! usbip_dbg {
    ($topic:ident, $($arg:tt)*) => {
        if $crate::debug::enabled($crate::debug::Topic::$topic) {
            ::kernel_ext::pr_dbg_ratelimited!($($arg)*);
        }
    };
}
