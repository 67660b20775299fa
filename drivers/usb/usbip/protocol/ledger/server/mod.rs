// SPDX-License-Identifier: GPL-2.0

//! The server's ledger: every request from its acceptance until its reply has been sent.
//!
//! C counterpart: `priv_init`, `priv_tx`, `priv_free`, `unlink_tx` and `unlink_free` of
//! `struct stub_device`, and the queues of `struct vudc`.
//!
//! ```text
//! admit ─▶ Reserved ─start─▶ Pending(H) ─complete─▶ reply queue ─next_reply─▶ Sending ─sent─▶ gone
//!                                │ unlink               ▲
//!                                └─────▶ Cancelling ────┘ complete (as the reply to the unlink)
//! ```
//!
//! `H` is what it takes to cancel a request while it is with the device, `D` its result. All
//! replies leave through one queue in the order of events, so the RET_SUBMIT of a request precedes
//! the RET_UNLINK that says there was nothing left to cancel.

use core::marker::PhantomData;
use core::mem;
use core::num::NonZeroU32;
use core::ops::DerefMut;

use super::list::{Linked, Links, List};
use super::{next_generation, BadStorage, Token};

mod answer;
mod table;

pub use answer::{
    Completed, Drained, Failure, Overflow, Refusal, Start, TxKind, TxReply, Unlink, Withdrawn,
};
pub use table::{bucket_len, Bucket};
use table::{Chained, Table};

/// Where a request or a reply is.
#[cfg_attr(not(MODULE), derive(Clone, Hash))]
enum State<H, D> {
    /// On the list of free entries.
    Free,
    /// Accepted, on the list of requests; with the number of the CMD_UNLINK that came since.
    Reserved { unlink: Option<u32> },
    /// With the device, on the list of requests.
    Pending(H),
    /// Being cancelled for this CMD_UNLINK, on the list of requests.
    Cancelling { unlink: u32 },
    /// In the queue.
    Reply { seqnum: u32, kind: TxKind<D> },
    /// Taken by the tx thread, on the list of requests.
    Sending,
}

/// Room for one request or reply, lent to a [`ServerLedger`].
#[cfg_attr(not(MODULE), derive(Clone, Hash))]
pub struct Entry<H, D> {
    links: Links,
    /// The next entry in the same bucket.
    chain: u32,
    generation: NonZeroU32,
    /// Of the CMD_SUBMIT; meaningless for mere replies.
    seqnum: u32,
    /// What was charged; nothing for mere replies.
    charge: Option<u32>,
    state: State<H, D>,
}

impl<H, D> Entry<H, D> {
    /// An unused entry.
    pub const fn new() -> Self {
        Self {
            links: Links::new(),
            chain: 0,
            generation: NonZeroU32::MIN,
            seqnum: 0,
            charge: None,
            state: State::Free,
        }
    }
}

impl<H, D> Default for Entry<H, D> {
    fn default() -> Self {
        Self::new()
    }
}

impl<H, D> Linked for Entry<H, D> {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

impl<H, D> Chained for Entry<H, D> {
    fn key(&self) -> u32 {
        self.seqnum
    }

    fn chain(&mut self) -> &mut u32 {
        &mut self.chain
    }
}

/// What one connection may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caps {
    /// Requests whose reply has not been sent. Entries beyond it are for other replies.
    pub requests: usize,
    /// Bytes of buffers of these requests.
    pub bytes: u64,
}

/// The ledger of one connection; nothing in it outlives that.
///
/// `E` and `B` lend [`Entry`]s and [`Bucket`]s ([`bucket_len`] tells how many). Every method but
/// [`Self::drain`] takes constant time, on average over the secret that keys the table: the
/// numbers are the client's choice.
///
/// # Invariants
///
/// Every entry is on exactly one list, given by its state. The table holds exactly the
/// requests whose reply the tx thread has not taken.
#[cfg_attr(not(MODULE), derive(Clone, Hash))]
pub struct ServerLedger<H, D, E, B> {
    entries: E,
    table: Table<B>,
    caps: Caps,
    requests: usize,
    bytes: u64,
    free: List,
    queue: List,
    others: List,
    _request: PhantomData<(H, D)>,
}

impl<H, D, E, B> ServerLedger<H, D, E, B>
where
    E: DerefMut<Target = [Entry<H, D>]>,
    B: DerefMut<Target = [Bucket]>,
{
    /// An empty ledger. `secret` is a random number that the client cannot guess. Takes time
    /// proportional to the storage.
    ///
    /// # Errors
    ///
    /// The storage is unusable, or has fewer entries than `caps` allows requests.
    pub fn new(mut entries: E, buckets: B, caps: Caps, secret: u64) -> Result<Self, BadStorage> {
        let len = u32::try_from(entries.len()).map_err(|_| BadStorage)?;
        if len == 0 || len == u32::MAX || entries.len() < caps.requests {
            return Err(BadStorage);
        }
        let table = Table::new(buckets, secret)?;
        let mut free = List::new();
        for index in 0..len {
            if let Some(entry) = entries.get_mut(index as usize) {
                *entry = Entry::new();
            }
            free.push_back(&mut entries, index);
        }
        Ok(Self {
            entries,
            table,
            caps,
            requests: 0,
            bytes: 0,
            free,
            queue: List::new(),
            others: List::new(),
            _request: PhantomData,
        })
    }

    /// Accepts the request `seqnum` with a buffer of `bytes` bytes, before that is allocated.
    ///
    /// # Errors
    ///
    /// See [`Refusal`].
    pub fn admit(&mut self, seqnum: u32, bytes: u32) -> Result<Token, Refusal> {
        if self.table.find(&mut self.entries, seqnum).is_some() {
            return Err(Refusal::Duplicate);
        }
        if self.requests >= self.caps.requests {
            return Err(Refusal::Requests);
        }
        let total = self
            .bytes
            .checked_add(u64::from(bytes))
            .filter(|&total| total <= self.caps.bytes)
            .ok_or(Refusal::Bytes)?;
        let index = self
            .free
            .pop_front(&mut self.entries)
            .ok_or(Refusal::Requests)?;
        let entry = self
            .entries
            .get_mut(index as usize)
            .ok_or(Refusal::Requests)?;
        entry.seqnum = seqnum;
        entry.charge = Some(bytes);
        entry.state = State::Reserved { unlink: None };
        let token = Token {
            index,
            generation: entry.generation,
        };
        self.bytes = total;
        self.requests = self.requests.saturating_add(1);
        self.others.push_back(&mut self.entries, index);
        self.table.insert(&mut self.entries, index);
        Ok(token)
    }

    /// Forgets a request that was just accepted and not unlinked, as if it had never come. If it was
    /// started, whoever started it has not handed it to the device after all.
    pub fn withdraw(&mut self, token: Token) -> Withdrawn<H> {
        let Some(entry) = self.live(token) else {
            return Withdrawn::Stale;
        };
        let handle = match mem::replace(&mut entry.state, State::Free) {
            State::Pending(handle) => Some(handle),
            State::Reserved { unlink: None } => None,
            other => {
                entry.state = other;
                return Withdrawn::Stale;
            }
        };
        self.table.remove(&mut self.entries, token.index);
        self.others.remove(&mut self.entries, token.index);
        self.release(token.index);
        Withdrawn::Forgotten(handle)
    }

    /// Answers a request that was not accepted. Returns whether to wake the tx thread.
    ///
    /// # Errors
    ///
    /// See [`Overflow`].
    pub fn refuse(&mut self, seqnum: u32, failure: Failure) -> Result<bool, Overflow> {
        self.reply(seqnum, TxKind::Refused(failure))
    }

    /// Announces that an accepted request goes to the device: call this first, then start it.
    pub fn start(&mut self, token: Token, handle: H) -> Start<H> {
        let Some(entry) = self.live(token) else {
            return Start::Stale(handle);
        };
        match entry.state {
            State::Reserved { unlink: None } => {
                entry.state = State::Pending(handle);
                Start::Started
            }
            State::Reserved {
                unlink: Some(unlink),
            } => {
                entry.state = State::Cancelling { unlink };
                Start::Cancelled(handle)
            }
            _ => Start::Stale(handle),
        }
    }

    /// Queues the result of a request, whether started or not.
    pub fn complete(&mut self, token: Token, done: D) -> Completed<H, D> {
        self.end(token, done, TxKind::Submit, TxKind::Unlinked)
    }

    /// Queues the result of an accepted request that could not be carried out.
    pub fn fail(&mut self, token: Token, failure: Failure) -> Completed<H, ()> {
        self.end(
            token,
            (),
            |()| TxKind::Refused(failure),
            |()| TxKind::Unlink(failure.status),
        )
    }

    fn end<X>(
        &mut self,
        token: Token,
        done: X,
        submit: impl FnOnce(X) -> TxKind<D>,
        unlinked: impl FnOnce(X) -> TxKind<D>,
    ) -> Completed<H, X> {
        let Some(entry) = self.live(token) else {
            return Completed::Stale(done);
        };
        let seqnum = entry.seqnum;
        let (handle, seqnum, kind) = match mem::replace(&mut entry.state, State::Free) {
            State::Pending(handle) => (Some(handle), seqnum, submit(done)),
            State::Reserved { unlink: None } => (None, seqnum, submit(done)),
            State::Reserved {
                unlink: Some(unlink),
            }
            | State::Cancelling { unlink } => (None, unlink, unlinked(done)),
            other => {
                entry.state = other;
                return Completed::Stale(done);
            }
        };
        entry.state = State::Reply { seqnum, kind };
        self.others.remove(&mut self.entries, token.index);
        let wake = self.queue.push_back(&mut self.entries, token.index);
        Completed::Queued { wake, handle }
    }

    /// Takes in the CMD_UNLINK `seqnum` for `victim`. Only the first one for a request cancels it.
    ///
    /// # Errors
    ///
    /// See [`Overflow`].
    pub fn unlink(&mut self, seqnum: u32, victim: u32) -> Result<Unlink<H>, Overflow> {
        if let Some(index) = self.table.find(&mut self.entries, victim) {
            if let Some(entry) = self.entries.get_mut(index as usize) {
                let token = Token {
                    index,
                    generation: entry.generation,
                };
                match mem::replace(&mut entry.state, State::Free) {
                    State::Pending(handle) => {
                        entry.state = State::Cancelling { unlink: seqnum };
                        return Ok(Unlink::Cancel { token, handle });
                    }
                    State::Reserved { unlink: None } => {
                        entry.state = State::Reserved {
                            unlink: Some(seqnum),
                        };
                        return Ok(Unlink::Deferred(token));
                    }
                    other => entry.state = other,
                }
            }
        }
        let wake = self.reply(seqnum, TxKind::Unlink(0))?;
        Ok(Unlink::Answered { wake })
    }

    /// What [`Self::next_reply`] would take.
    pub fn peek_reply(&self) -> Option<&TxKind<D>> {
        match &self.entries.get(self.queue.front()? as usize)?.state {
            State::Reply { kind, .. } => Some(kind),
            _ => None,
        }
    }

    /// Takes the next reply from the queue. What it was charged stays charged until
    /// [`Self::sent`].
    pub fn next_reply(&mut self) -> Option<TxReply<D>> {
        let index = self.queue.front()?;
        let entry = self.entries.get_mut(index as usize)?;
        let token = Token {
            index,
            generation: entry.generation,
        };
        match mem::replace(&mut entry.state, State::Free) {
            State::Reply { seqnum, kind } => {
                entry.state = State::Sending;
                if entry.charge.is_some() {
                    // The client may use the number again from now on.
                    self.table.remove(&mut self.entries, index);
                }
                self.queue.remove(&mut self.entries, index);
                self.others.push_back(&mut self.entries, index);
                Some(TxReply {
                    token,
                    seqnum,
                    kind,
                })
            }
            // Nothing else is in the queue.
            other => {
                entry.state = other;
                None
            }
        }
    }

    /// Reports that a reply has been sent and its buffer freed, or never will be sent. Returns
    /// false if the ledger was drained meanwhile.
    pub fn sent(&mut self, token: Token) -> bool {
        if !matches!(
            self.live(token).map(|entry| &entry.state),
            Some(State::Sending)
        ) {
            return false;
        }
        self.others.remove(&mut self.entries, token.index);
        self.release(token.index);
        true
    }

    /// Whether there is room for another reply.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Requests whose reply has not been sent.
    pub fn requests(&self) -> usize {
        self.requests
    }

    /// Bytes charged for them.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there is neither a request nor a reply.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.others.is_empty()
    }

    /// Takes out what the ledger holds, one by one, and forgets everything else. [`None`] says that
    /// nothing is left. Whoever completes one of the requests later learns that it is stale.
    pub fn drain(&mut self) -> Option<Drained<H, D>> {
        while let Some(index) = self
            .queue
            .pop_front(&mut self.entries)
            .or_else(|| self.others.pop_front(&mut self.entries))
        {
            let Some(entry) = self.entries.get_mut(index as usize) else {
                continue;
            };
            let state = mem::replace(&mut entry.state, State::Free);
            if entry.charge.is_some() && !matches!(state, State::Sending) {
                self.table.remove(&mut self.entries, index);
            }
            self.release(index);
            match state {
                State::Pending(handle) => return Some(Drained::Pending(handle)),
                State::Reply {
                    kind: TxKind::Submit(done) | TxKind::Unlinked(done),
                    ..
                } => {
                    return Some(Drained::Done(done));
                }
                _ => (),
            }
        }
        None
    }

    /// Queues a reply that belongs to no accepted request.
    fn reply(&mut self, seqnum: u32, kind: TxKind<D>) -> Result<bool, Overflow> {
        let index = self.free.pop_front(&mut self.entries).ok_or(Overflow)?;
        let entry = self.entries.get_mut(index as usize).ok_or(Overflow)?;
        entry.charge = None;
        entry.state = State::Reply { seqnum, kind };
        Ok(self.queue.push_back(&mut self.entries, index))
    }

    /// Frees the entry `index`, which is on no list and not in the table.
    fn release(&mut self, index: u32) {
        let Some(entry) = self.entries.get_mut(index as usize) else {
            return;
        };
        entry.state = State::Free;
        entry.generation = next_generation(entry.generation);
        if let Some(bytes) = entry.charge.take() {
            self.bytes = self.bytes.saturating_sub(u64::from(bytes));
            self.requests = self.requests.saturating_sub(1);
        }
        self.free.push_back(&mut self.entries, index);
    }

    /// The entry that `token` names, unless it is stale.
    fn live(&mut self, token: Token) -> Option<&mut Entry<H, D>> {
        self.entries
            .get_mut(token.index as usize)
            .filter(|e| e.generation == token.generation && !matches!(e.state, State::Free))
    }
}
