// SPDX-License-Identifier: GPL-2.0

//! The sending half of a connection.

use crate::down::Down;
use crate::stats::Stats;
use kernel_ext::net::socket::{IoPage, IoSlice, Socket};
use kernel_ext::net::tap::Arrived;
use kernel_ext::prelude::*;

/// How many bytes of small messages go out with one `sendmsg`.
///
/// Enough for a few hundred URBs without payload, or a dozen with 4 KiB. It is as much as one socket
/// buffer takes; with more the first of them have to wait.
const GATHER: usize = 64 * 1024;

/// Pieces of a large payload that one `sendmsg` takes; a scatter list may have more.
const PIECES: usize = 64;

/// Up to so many, what was gathered among them, the list is a short one: to clear a long one costs as
/// much as to copy a small payload.
const FEW: usize = 4;

/// Pieces of pages that one `sendmsg` takes: 1 MiB of what a server's buffers are made of.
const PAGES: usize = 32;

/// How many payloads a [`Message`] has at most: [`GATHER`] bytes of 4 KiB each.
const PAYLOADS: usize = 16;

/// Gathers what the tx thread sends and writes it to the socket.
///
/// Small messages are copied and go out together; the pieces of a large payload are handed to the
/// socket where they lie, which copies them once. When a method returns, the socket holds no
/// reference to the caller's memory.
///
/// # Invariants
///
/// `start <= end <= buf.len()`; the bytes between `start` and `end` are gathered.
pub struct Outbox {
    /// [`GATHER`] bytes, written over again and again.
    buf: KVVec<u8>,
    start: usize,
    end: usize,
}

impl Outbox {
    /// Allocates the buffer. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        let mut buf = KVVec::with_capacity(GATHER, GFP_KERNEL)?;
        buf.extend_with(GATHER, 0, GFP_KERNEL)?;
        // INVARIANT: 0 <= 0 <= GATHER.
        Ok(Self {
            buf,
            start: 0,
            end: 0,
        })
    }

    /// How many bytes can still be gathered.
    pub fn room(&self) -> usize {
        self.buf.len().saturating_sub(self.end)
    }

    /// Whether nothing is gathered.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Gathers `bytes`; whoever calls it has seen to [`Self::room`]. Any context.
    ///
    /// # Errors
    ///
    /// [`Down::NoMemory`] if there is no room after all.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Down> {
        self.push_with(bytes.len(), |to| to.copy_from_slice(bytes))
    }

    /// Gathers `len` bytes, all of which `fill` has to write. Any context that `fill` allows.
    ///
    /// # Errors
    ///
    /// As [`Self::push`].
    pub fn push_with(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> Result<(), Down> {
        let tail = self.buf.get_mut(self.end..).unwrap_or(&mut []);
        fill(tail.get_mut(..len).ok_or(Down::NoMemory)?);
        // INVARIANT: There were `len` bytes behind `end`.
        self.end += len;
        Ok(())
    }

    fn gathered(&self) -> &[u8] {
        self.buf.get(self.start..self.end).unwrap_or(&[])
    }

    fn clear(&mut self) {
        // INVARIANT: Nothing is gathered.
        self.start = 0;
        self.end = 0;
    }

    /// Sends what was gathered, as far as the socket takes it at once; the rest stays. Returns whether
    /// nothing is left. Atomic context.
    pub(crate) fn send_now(&mut self, socket: &mut Arrived<'_>, stats: &Stats) -> bool {
        while !self.is_empty() {
            match socket.send(self.gathered()) {
                Ok(n) if n > 0 => {
                    account(stats, n);
                    Stats::count(&stats.direct_sends);
                    // INVARIANT: At most `end`.
                    self.start = self.end.min(self.start + n);
                }
                // An error comes again when it is waited for.
                _ => return false,
            }
        }
        self.clear();
        true
    }
}

/// An [`Outbox`] together with the socket it writes to.
pub struct Sender<'a> {
    pub(crate) outbox: &'a mut Outbox,
    pub(crate) socket: &'a Socket,
    pub(crate) stats: &'a Stats,
}

impl Sender<'_> {
    /// The gathering buffer.
    pub fn outbox(&mut self) -> &mut Outbox {
        self.outbox
    }

    /// The counters of the connection.
    pub fn stats(&self) -> &Stats {
        self.stats
    }

    /// Sends what was gathered. May sleep.
    ///
    /// # Errors
    ///
    /// [`Down::NotReading`] if the peer took nothing for as long as [`crate::connection::Patience`]
    /// says;
    /// [`Down::Socket`].
    pub fn flush(&mut self) -> Result<(), Down> {
        self.flush_with(core::iter::empty(), false)
    }

    /// Sends what was gathered and then the pieces of a payload. May sleep.
    ///
    /// `more` announces that something follows at once.
    ///
    /// # Errors
    ///
    /// As [`Self::flush`].
    pub fn flush_with<'p>(
        &mut self,
        mut pieces: impl Iterator<Item = IoSlice<'p>>,
        more: bool,
    ) -> Result<(), Down> {
        let result = self.send_pieces(&mut pieces, more);
        self.outbox.clear();
        result
    }

    /// Sends what was gathered and then pages, without a copy where the socket can do that. The
    /// pages must not be written to again. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Self::flush`].
    pub fn flush_with_pages<'p>(
        &mut self,
        mut pages: impl Iterator<Item = IoPage<'p>>,
    ) -> Result<(), Down> {
        self.flush_with(core::iter::empty(), true)?;
        let mut next = pages.next();
        while next.is_some() {
            let mut iov = [IoPage::empty(); PAGES];
            let mut used = 0;
            for slot in iov.iter_mut() {
                let Some(page) = next.take() else { break };
                *slot = page;
                used += 1;
                next = pages.next();
            }
            let mut left = iov.get_mut(..used).unwrap_or(&mut []);
            while !left.is_empty() {
                let sent = self.patiently(|| self.socket.send_pages(left, next.is_some()))?;
                self.account(sent);
                IoPage::advance(&mut left, sent);
            }
        }
        Ok(())
    }

    /// Sends, for as long as it takes if the peer takes a little of what was sent before: the socket has
    /// room for more only when a good part of its buffer is free, which on a slow link may take longer
    /// than a peer that has gone is waited for.
    fn patiently(&self, mut send: impl FnMut() -> Result<usize>) -> Result<usize, Down> {
        loop {
            let before = self.socket.unsent();
            match send() {
                // The send timeout ran out without a single byte taken.
                Err(error) if error == EAGAIN && self.socket.unsent() < before => {}
                Err(error) if error == EAGAIN => return Err(Down::NotReading),
                result => return result.map_err(Down::Socket),
            }
        }
    }

    fn account(&self, n: usize) {
        account(self.stats, n);
    }

    fn send_pieces<'p>(
        &self,
        pieces: &mut dyn Iterator<Item = IoSlice<'p>>,
        more: bool,
    ) -> Result<(), Down> {
        let gathered = Some(IoSlice::new(self.outbox.gathered())).filter(|s| !s.is_empty());
        let mut next = gathered.or_else(|| pieces.next());
        let mut few = [IoSlice::empty(); FEW];
        let mut used = fill(&mut few, &mut next, pieces);
        if next.is_none() {
            return self.send_all(few.get_mut(..used).unwrap_or(&mut []), more);
        }
        let mut iov = [IoSlice::empty(); PIECES];
        for (slot, piece) in iov.iter_mut().zip(few) {
            *slot = piece;
        }
        while used > 0 {
            used += fill(iov.get_mut(used..).unwrap_or(&mut []), &mut next, pieces);
            let more = more || next.is_some();
            self.send_all(iov.get_mut(..used).unwrap_or(&mut []), more)?;
            used = fill(&mut iov, &mut next, pieces);
        }
        Ok(())
    }

    fn send_all(&self, mut iov: &mut [IoSlice<'_>], more: bool) -> Result<(), Down> {
        while !iov.is_empty() {
            let sent = self.patiently(|| self.socket.send(iov, more))?;
            self.account(sent);
            IoSlice::advance(&mut iov, sent);
        }
        Ok(())
    }
}

/// PDUs that go out together, some of them with a payload that is sent from where it lies.
pub struct Message<'m, 'a, 'p> {
    sender: &'m mut Sender<'a>,
    /// Payloads, each with the place in the gathering buffer of what comes behind it.
    payloads: [(usize, IoSlice<'p>); PAYLOADS],
    used: usize,
    /// How many bytes they are.
    len: usize,
}

impl<'a> Sender<'a> {
    /// Begins with what was gathered.
    pub fn message<'p>(&mut self) -> Message<'_, 'a, 'p> {
        Message {
            sender: self,
            payloads: [(0, IoSlice::empty()); PAYLOADS],
            used: 0,
            len: 0,
        }
    }
}

impl<'p> Message<'_, '_, 'p> {
    /// The gathering buffer.
    pub fn outbox(&mut self) -> &mut Outbox {
        self.sender.outbox
    }

    /// Sees to it that `len` bytes more can be gathered, and a payload of `payload` bytes be added: what
    /// there is may be sent for that. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Sender::flush`].
    pub fn make_room(&mut self, len: usize, payload: usize) -> Result<(), Down> {
        let is_full = payload > 0 && self.used == PAYLOADS;
        if is_full || self.sender.outbox.room() < self.len + payload + len {
            return self.flush(false);
        }
        Ok(())
    }

    /// Adds a payload behind what was gathered; whoever calls it has [made room](Self::make_room). Any
    /// context.
    ///
    /// # Errors
    ///
    /// [`Down::NoMemory`] if there is no room after all.
    pub fn push_payload(&mut self, payload: IoSlice<'p>) -> Result<(), Down> {
        let slot = self.payloads.get_mut(self.used).ok_or(Down::NoMemory)?;
        *slot = (self.sender.outbox.end, payload);
        self.used += 1;
        self.len += payload.len();
        Ok(())
    }

    /// Sends what there is; `more` announces that something follows at once. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Sender::flush`].
    pub fn flush(&mut self, more: bool) -> Result<(), Down> {
        if self.used == 0 {
            return self.sender.flush_with(core::iter::empty(), more);
        }
        let Sender { outbox, .. } = &*self.sender;
        let mut iov = [IoSlice::empty(); 2 * PAYLOADS + 1];
        let mut used = 0;
        let mut from = outbox.start;
        let end = (outbox.end, IoSlice::empty());
        let payloads = self.payloads.get(..self.used).unwrap_or(&[]);
        for index in 0..=payloads.len() {
            let (to, payload) = payloads.get(index).copied().unwrap_or(end);
            let gathered = IoSlice::new(outbox.buf.get(from..to).unwrap_or(&[]));
            for slice in [gathered, payload] {
                if let Some(slot) = iov.get_mut(used).filter(|_| !slice.is_empty()) {
                    *slot = slice;
                    used += 1;
                }
            }
            from = to;
        }
        let iov = iov.get_mut(..used).unwrap_or(&mut []);
        let result = self.sender.send_all(iov, more);
        self.used = 0;
        self.len = 0;
        self.sender.outbox.clear();
        result
    }

    /// Sends what there is and then the pieces of a payload. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Sender::flush`].
    pub fn flush_with<'q>(
        &mut self,
        pieces: impl Iterator<Item = IoSlice<'q>>,
        more: bool,
    ) -> Result<(), Down> {
        if self.used > 0 {
            self.flush(true)?;
        }
        self.sender.flush_with(pieces, more)
    }

    /// Sends what there is and then pages, as [`Sender::flush_with_pages`] does. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Sender::flush`].
    pub fn flush_with_pages<'q>(
        &mut self,
        pages: impl Iterator<Item = IoPage<'q>>,
    ) -> Result<(), Down> {
        self.flush(true)?;
        self.sender.flush_with_pages(pages)
    }
}

/// Counts a call of `sendmsg` that has sent `n` bytes.
fn account(stats: &Stats, n: usize) {
    Stats::count(&stats.sends);
    Stats::add(&stats.bytes_out, n);
}

/// Puts the next piece and those behind it in `iov`, for as long as there are any and room for them;
/// returns how many.
fn fill<'a, 'p: 'a>(
    iov: &mut [IoSlice<'a>],
    next: &mut Option<IoSlice<'a>>,
    pieces: &mut dyn Iterator<Item = IoSlice<'p>>,
) -> usize {
    let mut used = 0;
    for slot in iov {
        let Some(piece) = next.take() else { break };
        *slot = piece;
        used += 1;
        *next = pieces.next();
    }
    used
}
