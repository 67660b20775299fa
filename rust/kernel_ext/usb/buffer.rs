// SPDX-License-Identifier: GPL-2.0

//! Memory that a USB device reads or writes, for drivers that submit URBs.
//!
//! It is not cleared: what the device did not write is whatever the memory held before, and only
//! who owns the buffer knows how much that is. For that reason there is no way to see it as a Rust
//! slice.

use crate::bindings;
use crate::net::socket::{IoSlice, IoSliceMut};
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;

/// The largest buffer in one piece, in bytes; a longer one is made of pages where the transfer
/// allows that. Larger pieces are hard to find on a system that has been up for a while.
pub const MAX_LINEAR: u32 = 64 * 1024;

/// The largest piece of a buffer of pages is 2^3 of them, the most that the page allocator calls
/// cheap (`PAGE_ALLOC_COSTLY_ORDER` in `include/linux/mmzone.h`).
const MAX_ORDER: u32 = 3;

/// A buffer for one transfer.
///
/// # Invariants
///
/// The pieces, in order, have room for at least `len` bytes.
pub struct Buffer {
    pieces: Pieces,
    len: u32,
}

enum Pieces {
    Linear(Linear),
    Pages(Pages),
}

/// Memory of `kmalloc()`; null if there is none.
///
/// # Invariants
///
/// Null or memory of `kmalloc()` that belongs to this object.
struct Linear(*mut u8);

/// Pages in a scatter list.
///
/// # Invariants
///
/// Every entry of `list` has a page of which this object holds a reference, and `length` says how
/// many bytes from the start of it are valid.
struct Pages {
    list: KVec<bindings::scatterlist>,
}

// SAFETY: Memory may be used and freed by any thread.
unsafe impl Send for Buffer {}
// SAFETY: With a shared reference only addresses can be had.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A buffer in one piece, for every type of transfer. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, without a warning in the kernel log: the length may be a peer's choice.
    pub fn linear(len: u32) -> Result<Self> {
        let mut memory = Linear(core::ptr::null_mut());
        if len > 0 {
            // SAFETY: No requirements.
            memory.0 = unsafe { bindings::alloc_transfer_memory(len as usize) }.cast();
            if memory.0.is_null() {
                return Err(ENOMEM);
            }
        }
        // INVARIANT: One piece of `len` bytes.
        Ok(Self {
            pieces: Pieces::Linear(memory),
            len,
        })
    }

    /// A buffer of pieces that are pages, each a multiple of the page size but the last one. For
    /// bulk transfers. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Self::linear`].
    pub fn pages(len: u32) -> Result<Self> {
        let mut left = len as usize;
        let mut order = MAX_ORDER;
        // Owns what was allocated, also when this fails half way.
        let mut pages = Pages {
            list: KVec::with_capacity(left.div_ceil(PAGE_SIZE << MAX_ORDER), GFP_KERNEL)?,
        };
        while left > 0 {
            while order > 0 && (PAGE_SIZE << order) / 2 >= left {
                order -= 1;
            }
            // SAFETY: No requirements.
            let page = unsafe { bindings::alloc_transfer_pages(order) };
            if page.is_null() {
                if order == 0 {
                    return Err(ENOMEM);
                }
                order -= 1;
                continue;
            }
            let size = left.min(PAGE_SIZE << order);
            let mut entry = bindings::scatterlist::default();
            // SAFETY: The entry is zeroed, as `sg_init_table()` leaves it; the page has `size`
            // bytes. CAST: At most 32 KiB.
            unsafe { bindings::sg_set_page(&mut entry, page, size as c_uint) };
            // INVARIANT: The reference is the one that the allocation returned.
            if let Err(error) = pages.list.push(entry, GFP_KERNEL) {
                // SAFETY: The page was not added to anything.
                unsafe { bindings::put_page(page) };
                return Err(error.into());
            }
            left -= size;
        }
        // The list does not move any more.
        if let Some(last) = pages.list.last_mut() {
            // SAFETY: An entry of a scatter list.
            unsafe { bindings::sg_mark_end(last) };
        }
        // INVARIANT: Pages for all of it were allocated.
        Ok(Self {
            pieces: Pieces::Pages(pages),
            len,
        })
    }

    /// Its length in bytes.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether its length is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of piece `index` and its length.
    pub(super) fn piece(&self, index: usize) -> Option<(NonNull<u8>, u32)> {
        match &self.pieces {
            Pieces::Linear(memory) if index == 0 => {
                NonNull::new(memory.0).map(|start| (start, self.len))
            }
            Pieces::Linear(_) => None,
            Pieces::Pages(pages) => {
                let entry = core::ptr::from_ref(pages.list.get(index)?).cast_mut();
                // SAFETY: By the type invariant the entry has a page, and pages of the kernel's
                // allocator without `__GFP_HIGHMEM` have an address. `sg_virt()` only reads.
                let start = unsafe { bindings::sg_virt(entry) };
                // SAFETY: As above.
                NonNull::new(start.cast()).map(|start| (start, unsafe { (*entry).length }))
            }
        }
    }

    /// The scatter list and the number of its entries, if there are several pieces.
    pub(super) fn scatter_list(&mut self) -> Option<(*mut bindings::scatterlist, usize)> {
        match &mut self.pieces {
            Pieces::Pages(pages) if pages.list.len() > 1 => {
                Some((pages.list.as_mut_ptr(), pages.list.len()))
            }
            _ => None,
        }
    }

    /// The bytes from `from` to before `to`, as far as there are any, for sending.
    pub fn slices(&self, from: u32, to: u32) -> Slices<'_> {
        let to = to.min(self.len);
        Slices {
            buffer: self,
            index: 0,
            skip: from.min(to),
            left: to.saturating_sub(from),
        }
    }

    /// The same part for receiving.
    pub fn slices_mut(&mut self, from: u32, to: u32) -> SlicesMut<'_> {
        SlicesMut(self.slices(from, to), PhantomData)
    }

    /// Copies bytes into the buffer from `offset` on; what does not fit is left out. Any context.
    pub fn write(&mut self, offset: u32, mut data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let mut slices = self.slices(offset, offset.saturating_add(len));
        while let Some((start, len)) = slices.next_raw() {
            let Some((head, rest)) = data.split_at_checked(len) else {
                break;
            };
            // SAFETY: `start` is valid for `len` bytes of a buffer that is borrowed mutably, and
            // `head` has that length.
            unsafe { core::ptr::copy_nonoverlapping(head.as_ptr(), start, head.len()) };
            data = rest;
        }
    }

    /// Copies bytes of the buffer from `offset` on into `out`, as many as there are; the rest of
    /// `out` stays as it was. Returns their number. Any context.
    ///
    /// What was never written is what the memory held before.
    pub fn read(&self, offset: u32, out: &mut [u8]) -> usize {
        let mut done = 0;
        let len = u32::try_from(out.len()).unwrap_or(u32::MAX);
        let mut slices = self.slices(offset, offset.saturating_add(len));
        while let Some((start, len)) = slices.next_raw() {
            let Some(room) = out.get_mut(done..).and_then(|out| out.get_mut(..len)) else {
                break;
            };
            // SAFETY: `start` is valid for `len` bytes, which is the length of `room`. The memory
            // comes from the C side, so for the compiler it has some value also where nobody wrote.
            unsafe { core::ptr::copy_nonoverlapping(start, room.as_mut_ptr(), room.len()) };
            done += len;
        }
        done
    }
}

impl Drop for Linear {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; null is allowed.
        unsafe { bindings::kfree(self.0.cast()) };
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        for entry in &mut self.list {
            // SAFETY: By the type invariant the entry has a page and the reference is ours.
            unsafe { bindings::put_page(bindings::sg_page(entry)) };
        }
    }
}

/// Parts of a [`Buffer`] to send from; see [`Buffer::slices`].
pub struct Slices<'a> {
    buffer: &'a Buffer,
    index: usize,
    skip: u32,
    left: u32,
}

impl Slices<'_> {
    /// The next part, valid for the returned number of bytes, which is not 0.
    fn next_raw(&mut self) -> Option<(*mut u8, usize)> {
        while self.left > 0 {
            let (start, len) = self.buffer.piece(self.index)?;
            self.index += 1;
            let Some(rest) = len.checked_sub(self.skip).filter(|rest| *rest > 0) else {
                self.skip -= len;
                continue;
            };
            // SAFETY: `skip` is less than the length of the piece.
            let start = unsafe { start.as_ptr().add(self.skip as usize) };
            let len = rest.min(self.left);
            self.skip = 0;
            self.left -= len;
            return Some((start, len as usize));
        }
        None
    }
}

impl<'a> Iterator for Slices<'a> {
    type Item = IoSlice<'a>;

    fn next(&mut self) -> Option<IoSlice<'a>> {
        let (start, len) = self.next_raw()?;
        // SAFETY: Valid for reads for as long as the buffer is borrowed.
        Some(unsafe { IoSlice::from_raw(start, len) })
    }
}

/// Parts of a [`Buffer`] to receive into; see [`Buffer::slices_mut`].
pub struct SlicesMut<'a>(Slices<'a>, PhantomData<&'a mut Buffer>);

impl<'a> Iterator for SlicesMut<'a> {
    type Item = IoSliceMut<'a>;

    fn next(&mut self) -> Option<IoSliceMut<'a>> {
        let (start, len) = self.0.next_raw()?;
        // SAFETY: Valid for writes for as long as the buffer is borrowed, which is mutably.
        Some(unsafe { IoSliceMut::from_raw(start, len) })
    }
}
