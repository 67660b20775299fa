// SPDX-License-Identifier: GPL-2.0

//! Isochronous packets: their descriptors, and where their data goes.
//!
//! C counterpart: `usbip_recv_iso`, `usbip_pad_iso`, `usbip_alloc_iso_desc_pdu` of
//! `usbip_common.c`.
//!
//! OUT data travels as it lies in the buffer, gaps included. IN data travels compacted: the
//! `actual_length` bytes of each packet, one after the other ([`compact`]); the client puts them
//! back to the offsets *it* submitted ([`expand`]). Of the descriptors in a reply only status and
//! actual length count ([`ReplyCheck`]).

use core::fmt;
use core::iter::FusedIterator;
use core::ops::Range;

use zerocopy::byteorder::network_endian::U32;
use zerocopy::transmute;
use zerocopy_derive::{FromBytes, Immutable, IntoBytes};

use crate::limits::MAX_ISO_PACKETS;
use crate::status::{errno, Expect, Status};

/// Bytes of one descriptor.
pub const DESCRIPTOR_LEN: usize = 16;

/// A descriptor as it travels.
pub type DescriptorBytes = [u8; DESCRIPTOR_LEN];

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawDescriptor {
    offset: U32,
    length: U32,
    actual_length: U32,
    status: U32,
}

/// One packet: `struct usb_iso_packet_descriptor`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Start in the transfer buffer, in bytes.
    pub offset: u32,
    /// Bytes expected or to send.
    pub length: u32,
    /// Bytes transferred.
    pub actual_length: u32,
    /// Zero or a negative errno.
    pub status: i32,
}

/// What is wrong with a list of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsoError {
    /// None, or more than [`MAX_ISO_PACKETS`].
    Count,
    /// A packet lies outside the buffer.
    Bounds,
    /// A packet moved more bytes than it has room for.
    ActualLength,
    /// The packets' actual lengths don't add up to the transfer's.
    Sum,
    /// Expanding in place would overwrite data of another packet that has not been moved yet.
    Overlap,
}

impl fmt::Display for IsoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Count => "bad number of packets",
            Self::Bounds => "packet outside the buffer",
            Self::ActualLength => "packet longer than asked for",
            Self::Sum => "packets don't add up",
            Self::Overlap => "packets overlap",
        })
    }
}

impl Packet {
    /// The packet of a CMD_SUBMIT: nothing transferred, status as usbcore initialises it. C
    /// servers insist on the zero.
    pub const fn submitted(offset: u32, length: u32) -> Self {
        Self {
            offset,
            length,
            actual_length: 0,
            status: -errno::EXDEV,
        }
    }

    /// Reads a descriptor. Nothing is checked.
    pub fn parse(bytes: &DescriptorBytes) -> Self {
        let raw: RawDescriptor = transmute!(*bytes);
        Self {
            offset: raw.offset.get(),
            length: raw.length.get(),
            actual_length: raw.actual_length.get(),
            status: i32::from_be_bytes(raw.status.to_bytes()),
        }
    }

    /// The descriptor to send.
    pub fn build(&self) -> DescriptorBytes {
        transmute!(RawDescriptor {
            offset: U32::new(self.offset),
            length: U32::new(self.length),
            actual_length: U32::new(self.actual_length),
            status: U32::from_bytes(self.status.to_be_bytes()),
        })
    }

    /// Where `len` bytes of the packet lie in a buffer of `buffer` bytes.
    fn span(&self, len: u32, buffer: u32) -> Result<Range<u32>, IsoError> {
        match self.offset.checked_add(len) {
            Some(end) if end <= buffer => Ok(self.offset..end),
            _ => Err(IsoError::Bounds),
        }
    }
}

/// Checks the packets of a CMD_SUBMIT on the server. They may lie in any order, and overlap.
///
/// # Errors
///
/// Too few or too many, or one lies outside the buffer of `buffer` bytes. What the client put
/// into `actual_length` and `status` is not looked at.
pub fn check_submitted(
    packets: impl IntoIterator<Item = Packet>,
    buffer: u32,
) -> Result<(), IsoError> {
    let mut count: u32 = 0;
    for packet in packets {
        count = count.saturating_add(1);
        if count > MAX_ISO_PACKETS {
            return Err(IsoError::Count);
        }
        packet.span(packet.length, buffer)?;
    }
    if count == 0 {
        return Err(IsoError::Count);
    }
    Ok(())
}

/// The ranges of a server's IN buffer to send, packet by packet, empty ones included.
///
/// Ends after the first error: a packet that claims more than its length or lies outside the
/// buffer. (Packets of a device's own completion; an error is a fault of the local controller.)
pub fn compact<I>(
    packets: I,
    buffer: u32,
) -> impl FusedIterator<Item = Result<Range<u32>, IsoError>>
where
    I: IntoIterator<Item = Packet>,
{
    let mut ok = true;
    packets
        .into_iter()
        .map_while(move |packet| {
            if !ok {
                return None;
            }
            let range = if packet.actual_length > packet.length {
                Err(IsoError::ActualLength)
            } else {
                packet.span(packet.actual_length, buffer)
            };
            ok = range.is_ok();
            Some(range)
        })
        .fuse()
}

/// One step of [`expand`]: `len` bytes at `from` belong to `to`. The ranges may overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Start in the compacted data.
    pub from: u32,
    /// Start in the transfer buffer.
    pub to: u32,
    /// Bytes, at least one.
    pub len: u32,
}

/// The moves that put compacted IN data back to the offsets of its packets, last packet first.
///
/// `packets` have the offset and length that were *submitted* and the actual length that
/// [`ReplyCheck`] accepted; `total` is the length of the compacted data. Moves of no bytes are left
/// out.
///
/// With `in_place`, the data lies at the start of the transfer buffer itself and each move is a
/// memmove there. Moves to where the data is already are left out then, and a move that would
/// destroy data of an earlier packet is an error. Packets in ascending order that don't overlap
/// never cause it.
///
/// Ends after the first error. Every range it yields lies within `total` and `buffer`.
pub fn expand<I>(
    packets: I,
    total: u32,
    buffer: u32,
    in_place: bool,
) -> impl FusedIterator<Item = Result<Move, IsoError>>
where
    I: IntoIterator<Item = Packet>,
    I::IntoIter: DoubleEndedIterator,
{
    // The end of the data that has not been moved; none after an error.
    let mut rest = Some(total);
    packets
        .into_iter()
        .rev()
        .map_while(move |packet| {
            let end = rest.take()?;
            let step = step_back(&packet, end, buffer, in_place);
            if let Ok(found) = step {
                rest = Some(found.from);
            }
            Some(step)
        })
        .filter(move |step| match step {
            Ok(found) => found.len != 0 && !(in_place && found.from == found.to),
            Err(_) => true,
        })
        .fuse()
}

fn step_back(packet: &Packet, end: u32, buffer: u32, in_place: bool) -> Result<Move, IsoError> {
    if packet.actual_length > packet.length {
        return Err(IsoError::ActualLength);
    }
    let len = packet.actual_length;
    let from = end.checked_sub(len).ok_or(IsoError::Sum)?;
    let to = packet.span(len, buffer)?.start;
    // What is below `from` still waits to be moved.
    if in_place && len != 0 && to < from {
        return Err(IsoError::Overlap);
    }
    Ok(Move { from, to, len })
}

/// Checks the descriptors of a reply on the client, one by one.
///
/// A failed check means that the peer contradicts itself or the request: the C driver ends the
/// connection or fails the URB, so should the caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplyCheck {
    sum: u32,
    errors: u32,
}

impl ReplyCheck {
    /// Before the first descriptor.
    pub const fn new() -> Self {
        Self { sum: 0, errors: 0 }
    }

    /// Takes the next descriptor as received. `submitted` is the length of the same packet in the
    /// request. Returns the actual length and the status for the driver; offset and length of the
    /// reply are ignored.
    ///
    /// # Errors
    ///
    /// The packet claims more bytes than were asked for.
    pub fn packet(&mut self, submitted: u32, reply: &Packet) -> Result<(u32, Status), IsoError> {
        if reply.actual_length > submitted {
            return Err(IsoError::ActualLength);
        }
        self.sum = self
            .sum
            .checked_add(reply.actual_length)
            .ok_or(IsoError::Sum)?;
        let status = Status::from_peer(reply.status, Expect::Packet);
        if !status.is_ok() {
            self.errors = self.errors.saturating_add(1);
        }
        Ok((reply.actual_length, status))
    }

    /// After the last descriptor. Returns the number of failed packets, for `error_count`.
    ///
    /// # Errors
    ///
    /// The packets don't add up to the `actual_length` of the header.
    pub fn finish(self, actual_length: u32) -> Result<u32, IsoError> {
        if self.sum == actual_length {
            Ok(self.errors)
        } else {
            Err(IsoError::Sum)
        }
    }
}
