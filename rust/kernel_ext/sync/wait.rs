// SPDX-License-Identifier: GPL-2.0

//! Wait queues.
//!
//! C header: [`include/linux/wait.h`](srctree/include/linux/wait.h)

use crate::bindings;
use crate::time::{msecs_to_jiffies, Msecs};
use core::mem::MaybeUninit;
use kernel::prelude::*;
use kernel::task::MAX_SCHEDULE_TIMEOUT;
use kernel::types::Opaque;

/// Where threads sleep until a condition holds.
///
/// Whoever makes the condition true does so first and wakes up then. No wake-up is lost: a waiter
/// looks at the condition only after it is on the queue, and waking takes the lock of the queue.
/// C: `wait_queue_head_t`.
#[pin_data]
pub struct WaitQueue {
    #[pin]
    head: Opaque<bindings::wait_queue_head>,
}

// SAFETY: A wait queue has a lock of its own and may be used and freed by any thread.
unsafe impl Send for WaitQueue {}
// SAFETY: As above.
unsafe impl Sync for WaitQueue {}

/// The name of the lock class of all wait queues: lockdep wants the same pointer for all locks of a
/// class, and a literal in code that is inlined has another one in each module.
static NAME: &CStr = c"WaitQueue";

impl WaitQueue {
    /// Creates a wait queue.
    pub fn new() -> impl PinInit<Self> {
        // The lock of a wait queue is taken last, so one class does for all.
        let key = kernel::static_lock_class!();
        pin_init!(Self {
            // SAFETY: `slot` is valid for writes; name and key are static.
            head <- Opaque::ffi_init(|slot| unsafe {
                bindings::__init_waitqueue_head(
                    slot,
                    kernel::str::as_char_ptr_in_const_context(NAME),
                    key.as_ptr(),
                )
            }),
        })
    }

    /// Sleeps until `condition` holds; returns at once if it does.
    ///
    /// Signals do not end it, and a sleeping thread counts neither as load nor as hung
    /// (`TASK_IDLE`): for kernel threads that wait for work. A thread that is to be stopped has to
    /// look at [`should_stop`](crate::kthread::should_stop) in its condition; stopping wakes it.
    ///
    /// May sleep. `condition` is called in the state in which the thread will sleep, so it must
    /// not sleep itself.
    pub fn wait_until(&self, condition: impl Fn() -> bool) {
        self.wait(MAX_SCHEDULE_TIMEOUT, condition);
    }

    /// As [`Self::wait_until`] for at most `timeout`, rounded up to the next tick; returns whether
    /// the condition holds.
    pub fn wait_until_timeout(&self, timeout: Msecs, condition: impl Fn() -> bool) -> bool {
        self.wait(msecs_to_jiffies(timeout), condition)
    }

    /// As [`Self::wait_until`], but not beyond `deadline`, as [`now_ns`](crate::time::now_ns), by a
    /// high-resolution timer; returns whether the condition holds.
    pub fn wait_until_ns(&self, deadline: u64, condition: impl Fn() -> bool) -> bool {
        let mut expires = i64::try_from(deadline).unwrap_or(i64::MAX);
        self.wait_with(condition, || {
            // SAFETY: `expires` is valid for the call; the monotonic clock is what it counts in.
            let result = unsafe {
                bindings::schedule_hrtimeout(&mut expires, bindings::hrtimer_mode_HRTIMER_MODE_ABS)
            };
            // 0 if the time has come.
            result != 0
        })
    }

    fn wait(&self, mut jiffies: c_long, condition: impl Fn() -> bool) -> bool {
        self.wait_with(condition, || {
            // SAFETY: No requirements; returns `MAX_SCHEDULE_TIMEOUT` unchanged.
            jiffies = unsafe { bindings::schedule_timeout(jiffies) };
            jiffies != 0
        })
    }

    /// Waits with `sleep`, which returns whether there is time left. C: `___wait_event()`.
    fn wait_with(&self, condition: impl Fn() -> bool, mut sleep: impl FnMut() -> bool) -> bool {
        if condition() {
            return true;
        }
        let mut entry = MaybeUninit::<bindings::wait_queue_entry>::uninit();
        let entry = entry.as_mut_ptr();
        // SAFETY: `entry` is valid for writes. It is not moved: only the pointer is used below.
        unsafe { bindings::init_wait_entry(entry, 0) };
        let mut is_time_left = true;
        let holds = loop {
            // SAFETY: Head and entry are initialised, and `finish_wait` below takes the entry off
            // the queue before its memory goes.
            unsafe {
                bindings::prepare_to_wait_event(
                    self.head.get(),
                    entry,
                    bindings::TASK_IDLE as c_int,
                )
            };
            if condition() {
                break true;
            }
            if !is_time_left {
                break false;
            }
            is_time_left = sleep();
        };
        // SAFETY: The entry was initialised and belongs to this queue.
        unsafe { bindings::finish_wait(self.head.get(), entry) };
        holds
    }

    /// Makes all sleepers look at their condition. Any context.
    #[inline]
    pub fn wake_all(&self) {
        self.wake(0);
    }

    /// Makes one sleeper look at its condition, or more: waiters are not exclusive. Any context.
    #[inline]
    pub fn wake_one(&self) {
        self.wake(1);
    }

    fn wake(&self, count: c_int) {
        // SAFETY: The head is initialised; no key is passed on.
        unsafe {
            bindings::__wake_up(
                self.head.get(),
                bindings::TASK_NORMAL,
                count,
                core::ptr::null_mut(),
            )
        };
    }
}
