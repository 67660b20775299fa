// SPDX-License-Identifier: GPL-2.0

//! The 48-byte headers of the URB phase.
//!
//! C counterpart: `struct usbip_header` and `usbip_header_correct_endian` of `usbip_common.{c,h}`.
//! Every PDU starts with exactly 48 bytes, big endian, unused bytes zero. What follows is data,
//! then isochronous descriptors; how much of each can only be told by who knows the endpoint
//! ([`CmdSubmit::body`]) or remembers the request ([`RetSubmit::body`]), because replies carry
//! neither direction nor endpoint.

use zerocopy::byteorder::network_endian::U32;
use zerocopy::transmute;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes};

use crate::flags::TransferFlags;
use crate::iso::DESCRIPTOR_LEN;
use crate::limits::{MAX_ENDPOINT, MAX_ISO_PACKETS};

/// Bytes of every header of the URB phase.
pub const HEADER_LEN: usize = 48;

/// A header as it travels.
pub type HeaderBytes = [u8; HEADER_LEN];

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

/// Direction of the data of a request, as its `direction` field says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Direction {
    /// From the client to the device.
    Out = 0,
    /// From the device to the client.
    In = 1,
}

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
    /// [`MAX_ISO_PACKETS`], or that of its reply differs from what was submitted.
    PacketCount(i32),
}

/// What follows a header in the stream: first the data, then the descriptors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// Bytes of data.
    pub data: u32,
    /// Number of 16-byte isochronous descriptors.
    pub iso_packets: u32,
}

impl Body {
    /// Nothing follows.
    pub const NONE: Self = Self {
        data: 0,
        iso_packets: 0,
    };

    /// Whether nothing follows.
    pub const fn is_empty(self) -> bool {
        self.data == 0 && self.iso_packets == 0
    }

    /// Bytes that follow in all.
    pub const fn total(self) -> u64 {
        (self.data as u64)
            .saturating_add((self.iso_packets as u64).saturating_mul(DESCRIPTOR_LEN as u64))
    }
}

/// What has to be remembered of a request to tell what follows its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UrbMeta {
    /// Direction of the data.
    pub direction: Direction,
    /// Number of packets of an isochronous request, zero for every other type.
    pub iso_packets: u32,
    /// `transfer_buffer_length`, in bytes.
    pub length: u32,
}

/// CMD_SUBMIT: a URB for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CmdUnlink {
    /// Number of this PDU, echoed by its reply.
    pub seqnum: u32,
    /// As in [`CmdSubmit::devid`].
    pub devid: u32,
    /// Number of the request to cancel.
    pub victim: u32,
}

/// RET_SUBMIT: the end of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetUnlink {
    /// Number of the CMD_UNLINK.
    pub seqnum: u32,
    /// Status of the cancelled request, or zero if there was nothing left to cancel.
    pub status: i32,
}

/// What a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// CMD_SUBMIT.
    Submit(CmdSubmit),
    /// CMD_UNLINK.
    Unlink(CmdUnlink),
}

/// What a server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// RET_SUBMIT.
    Submit(RetSubmit),
    /// RET_UNLINK.
    Unlink(RetUnlink),
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

    /// The endpoint number, or [`None`] if USB has no such endpoint.
    pub fn endpoint(&self) -> Option<u8> {
        u8::try_from(self.ep)
            .ok()
            .filter(|&ep| u32::from(ep) <= MAX_ENDPOINT)
    }

    /// What follows this header, given whether the endpoint is isochronous.
    ///
    /// # Errors
    ///
    /// The packet count of an isochronous request is out of range.
    pub fn body(&self, iso: bool) -> Result<Body, BodyError> {
        let bad = BodyError::PacketCount(self.number_of_packets);
        Ok(Body {
            data: match self.direction {
                Direction::Out => self.length,
                Direction::In => 0,
            },
            iso_packets: if iso {
                u32::try_from(self.number_of_packets)
                    .ok()
                    .filter(|n| (1..=MAX_ISO_PACKETS).contains(n))
                    .ok_or(bad)?
            } else {
                0
            },
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

    /// `actual_length` of a reply to the request `urb`, in bytes. Also bounded for OUT, where it
    /// counts bytes that do not follow.
    ///
    /// # Errors
    ///
    /// It is negative or exceeds the buffer.
    pub fn actual(&self, urb: UrbMeta) -> Result<u32, BodyError> {
        u32::try_from(self.actual_length)
            .ok()
            .filter(|&actual| actual <= urb.length)
            .ok_or(BodyError::ActualLength(self.actual_length))
    }

    /// What follows this header, given the request it answers. IN data follows whatever the
    /// status says.
    ///
    /// # Errors
    ///
    /// `actual_length` is out of range, or the packet count differs from what was submitted.
    /// For anything but isochronous requests the packet count means nothing and is not checked.
    pub fn body(&self, urb: UrbMeta) -> Result<Body, BodyError> {
        let actual = self.actual(urb)?;
        if urb.iso_packets != 0 && u32::try_from(self.number_of_packets) != Ok(urb.iso_packets) {
            return Err(BodyError::PacketCount(self.number_of_packets));
        }
        Ok(Body {
            data: match urb.direction {
                Direction::In => actual,
                Direction::Out => 0,
            },
            iso_packets: urb.iso_packets,
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
