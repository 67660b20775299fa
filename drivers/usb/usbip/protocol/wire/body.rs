// SPDX-License-Identifier: GPL-2.0

//! What follows a header.

use super::{BodyError, CmdSubmit, Direction, RetSubmit};
use crate::iso::DESCRIPTOR_LEN;
use crate::limits::{MAX_ENDPOINT, MAX_ISO_PACKETS};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UrbMeta {
    /// Direction of the data.
    pub direction: Direction,
    /// Number of packets of an isochronous request, zero for every other type.
    pub iso_packets: u32,
    /// `transfer_buffer_length`, in bytes.
    pub length: u32,
}

impl CmdSubmit {
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

impl RetSubmit {
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
    /// status says. Descriptors follow an isochronous reply, except if it says that there are none
    /// because the request failed as a whole.
    ///
    /// # Errors
    ///
    /// `actual_length` is out of range, or the packet count differs from what was submitted.
    /// For anything but isochronous requests the packet count means nothing and is not checked.
    pub fn body(&self, urb: UrbMeta) -> Result<Body, BodyError> {
        let actual = self.actual(urb)?;
        let failed = self.number_of_packets == 0 && self.status != 0 && actual == 0;
        if failed {
            return Ok(Body::NONE);
        }
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
