// SPDX-License-Identifier: GPL-2.0

//! Device speeds and the states of a port or of an exported device.

/// Speed of a device: `enum usb_device_speed` of `include/uapi/linux/usb/ch9.h`.
///
/// It travels in device records and in the `attach` and `status` files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Speed {
    /// Not enumerated yet.
    Unknown = 0,
    /// 1.5 Mb/s.
    Low = 1,
    /// 12 Mb/s.
    Full = 2,
    /// 480 Mb/s.
    High = 3,
    /// 480 Mb/s, wireless USB 2.5. No longer in the kernel; still an accepted `attach` argument.
    Wireless = 4,
    /// 5 Gb/s.
    Super = 5,
    /// 10 Gb/s and more.
    SuperPlus = 6,
}

impl Speed {
    /// The speed with this number, or [`None`] if USB/IP knows none.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            0 => Self::Unknown,
            1 => Self::Low,
            2 => Self::Full,
            3 => Self::High,
            4 => Self::Wireless,
            5 => Self::Super,
            6 => Self::SuperPlus,
            _ => return None,
        })
    }

    /// The number on the wire and in sysfs.
    pub const fn raw(self) -> u32 {
        self as u32
    }

    /// Whether a device of this speed belongs on a USB 3 root hub.
    pub const fn is_super(self) -> bool {
        matches!(self, Self::Super | Self::SuperPlus)
    }

    /// Whether a device can be attached at this speed: `valid_args` of `vhci_sysfs.c`.
    pub const fn is_attachable(self) -> bool {
        !matches!(self, Self::Unknown)
    }
}

/// State of a vhci port or of an exported device: `enum usbip_device_status` of
/// `include/uapi/linux/usbip.h`.
///
/// The numbers are what the `status` and `usbip_status` files show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PortStatus {
    /// `SDEV_ST_AVAILABLE`: exported, no client.
    ServerAvailable = 1,
    /// `SDEV_ST_USED`: exported, a client uses it.
    ServerUsed = 2,
    /// `SDEV_ST_ERROR`: exported, unusable until bound again.
    ServerError = 3,
    /// `VDEV_ST_NULL`: the port is free.
    PortFree = 4,
    /// `VDEV_ST_NOTASSIGNED`: attached, the device has no address yet.
    PortNotAssigned = 5,
    /// `VDEV_ST_USED`: attached and addressed.
    PortUsed = 6,
    /// `VDEV_ST_ERROR`: attached, the connection failed.
    PortError = 7,
}

impl PortStatus {
    /// The state with this number, or [`None`].
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            1 => Self::ServerAvailable,
            2 => Self::ServerUsed,
            3 => Self::ServerError,
            4 => Self::PortFree,
            5 => Self::PortNotAssigned,
            6 => Self::PortUsed,
            7 => Self::PortError,
            _ => return None,
        })
    }

    /// The number shown in sysfs.
    pub const fn raw(self) -> u32 {
        self as u32
    }
}
