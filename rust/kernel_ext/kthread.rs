// SPDX-License-Identifier: GPL-2.0

//! Kernel threads.
//!
//! C header: [`include/linux/kthread.h`](srctree/include/linux/kthread.h)

use crate::bindings;
use core::ptr::NonNull;
use kernel::error::from_err_ptr;
use kernel::prelude::*;
use kernel::types::ForeignOwnable;

/// A kernel thread that runs a closure. Dropping it stops the thread and waits for its end.
///
/// # Invariants
///
/// - `task` was made by `kthread_create_on_node()` with [`run`] and `closure`, was woken up, was
///   never stopped, and a reference to it is held.
/// - `closure` is a foreign-owned `KBox<F>` that belongs to the thread, or to nobody if the thread
///   ends without having run; `discard` frees it then.
pub struct KThread {
    task: NonNull<bindings::task_struct>,
    closure: *mut c_void,
    discard: unsafe fn(*mut c_void),
}

// SAFETY: A thread may be stopped by any other, and `closure` is only dropped through it, which is
// `Send`.
unsafe impl Send for KThread {}
// SAFETY: Through a shared reference only a pointer is compared.
unsafe impl Sync for KThread {}

impl KThread {
    /// Starts a thread called `name` (of which 15 bytes are kept) that runs `f` once.
    ///
    /// `f` may return when it likes; it has to return soon when [`should_stop`] says so. Process
    /// context, may sleep. C: `kthread_run()`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINTR` if the caller is being killed.
    pub fn spawn<F: FnOnce() + Send + 'static>(name: &CStr, f: F) -> Result<Self> {
        let closure = KBox::new(f, GFP_KERNEL)?.into_foreign();
        // SAFETY: The format takes one string, and both are NUL-terminated. The closure is of the
        // type that `run::<F>` takes, and is not used here once the thread was made.
        let task = unsafe {
            bindings::kthread_create_on_node(
                Some(run::<F>),
                closure,
                bindings::NUMA_NO_NODE,
                kernel::str::as_char_ptr_in_const_context(c"%s"),
                name.as_char_ptr(),
            )
        };
        let task = match from_err_ptr(task) {
            Ok(task) => task,
            Err(error) => {
                // SAFETY: There is no thread, so the closure is still ours.
                unsafe { discard::<F>(closure) };
                return Err(error);
            }
        };
        // SAFETY: The thread sleeps until it is woken up and is therefore alive; from here on the
        // reference keeps its `task_struct`.
        unsafe {
            bindings::get_task_struct(task);
            bindings::wake_up_process(task);
        }
        // INVARIANT: As just done.
        Ok(Self {
            // SAFETY: Neither null nor an error.
            task: unsafe { NonNull::new_unchecked(task) },
            closure,
            discard: discard::<F>,
        })
    }

    /// Makes [`should_stop`] true for the thread, wakes it up, interrupts a sleep in a socket, and
    /// waits until it has ended. The same as dropping it. May sleep. C: `kthread_stop()`.
    ///
    /// The thread itself must not be the one that does this: it would wait for itself for ever,
    /// and does, after a message.
    pub fn stop(self) {}

    /// Whether this is the running thread. Process context.
    pub fn is_current(&self) -> bool {
        // SAFETY: No requirements.
        self.task.as_ptr() == unsafe { bindings::get_current() }
    }
}

impl Drop for KThread {
    fn drop(&mut self) {
        if self.is_current() {
            // Returning would leave a thread that nobody can wait for, whose text may be unloaded.
            pr_err!("a kernel thread waits for its own end\n");
        }
        // SAFETY: By the type invariant the thread was not stopped yet and the reference keeps
        // its `task_struct`, also if the closure has returned.
        let status = unsafe { bindings::kthread_stop(self.task.as_ptr()) };
        if status != 0 {
            // `run` returns 0, so this is the kernel's -EINTR: the thread was stopped before it was
            // scheduled for the first time.
            //
            // SAFETY: By the type invariant the closure belongs to nobody.
            unsafe { (self.discard)(self.closure) };
        }
        // SAFETY: By the type invariant a reference is held.
        unsafe { bindings::put_task_struct(self.task.as_ptr()) };
    }
}

/// Whether the running kernel thread is to end. False in any other task. Process context.
/// C: `kthread_should_stop()`.
#[inline]
pub fn should_stop() -> bool {
    // SAFETY: No requirements; the helper looks whether this is a kernel thread.
    unsafe { bindings::current_should_stop() }
}

/// The function of a [`KThread`].
///
/// # Safety
///
/// `closure` must be a foreign-owned `KBox<F>`, which this takes.
unsafe extern "C" fn run<F: FnOnce() + Send + 'static>(closure: *mut c_void) -> c_int {
    // SAFETY: By the requirements of this function.
    let f = unsafe { <KBox<F> as ForeignOwnable>::from_foreign(closure) };
    KBox::into_inner(f)();
    0
}

/// Frees the closure of a thread that never ran.
///
/// # Safety
///
/// As for [`run`].
unsafe fn discard<F: FnOnce() + Send + 'static>(closure: *mut c_void) {
    // SAFETY: By the requirements of this function.
    drop(unsafe { <KBox<F> as ForeignOwnable>::from_foreign(closure) });
}
