// SPDX-License-Identifier: GPL-2.0

//! Work queues of one's own.
//!
//! What is queued is the `kernel` crate's [`Work`](kernel::workqueue::Work).
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use crate::bindings;
use core::ptr::NonNull;
use kernel::prelude::*;
use kernel::workqueue::{Queue, RawWorkItem};

/// A work queue that belongs to its maker. Dropping it runs what is queued, waits for that and
/// destroys the queue.
///
/// A work item must not hold the last reference to the queue that it runs on: the queue would wait
/// for itself for ever. Keep one where work does not run, as in the module's own data; that the
/// module's text stays until the last work item has returned depends on it as well.
///
/// # Invariants
///
/// The pointer is to a work queue that `alloc_workqueue()` made and that was not destroyed.
pub struct OwnedQueue(NonNull<bindings::workqueue_struct>);

// SAFETY: Work queues have their own locks; anybody may queue, flush and destroy them.
unsafe impl Send for OwnedQueue {}
// SAFETY: As above.
unsafe impl Sync for OwnedQueue {}

impl OwnedQueue {
    /// Creates a queue whose items run at the same time, on whatever CPU is free.
    ///
    /// Progress is guaranteed when memory is short (`WQ_MEM_RECLAIM`), one item at a time. The
    /// name is a copy, of which 31 bytes are kept. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new_unbound(name: &CStr) -> Result<Self> {
        Self::new(name, bindings::wq_flags_WQ_UNBOUND, 0)
    }

    /// Creates a queue whose items run one after the other in the order in which they were queued.
    /// See [`Self::new_unbound`]. C: `alloc_ordered_workqueue()`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new_ordered(name: &CStr) -> Result<Self> {
        Self::new(
            name,
            bindings::wq_flags_WQ_UNBOUND | bindings::wq_flags___WQ_ORDERED,
            1,
        )
    }

    fn new(name: &CStr, flags: bindings::wq_flags, max_active: c_int) -> Result<Self> {
        // SAFETY: The name is NUL-terminated.
        let queue = unsafe {
            bindings::alloc_workqueue(
                name.as_char_ptr(),
                flags | bindings::wq_flags_WQ_MEM_RECLAIM,
                max_active,
            )
        };
        // INVARIANT: It was just made.
        NonNull::new(queue).map(Self).ok_or(ENOMEM)
    }

    /// Queues a work item. Any context. The outcome is as for [`Queue::enqueue`].
    pub fn enqueue<W, const ID: u64>(&self, work: W) -> W::EnqueueOutput
    where
        W: RawWorkItem<ID> + Send + 'static,
    {
        // SAFETY: By the type invariant the queue is valid for as long as `self`.
        unsafe { Queue::from_raw(self.0.as_ptr()) }.enqueue(work)
    }

    /// Waits until everything that is queued now has run. May sleep; not from an item of this
    /// queue. C: `flush_workqueue()`.
    pub fn flush(&self) {
        // SAFETY: By the type invariant the queue is valid.
        unsafe { bindings::__flush_workqueue(self.0.as_ptr()) };
    }
}

impl Drop for OwnedQueue {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the queue is valid; this is the last use. What is queued
        // runs first, also what it queues again.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}
