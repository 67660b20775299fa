// SPDX-License-Identifier: GPL-2.0

//! Memory that is used for one buffer after the other.
//!
//! Where the kernel clears all memory that it hands out, as distributions have it do, that is a pass over
//! every byte.

use crate::bindings;
use crate::new_spinlock_irqsave;
use crate::sync::irqsave::SpinLockIrqSave;
use core::ptr::NonNull;
use kernel::alloc::kvec::PushError;
use kernel::prelude::*;
use kernel::sync::Arc;

/// Memory that is kept for the next buffer of the same owner. It is not cleared.
#[pin_data]
pub struct BufferPool {
    #[pin]
    ring: SpinLockIrqSave<Ring>,
    #[pin]
    linear: SpinLockIrqSave<[Kept; SIZES.len()]>,
}

/// The sizes of memory in one piece that is kept, in bytes. Less is as soon cleared as kept.
const SIZES: [usize; 3] = [4096, 8192, 16384];

/// How much memory of each size is kept, in bytes.
const KEPT: usize = 256 * 1024;

/// Which of [`SIZES`].
///
/// # Invariants
///
/// It is one of them.
#[derive(Clone, Copy)]
pub(super) struct Size(usize);

impl Size {
    /// The one for a buffer of `len` bytes, if more than half of it is used then: for less there is
    /// memory of another size.
    pub(super) fn of(len: usize) -> Option<Self> {
        let index = SIZES.iter().position(|size| len <= *size)?;
        // INVARIANT: It was found.
        Some(Self(index)).filter(|size| len > size.bytes() / 2)
    }

    /// The size in bytes.
    pub(super) fn bytes(self) -> usize {
        SIZES.get(self.0).copied().unwrap_or(0)
    }
}

/// Memory of one size. What was used last is used first: the processor has it at hand.
///
/// # Invariants
///
/// Each is memory of `kmalloc()` of that size, which belongs to this object.
struct Kept(KVec<NonNull<u8>>);

// SAFETY: Memory may be used and freed by any thread.
unsafe impl Send for Kept {}

impl Kept {
    fn new(size: usize) -> Result<Self> {
        // INVARIANT: There is none.
        Ok(Self(KVec::with_capacity(KEPT / size, GFP_KERNEL)?))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        for start in &self.0 {
            // SAFETY: By the type invariant.
            unsafe { bindings::kfree(start.as_ptr().cast()) };
        }
    }
}

/// Pieces of pages.
///
/// The network may still send from a piece that has come back, so only one that nobody else refers
/// to is used again. Pieces come and go in the order of the connection, so if the oldest is still
/// in use then most others are.
///
/// # Invariants
///
/// Each page is of [`MAX_ORDER`](super::MAX_ORDER), and this object holds a reference.
struct Ring {
    pages: KVec<NonNull<bindings::page>>,
    /// The oldest.
    first: usize,
}

// SAFETY: Pages may be used and freed by any thread.
unsafe impl Send for Ring {}

/// How many pieces of pages are kept: 2 MiB.
const POOL: usize = 64;

impl BufferPool {
    /// An empty pool. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Arc<Self>> {
        let pages = KVec::with_capacity(POOL, GFP_KERNEL)?;
        let [small, medium, large] = SIZES.map(Kept::new);
        let linear = [small?, medium?, large?];
        Arc::pin_init(
            pin_init!(Self {
                ring <- new_spinlock_irqsave!(Ring { pages, first: 0 }, "usb_page_pool"),
                linear <- new_spinlock_irqsave!(linear, "usb_linear_pool"),
            }),
            GFP_KERNEL,
        )
    }

    /// Memory of `kmalloc()` of this size, which belongs to the caller. Any context.
    pub(super) fn take_linear(&self, size: Size) -> Option<NonNull<u8>> {
        self.linear.lock().get_mut(size.0)?.0.pop()
    }

    /// Keeps memory of this size, or frees it if there is enough. Any context.
    ///
    /// # Safety
    ///
    /// It must be memory of `kmalloc()` of this size that belongs to the caller, who gives it away.
    pub(super) unsafe fn give_linear(&self, size: Size, start: NonNull<u8>) {
        let is_kept = {
            let mut linear = self.linear.lock();
            let kept = linear.get_mut(size.0);
            // INVARIANT: By the requirements of this function.
            kept.is_some_and(|kept| kept.0.push_within_capacity(start).is_ok())
        };
        if !is_kept {
            // SAFETY: By the requirements of this function.
            unsafe { bindings::kfree(start.as_ptr().cast()) };
        }
    }

    /// A piece of pages that nobody else refers to. Any context.
    pub(super) fn take(&self) -> Option<NonNull<bindings::page>> {
        let mut ring = self.ring.lock();
        let first = ring.first;
        let page = *ring.pages.get(first)?;
        // SAFETY: By the invariant of `Ring` the page is valid.
        if !unsafe { bindings::page_is_exclusive(page.as_ptr()) } {
            return None;
        }
        // The newest takes its place, which changes the order by little.
        let newest = ring.pages.pop()?;
        if let Some(slot) = ring.pages.get_mut(first) {
            *slot = newest;
        }
        ring.first = if first + 1 < ring.pages.len() {
            first + 1
        } else {
            0
        };
        // INVARIANT: The reference goes with it.
        Some(page)
    }

    /// Keeps a piece of pages, or lets it go if there are enough. Any context.
    ///
    /// # Safety
    ///
    /// The page must be of [`MAX_ORDER`](super::MAX_ORDER), and the caller gives up a reference to it.
    pub(super) unsafe fn give(&self, page: NonNull<bindings::page>) {
        // INVARIANT: By the requirements of this function.
        if let Err(PushError(page)) = self.ring.lock().pages.push_within_capacity(page) {
            // SAFETY: The reference is ours.
            unsafe { bindings::put_page(page.as_ptr()) };
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        for page in &self.pages {
            // SAFETY: By the type invariant the reference is ours.
            unsafe { bindings::put_page(page.as_ptr()) };
        }
    }
}
