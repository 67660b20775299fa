// SPDX-License-Identifier: GPL-2.0

//! Memory that a USB device reads or writes, for drivers that submit URBs.
//!
//! It is not cleared: what the device did not write is whatever the memory held before, and only
//! who owns the buffer knows how much that is. For that reason there is no way to see it as a Rust
//! slice.

use crate::bindings;
use crate::mm::Context;
use crate::net::socket::{IoPage, IoSlice, IoSliceMut};
use crate::net::tap::Bytes;
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::alloc::flags::__GFP_NOWARN;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::Arc;

mod pool;
mod received;
use pool::Size;
use received::Received;

pub use pool::BufferPool;
pub use received::Gather;

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
    Received(Received),
}

/// Memory of `kmalloc()`; null if there is none.
///
/// # Invariants
///
/// `start` is null or memory of `kmalloc()` that belongs to this object; if it has a `home`, of the size
/// that is said there.
struct Linear {
    start: *mut u8,
    /// The pool that it goes to.
    home: Option<(Arc<BufferPool>, Size)>,
}

/// Pages in a scatter list.
///
/// # Invariants
///
/// Every entry of `list` has a page of which this object holds a reference, and `length` says how
/// many bytes from the start of it are valid; the first `large` are of [`MAX_ORDER`]. The pages are not
/// of high memory, so they have an address.
struct Pages {
    list: KVVec<bindings::scatterlist>,
    large: usize,
    pool: Arc<BufferPool>,
}

// SAFETY: Memory may be used and freed by any thread.
unsafe impl Send for Buffer {}
// SAFETY: With a shared reference only addresses can be had.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A buffer in one piece, for every type of transfer.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, without a warning in the kernel log: the length may be a peer's choice.
    pub fn linear(len: u32, context: Context) -> Result<Self> {
        let start = if len > 0 {
            allocate(len as usize, context)?.as_ptr()
        } else {
            core::ptr::null_mut()
        };
        // INVARIANT: One piece of `len` bytes, which nobody else has.
        Ok(Self {
            pieces: Pieces::Linear(Linear { start, home: None }),
            len,
        })
    }

    /// As [`Self::linear`], with memory from a pool if it has some of about this size. It goes back there.
    ///
    /// # Errors
    ///
    /// As [`Self::linear`].
    pub fn pooled(len: u32, pool: &Arc<BufferPool>, context: Context) -> Result<Self> {
        let Some(size) = Size::of(len as usize) else {
            return Self::linear(len, context);
        };
        let start = match pool.take_linear(size) {
            Some(start) => start,
            None => allocate(size.bytes(), context)?,
        };
        let linear = Linear {
            start: start.as_ptr(),
            home: Some((pool.clone(), size)),
        };
        // INVARIANT: One piece of at least `len` bytes, which nobody else has.
        Ok(Self {
            pieces: Pieces::Linear(linear),
            len,
        })
    }

    /// A buffer of pieces that are pages, each a multiple of the page size but the last one. For
    /// bulk transfers. Pieces come from the pool and go back to it. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Self::linear`].
    pub fn pages(len: u32, pool: &Arc<BufferPool>) -> Result<Self> {
        // Somebody else chose how long the list is.
        let flags = GFP_KERNEL | __GFP_NOWARN;
        let mut left = len as usize;
        let mut order = MAX_ORDER;
        // Owns what was allocated, also when this fails half way.
        let mut pages = Pages {
            list: KVVec::with_capacity(left.div_ceil(PAGE_SIZE << MAX_ORDER), flags)?,
            large: 0,
            pool: pool.clone(),
        };
        while left > 0 {
            while order > 0 && (PAGE_SIZE << order) / 2 >= left {
                order -= 1;
            }
            let pooled = if order == MAX_ORDER {
                pool.take()
            } else {
                None
            };
            let page = match pooled {
                Some(page) => page.as_ptr(),
                // SAFETY: No requirements.
                None => unsafe { bindings::alloc_transfer_pages(order) },
            };
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
            unsafe { bindings::sg_set_page(&mut entry, page, size as c_uint, 0) };
            // INVARIANT: The reference is the one that the allocation returned.
            if let Err(error) = pages.list.push(entry, flags) {
                // SAFETY: The page was not added to anything.
                unsafe { bindings::put_page(page) };
                return Err(error.into());
            }
            if order == MAX_ORDER {
                // INVARIANT: All before it are of that order as well: it only ever goes down.
                pages.large += 1;
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

    /// Whether it is in one piece.
    pub fn is_linear(&self) -> bool {
        matches!(self.pieces, Pieces::Linear(_))
    }

    /// Whether it was [received](Gather) where it is: others may have the same memory, so nobody may
    /// write to it, and its pieces are of any length.
    pub fn is_received(&self) -> bool {
        matches!(self.pieces, Pieces::Received(_))
    }

    /// The address of piece `index` and its length.
    pub(super) fn piece(&self, index: usize) -> Option<(NonNull<u8>, u32)> {
        let list = match &self.pieces {
            Pieces::Linear(memory) if index == 0 => {
                return NonNull::new(memory.start).map(|start| (start, self.len));
            }
            Pieces::Linear(_) => return None,
            Pieces::Pages(pages) => &pages.list,
            Pieces::Received(received) => received.list(),
        };
        let entry = core::ptr::from_ref(list.get(index)?).cast_mut();
        // SAFETY: By the type invariants the entry has a page with an address. `sg_virt()` only reads.
        let start = unsafe { bindings::sg_virt(entry) };
        // SAFETY: As above.
        NonNull::new(start.cast()).map(|start| (start, unsafe { (*entry).length }))
    }

    /// The scatter list and the number of its entries, if there are several pieces.
    pub(super) fn scatter_list(&mut self) -> Option<(*mut bindings::scatterlist, usize)> {
        let list = match &mut self.pieces {
            Pieces::Linear(_) => return None,
            Pieces::Pages(pages) => &mut pages.list,
            Pieces::Received(received) => received.list_mut(),
        };
        (list.len() > 1).then(|| (list.as_mut_ptr(), list.len()))
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

    /// The same part as pages, if the buffer was made of [pages](Self::pages): for sending without
    /// a copy.
    pub fn page_slices(&self, from: u32, to: u32) -> Option<PageSlices<'_>> {
        match self.pieces {
            Pieces::Pages(_) => Some(PageSlices(self.slices(from, to))),
            Pieces::Linear(_) | Pieces::Received(_) => None,
        }
    }

    /// The same part for receiving; nothing of what was [received](Self::is_received) already.
    pub fn slices_mut(&mut self, from: u32, to: u32) -> SlicesMut<'_> {
        let to = if self.is_received() { from } else { to };
        SlicesMut(self.slices(from, to), PhantomData)
    }

    /// Copies bytes into the buffer from `offset` on; what does not fit is left out, as is all of it
    /// where there is something [received](Self::is_received). Any context.
    pub fn write(&mut self, offset: u32, mut data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let mut slices = self.slices_mut(offset, offset.saturating_add(len)).0;
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

    /// As [`Self::write`], from wherever the bytes were received. Any context.
    pub fn write_received(&mut self, offset: u32, bytes: Bytes<'_>) {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let mut at = 0;
        let mut slices = self.slices_mut(offset, offset.saturating_add(len)).0;
        while let Some((start, len)) = slices.next_raw() {
            // SAFETY: `start` is valid for `len` bytes of a buffer that is borrowed mutably, and whose
            // memory is no Rust value.
            unsafe { bytes.copy_raw(at, start, len) };
            at += len;
        }
    }

    /// Copies bytes of the buffer from `offset` on into `out`, as many as there are; the rest of
    /// `out` stays as it was. Returns their number. Any context.
    ///
    /// What was never written is what the memory held before; what is written meanwhile may be read
    /// either way.
    pub fn read(&self, offset: u32, out: &mut [u8]) -> usize {
        let mut done = 0;
        let len = u32::try_from(out.len()).unwrap_or(u32::MAX);
        let mut slices = self.slices(offset, offset.saturating_add(len));
        while let Some((start, len)) = slices.next_raw() {
            let Some(room) = out.get_mut(done..).and_then(|out| out.get_mut(..len)) else {
                break;
            };
            // SAFETY: `start` is valid for `len` bytes, which is the length of `room`. Others may write
            // there meanwhile, as a client on this machine that has sent pages of a file.
            unsafe {
                bindings::copy_shared(room.as_mut_ptr().cast(), start.cast(), room.len());
            }
            done += len;
        }
        done
    }
}

/// Memory of `kmalloc()`, without a warning in the kernel log if there is none: the length, which is not
/// 0, may be a peer's choice.
fn allocate(len: usize, context: Context) -> Result<NonNull<u8>> {
    // SAFETY: Sleeps only where that is allowed.
    let start = unsafe { bindings::alloc_transfer_memory(len, context.is_atomic()) };
    NonNull::new(start.cast()).ok_or(ENOMEM)
}

impl Drop for Linear {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is ours, and of that size; `kfree()` takes null.
        unsafe {
            match (self.home.take(), NonNull::new(self.start)) {
                (Some((pool, size)), Some(start)) => pool.give_linear(size, start),
                _ => bindings::kfree(self.start.cast()),
            }
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        for (index, entry) in self.list.iter_mut().enumerate() {
            // SAFETY: By the type invariant the entry has a page and the reference is ours.
            unsafe {
                let page = bindings::sg_page(entry);
                match NonNull::new(page) {
                    Some(page) if index < self.large => self.pool.give(page),
                    _ => bindings::put_page(page),
                }
            }
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
    /// The next part: which piece, the offset in it, and the length, which is not 0.
    fn next_part(&mut self) -> Option<(usize, u32, u32)> {
        while self.left > 0 {
            let index = self.index;
            let (_, len) = self.buffer.piece(index)?;
            self.index += 1;
            let Some(rest) = len.checked_sub(self.skip).filter(|rest| *rest > 0) else {
                self.skip -= len;
                continue;
            };
            let len = rest.min(self.left);
            let skip = core::mem::take(&mut self.skip);
            self.left -= len;
            return Some((index, skip, len));
        }
        None
    }

    /// The address of the next part, valid for the returned number of bytes, which is not 0.
    fn next_raw(&mut self) -> Option<(*mut u8, usize)> {
        let (index, offset, len) = self.next_part()?;
        let (start, _) = self.buffer.piece(index)?;
        // SAFETY: The part lies within the piece.
        let start = unsafe { start.as_ptr().add(offset as usize) };
        Some((start, len as usize))
    }
}

/// Parts of a [`Buffer`] to send from without a copy; see [`Buffer::page_slices`].
pub struct PageSlices<'a>(Slices<'a>);

impl<'a> Iterator for PageSlices<'a> {
    type Item = IoPage<'a>;

    fn next(&mut self) -> Option<IoPage<'a>> {
        let (index, offset, len) = self.0.next_part()?;
        let Pieces::Pages(pages) = &self.0.buffer.pieces else {
            return None;
        };
        let entry = core::ptr::from_ref(pages.list.get(index)?).cast_mut();
        // SAFETY: By the invariant of `Pages` the entry has a page with that many bytes, of which the
        // buffer holds a reference, and which comes from the page allocator. `sg_page()` only reads.
        Some(unsafe { IoPage::from_raw(bindings::sg_page(entry), offset, len) })
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
