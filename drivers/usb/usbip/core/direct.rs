// SPDX-License-Identifier: GPL-2.0

//! Receiving without the rx thread.
//!
//! To wake a thread up takes longer than most PDUs take to be handled, and at a queue depth of one
//! whoever uses the device waits for it. So a socket of TCP hands what arrives to
//! [`Direct::data_ready`](Receiver::data_ready), in the softirq of the network, where small and simple
//! PDUs are handled there and then. The rx thread gets everything else: PDUs that are large or have
//! not arrived as a whole, that take somebody who can sleep, that make no sense, and the end of the
//! stream.
//!
//! ```text
//!            arm(), when nothing is left to be received
//!   thread -----------------------------------------------> direct
//!          <-----------------------------------------------
//!            hand_over(), with what was read of the next PDU
//! ```
//!
//! At any time one of the two receives. Which one changes with the lock of the socket held, so the
//! stream stays in order. Other sockets, and those whose user wants to hear of silence (`SO_RCVTIMEO`),
//! are read by the thread alone.
//!
//! A peer that sends one PDU at a time although it has many to answer, as C servers do, is read by the
//! thread as well: while that is being woken up more comes in, and whatever is done because of it, as
//! to send the next requests, is done once.
//!
//! C counterpart: none; both C drivers receive in a thread. The iSCSI initiator
//! (`drivers/scsi/iscsi_tcp.c`) receives in the same way.

use crate::connection::{Connection, Side, MOST_DIRECT};
use crate::inbox::Inbox;
use crate::stats::Stats;
use kernel::sync::Arc;
use kernel_ext::net::tap::{Arrived, Bytes, Piece, Receiver, Tap};
use kernel_ext::prelude::*;

/// The length of a PDU header.
const HEADER: usize = 48;

/// So many PDUs that came alone while others were awaited say that the peer sends them that way.
const ALONE: u32 = 4;

/// So often the thread gets what arrives before it is found out once more how the peer sends.
const PROBE: u32 = 64;

/// What has arrived of a PDU.
///
/// # Invariants
///
/// `have` and `need` are at most the length of `buf`, which is at least [`HEADER`].
pub(crate) struct Partial<T> {
    /// Whether it is here that something is received, and not in the thread.
    is_armed: bool,
    buf: KVec<u8>,
    have: usize,
    /// [`HEADER`] as long as the header is not complete, then the length of the PDU.
    need: usize,
    /// What was found in the header, when it is complete.
    seen: Option<T>,
    /// PDUs handled since the last time that something arrived.
    handled: u32,
    /// How often one came alone, up to [`ALONE`].
    alone: u32,
    /// How often the thread got something because of that.
    left: u32,
}

impl<T> Partial<T> {
    fn new() -> Result<Self> {
        let len = HEADER + MOST_DIRECT;
        let mut buf = KVec::with_capacity(len, GFP_KERNEL)?;
        buf.extend_with(len, 0, GFP_KERNEL)?;
        // INVARIANT: 0, HEADER <= HEADER + MOST_DIRECT.
        Ok(Self {
            is_armed: false,
            buf,
            have: 0,
            need: HEADER,
            seen: None,
            handled: 0,
            alone: 0,
            left: 0,
        })
    }

    /// Takes bytes of a piece, from `from` on, that are missing; returns how many.
    fn fill(&mut self, piece: &Piece<'_>, from: usize) -> usize {
        let len = (self.need - self.have).min(piece.len() - from);
        let room = self
            .buf
            .get_mut(self.have..self.have + len)
            .unwrap_or(&mut []);
        if !piece.copy_to(from, room) {
            return 0;
        }
        // INVARIANT: At most `need`.
        self.have += len;
        len
    }

    /// The length of the body, if only the header is here.
    fn missing_body(&self) -> Option<usize> {
        (self.have == HEADER && self.need > HEADER).then(|| self.need - HEADER)
    }

    fn is_complete(&self) -> bool {
        self.have == self.need
    }

    /// Nothing has arrived of the next PDU.
    fn reset(&mut self) {
        // INVARIANT: As in `new`.
        self.have = 0;
        self.need = HEADER;
        self.seen = None;
    }

    /// What has arrived.
    fn bytes(&self) -> &[u8] {
        self.buf.get(..self.have).unwrap_or(&[])
    }
}

/// The receiver in a socket.
struct Here<S: Side>(Arc<Connection<S>>);

impl<S: Side> Here<S> {
    /// Handles what of the next PDUs is in a piece. Returns how many bytes were read, and whether to go on.
    fn read(&self, partial: &mut Partial<S::Seen>, piece: &Piece<'_>) -> (usize, bool) {
        let mut read = 0;
        while read < piece.len() {
            let len = match partial.missing_body() {
                // All of it is here, and goes from here to where it belongs.
                Some(len) if len <= piece.len() - read => {
                    let from = read;
                    if !self.receive(partial, Some(Bytes::There { piece, from, len })) {
                        return (read, false);
                    }
                    len
                }
                _ => partial.fill(piece, read),
            };
            read += len;
            if len == 0 || partial.is_complete() && !self.handle(partial) {
                return (read, false);
            }
        }
        (read, true)
    }

    /// Whether the thread should take in what has arrived, because it would only be a part of it.
    fn is_for_thread(&self, partial: &mut Partial<S::Seen>) -> bool {
        if partial.alone < ALONE {
            return false;
        }
        partial.left += 1;
        if partial.left == PROBE || !self.0.side().is_busy() {
            partial.alone = 0;
            partial.left = 0;
        }
        partial.alone == ALONE
    }

    /// Handles a header or a PDU that is complete. Returns whether that was possible.
    fn handle(&self, partial: &mut Partial<S::Seen>) -> bool {
        if partial.seen.is_none() {
            let Some(header) = partial.bytes().first_chunk::<HEADER>() else {
                return false;
            };
            let Some((seen, len)) = self.0.side().look_at(header) else {
                return false;
            };
            if len > MOST_DIRECT {
                return false;
            }
            // INVARIANT: At most HEADER + MOST_DIRECT.
            partial.need = HEADER + len;
            partial.seen = Some(seen);
            if len > 0 {
                return true;
            }
        }
        self.receive(partial, None)
    }

    /// Hands a PDU to the local side: its header was looked at, and its body is in the buffer if it is
    /// not given. Returns whether the side has taken it.
    fn receive(&self, partial: &mut Partial<S::Seen>, body: Option<Bytes<'_>>) -> bool {
        let (Some(seen), Some(here)) = (partial.seen.take(), partial.bytes().get(HEADER..)) else {
            return false;
        };
        let body = body.unwrap_or(Bytes::Here(here));
        match self.0.side().receive_direct(&self.0, seen, body) {
            Ok(true) => {
                Stats::count(&self.0.stats().direct);
                partial.handled += 1;
                partial.reset();
                true
            }
            Ok(false) => false,
            Err(why) => {
                self.0.kill(why);
                false
            }
        }
    }
}

impl<S: Side> Receiver for Here<S> {
    type State = Partial<S::Seen>;

    fn data_ready(&self, partial: &mut Partial<S::Seen>, arrived: &mut Arrived<'_>) -> bool {
        if !partial.is_armed {
            return false;
        }
        if self.is_for_thread(partial) {
            partial.is_armed = false;
            self.0.hand_over();
            return true;
        }
        let mut bytes = 0;
        let mut goes_on = true;
        partial.handled = 0;
        self.0.collect(arrived, |arrived| {
            arrived.read(|piece| {
                if !goes_on {
                    return 0;
                }
                let (read, more) = self.read(partial, piece);
                bytes += read;
                goes_on = more;
                read
            });
            if bytes > 0 {
                self.0.stats().received(bytes);
            }
        });
        partial.alone = match partial.handled {
            1 if self.0.side().is_busy() => ALONE.min(partial.alone + 1),
            _ => 0,
        };
        // The rest of a PDU may be long in coming; the thread knows how long to wait.
        if !goes_on || partial.have > 0 || !arrived.is_quiet() {
            partial.is_armed = false;
            self.0.hand_over();
        }
        true
    }

    fn state_changed(&self, partial: &mut Partial<S::Seen>) {
        if core::mem::take(&mut partial.is_armed) {
            self.0.hand_over();
        }
    }
}

/// What receives without the rx thread; belongs to that thread.
pub(crate) struct Direct<S: Side>(Tap<Here<S>>);

impl<S: Side> Direct<S> {
    /// Makes it ready, if the socket of a connection is one for it. The thread is still the one that
    /// receives. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn install(connection: &Arc<Connection<S>>) -> Result<Option<Self>> {
        let socket = connection.socket().into();
        let tap = Tap::install(socket, Here(connection.clone()), Partial::new()?)?;
        Ok(tap.map(Self))
    }

    /// Receives here from now on, if there is nothing to be received at the moment. Returns whether
    /// that was so: then the thread sleeps until [`Connection::hand_over`]. May sleep.
    pub(crate) fn arm(&self) -> bool {
        self.0.with_lock(|partial, arrived| {
            partial.is_armed = arrived.is_quiet();
            partial.is_armed
        })
    }

    /// The thread receives from now on, and gets what was read of the next PDU. May sleep.
    pub(crate) fn disarm(&self, inbox: &mut Inbox<'_>) {
        self.0.with_lock(|partial, _| {
            partial.is_armed = false;
            inbox.take_over(partial.bytes());
            partial.reset();
        });
    }
}
