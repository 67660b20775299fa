// SPDX-License-Identifier: GPL-2.0

//! The receiving half of a connection.

use crate::down::Down;
use crate::stats::Stats;
use kernel_ext::net::socket::{IoSliceMut, Received, Socket};
use kernel_ext::prelude::*;
use kernel_ext::usb::buffer::Gather;

/// The size of the receive buffer in bytes: many small PDUs arrive in one `recvmsg`.
const BUFFER: usize = 64 * 1024;

/// How much of it is used behind a large payload: another is likely to follow, and what of that is in
/// the buffer is copied twice.
const FEW: usize = 1024;

/// Pieces of a large payload that one `recvmsg` takes.
const PIECES: usize = 64;

/// The length of a PDU header.
const HEADER: usize = 48;

/// Reads PDUs from the socket.
///
/// Whatever has arrived is taken into a buffer at once and parsed from there. The part of a large
/// payload that is not in the buffer yet is received straight into its final place.
///
/// # Invariants
///
/// `start <= end <= buf.len()`; the bytes between `start` and `end` are received and not consumed.
pub struct Inbox<'a> {
    socket: &'a Socket,
    stats: &'a Stats,
    buf: KVVec<u8>,
    start: usize,
    end: usize,
    /// How many bytes to receive into the buffer at a time.
    portion: usize,
    /// The receive timeout that the socket came with: it applies between PDUs.
    idle_timeout: Option<u32>,
    /// The receive timeout within a PDU.
    stall_timeout: u32,
    within_pdu: bool,
    /// Whether the socket has what the peer has sent, as it is.
    is_plain: bool,
}

impl<'a> Inbox<'a> {
    /// Allocates the buffer. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(socket: &'a Socket, stats: &'a Stats, stall_timeout: u32) -> Result<Self> {
        let mut buf = KVVec::with_capacity(BUFFER, GFP_KERNEL)?;
        buf.extend_with(BUFFER, 0, GFP_KERNEL)?;
        // INVARIANT: 0 <= 0 <= BUFFER.
        Ok(Self {
            socket,
            stats,
            buf,
            start: 0,
            end: 0,
            portion: BUFFER,
            idle_timeout: socket.recv_timeout(),
            stall_timeout,
            within_pdu: false,
            is_plain: false,
        })
    }

    /// What was received and not consumed yet.
    pub fn buffered(&self) -> &[u8] {
        self.buf.get(self.start..self.end).unwrap_or(&[])
    }

    /// Consumes `n` bytes of [`Self::buffered`], at most all of them.
    pub fn consume(&mut self, n: usize) {
        // INVARIANT: `start` does not pass `end`.
        self.start += n.min(self.end - self.start);
    }

    /// Says that nobody is between the socket and its reader.
    pub(crate) fn set_plain(&mut self) {
        self.is_plain = true;
    }

    /// Whether [`Self::gather`] can leave data where it has arrived.
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// Whether nothing of the next PDU is in the buffer. If so, the socket waits for it as long as its
    /// user wants.
    pub(crate) fn is_between_pdus(&mut self) -> bool {
        let is_empty = self.start == self.end;
        if is_empty {
            self.set_within_pdu(false);
        }
        is_empty
    }

    /// Takes over what was received elsewhere, at most as much as fits. The buffer must be empty.
    pub(crate) fn take_over(&mut self, bytes: &[u8]) {
        let len = bytes.len().min(self.buf.len());
        if let (Some(to), Some(from)) = (self.buf.get_mut(..len), bytes.get(..len)) {
            to.copy_from_slice(from);
        }
        // INVARIANT: `len` is at most the length of the buffer.
        self.start = 0;
        self.end = len;
    }

    /// Reads the header of the next PDU; `None` if the peer closed the connection instead.
    ///
    /// `awaiting` tells whether replies are awaited, for when the socket has a receive timeout.
    /// May sleep.
    pub(crate) fn header(
        &mut self,
        awaiting: impl Fn() -> bool,
    ) -> Result<Option<[u8; HEADER]>, Down> {
        while self.end - self.start < HEADER {
            // Up to the first byte nothing has begun, and the peer may take as long as it likes.
            self.set_within_pdu(self.end > self.start);
            match self.receive_more() {
                Ok(true) => {}
                Ok(false) if self.end == self.start => return Ok(None),
                Ok(false) => return Err(Down::Truncated),
                Err(error) if error == EAGAIN => {
                    if self.within_pdu {
                        return Err(Down::Stalled);
                    }
                    if awaiting() {
                        return Err(Down::ReceiveTimeout);
                    }
                }
                Err(error) => return Err(Down::Socket(error)),
            }
        }
        let mut header = [0; HEADER];
        if let Some(bytes) = self.buffered().get(..HEADER) {
            header.copy_from_slice(bytes);
        }
        self.consume(HEADER);
        Ok(Some(header))
    }

    /// Waits until `n` bytes are buffered. May sleep.
    ///
    /// # Errors
    ///
    /// [`Down`], also if `n` is more than 64 KiB and was not [reserved](Self::reserve).
    pub fn ensure(&mut self, n: usize) -> Result<(), Down> {
        if n > self.buf.len() {
            return Err(Down::NoMemory);
        }
        while self.end - self.start < n {
            self.set_within_pdu(true);
            self.check(|this| this.receive_more())?;
        }
        Ok(())
    }

    /// Sees to it that [`Self::ensure`] can be asked for `n` bytes. May sleep.
    ///
    /// For the rare PDU that has to be seen whole before it can be taken apart: the caller bounds
    /// `n` by what it has itself asked for. Returns whether there was memory.
    pub fn reserve(&mut self, n: usize) -> bool {
        let more = n.saturating_sub(self.buf.len());
        more == 0 || self.buf.extend_with(more, 0, GFP_KERNEL).is_ok()
    }

    /// Receives into `pieces` until they are full. The buffer must be empty, that is, the caller
    /// has taken what was buffered as the beginning of the payload. May sleep.
    ///
    /// # Errors
    ///
    /// [`Down`].
    pub fn fill<'p>(
        &mut self,
        mut pieces: impl Iterator<Item = IoSliceMut<'p>>,
    ) -> Result<(), Down> {
        if self.end > self.start {
            return Err(Down::Protocol("payload read out of order"));
        }
        // INVARIANT: The buffer is empty.
        self.start = 0;
        self.end = 0;
        self.set_within_pdu(true);
        let mut next = pieces.next();
        while next.is_some() {
            let mut iov: [IoSliceMut<'_>; PIECES] = [const { IoSliceMut::empty() }; PIECES];
            let mut used = 0;
            let mut bytes = 0;
            for slot in iov.iter_mut() {
                let Some(piece) = next.take() else { break };
                bytes += piece.len();
                *slot = piece;
                used += 1;
                next = pieces.next();
            }
            self.fill_some(iov.get_mut(..used).unwrap_or(&mut []), bytes)?;
        }
        self.portion = FEW;
        Ok(())
    }

    /// Gathers the next `n` bytes; what of them is large stays where it has arrived. May sleep. Returns
    /// whether there was enough memory; the bytes are gone in any case.
    ///
    /// # Errors
    ///
    /// [`Down`].
    pub fn gather(&mut self, n: usize, gather: &mut Gather) -> Result<bool, Down> {
        let here = n.min(self.end - self.start);
        let mut result = gather.copy(self.buffered().get(..here).unwrap_or(&[]));
        self.consume(here);
        let mut left = n - here;
        let mut has_waited = false;
        while left > 0 && result.is_ok() {
            self.set_within_pdu(true);
            let before = left;
            self.socket.read_arrived(|piece| {
                let len = left.min(piece.len());
                result = gather.add(piece, len);
                if result.is_err() {
                    return 0;
                }
                left -= len;
                len
            });
            if left < before {
                self.account(before - left);
                has_waited = false;
            } else if result.is_err() {
                break;
            } else if !has_waited {
                self.check(|this| this.socket.wait_arrived(left).map(|()| true))?;
                has_waited = true;
            } else {
                // It is something else, of which the socket knows what to do.
                left -= self.gather_copy(left, gather, &mut result)?;
                has_waited = false;
            }
        }
        Stats::add(&self.stats.held, gather.held() as usize);
        self.portion = FEW;
        if result.is_err() {
            self.skip(left)?;
        }
        Ok(result.is_ok())
    }

    /// Receives up to `n` bytes as usual.
    fn gather_copy(
        &mut self,
        n: usize,
        gather: &mut Gather,
        result: &mut Result,
    ) -> Result<usize, Down> {
        let mut received = None;
        *result = gather
            .receive(n, |to| {
                let outcome = self.check(|this| match this.socket.recv(&mut [to], false)? {
                    Received::Data(n) => Ok(n),
                    Received::Eof => Ok(0),
                });
                let n = *outcome.as_ref().unwrap_or(&0);
                received = Some(outcome);
                Ok(n)
            })
            .map(|_| ());
        // `None`: there was no memory to receive into.
        let n = received.unwrap_or(Ok(0))?;
        if n > 0 {
            self.account(n);
        }
        Ok(n)
    }

    /// Receives and drops `n` bytes. May sleep.
    ///
    /// # Errors
    ///
    /// [`Down`].
    pub fn skip(&mut self, n: usize) -> Result<(), Down> {
        let mut left = n;
        while left > 0 {
            if self.start == self.end {
                self.set_within_pdu(true);
                self.check(|this| this.receive_more())?;
            }
            let here = left.min(self.end - self.start);
            self.consume(here);
            left -= here;
        }
        Ok(())
    }

    fn fill_some(&mut self, mut iov: &mut [IoSliceMut<'_>], bytes: usize) -> Result<(), Down> {
        let mut left = bytes;
        while left > 0 {
            let n = self.check(|this| {
                // All of it or nothing more to wait for: one wake-up for a large payload.
                match this.socket.recv(iov, true)? {
                    Received::Data(n) => Ok(n),
                    Received::Eof => Ok(0),
                }
                .inspect(|n| this.account(*n))
            })?;
            IoSliceMut::advance(&mut iov, n);
            left -= n.min(left);
        }
        Ok(())
    }

    /// Runs a receive step in the middle of a PDU and translates its outcome.
    fn check<T: Step>(&mut self, step: impl FnOnce(&mut Self) -> Result<T>) -> Result<T, Down> {
        match step(self) {
            Ok(n) if n.is_end() => Err(Down::Truncated),
            Ok(n) => Ok(n),
            Err(error) if error == EAGAIN => Err(Down::Stalled),
            Err(error) => Err(Down::Socket(error)),
        }
    }

    /// Appends what has arrived to the buffer; `false` at the end of the stream.
    fn receive_more(&mut self) -> Result<bool> {
        if self.start == self.end {
            // INVARIANT: The buffer is empty.
            self.start = 0;
            self.end = 0;
        } else if self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            // INVARIANT: The bytes were moved to the front.
            self.end -= self.start;
            self.start = 0;
        }
        let Some(free) = self.buf.get_mut(self.end..) else {
            return Err(EINVAL);
        };
        let portion = self.portion.min(free.len());
        let free = free.get_mut(..portion).unwrap_or(&mut []);
        match self.socket.recv(&mut [IoSliceMut::new(free)], false)? {
            Received::Data(n) => {
                if n == portion {
                    // There is more, and it begins with something small.
                    self.portion = BUFFER;
                }
                // INVARIANT: `n` is at most the length of the rest of the buffer.
                self.end += n;
                self.account(n);
                Ok(n > 0)
            }
            Received::Eof => Ok(false),
        }
    }

    fn account(&self, n: usize) {
        self.stats.received(n);
    }

    /// Switches between the patience for the next PDU and the one for the rest of this PDU.
    fn set_within_pdu(&mut self, within: bool) {
        if self.within_pdu != within {
            self.within_pdu = within;
            self.socket.set_recv_timeout(if within {
                Some(self.stall_timeout)
            } else {
                self.idle_timeout
            });
        }
    }
}

/// The outcome of a receive step: did the stream end?
trait Step {
    fn is_end(&self) -> bool;
}

impl Step for bool {
    fn is_end(&self) -> bool {
        !*self
    }
}

impl Step for usize {
    fn is_end(&self) -> bool {
        *self == 0
    }
}
