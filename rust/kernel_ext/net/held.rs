// SPDX-License-Identifier: GPL-2.0

//! Received data that stays where it is: in the buffer in which the network has brought it, instead of
//! in a copy.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use super::tap::Piece;
use crate::bindings;
use core::ptr::NonNull;
use kernel::prelude::*;

/// How large the parts are at least, on average, of data that is worth to be held, in bytes. Below that a
/// controller has more to do for each part than it takes to copy them.
const WORTH: usize = 2048;

/// Keeps the data of a socket buffer. Others may refer to it as well: it must not be changed.
///
/// # Invariants
///
/// The reference to the socket buffer belongs to this object.
pub(crate) struct Held(NonNull<bindings::sk_buff>);

// SAFETY: A socket buffer that is not in a queue may be freed by any thread.
unsafe impl Send for Held {}

impl Piece<'_> {
    /// The most entries that `len` bytes of it take in a scatter list, if they are worth to be held: if
    /// they are in few parts, and half as much as the memory that is held with them.
    pub(crate) fn entries(&self, len: usize) -> Option<usize> {
        // SAFETY: By the type invariant the socket buffer is valid.
        let (count, truesize) = unsafe {
            (
                bindings::skb_pieces(self.skb) as usize,
                bindings::skb_truesize(self.skb) as usize,
            )
        };
        (count > 0 && count * WORTH <= len && truesize / 2 <= len).then_some(count)
    }

    /// Puts `len` bytes from `from` on into the front of a scatter list of zeroed entries. Returns how
    /// many it takes, and what the memory that is in them belongs to; `None` if that was not possible.
    /// May sleep.
    pub(crate) fn hold(
        &self,
        from: usize,
        len: usize,
        list: &mut [bindings::scatterlist],
    ) -> Option<(usize, Held)> {
        if from.checked_add(len).is_none_or(|end| end > self.len()) {
            return None;
        }
        // SAFETY: By the type invariant the socket buffer is valid, and nobody else changes it.
        let held = NonNull::new(unsafe { bindings::skb_hold(self.skb) })?;
        // INVARIANT: The reference was just made.
        let held = Held(held);
        // Looked at only now: pages of user space were copied to others.
        //
        // SAFETY: By the type invariant it is valid.
        let count = unsafe { bindings::skb_pieces(held.0.as_ptr()) } as usize;
        if !(1..=list.len()).contains(&count) {
            return None;
        }
        // CAST: The length of a socket buffer is an `unsigned int`, of which C makes an `int` here.
        let (offset, len) = ((self.offset as usize + from) as c_int, len as c_int);
        // SAFETY: There are `len` bytes, in at most `count` parts, for each of which there is an entry.
        let used = unsafe {
            bindings::skb_to_sgvec_nomark(held.0.as_ptr(), list.as_mut_ptr(), offset, len)
        };
        usize::try_from(used)
            .ok()
            .filter(|used| *used > 0)
            .map(|used| (used, held))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours.
        unsafe { bindings::skb_drop(self.0.as_ptr()) };
    }
}
