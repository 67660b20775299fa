// SPDX-License-Identifier: GPL-2.0

//! The 48-byte headers of the URB phase.
//!
//! C counterpart: `struct usbip_header` and `usbip_header_correct_endian` of `usbip_common.{c,h}`.
//! Every PDU starts with exactly 48 bytes, big endian, unused bytes zero. What follows is data,
//! then isochronous descriptors; how much of each can only be told by who knows the endpoint
//! ([`CmdSubmit::body`]) or remembers the request ([`RetSubmit::body`]), because replies carry
//! neither direction nor endpoint.

use crate::flags::TransferFlags;

mod body;
mod codec;
mod error;

pub use body::{Body, UrbMeta};
pub use error::{BodyError, FrameError};

/// Bytes of every header of the URB phase.
pub const HEADER_LEN: usize = 48;

/// A header as it travels.
pub type HeaderBytes = [u8; HEADER_LEN];

/// Direction of the data of a request, as its `direction` field says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// From the client to the device.
    Out = 0,
    /// From the device to the client.
    In = 1,
}

/// CMD_SUBMIT: a URB for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CmdSubmit {
    /// Number of the request, echoed by its reply.
    pub seqnum: u32,
    /// `busnum << 16 | devnum` on the server, as given at attach.
    pub devid: u32,
    /// Direction of the data. For control transfers as well.
    pub direction: Direction,
    /// Endpoint number as received; see [`CmdSubmit::endpoint`].
    pub ep: u32,
    /// `transfer_flags`.
    pub flags: TransferFlags,
    /// `transfer_buffer_length`, in bytes. At most `i32::MAX`.
    pub length: u32,
    /// First frame of an isochronous transfer.
    pub start_frame: i32,
    /// Packets of an isochronous transfer; else 0, or 0xffffffff from peers that follow the
    /// protocol document to the letter, or anything. A server echoes it.
    pub number_of_packets: i32,
    /// Interval of periodic transfers, in (micro)frames as usbcore normalised it.
    pub interval: i32,
    /// The setup packet of a control transfer, untouched; else zero.
    pub setup: [u8; 8],
}

/// CMD_UNLINK: cancels an earlier request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CmdUnlink {
    /// Number of this PDU, echoed by its reply.
    pub seqnum: u32,
    /// As in [`CmdSubmit::devid`].
    pub devid: u32,
    /// Number of the request to cancel.
    pub victim: u32,
}

/// RET_SUBMIT: the end of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RetSubmit {
    /// Number of the request.
    pub seqnum: u32,
    /// Zero or a negative Linux errno, not yet checked: see [`crate::status::Status`].
    pub status: i32,
    /// Bytes transferred, not yet checked: see [`RetSubmit::body`].
    pub actual_length: i32,
    /// Frame in which an isochronous transfer started.
    pub start_frame: i32,
    /// As in [`CmdSubmit::number_of_packets`].
    pub number_of_packets: i32,
    /// Failed packets according to the peer. A client counts them itself.
    pub error_count: i32,
}

/// RET_UNLINK: the end of a CMD_UNLINK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RetUnlink {
    /// Number of the CMD_UNLINK.
    pub seqnum: u32,
    /// Status of the cancelled request, or zero if there was nothing left to cancel.
    pub status: i32,
}

/// What a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// CMD_SUBMIT.
    Submit(CmdSubmit),
    /// CMD_UNLINK.
    Unlink(CmdUnlink),
}

/// What a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// RET_SUBMIT.
    Submit(RetSubmit),
    /// RET_UNLINK.
    Unlink(RetUnlink),
}
