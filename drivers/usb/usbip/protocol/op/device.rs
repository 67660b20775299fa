// SPDX-License-Identifier: GPL-2.0

//! The records that describe a device.

use core::fmt;

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::transmute;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes};

use crate::limits::{BUSID_LEN, PATH_LEN};

/// Bytes of a device record.
pub const DEVICE_LEN: usize = 312;
/// Bytes of an interface record.
pub const INTERFACE_LEN: usize = 4;

/// A string in a field of `N` bytes, padded with NULs.
#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(transparent)]
pub struct Text<const N: usize>([u8; N]);

impl<const N: usize> Text<N> {
    /// `text` padded; [`None`] if it contains a NUL or leaves no room for one.
    pub fn new(text: &[u8]) -> Option<Self> {
        let mut field = [0; N];
        if text.len() >= N || text.contains(&0) {
            return None;
        }
        field.get_mut(..text.len())?.copy_from_slice(text);
        Some(Self(field))
    }

    /// The string up to its first NUL. Without one it ends before the last byte, as where C puts
    /// one there.
    pub fn as_bytes(&self) -> &[u8] {
        let max = N.saturating_sub(1);
        let len = self
            .0
            .iter()
            .take(max)
            .position(|&byte| byte == 0)
            .unwrap_or(max);
        self.0.get(..len).unwrap_or_default()
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

/// A device: `struct usbip_usb_device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Path in sysfs, on the machine that has it.
    pub path: Text<PATH_LEN>,
    /// Bus identifier, on the machine that has it.
    pub busid: Text<BUSID_LEN>,
    /// Number of its bus.
    pub busnum: u32,
    /// Its number on the bus.
    pub devnum: u32,
    /// Number of its speed, not yet checked: see [`crate::speed::Speed`].
    pub speed: u32,
    /// `idVendor`.
    pub vendor: u16,
    /// `idProduct`.
    pub product: u16,
    /// `bcdDevice`.
    pub bcd_device: u16,
    /// `bDeviceClass`, `bDeviceSubClass`, `bDeviceProtocol`.
    pub class: [u8; 3],
    /// `bConfigurationValue` of the active configuration, 0 if there is none.
    pub configuration: u8,
    /// `bNumConfigurations`.
    pub num_configurations: u8,
    /// `bNumInterfaces` of the active configuration: records that follow in a DEVLIST reply.
    pub num_interfaces: u8,
}

/// An interface: `struct usbip_usb_interface`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `bInterfaceClass`, `bInterfaceSubClass`, `bInterfaceProtocol`.
    pub class: [u8; 3],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct RawDevice {
    path: Text<PATH_LEN>,
    busid: Text<BUSID_LEN>,
    busnum: U32,
    devnum: U32,
    speed: U32,
    vendor: U16,
    product: U16,
    bcd_device: U16,
    class: [u8; 3],
    configuration: u8,
    num_configurations: u8,
    num_interfaces: u8,
}

impl Device {
    /// Reads a device record. Nothing is checked.
    pub fn parse(bytes: &[u8; DEVICE_LEN]) -> Self {
        let raw: RawDevice = transmute!(*bytes);
        Self {
            path: raw.path,
            busid: raw.busid,
            busnum: raw.busnum.get(),
            devnum: raw.devnum.get(),
            speed: raw.speed.get(),
            vendor: raw.vendor.get(),
            product: raw.product.get(),
            bcd_device: raw.bcd_device.get(),
            class: raw.class,
            configuration: raw.configuration,
            num_configurations: raw.num_configurations,
            num_interfaces: raw.num_interfaces,
        }
    }

    pub(super) fn raw(&self) -> RawDevice {
        RawDevice {
            path: self.path,
            busid: self.busid,
            busnum: U32::new(self.busnum),
            devnum: U32::new(self.devnum),
            speed: U32::new(self.speed),
            vendor: U16::new(self.vendor),
            product: U16::new(self.product),
            bcd_device: U16::new(self.bcd_device),
            class: self.class,
            configuration: self.configuration,
            num_configurations: self.num_configurations,
            num_interfaces: self.num_interfaces,
        }
    }

    /// The record to send.
    pub fn build(&self) -> [u8; DEVICE_LEN] {
        transmute!(self.raw())
    }

    /// The number that names the device in the URB phase; [`None`] for numbers that don't fit.
    pub fn devid(&self) -> Option<u32> {
        let bus = u16::try_from(self.busnum).ok()?;
        let dev = u16::try_from(self.devnum).ok()?;
        Some((u32::from(bus) << 16) | u32::from(dev))
    }
}

impl Interface {
    /// Reads an interface record.
    pub const fn parse(bytes: &[u8; INTERFACE_LEN]) -> Self {
        let [class, subclass, protocol, _padding] = *bytes;
        Self {
            class: [class, subclass, protocol],
        }
    }

    /// The record to send.
    pub const fn build(&self) -> [u8; INTERFACE_LEN] {
        let [class, subclass, protocol] = self.class;
        [class, subclass, protocol, 0]
    }
}
