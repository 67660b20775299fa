// SPDX-License-Identifier: GPL-2.0

//! The client's ledger: every URB from enqueue to giveback.
//!
//! C counterpart: `priv_tx`, `priv_rx`, `unlink_tx` and `unlink_rx` of `struct vhci_device` and
//! the functions that move between them. Here a URB has one slot and one state:
//!
//! ```text
//! enqueue            next_tx                 sent            ret_submit          received
//!    ──────▶ Queued ─────────▶ Sending(tx) ─────────▶ Sent ────────────▶ Receiving(rx) ─────▶ gone
//!              │                    │                   │                     ▲         │
//!              │ dequeue            │ dequeue, sent     │ dequeue             │         │ if the
//!              ▼                    └───────────────▶ UnlinkQueued ───────────┤         │ unlink
//!         given back,                                   │ next_tx   ret_submit│         │ was sent
//!         nothing sent                                UnlinkSent ─────────────┘         ▼
//!                                                       │ ret_unlink            AwaitingRetUnlink
//!                                                       ▼                           │ ret_unlink
//!                                                given back;                        ▼
//!                                                tombstone if status 0             gone
//! ```
//!
//! Submits and unlinks leave through one queue, so a CMD_UNLINK cannot overtake its CMD_SUBMIT.
//! Nothing allocates, so neither unlinking nor completing can fail.

use core::marker::PhantomData;
use core::mem;
use core::ops::DerefMut;

use super::list::List;
use super::ring::{Ring, RingSlot};
use super::{next_generation, BadStorage, Token};
use crate::wire::UrbMeta;

mod answer;
mod entry;
mod rx;
mod tx;

pub use answer::{
    AfterSend, Dequeued, Enqueued, Full, NextTx, RetSubmit, RetUnlink, TxItem, Violation,
};
pub use entry::Entry;
use entry::State;

/// The ledger of one connection.
///
/// `E` and `R` lend [`Entry`]s and [`RingSlot`]s ([`super::ring_len`] tells how many); entries are
/// the most URBs that can be pending. Every method takes constant time, except [`Self::drain`],
/// and [`Self::next_tx`], which is constant on average: it skips sequence numbers whose slot is
/// in use.
///
/// # Invariants
///
/// Every entry is on exactly one list, given by its state. An entry with a sequence number has
/// a slot of the ring that points back to it, and no slot points to a free entry.
#[cfg_attr(not(MODULE), derive(Clone, Hash))]
pub struct ClientLedger<T, E, R> {
    entries: E,
    ring: Ring<R>,
    free: List,
    /// What is to be sent, in order.
    queue: List,
    /// CMD_UNLINKs that were sent and whose URB waits for the answer, oldest first.
    unlinks: List,
    /// CMD_UNLINKs whose URB was answered, so that nobody waits for theirs. Some servers never
    /// send it, so these entries are taken back when they are needed, oldest first.
    answered: List,
    others: List,
    pending: usize,
    in_flight: usize,
    _urb: PhantomData<T>,
}

impl<T, E, R> ClientLedger<T, E, R>
where
    E: DerefMut<Target = [Entry<T>]>,
    R: DerefMut<Target = [RingSlot]>,
{
    /// A ledger whose first sequence number is 1. Takes time proportional to the storage.
    ///
    /// # Errors
    ///
    /// The storage is unusable.
    pub fn new(entries: E, ring: R) -> Result<Self, BadStorage> {
        Self::with_last_seqnum(entries, ring, 0)
    }

    /// A ledger whose first sequence number is the one after `last`. For tests of the wrap-around.
    ///
    /// # Errors
    ///
    /// The storage is unusable.
    pub fn with_last_seqnum(mut entries: E, ring: R, last: u32) -> Result<Self, BadStorage> {
        let len = u32::try_from(entries.len()).map_err(|_| BadStorage)?;
        if len == 0 || len == u32::MAX {
            return Err(BadStorage);
        }
        let ring = Ring::new(ring, entries.len(), last)?;
        let mut free = List::new();
        for index in 0..len {
            if let Some(entry) = entries.get_mut(index as usize) {
                *entry = Entry::new();
            }
            free.push_back(&mut entries, index);
        }
        Ok(Self {
            entries,
            ring,
            free,
            queue: List::new(),
            unlinks: List::new(),
            answered: List::new(),
            others: List::new(),
            pending: 0,
            in_flight: 0,
            _urb: PhantomData,
        })
    }

    /// Takes in a URB.
    ///
    /// # Errors
    ///
    /// No entry is free.
    pub fn enqueue(&mut self, urb: T, meta: UrbMeta) -> Result<Enqueued, Full<T>> {
        if self.free.is_empty() {
            if let Some(index) = self.answered.pop_front(&mut self.entries) {
                self.release(index);
            }
        }
        let Some(index) = self.free.pop_front(&mut self.entries) else {
            return Err(Full(urb));
        };
        let Some(entry) = self.entries.get_mut(index as usize) else {
            return Err(Full(urb));
        };
        entry.seqnum = 0;
        entry.unlink_seqnum = 0;
        entry.meta = meta;
        entry.state = State::Queued(urb);
        let token = Token {
            index,
            generation: entry.generation,
        };
        let wake = self.queue.push_back(&mut self.entries, index);
        self.pending = self.pending.saturating_add(1);
        Ok(Enqueued { token, wake })
    }

    /// Leaves a URB that the tx thread could not send, or whose reply the rx thread could not
    /// receive, to [`Self::drain`]. The connection is at its end.
    ///
    /// # Errors
    ///
    /// The ledger was drained meanwhile: the URB is the caller's to complete.
    pub fn put_back(&mut self, token: Token, urb: T) -> Result<(), T> {
        match self.live(token) {
            Some(entry)
                if matches!(entry.state, State::Sending { .. } | State::Receiving { .. }) =>
            {
                entry.state = State::Parked(urb);
                Ok(())
            }
            _ => Err(urb),
        }
    }

    /// Asks for a URB back. Neither allocates nor fails.
    pub fn dequeue(&mut self, token: Token) -> Dequeued<T> {
        let Some(entry) = self.live(token) else {
            return Dequeued::Gone;
        };
        match mem::replace(&mut entry.state, State::Free) {
            State::Queued(urb) => {
                self.queue.remove(&mut self.entries, token.index);
                self.finish(token.index);
                Dequeued::Local(urb)
            }
            State::Sent(urb) => {
                entry.state = State::UnlinkQueued(urb);
                self.others.remove(&mut self.entries, token.index);
                let wake = self.queue.push_back(&mut self.entries, token.index);
                Dequeued::Unlinking { wake }
            }
            State::Sending { early, .. } => {
                entry.state = State::Sending {
                    unlink_wanted: true,
                    early,
                };
                Dequeued::Deferred
            }
            other => {
                let answer = match other {
                    State::UnlinkQueued(_) | State::UnlinkSent(_) => Dequeued::AlreadyPending,
                    State::Receiving { .. } | State::Parked(_) => Dequeued::Deferred,
                    _ => Dequeued::Gone,
                };
                entry.state = other;
                answer
            }
        }
    }

    /// When the oldest CMD_UNLINK was taken from the queue of those whose URB was not answered.
    pub fn oldest_unlink_ms(&self) -> Option<u64> {
        let entry = self.entries.get(self.unlinks.front()? as usize)?;
        Some(entry.unlink_ms)
    }

    /// URBs taken in and not yet given back.
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// URBs of those whose CMD_SUBMIT was taken from the queue.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether nothing is pending and no CMD_UNLINK waits for its answer.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
            && self.unlinks.is_empty()
            && self.answered.is_empty()
            && self.others.is_empty()
    }

    /// Takes out one URB after the other, whatever its state, and forgets everything else.
    /// [`None`] says that nothing is left.
    ///
    /// For teardown, after the threads have ended. A URB that a thread still has is forgotten, not
    /// lost: the thread learns from its next call that it owns the URB.
    ///
    /// Takes constant time per URB, apart from entries without one, which it skips, and the end,
    /// which forgets [`crate::limits::MAX_TOMBSTONES`] tombstones.
    pub fn drain(&mut self) -> Option<T> {
        while let Some(index) = self
            .queue
            .pop_front(&mut self.entries)
            .or_else(|| self.unlinks.pop_front(&mut self.entries))
            .or_else(|| self.answered.pop_front(&mut self.entries))
            .or_else(|| self.others.pop_front(&mut self.entries))
        {
            let state = match self.entries.get_mut(index as usize) {
                Some(entry) => mem::replace(&mut entry.state, State::Free),
                None => continue,
            };
            if let State::AwaitingRetUnlink = state {
                self.release(index);
                continue;
            }
            self.finish(index);
            if let State::Queued(urb)
            | State::Sent(urb)
            | State::UnlinkQueued(urb)
            | State::UnlinkSent(urb)
            | State::Parked(urb) = state
            {
                return Some(urb);
            }
        }
        self.ring.clear_tombstones();
        None
    }

    /// The URB of `index`, which is on no list any more, leaves the ledger.
    fn finish(&mut self, index: u32) {
        self.pending = self.pending.saturating_sub(1);
        if self
            .entries
            .get(index as usize)
            .is_some_and(|entry| entry.seqnum != 0)
        {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        self.release(index);
    }

    /// Frees the entry `index`, which is on no list.
    fn release(&mut self, index: u32) {
        let Some(entry) = self.entries.get_mut(index as usize) else {
            return;
        };
        entry.state = State::Free;
        entry.generation = next_generation(entry.generation);
        for seqnum in [
            mem::take(&mut entry.seqnum),
            mem::take(&mut entry.unlink_seqnum),
        ] {
            if seqnum != 0 {
                self.ring.release(seqnum);
            }
        }
        self.free.push_back(&mut self.entries, index);
    }

    /// The entry that `token` names, unless it is stale.
    fn live(&mut self, token: Token) -> Option<&mut Entry<T>> {
        self.entries
            .get_mut(token.index as usize)
            .filter(|e| e.generation == token.generation && !matches!(e.state, State::Free))
    }
}
