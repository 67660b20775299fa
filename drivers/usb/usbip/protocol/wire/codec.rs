// SPDX-License-Identifier: GPL-2.0

//! Between typed headers and their 48 bytes.

use zerocopy::byteorder::network_endian::U32;
use zerocopy::transmute;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes};

use super::{
    CmdSubmit, CmdUnlink, Command, Direction, FrameError, HeaderBytes, Reply, RetSubmit, RetUnlink,
};
use crate::flags::TransferFlags;

const CMD_SUBMIT: u32 = 1;
const CMD_UNLINK: u32 = 2;
const RET_SUBMIT: u32 = 3;
const RET_UNLINK: u32 = 4;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawHeader {
    command: U32,
    seqnum: U32,
    devid: U32,
    direction: U32,
    ep: U32,
    words: [U32; 5],
    setup: [u8; 8],
}

/// Two's complement view of a word that the C structure declares signed.
const fn signed(word: U32) -> i32 {
    i32::from_be_bytes(word.to_bytes())
}

/// The reverse of [`signed`].
const fn word(value: i32) -> U32 {
    U32::from_bytes(value.to_be_bytes())
}

impl Command {
    /// Reads a header on the server.
    ///
    /// # Errors
    ///
    /// An unknown command, a direction other than 0 and 1 in CMD_SUBMIT and a negative length:
    /// the stream cannot be followed any further.
    pub fn parse(bytes: &HeaderBytes) -> Result<Self, FrameError> {
        let raw: RawHeader = transmute!(*bytes);
        let [flags, length, start_frame, number_of_packets, interval] = raw.words;
        match raw.command.get() {
            CMD_SUBMIT => Ok(Self::Submit(CmdSubmit {
                seqnum: raw.seqnum.get(),
                devid: raw.devid.get(),
                direction: match raw.direction.get() {
                    0 => Direction::Out,
                    1 => Direction::In,
                    other => return Err(FrameError::Direction(other)),
                },
                ep: raw.ep.get(),
                flags: TransferFlags::from_wire(flags.get()),
                length: u32::try_from(signed(length))
                    .map_err(|_| FrameError::Length(signed(length)))?,
                start_frame: signed(start_frame),
                number_of_packets: signed(number_of_packets),
                interval: signed(interval),
                setup: raw.setup,
            })),
            CMD_UNLINK => Ok(Self::Unlink(CmdUnlink {
                seqnum: raw.seqnum.get(),
                devid: raw.devid.get(),
                // The first word of the tail.
                victim: flags.get(),
            })),
            other => Err(FrameError::Command(other)),
        }
    }

    /// The header to send.
    pub fn build(&self) -> HeaderBytes {
        match self {
            Self::Submit(cmd) => cmd.build(),
            Self::Unlink(cmd) => cmd.build(),
        }
    }
}

impl Reply {
    /// Reads a header on the client. Device, direction and endpoint are not looked at: Linux
    /// sends zeros, other servers echo the request.
    ///
    /// # Errors
    ///
    /// An unknown command: the stream cannot be followed any further.
    pub fn parse(bytes: &HeaderBytes) -> Result<Self, FrameError> {
        let raw: RawHeader = transmute!(*bytes);
        let [status, actual_length, start_frame, number_of_packets, error_count] = raw.words;
        match raw.command.get() {
            RET_SUBMIT => Ok(Self::Submit(RetSubmit {
                seqnum: raw.seqnum.get(),
                status: signed(status),
                actual_length: signed(actual_length),
                start_frame: signed(start_frame),
                number_of_packets: signed(number_of_packets),
                error_count: signed(error_count),
            })),
            RET_UNLINK => Ok(Self::Unlink(RetUnlink {
                seqnum: raw.seqnum.get(),
                status: signed(status),
            })),
            other => Err(FrameError::Command(other)),
        }
    }

    /// The header to send.
    pub fn build(&self) -> HeaderBytes {
        match self {
            Self::Submit(ret) => ret.build(),
            Self::Unlink(ret) => ret.build(),
        }
    }
}

impl CmdSubmit {
    /// The header to send.
    pub fn build(&self) -> HeaderBytes {
        transmute!(RawHeader {
            command: U32::new(CMD_SUBMIT),
            seqnum: U32::new(self.seqnum),
            devid: U32::new(self.devid),
            direction: U32::new(self.direction as u32),
            ep: U32::new(self.ep),
            words: [
                U32::new(self.flags.wire()),
                U32::new(self.length),
                word(self.start_frame),
                word(self.number_of_packets),
                word(self.interval),
            ],
            setup: self.setup,
        })
    }
}

impl CmdUnlink {
    /// The header to send.
    pub fn build(&self) -> HeaderBytes {
        let mut words = [U32::ZERO; 5];
        if let Some(first) = words.first_mut() {
            *first = U32::new(self.victim);
        }
        transmute!(RawHeader {
            command: U32::new(CMD_UNLINK),
            seqnum: U32::new(self.seqnum),
            devid: U32::new(self.devid),
            direction: U32::ZERO,
            ep: U32::ZERO,
            words,
            setup: [0; 8],
        })
    }
}

impl RetSubmit {
    /// The header to send.
    pub fn build(&self) -> HeaderBytes {
        transmute!(RawHeader {
            command: U32::new(RET_SUBMIT),
            seqnum: U32::new(self.seqnum),
            devid: U32::ZERO,
            direction: U32::ZERO,
            ep: U32::ZERO,
            words: [
                word(self.status),
                word(self.actual_length),
                word(self.start_frame),
                word(self.number_of_packets),
                word(self.error_count),
            ],
            setup: [0; 8],
        })
    }
}

impl RetUnlink {
    /// The header to send.
    pub fn build(&self) -> HeaderBytes {
        let mut words = [U32::ZERO; 5];
        if let Some(first) = words.first_mut() {
            *first = word(self.status);
        }
        transmute!(RawHeader {
            command: U32::new(RET_UNLINK),
            seqnum: U32::new(self.seqnum),
            devid: U32::ZERO,
            direction: U32::ZERO,
            ep: U32::ZERO,
            words,
            setup: [0; 8],
        })
    }
}
