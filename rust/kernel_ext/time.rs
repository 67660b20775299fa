// SPDX-License-Identifier: GPL-2.0

//! Time.
//!
//! C headers: [`include/linux/timekeeping.h`](srctree/include/linux/timekeeping.h),
//! [`include/linux/jiffies.h`](srctree/include/linux/jiffies.h)

use crate::bindings;
use kernel::prelude::*;

/// A duration in milliseconds.
pub type Msecs = u32;

/// The monotonic clock in ns, which stands still during system suspend (C: `ktime_get_ns()`).
///
/// Any context but NMI.
#[inline]
pub fn now_ns() -> u64 {
    // SAFETY: No requirements.
    let now = unsafe { bindings::ktime_get() };
    // CAST: The monotonic clock starts at 0 and is never negative.
    now as u64
}

/// The monotonic clock in ms. Any context but NMI.
#[inline]
pub fn now_ms() -> u64 {
    now_ns() / 1_000_000
}

/// Ticks, rounded up; at most what `schedule_timeout()` takes for "for ever".
pub(crate) fn msecs_to_jiffies(ms: Msecs) -> c_long {
    // SAFETY: No requirements.
    let jiffies = unsafe { bindings::msecs_to_jiffies(ms) };
    c_long::try_from(jiffies).unwrap_or(c_long::MAX)
}
