// SPDX-License-Identifier: GPL-2.0

//! Properties of the running task.
//!
//! C headers: [`include/linux/capability.h`](srctree/include/linux/capability.h),
//! [`include/linux/sched/mm.h`](srctree/include/linux/sched/mm.h)

use crate::bindings;
use kernel::prelude::*;
use kernel::types::NotThreadSafe;

/// Whether the running task may administer the machine (`CAP_SYS_ADMIN` in the initial user
/// namespace), for files whose mode is not all there is to say. Notes that it made use of it.
/// Process context.
///
/// # Errors
///
/// `EPERM`: it may not.
pub fn require_admin() -> Result {
    // CAST: 21.
    // SAFETY: No requirements.
    if unsafe { bindings::capable(bindings::CAP_SYS_ADMIN as c_int) } {
        Ok(())
    } else {
        Err(EPERM)
    }
}

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
