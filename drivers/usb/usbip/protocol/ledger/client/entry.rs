// SPDX-License-Identifier: GPL-2.0

//! The state of one URB in the client's ledger, and the room for it.

use core::num::NonZeroU32;

use super::super::list::{Linked, Links};
use crate::wire::{self, UrbMeta};

/// Where a URB is. The variant says which list of the ledger the entry is on.
#[cfg_attr(not(MODULE), derive(Clone, Hash))]
pub(super) enum State<T> {
    /// On the list of free entries.
    Free,
    /// In the queue.
    Queued(T),
    /// On the list of the others, lent to the tx thread.
    Sending {
        /// The URB was dequeued meanwhile.
        unlink_wanted: bool,
        /// The server answered before the tx thread came round to report.
        early: Option<wire::RetSubmit>,
    },
    /// On the list of the others.
    Sent(T),
    /// In the queue, for its CMD_UNLINK.
    UnlinkQueued(T),
    /// On the list of unlinks.
    UnlinkSent(T),
    /// Lent to the rx thread; on the list of unlinks if `unlink_sent`, else of the others.
    Receiving { unlink_sent: bool },
    /// On the list of unlinks; the URB was given back.
    AwaitingRetUnlink,
    /// Waits for [`super::ClientLedger::drain`], on whichever list it was.
    Parked(T),
}

/// Room for one URB, lent to a [`super::ClientLedger`].
#[cfg_attr(not(MODULE), derive(Clone, Hash))]
pub struct Entry<T> {
    pub(super) links: Links,
    pub(super) generation: NonZeroU32,
    /// Of the CMD_SUBMIT; 0 before it is sent.
    pub(super) seqnum: u32,
    /// Of the CMD_UNLINK; 0 before it is sent.
    pub(super) unlink_seqnum: u32,
    /// When the CMD_UNLINK was taken from the queue.
    pub(super) unlink_ms: u64,
    pub(super) meta: UrbMeta,
    pub(super) state: State<T>,
}

impl<T> Entry<T> {
    /// An unused entry.
    pub const fn new() -> Self {
        Self {
            links: Links::new(),
            generation: NonZeroU32::MIN,
            seqnum: 0,
            unlink_seqnum: 0,
            unlink_ms: 0,
            meta: UrbMeta {
                direction: wire::Direction::Out,
                iso_packets: 0,
                length: 0,
            },
            state: State::Free,
        }
    }
}

impl<T> Default for Entry<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Linked for Entry<T> {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}
