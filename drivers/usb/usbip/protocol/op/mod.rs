// SPDX-License-Identifier: GPL-2.0

//! The op phase: listing, importing and exporting devices, before the URB phase starts.
//!
//! C counterpart: `tools/usb/usbip/src/usbip_network.{c,h}` and `libsrc/usbip_common.h`. Userspace
//! speaks it; the kernel takes over the connection afterwards.
//!
//! | PDU | after the 8-byte header |
//! |---|---|
//! | request DEVLIST | nothing |
//! | reply DEVLIST | number of devices ([`DEVICE_COUNT_LEN`]), each with its interfaces |
//! | request IMPORT | bus identifier ([`import_request`]) |
//! | reply IMPORT | the device, if the status is 0 ([`import_reply`]) |
//! | request EXPORT, UNEXPORT | the device ([`export_request`]) |
//! | reply EXPORT, UNEXPORT | a return code or nothing ([`ExportTail`]) |

use core::fmt;

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::transmute;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes};

use crate::limits::{BUSID_LEN, OP_VERSION};

mod device;

use device::RawDevice;
pub use device::{Device, Interface, Text, DEVICE_LEN, INTERFACE_LEN};

/// Bytes of the header of every op PDU.
pub const OP_HEADER_LEN: usize = 8;
/// Bytes of the number of devices in a reply to DEVLIST: a big endian `u32`.
pub const DEVICE_COUNT_LEN: usize = 4;
/// Bytes of a request IMPORT.
pub const IMPORT_REQUEST_LEN: usize = OP_HEADER_LEN + BUSID_LEN;
/// Bytes of a header with a device: reply IMPORT, requests EXPORT and UNEXPORT.
pub const WITH_DEVICE_LEN: usize = OP_HEADER_LEN + DEVICE_LEN;

/// Bit of the code that marks a request.
const REQUEST: u16 = 0x8000;

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Defined and never used.
    DevInfo = 0x02,
    /// The client imports a device; the connection enters the URB phase.
    Import = 0x03,
    /// Defined and never used.
    CrypKey = 0x04,
    /// The client lists the exported devices.
    DevList = 0x05,
    /// The side that has the device connects and offers it.
    Export = 0x06,
    /// The side that has the device takes it back.
    Unexport = 0x07,
}

impl Op {
    const fn from_raw(raw: u16) -> Option<Self> {
        Some(match raw {
            0x02 => Self::DevInfo,
            0x03 => Self::Import,
            0x04 => Self::CrypKey,
            0x05 => Self::DevList,
            0x06 => Self::Export,
            0x07 => Self::Unexport,
            _ => return None,
        })
    }
}

/// The result in a reply. Numbers of the mainline tools; to a reader everything but 0 is a
/// failure, because other implementations number them differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum OpStatus {
    /// `ST_OK`.
    Ok = 0,
    /// `ST_NA`: failed.
    Na = 1,
    /// `ST_DEV_BUSY`: the device is in use.
    DevBusy = 2,
    /// `ST_DEV_ERR`: the device is in error state.
    DevErr = 3,
    /// `ST_NODEV`: no such device.
    NoDev = 4,
    /// `ST_ERROR`: anything else.
    Error = 5,
}

impl OpStatus {
    /// The status with this number. [`OpStatus::Error`] stands for all that have no name.
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Ok,
            1 => Self::Na,
            2 => Self::DevBusy,
            3 => Self::DevErr,
            4 => Self::NoDev,
            _ => Self::Error,
        }
    }
}

/// Why an op PDU is refused. The receiver closes the connection and sends nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpError {
    /// Another protocol version.
    Version(u16),
    /// Not the code that was expected, or none that exists.
    Code(u16),
    /// A request with a status other than 0, which C servers refuse too.
    RequestStatus(u32),
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "protocol version {version:#06x}"),
            Self::Code(code) => write!(f, "unexpected op code {code:#06x}"),
            Self::RequestStatus(status) => write!(f, "request with status {status}"),
        }
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawOp {
    version: U16,
    code: U16,
    status: U32,
}

impl RawOp {
    const fn new(code: u16, status: OpStatus) -> Self {
        Self {
            version: U16::from_bytes(OP_VERSION.to_be_bytes()),
            code: U16::from_bytes(code.to_be_bytes()),
            status: U32::from_bytes((status as u32).to_be_bytes()),
        }
    }

    const fn request(op: Op) -> Self {
        Self::new(REQUEST | op as u16, OpStatus::Ok)
    }

    const fn reply(op: Op, status: OpStatus) -> Self {
        Self::new(op as u16, status)
    }
}

/// The header of a request.
pub fn request(op: Op) -> [u8; OP_HEADER_LEN] {
    transmute!(RawOp::request(op))
}

/// The header of a reply.
pub fn reply(op: Op, status: OpStatus) -> [u8; OP_HEADER_LEN] {
    transmute!(RawOp::reply(op, status))
}

fn parse_header(bytes: &[u8; OP_HEADER_LEN]) -> Result<(u16, u32), OpError> {
    let raw: RawOp = transmute!(*bytes);
    if raw.version.get() != OP_VERSION {
        return Err(OpError::Version(raw.version.get()));
    }
    Ok((raw.code.get(), raw.status.get()))
}

/// Reads the header of a request.
///
/// # Errors
///
/// Another version, not a known request, or a non-zero status.
pub fn parse_request(bytes: &[u8; OP_HEADER_LEN]) -> Result<Op, OpError> {
    let (code, status) = parse_header(bytes)?;
    let op = match code & REQUEST {
        0 => None,
        _ => Op::from_raw(code & !REQUEST),
    };
    let op = op.ok_or(OpError::Code(code))?;
    match status {
        0 => Ok(op),
        _ => Err(OpError::RequestStatus(status)),
    }
}

/// Reads the header of the reply to `op`.
///
/// # Errors
///
/// Another version or another code.
pub fn parse_reply(bytes: &[u8; OP_HEADER_LEN], op: Op) -> Result<OpStatus, OpError> {
    let (code, status) = parse_header(bytes)?;
    if code == op as u16 {
        Ok(OpStatus::from_raw(status))
    } else {
        Err(OpError::Code(code))
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct OpWithDevice {
    header: RawOp,
    device: RawDevice,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct OpWithBusid {
    header: RawOp,
    busid: Text<BUSID_LEN>,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct OpWithReturnCode {
    header: RawOp,
    code: U32,
}

/// A request IMPORT for the device `busid`.
pub fn import_request(busid: Text<BUSID_LEN>) -> [u8; IMPORT_REQUEST_LEN] {
    transmute!(OpWithBusid {
        header: RawOp::request(Op::Import),
        busid
    })
}

/// The body of a request IMPORT.
pub fn parse_busid(bytes: &[u8; BUSID_LEN]) -> Text<BUSID_LEN> {
    transmute!(*bytes)
}

/// A positive reply to IMPORT. A negative one is just a header: [`reply`].
pub fn import_reply(device: &Device) -> [u8; WITH_DEVICE_LEN] {
    transmute!(OpWithDevice {
        header: RawOp::reply(Op::Import, OpStatus::Ok),
        device: device.raw()
    })
}

/// A request EXPORT.
pub fn export_request(device: &Device) -> [u8; WITH_DEVICE_LEN] {
    transmute!(OpWithDevice {
        header: RawOp::request(Op::Export),
        device: device.raw()
    })
}

/// A request UNEXPORT.
pub fn unexport_request(device: &Device) -> [u8; WITH_DEVICE_LEN] {
    transmute!(OpWithDevice {
        header: RawOp::request(Op::Unexport),
        device: device.raw()
    })
}

/// A reply to EXPORT or UNEXPORT in the form that the mainline header declares: with a return
/// code. The later form of the same series is just a header: [`reply`].
pub fn reply_with_return_code(
    op: Op,
    status: OpStatus,
    return_code: i32,
) -> [u8; OP_HEADER_LEN + 4] {
    let code = U32::from_bytes(return_code.to_be_bytes());
    transmute!(OpWithReturnCode {
        header: RawOp::reply(op, status),
        code
    })
}

/// What the four bytes after a positive reply to EXPORT are. After a negative reply there is
/// nothing to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportTail {
    /// The return code of the older form: skip it.
    ReturnCode,
    /// The start of the first URB phase header: the reply had no return code.
    UrbPhase,
}

impl ExportTail {
    /// Tells the two apart: after success the return code is 0, which is no command.
    pub const fn classify(bytes: [u8; 4]) -> Self {
        match u32::from_be_bytes(bytes) {
            0 => Self::ReturnCode,
            _ => Self::UrbPhase,
        }
    }
}
