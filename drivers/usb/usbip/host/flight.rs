// SPDX-License-Identifier: GPL-2.0

//! Requests at the device: buffers, submission, completion.
//!
//! C counterpart: `stub_recv_cmd_submit()` of `stub_rx.c` and `stub_complete()` of `stub_tx.c`.

use crate::server::Server;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use kernel_ext::prelude::*;
use kernel_ext::usb::buffer::{Buffer, PagePool};
use kernel_ext::usb::transfer::{Completion, Request, Transfer};
use kernel_ext::usb::TransferType;
use usbip_core::connection::Connection;
use usbip_protocol::ledger::server::Completed;
use usbip_protocol::ledger::Token;

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
        let outcome = connection
            .side()
            .ledger
            .lock()
            .complete(token, Done::Transfer(transfer));
        if let Completed::Queued { wake: true, .. } = outcome {
            connection.kick();
        }
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
    pub(crate) fn transfer(&self) -> &Transfer<Flight> {
        match self {
            Done::Transfer(transfer) | Done::Special(transfer) => transfer,
        }
    }

    /// 0 or a negative errno.
    pub(crate) fn status(&self) -> i32 {
        match self {
            Done::Transfer(transfer) => transfer.status(),
            Done::Special(_) => 0,
        }
    }
}

/// A buffer for a request. It is not cleared. May sleep.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn buffer(request: &Request, pool: &Arc<PagePool>) -> Result<Buffer> {
    /// Up to this size a buffer in one piece is as easily had as pages, in bytes.
    const EASY: u32 = 16 * 1024;
    if request.length <= EASY || request.endpoint.kind != TransferType::Bulk {
        return Buffer::linear(request.length);
    }
    Buffer::pages(request.length, pool)
}

/// Bytes of buffers of all connections.
static CHARGED: Atomic<i64> = Atomic::new(0);

/// Bytes that a request has been charged with. Dropping it gives them back.
pub(crate) struct Charge(u32);

impl Charge {
    /// Charges `bytes`, if no more than `limit` are charged in all then.
    pub(crate) fn new(bytes: u32, limit: u64) -> Option<Self> {
        let charge = Self(bytes);
        // Dropping gives back what is too much.
        let before = CHARGED.fetch_add(bytes.into(), Relaxed);
        u64::try_from(before.saturating_add(bytes.into()))
            .is_ok_and(|sum| sum <= limit)
            .then_some(charge)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        CHARGED.add(-i64::from(self.0), Relaxed);
    }
}
