// SPDX-License-Identifier: GPL-2.0

//! The files of a controller, in `/sys/devices/platform/usbip-vudc.N`.
//!
//! C counterpart: `vudc_sysfs.c`.

use crate::udc::{Udc, Vudc};
use core::fmt::Write;
use kernel::device;
use kernel::sync::Arc;
use kernel_ext::prelude::*;
use kernel_ext::sysfs::{Attribute, BinaryFile, Files, Page};
use kernel_ext::task;

/// Size of a device descriptor (USB 2.0 table 9-8).
pub(crate) const DESCRIPTOR: usize = 18;

/// All of them.
pub(crate) struct VudcFiles {
    _text: Files<Arc<Udc>>,
    _descriptor: BinaryFile<Arc<Udc>>,
}

impl VudcFiles {
    /// Creates the files. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn create(dev: &device::Device<device::Bound>, udc: &Arc<Udc>) -> Result<Self> {
        let data = Arc::new(udc.clone(), GFP_KERNEL)?;
        Ok(Self {
            _text: Files::create(
                dev,
                data.clone(),
                [
                    Attribute::read_only(c"usbip_status", show_status),
                    Attribute::write_only(c"usbip_sockfd", store_sockfd),
                ],
            )?,
            _descriptor: BinaryFile::create(dev, data, c"dev_desc", DESCRIPTOR, read_descriptor)?,
        })
    }
}

/// One digit: the tools read no more.
fn show_status(udc: &Arc<Udc>, _index: u32, page: &mut Page<'_>) -> Result {
    Ok(writeln!(page, "{}", udc.data().status())?)
}

/// A file descriptor, or -1 to end the connection.
fn store_sockfd(udc: &Arc<Udc>, _index: u32, text: &[u8]) -> Result {
    task::require_admin()?;
    match number(text).ok_or(EINVAL)? {
        -1 => udc.data().disconnect(),
        fd => Vudc::connect(udc, fd),
    }
}

fn read_descriptor(udc: &Arc<Udc>, offset: usize, out: &mut [u8]) -> Result<usize> {
    let descriptor = udc.data().descriptor(udc).ok_or(ENODEV)?;
    let rest = descriptor.get(offset..).unwrap_or(&[]);
    let len = rest.len().min(out.len());
    if let (Some(out), Some(rest)) = (out.get_mut(..len), rest.get(..len)) {
        out.copy_from_slice(rest);
    }
    Ok(len)
}

/// A number as `kstrtoint()` with base 0 reads it: a sign, decimal digits, or hexadecimal ones behind
/// `0x`, or octal ones behind `0`; nothing else but a newline at the end.
fn number(text: &[u8]) -> Option<i32> {
    let text = core::str::from_utf8(text).ok()?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let hex = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = match (hex, digits.strip_prefix('0')) {
        (Some(hex), _) => (hex, 16),
        (None, Some(octal)) if !octal.is_empty() => (octal, 8),
        _ => (digits, 10),
    };
    // `from_str_radix` takes a sign itself.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let value = i64::from_str_radix(digits, radix).ok()?;
    i32::try_from(if negative { -value } else { value }).ok()
}
