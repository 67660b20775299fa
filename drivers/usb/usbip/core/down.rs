// SPDX-License-Identifier: GPL-2.0

//! Why a connection ends.

use kernel::fmt;
use kernel_ext::prelude::*;
use usbip_protocol::ledger::client::Violation;
use usbip_protocol::wire::{BodyError, FrameError};

/// The reason for which a connection goes down; the first one counts.
///
/// C: the events `*_EVENT_DOWN`, `*_EVENT_ERROR_TCP` and `*_EVENT_REMOVED`, which differ in name
/// only there.
#[derive(Clone, Copy)]
pub enum Down {
    /// The peer closed the connection between two PDUs.
    PeerClosed,
    /// The peer closed the connection in the middle of a PDU.
    Truncated,
    /// The socket reported an error, as it does when the peer resets the connection or TCP gives
    /// up on it.
    Socket(Error),
    /// The peer sent something that the protocol does not allow, as said.
    Protocol(&'static str),
    /// The peer sent a header that makes no sense.
    Frame(FrameError),
    /// The peer answered what it may not.
    Reply(Violation),
    /// The peer announced a body that does not fit the request.
    Body(BodyError),
    /// The peer stopped in the middle of a PDU.
    Stalled,
    /// The peer did not read for too long.
    NotReading,
    /// The peer left an unlink unanswered for too long.
    UnlinkUnanswered,
    /// `SO_RCVTIMEO` of the socket ran out while replies were awaited.
    ReceiveTimeout,
    /// There was no memory to go on with.
    NoMemory,
    /// The user detached the device.
    Detached,
    /// The device or the module is going away.
    Removed,
}

impl Down {
    /// Whether this is what a user or a well-behaved peer does, rather than a fault.
    pub fn is_orderly(self) -> bool {
        matches!(self, Down::PeerClosed | Down::Detached | Down::Removed)
    }
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Down::PeerClosed => f.write_str("the peer closed the connection"),
            Down::Truncated => f.write_str("the peer closed the connection within a message"),
            Down::Socket(error) => write!(f, "connection lost, error {}", error.to_errno()),
            Down::Protocol(what) => violation(f, what),
            Down::Frame(what) => violation(f, what),
            Down::Reply(what) => violation(f, what),
            Down::Body(what) => violation(f, what),
            Down::Stalled => f.write_str("the peer stopped within a message"),
            Down::NotReading => f.write_str("the peer does not read"),
            Down::UnlinkUnanswered => f.write_str("the peer does not answer an unlink"),
            Down::ReceiveTimeout => f.write_str("no reply within the receive timeout"),
            Down::NoMemory => f.write_str("out of memory"),
            Down::Detached => f.write_str("detached"),
            Down::Removed => f.write_str("removed"),
        }
    }
}

fn violation(f: &mut fmt::Formatter<'_>, what: &dyn core::fmt::Display) -> fmt::Result {
    f.write_str("protocol violation by the peer: ")?;
    what.fmt(f)
}
