// SPDX-License-Identifier: GPL-2.0

//! Requests at the device: buffers, submission, completion.
//!
//! C counterpart: `stub_recv_cmd_submit()` of `stub_rx.c` and `stub_complete()` of `stub_tx.c`.

use crate::server::Server;
use kernel::sync::Arc;
use kernel_ext::prelude::*;
use kernel_ext::usb::buffer::Buffer;
use kernel_ext::usb::transfer::{Completion, Transfer};
use usbip_core::connection::Connection;
use usbip_core::server::{Charge, Outcome};
use usbip_protocol::iso;
use usbip_protocol::ledger::Token;
use usbip_protocol::wire::RetSubmit;

/// What travels with a transfer.
pub(crate) struct Flight {
    /// Whose request it is.
    pub(crate) connection: Arc<Connection<Server>>,
    /// Its place in the ledger.
    pub(crate) token: Token,
    /// `number_of_packets` as the client sent it, to be sent back.
    pub(crate) number_of_packets: i32,
    /// When it was accepted, for the statistics.
    pub(crate) accepted_ns: u64,
    /// Given back when the transfer is dropped.
    pub(crate) _charge: Charge,
}

impl Completion for Flight {
    fn complete(transfer: KBox<Transfer<Self>>) {
        let connection = transfer.context.connection.clone();
        let token = transfer.context.token;
        let requests = &connection.side().requests;
        requests.complete_now(&connection, token, Done::Transfer(transfer));
    }
}

/// The result of a request.
pub(crate) enum Done {
    /// A transfer that has ended.
    Transfer(KBox<Transfer<Flight>>),
    /// usbcore has carried it out, successfully.
    Special(KBox<Transfer<Flight>>),
}

impl Done {
    /// The transfer, which for a special request was never submitted.
    fn transfer(&self) -> &Transfer<Flight> {
        match self {
            Done::Transfer(transfer) | Done::Special(transfer) => transfer,
        }
    }
}

impl Outcome for Done {
    fn ret(&self, seqnum: u32) -> RetSubmit {
        let transfer = self.transfer();
        let mut ret = RetSubmit {
            seqnum,
            start_frame: transfer.request().start_frame,
            number_of_packets: transfer.context.number_of_packets,
            ..RetSubmit::default()
        };
        let Done::Transfer(transfer) = self else {
            return ret;
        };
        ret.status = transfer.status();
        // CAST: At most `MAX_URB_BYTES`.
        ret.actual_length = transfer.actual_length() as i32;
        if self.iso_packets() > 0 {
            let actual = (0..self.iso_packets())
                .filter_map(|index| transfer.packet(index))
                .map(|packet| packet.actual_length)
                .fold(0, u32::saturating_add);
            // Packets that overlap may add up to more than the buffer has; the client will say so.
            ret.actual_length = i32::try_from(actual).unwrap_or(i32::MAX);
            ret.start_frame = transfer.start_frame();
            ret.error_count = transfer.error_count();
        }
        ret
    }

    fn is_in(&self) -> bool {
        self.transfer().request().endpoint.is_in
    }

    fn buffer(&self) -> &Buffer {
        self.transfer().buffer()
    }

    fn iso_packets(&self) -> u32 {
        self.transfer().request().packets
    }

    fn packet(&self, index: u32) -> Option<iso::Packet> {
        self.transfer().packet(index).map(|packet| iso::Packet {
            offset: packet.offset,
            length: packet.length,
            actual_length: packet.actual_length,
            status: packet.status,
        })
    }

    fn accepted_ns(&self) -> u64 {
        self.transfer().context.accepted_ns
    }
}
