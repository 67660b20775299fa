// SPDX-License-Identifier: GPL-2.0

//! USB, as seen by the drivers of host controllers ([`hcd`], [`urb`]) and by those of devices
//! ([`driver`], [`transfer`]), and by those of device controllers ([`gadget`]).
//!
//! C headers: [`include/linux/usb.h`](srctree/include/linux/usb.h),
//! [`include/linux/usb/hcd.h`](srctree/include/linux/usb/hcd.h)

pub mod buffer;
pub mod device;
pub mod driver;
#[cfg(CONFIG_USB_GADGET)]
pub mod gadget;
pub mod hcd;
pub mod transfer;
pub mod urb;

/// Transfer types of an endpoint, `USB_ENDPOINT_XFER_*` of `include/uapi/linux/usb/ch9.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferType {
    /// Control (both ways, endpoint 0 as a rule).
    Control,
    /// Isochronous.
    Isochronous,
    /// Bulk.
    Bulk,
    /// Interrupt.
    Interrupt,
}
