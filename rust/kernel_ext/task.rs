// SPDX-License-Identifier: GPL-2.0

//! Properties of the running task.
//!
//! C header: [`include/linux/sched/mm.h`](srctree/include/linux/sched/mm.h)

use crate::bindings;
use kernel::prelude::*;
use kernel::types::NotThreadSafe;

/// While it exists, no allocation of this task waits for I/O, whatever its flags say.
///
/// For code that memory may be freed to: a swap device or file system behind it would otherwise
/// wait for itself. C: `memalloc_noio_save()`, `memalloc_noio_restore()`.
///
/// Scopes nest; they are to be dropped in the reverse order in which they were made.
pub struct NoIoScope {
    flags: c_uint,
    // It belongs to the task that made it.
    _not_send: NotThreadSafe,
}

impl NoIoScope {
    /// Begins the scope. Process context.
    #[expect(clippy::new_without_default, reason = "has an effect")]
    #[must_use = "ends at once when unused"]
    pub fn new() -> Self {
        Self {
            // SAFETY: No requirements.
            flags: unsafe { bindings::memalloc_noio_save() },
            _not_send: NotThreadSafe,
        }
    }
}

impl Drop for NoIoScope {
    fn drop(&mut self) {
        // SAFETY: The flags are what the matching call returned in this task.
        unsafe { bindings::memalloc_noio_restore(self.flags) };
    }
}
