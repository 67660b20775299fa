// SPDX-License-Identifier: GPL-2.0

//! Transfers that go out in pieces, each with a URB of its own.

use super::Completion;
use super::Transfer;
use crate::bindings;
use crate::errno::*;
use crate::mm::Context;
use crate::usb::urb::Flags;
use core::ptr::NonNull;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Full, Relaxed};
use kernel::sync::Arc;
use kernel::types::ForeignOwnable;

/// The URBs of the pieces behind the first.
///
/// # Invariants
///
/// A reference to each URB is held.
pub(super) struct Pieces {
    urbs: KVec<NonNull<bindings::urb>>,
    /// How many pieces were submitted, the first included. Final once `pending` is 0.
    submitted: Atomic<usize>,
    /// Pieces that have not ended, and one for whoever submits them.
    pending: Atomic<usize>,
    /// Which of `urbs`, plus 1, is the first behind a piece that has ended early; they are blocked.
    stopped: Atomic<usize>,
    /// Why a piece was not submitted.
    refused: Atomic<i32>,
}

// SAFETY: URBs may be unlinked and freed by any thread; the rest is atomic.
unsafe impl Send for Pieces {}
// SAFETY: As above.
unsafe impl Sync for Pieces {}

/// How a transfer in pieces has ended.
#[derive(Clone, Copy)]
pub(super) struct Outcome {
    pub(super) status: i32,
    pub(super) actual_length: u32,
}

impl Pieces {
    /// URBs for `count` pieces behind the first.
    pub(super) fn new(count: usize, place: Context) -> Result<Arc<Self>> {
        // Owns what was allocated, also when this fails half way.
        let mut this = Self {
            urbs: KVec::with_capacity(count, place.flags())?,
            submitted: Atomic::new(0),
            pending: Atomic::new(0),
            stopped: Atomic::new(0),
            refused: Atomic::new(0),
        };
        for _ in 0..count {
            // SAFETY: Sleeps only where that is allowed.
            let urb = unsafe { bindings::usb_alloc_urb(0, place.gfp()) };
            // INVARIANT: The reference is that of the allocation.
            this.urbs
                .push(NonNull::new(urb).ok_or(ENOMEM)?, place.flags())?;
        }
        Ok(Arc::new(this, place.flags())?)
    }

    /// The URB of piece `index`, where `first` is that of the first.
    fn urb(&self, first: NonNull<bindings::urb>, index: usize) -> Option<*mut bindings::urb> {
        match index.checked_sub(1) {
            None => Some(first.as_ptr()),
            Some(index) => self.urbs.get(index).map(|urb| urb.as_ptr()),
        }
    }

    /// Cancels all pieces behind the first, the last one first, so that none begins because one
    /// before it ends.
    ///
    /// # Safety
    ///
    /// The device that the URBs were submitted to must be valid.
    pub(super) unsafe fn cancel(&self) {
        // SAFETY: By the requirements of this function.
        unsafe { self.cancel_behind(0) };
    }

    /// Cancels all pieces behind piece `index`.
    ///
    /// # Safety
    ///
    /// As for [`Self::cancel`].
    unsafe fn cancel_behind(&self, index: usize) {
        for urb in self.urbs.get(index..).unwrap_or(&[]).iter().rev() {
            // SAFETY: By the type invariant the URB is valid, and so is its device.
            unsafe {
                bindings::usb_block_urb(urb.as_ptr());
                bindings::usb_unlink_urb(urb.as_ptr());
            }
        }
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        for urb in &self.urbs {
            // SAFETY: By the type invariant a reference is held.
            unsafe { bindings::usb_free_urb(urb.as_ptr()) };
        }
    }
}

impl<C: Completion> Transfer<C> {
    /// Makes the URBs of all pieces of one that is filled for the whole transfer.
    pub(super) fn fill_pieces(&mut self, pieces: &Pieces) {
        let first = self.urb.as_ptr();
        let mut left = self.request.length;
        let count = pieces.urbs.len() + 1;
        for index in 0..count {
            let (Some(urb), Some((start, size))) =
                (pieces.urb(self.urb, index), self.buffer.piece(index))
            else {
                return;
            };
            let size = size.min(left);
            left -= size;
            let is_last = index + 1 == count;
            let flags = self.request.flags.bits();
            let flags = if is_last {
                flags
            } else if self.request.endpoint.is_in {
                // The queue of the endpoint stops at a short piece, until the rest was cancelled.
                flags | Flags::SHORT_NOT_OK.bits()
            } else {
                // Only the end of the transfer may be a short packet.
                flags & !Flags::ZERO_PACKET.bits()
            };
            // SAFETY: By the type invariants the URBs are valid and ours alone; the piece has `size`
            // bytes, and the buffer lives as long as the transfer, which all the URBs keep.
            unsafe {
                (*urb).dev = (*first).dev;
                (*urb).pipe = (*first).pipe;
                (*urb).complete = Some(Self::piece_completed);
                (*urb).transfer_flags = flags;
                (*urb).transfer_buffer = start.as_ptr().cast();
                (*urb).transfer_buffer_length = size;
            }
        }
        pieces.submitted.store(0, Relaxed);
        pieces.pending.store(1, Relaxed);
        pieces.stopped.store(0, Relaxed);
        pieces.refused.store(0, Relaxed);
    }

    /// Submits the pieces one behind the other.
    ///
    /// # Safety
    ///
    /// The URBs are filled and ours alone; `anchor` must be valid, and be killed before it goes;
    /// `place` must be true.
    pub(super) unsafe fn submit_pieces(
        self: KBox<Self>,
        pieces: &Pieces,
        anchor: *mut bindings::usb_anchor,
        place: Context,
    ) -> Result<(), (Error, KBox<Self>)> {
        let first = self.urb;
        let context = self.into_foreign();
        let mut result = Ok(());
        let mut index = 0;
        while let Some(urb) = pieces.urb(first, index) {
            // For the piece, which may end before this knows that it was submitted.
            pieces.pending.add(1, Relaxed);
            // SAFETY: By the requirements of this function. The context, which owns buffers and
            // URBs, lives until `pending` is 0, which counts this thread as well.
            result = unsafe {
                (*urb).context = context.cast();
                bindings::usb_anchor_urb(urb, anchor);
                to_result(bindings::usb_submit_urb(urb, place.gfp()))
                    .inspect_err(|_| bindings::usb_unanchor_urb(urb))
            };
            if let Err(error) = &result {
                pieces.refused.store(error.to_errno(), Relaxed);
                pieces.pending.fetch_sub(1, Full);
                break;
            }
            index += 1;
            pieces.submitted.store(index, Relaxed);
        }
        match result {
            // SAFETY: No URB was taken, so the context is still ours.
            Err(error) if index == 0 => Err((error, unsafe { KBox::from_foreign(context) })),
            _ => {
                // SAFETY: This thread was counted, and does not use the context any more.
                unsafe { Self::piece_over(pieces, context) };
                Ok(())
            }
        }
    }

    /// # Safety
    ///
    /// Called by usbcore only, for a URB that `submit_pieces` has handed over.
    unsafe extern "C" fn piece_completed(urb: *mut bindings::urb) {
        // SAFETY: By the requirements of this function `context` is what `submit_pieces` put there;
        // nobody changes the transfer while this piece is counted.
        let (context, this) = unsafe {
            let context = (*urb).context;
            (context.cast(), KBox::<Self>::borrow(context.cast()))
        };
        let Some(pieces) = this.pieces.clone() else {
            return;
        };
        // SAFETY: The URB is not in flight any more.
        let is_whole =
            unsafe { (*urb).status == 0 && (*urb).actual_length == (*urb).transfer_buffer_length };
        if !is_whole {
            let own = pieces.urbs.iter().position(|one| one.as_ptr() == urb);
            let behind = own.map_or(0, |own| own + 1);
            if pieces.stopped.cmpxchg(0, behind + 1, Full).is_ok() {
                // SAFETY: The transfer holds the device.
                unsafe { pieces.cancel_behind(behind) };
            }
        }
        // SAFETY: This piece was counted, and does not use the context any more.
        unsafe { Self::piece_over(&pieces, context) };
    }

    /// One that was counted in `pending` is over; the last one finishes the transfer.
    ///
    /// # Safety
    ///
    /// The caller must have been counted, and must not use the context any more.
    unsafe fn piece_over(pieces: &Pieces, context: *mut c_void) {
        if pieces.pending.fetch_sub(1, Full) != 1 {
            return;
        }
        // SAFETY: Nobody else is counted any more, so the context is ours again, once.
        let mut this = unsafe { KBox::<Self>::from_foreign(context) };
        if let Some(behind) = pieces.stopped.load(Relaxed).checked_sub(1) {
            for urb in pieces.urbs.get(behind..).unwrap_or(&[]) {
                // SAFETY: By the type invariant the URB is valid; it was blocked, and may be used
                // again now.
                unsafe { bindings::usb_unpoison_urb(urb.as_ptr()) };
            }
        }
        this.outcome = Some(this.outcome_of(pieces));
        C::complete(this);
    }

    /// The first piece that failed or was short says how it ended.
    fn outcome_of(&self, pieces: &Pieces) -> Outcome {
        let submitted = pieces.submitted.load(Relaxed);
        let mut actual_length: u32 = 0;
        for index in 0..submitted {
            let Some(urb) = pieces.urb(self.urb, index) else {
                break;
            };
            // SAFETY: The URB is ours again.
            let (status, actual, length) = unsafe {
                (
                    (*urb).status,
                    (*urb).actual_length,
                    (*urb).transfer_buffer_length,
                )
            };
            actual_length = actual_length.saturating_add(actual);
            if status != 0 || actual < length {
                let may_be_short = !self.request.flags.contains(Flags::SHORT_NOT_OK);
                return Outcome {
                    status: if may_be_short && status == EREMOTEIO.to_errno() {
                        0
                    } else {
                        status
                    },
                    actual_length,
                };
            }
        }
        let status = match pieces.refused.load(Relaxed) {
            // It was cancelled before all was submitted.
            refused if refused == EPERM.to_errno() => ECONNRESET.to_errno(),
            refused => refused,
        };
        Outcome {
            status,
            actual_length,
        }
    }
}
