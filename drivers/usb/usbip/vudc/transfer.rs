// SPDX-License-Identifier: GPL-2.0

//! A request of the client, on its way to meet requests of the gadget.
//!
//! C counterpart: `struct urbp` of `vudc.h`.

use kernel_ext::prelude::*;
use kernel_ext::usb::buffer::Buffer;
use usbip_core::server::{Charge, Outcome};
use usbip_protocol::iso::Packet;
use usbip_protocol::ledger::Token;
use usbip_protocol::setup::Setup;
use usbip_protocol::status::errno;
use usbip_protocol::wire::RetSubmit;

/// How far a control transfer is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nobody has seen its setup packet.
    Setup,
    /// The gadget driver has; what it queues on endpoint 0 is the answer.
    Data,
}

/// A request of the client.
pub(crate) struct Transfer {
    /// Its place in the ledger.
    pub(crate) token: Token,
    /// Whether data goes to the host.
    pub(crate) is_in: bool,
    /// Bytes to send, or room for them.
    pub(crate) length: u32,
    /// Bytes moved.
    pub(crate) actual: u32,
    /// How it has ended: 0 or a negative errno.
    pub(crate) status: i32,
    /// Whether an empty packet is to follow data that ends with a full one.
    pub(crate) zero: bool,
    /// Whether it is an error if less arrives than there is room for.
    pub(crate) short_not_ok: bool,
    /// Of a control transfer.
    pub(crate) setup: Setup,
    /// Of a control transfer.
    pub(crate) stage: Stage,
    /// The data.
    pub(crate) buffer: Buffer,
    /// Of an isochronous transfer.
    pub(crate) packets: KVVec<Packet>,
    /// How many of them are done.
    pub(crate) packets_done: usize,
    /// When the interval of the first packet begins, as [`kernel_ext::time::now_ns`], once that is
    /// known.
    pub(crate) start_ns: Option<u64>,
    /// `start_frame` as the client sent it, or what became of it.
    pub(crate) start_frame: i32,
    /// `number_of_packets` as the client sent it, to be sent back.
    pub(crate) number_of_packets: i32,
    /// When it was accepted, for the statistics.
    pub(crate) accepted_ns: u64,
    /// Given back when the transfer is dropped.
    pub(crate) _charge: Charge,
}

impl Transfer {
    /// Ends it, with 0 or a negative errno.
    pub(crate) fn end(&mut self, status: i32) {
        let is_short = self.is_in && self.short_not_ok && self.actual < self.length;
        self.status = if status == 0 && is_short {
            -errno::EREMOTEIO
        } else {
            status
        };
    }
}

/// A transfer that has ended.
pub(crate) struct Done(pub(crate) KBox<Transfer>);

impl Outcome for Done {
    fn ret(&self, seqnum: u32) -> RetSubmit {
        let failed = self.0.packets.iter().filter(|packet| packet.status != 0);
        RetSubmit {
            seqnum,
            status: self.0.status,
            // CAST: At most `MAX_URB_BYTES`, or what packets that overlap add up to; the client will
            // say so.
            actual_length: self.0.actual.min(i32::MAX as u32) as i32,
            start_frame: self.0.start_frame,
            number_of_packets: self.0.number_of_packets,
            // CAST: At most `MAX_ISO_PACKETS`.
            error_count: failed.count() as i32,
        }
    }

    fn is_in(&self) -> bool {
        self.0.is_in
    }

    fn buffer(&self) -> &Buffer {
        &self.0.buffer
    }

    fn iso_packets(&self) -> u32 {
        // CAST: At most `MAX_ISO_PACKETS`.
        self.0.packets.len() as u32
    }

    fn packet(&self, index: u32) -> Option<Packet> {
        self.0.packets.get(index as usize).copied()
    }

    fn accepted_ns(&self) -> u64 {
        self.0.accepted_ns
    }
}
