// SPDX-License-Identifier: GPL-2.0

//! The files of an exported device, in `/sys/bus/usb/devices/BUSID`.
//!
//! C counterpart: the attributes of `stub_dev.c`.

use crate::stub::Stub;
use core::fmt::Write;
use kernel::device;
use kernel::sync::Arc;
use kernel_ext::prelude::*;
use kernel_ext::sysfs::{Attribute, Files, Page};
use kernel_ext::task;
use usbip_core::debug;

/// Creates the files. May sleep.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn create(
    dev: &device::Device<device::Bound>,
    stub: &Arc<Stub>,
) -> Result<Files<Arc<Stub>>> {
    Files::create(
        dev,
        Arc::new(stub.clone(), GFP_KERNEL)?,
        [
            Attribute::read_only(c"usbip_status", show_status),
            Attribute::write_only(c"usbip_sockfd", store_sockfd),
            Attribute::read_write(c"usbip_debug", show_debug, store_debug),
        ],
    )
}

/// One digit: the tools read no more.
fn show_status(stub: &Arc<Stub>, _index: u32, page: &mut Page<'_>) -> Result {
    Ok(writeln!(page, "{}", stub.status())?)
}

/// A file descriptor, or -1 to end the connection.
fn store_sockfd(stub: &Arc<Stub>, _index: u32, text: &[u8]) -> Result {
    task::require_admin()?;
    match number(text).ok_or(EINVAL)? {
        -1 => stub.disconnect(),
        fd => stub.connect(fd),
    }
}

fn show_debug(_stub: &Arc<Stub>, _index: u32, page: &mut Page<'_>) -> Result {
    debug::show(page)
}

fn store_debug(_stub: &Arc<Stub>, _index: u32, text: &[u8]) -> Result {
    debug::store(text)
}

/// The number at the beginning, as the kernel's `sscanf` with `%d` reads it: white space, a minus sign,
/// decimal digits; what follows does not matter. One that is too large is none, while C takes what is
/// left of it in 32 bits.
fn number(text: &[u8]) -> Option<i32> {
    // `isspace()` has the vertical tab, `is_ascii_whitespace()` has not.
    let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let start = text.iter().position(|byte| !is_space(byte))?;
    let text = text.get(start..)?;
    let sign = usize::from(text.first() == Some(&b'-'));
    let digits = text.get(sign..)?;
    let count = digits
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(digits.len());
    core::str::from_utf8(text.get(..sign + count)?)
        .ok()?
        .parse()
        .ok()
}
