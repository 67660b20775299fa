// SPDX-License-Identifier: GPL-2.0

//! Why a stream cannot be followed any further. Worded for the log line that says so.

use core::fmt;

/// Why a header ends the connection: what follows it in the stream cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Not a command this end receives.
    Command(u32),
    /// Neither OUT nor IN.
    Direction(u32),
    /// Negative transfer length.
    Length(i32),
}

/// Why the body announced by a well-formed header ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// `actual_length` is negative or exceeds the buffer of the request.
    ActualLength(i32),
    /// `number_of_packets` of an isochronous request is not between 1 and
    /// [`crate::limits::MAX_ISO_PACKETS`], or that of its reply differs from what was submitted.
    PacketCount(i32),
    /// So many bytes follow that a server does not throw them away; see
    /// [`crate::limits::MAX_DRAIN_BYTES`].
    TooLong(u64),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(command) => write!(f, "unknown command {command:#x}"),
            Self::Direction(direction) => write!(f, "bad direction {direction:#x}"),
            Self::Length(length) => write!(f, "negative length {length}"),
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ActualLength(length) => write!(f, "bad actual length {length}"),
            Self::PacketCount(count) => write!(f, "bad number of packets {count}"),
            Self::TooLong(bytes) => write!(f, "{bytes} bytes are too many"),
        }
    }
}
