// SPDX-License-Identifier: GPL-2.0

//! Buffers of what was received, where it was received.

use super::{Buffer, BufferPool, Pieces, MAX_ORDER};
use crate::bindings;
use crate::net::held::Held;
use crate::net::socket::IoSliceMut;
use crate::net::tap::Piece;
use core::ptr::NonNull;
use kernel::alloc::flags::__GFP_NOWARN;
use kernel::alloc::Flags;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Memory that was received, in a scatter list.
///
/// # Invariants
///
/// Every entry of `list` is a part of a page of `held` or `copies`, which has an address.
pub(super) struct Received {
    list: KVVec<bindings::scatterlist>,
    held: KVVec<Held>,
    copies: KVVec<Copies>,
    pool: Arc<BufferPool>,
}

/// A page of `PAGE_SIZE << order` bytes for what is copied.
///
/// # Invariants
///
/// A reference to the page belongs to this object.
struct Copies {
    page: NonNull<bindings::page>,
    order: u32,
}

impl Received {
    /// The scatter list.
    pub(super) fn list(&self) -> &KVVec<bindings::scatterlist> {
        &self.list
    }

    /// The scatter list, for who does not change it.
    pub(super) fn list_mut(&mut self) -> &mut KVVec<bindings::scatterlist> {
        &mut self.list
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        for one in &self.copies {
            // SAFETY: By the type invariant the reference is ours, and what `order` says.
            unsafe {
                if one.order == MAX_ORDER {
                    self.pool.give(one.page);
                } else {
                    bindings::put_page(one.page.as_ptr());
                }
            }
        }
    }
}

/// Gathers what arrives to a [`Buffer`] for sending it to a device: large parts of it stay where the
/// network has put them, the others are copied.
///
/// Such a buffer has pieces of any length, so it is for bulk endpoints at controllers that
/// [take any](super::super::device::Device::takes_any_scatter_list).
///
/// # Invariants
///
/// - The entries of `received` have `len` bytes.
/// - The last of its `copies`, if there is one, has `room` bytes left behind the first `used`.
/// - If `is_open`, the last entry ends where this room begins.
pub struct Gather {
    received: Received,
    len: u32,
    held: u32,
    used: usize,
    room: usize,
    is_open: bool,
}

impl Gather {
    /// Nothing yet. What has to be copied goes to pages from `pool`.
    pub fn new(pool: &Arc<BufferPool>) -> Self {
        // INVARIANT: There is nothing.
        Self {
            received: Received {
                list: KVVec::new(),
                held: KVVec::new(),
                copies: KVVec::new(),
                pool: pool.clone(),
            },
            len: 0,
            held: 0,
            used: 0,
            room: 0,
            is_open: false,
        }
    }

    /// The number of bytes that were gathered.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many of them were not copied.
    pub fn held(&self) -> u32 {
        self.held
    }

    /// The buffer of what was gathered.
    pub fn finish(mut self) -> Buffer {
        if let Some(last) = self.received.list.last_mut() {
            // SAFETY: An entry of a scatter list, which does not move any more.
            unsafe { bindings::sg_mark_end(last) };
        }
        // INVARIANT: By the type invariant.
        Buffer {
            pieces: Pieces::Received(self.received),
            len: self.len,
        }
    }

    /// Adds the first `len` bytes of a piece, at most all. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: a part of it may have been added.
    pub fn add(&mut self, piece: &Piece<'_>, len: usize) -> Result {
        let len = len.min(piece.len());
        if self.hold(piece, len)? {
            return Ok(());
        }
        let mut from = 0;
        while from < len {
            from += self.with_room(len - from, |to, room| {
                // SAFETY: `with_room` gives memory that is valid for writes of `room` bytes.
                let is_copied = unsafe { piece.copy_raw(from, to, room) };
                is_copied.then_some(room).ok_or(EFAULT)
            })?;
        }
        Ok(())
    }

    /// Adds bytes that are copied. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: a part of it may have been added.
    pub fn copy(&mut self, mut bytes: &[u8]) -> Result {
        while !bytes.is_empty() {
            let n = self.with_room(bytes.len(), |to, room| {
                // SAFETY: `with_room` gives memory that is valid for writes of `room` bytes, and asks
                // for no more than there are.
                unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, room) };
                Ok(room)
            })?;
            bytes = bytes.get(n..).unwrap_or(&[]);
        }
        Ok(())
    }

    /// Adds up to `len` bytes that `receive` puts into some memory; it returns how many. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: `receive` was not called. Otherwise the errors of `receive`.
    pub fn receive(
        &mut self,
        len: usize,
        receive: impl FnOnce(IoSliceMut<'_>) -> Result<usize>,
    ) -> Result<usize> {
        self.with_room(len, |to, room| {
            // SAFETY: `with_room` gives memory that is valid for writes of `room` bytes.
            receive(unsafe { IoSliceMut::from_raw(to, room) })
        })
    }

    /// Adds bytes of a piece without copying them, if they are worth it.
    fn hold(&mut self, piece: &Piece<'_>, len: usize) -> Result<bool> {
        let Some(count) = piece.entries(len) else {
            return Ok(false);
        };
        let Received { list, held, .. } = &mut self.received;
        held.reserve(1, flags())?;
        let before = list.len();
        list.extend_with(count, bindings::scatterlist::default(), flags())?;
        let room = list.get_mut(before..).unwrap_or(&mut []);
        let one = piece.hold(0, len, room);
        list.truncate(before + one.as_ref().map_or(0, |(used, _)| *used));
        let Some((_, one)) = one else {
            return Ok(false);
        };
        // INVARIANT: The entries are of `one`, which stays, and have `len` bytes.
        held.push(one, flags())?;
        self.is_open = false;
        // CAST: The length of a socket buffer is an `unsigned int`.
        self.len += len as u32;
        self.held += len as u32;
        Ok(true)
    }

    /// Adds what `fill` writes to memory for up to `len` bytes: it gets the address and the number of
    /// bytes that there is room for, and says how many it has written.
    fn with_room(
        &mut self,
        len: usize,
        fill: impl FnOnce(*mut u8, usize) -> Result<usize>,
    ) -> Result<usize> {
        if self.room == 0 {
            self.add_copies(len)?;
        }
        let Received { list, copies, .. } = &mut self.received;
        let page = copies.last().ok_or(ENOMEM)?.page.as_ptr();
        list.reserve(1, flags())?;
        let room = len.min(self.room);
        let mut entry = bindings::scatterlist::default();
        // SAFETY: The entry is zeroed, as `sg_init_table()` leaves it. By the type invariant the page has
        // as many bytes there, and an address, as it is not of high memory. CAST: Both are at most its
        // length.
        let start = unsafe {
            bindings::sg_set_page(&mut entry, page, room as c_uint, self.used as c_uint);
            bindings::sg_virt(&mut entry)
        };
        let n = fill(start.cast(), room)?.min(room);
        if n == 0 {
            return Ok(0);
        }
        match list.last_mut().filter(|_| self.is_open) {
            // CAST: As above.
            Some(last) => last.length += n as u32,
            None => {
                entry.length = n as u32;
                list.push(entry, flags())?;
                // INVARIANT: The entry ends where the room will begin.
                self.is_open = true;
            }
        }
        // INVARIANT: The last entry was made or extended by these bytes.
        self.used += n;
        self.room -= n;
        self.len += n as u32;
        Ok(n)
    }

    /// Adds memory for about `len` bytes.
    fn add_copies(&mut self, len: usize) -> Result {
        let Received { copies, pool, .. } = &mut self.received;
        copies.reserve(1, flags())?;
        let alloc = |order| {
            // SAFETY: No requirements.
            NonNull::new(unsafe { bindings::alloc_transfer_pages(order) })
                .map(|page| Copies { page, order })
        };
        let pooled = pool.take().map(|page| Copies {
            page,
            order: MAX_ORDER,
        });
        let small = len <= PAGE_SIZE;
        let one = pooled
            .or_else(|| alloc(if small { 0 } else { MAX_ORDER }))
            .or_else(|| alloc(0))
            .ok_or(ENOMEM)?;
        // INVARIANT: The page is all room, and no entry ends there.
        self.used = 0;
        self.room = PAGE_SIZE << one.order;
        self.is_open = false;
        copies.push(one, flags())?;
        Ok(())
    }
}

/// For lists whose length somebody else chose.
fn flags() -> Flags {
    GFP_KERNEL | __GFP_NOWARN
}
