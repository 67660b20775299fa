// SPDX-License-Identifier: GPL-2.0

//! A value that is used by one after the other, where nobody waits.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use kernel::sync::atomic::{Atomic, Full, Relaxed};

/// A value that whoever comes first may use; who comes meanwhile does something else.
///
/// Unlike a spinlock it may be held while sleeping, and unlike a mutex it may be tried in any context.
pub struct Turn<T> {
    /// 1 while somebody has it.
    taken: Atomic<u32>,
    value: UnsafeCell<T>,
}

// SAFETY: The value is used by one at a time, which may be any thread.
unsafe impl<T: Send> Sync for Turn<T> {}

impl<T> Turn<T> {
    /// Nobody has it.
    pub const fn new(value: T) -> Self {
        Self {
            taken: Atomic::new(0),
            value: UnsafeCell::new(value),
        }
    }

    /// Takes the value, unless somebody has it. Full ordering. Any context.
    pub fn take(&self) -> Option<TurnGuard<'_, T>> {
        // Not `then_some`: a guard that is made and dropped would end the turn of whoever has it.
        //
        // INVARIANT: It was 0 and is 1 because of this.
        (self.taken.xchg(1, Full) == 0).then(|| TurnGuard(self))
    }

    /// Whether somebody has it at the moment. Any context.
    pub fn is_taken(&self) -> bool {
        self.taken.load(Relaxed) != 0
    }
}

/// The value of a [`Turn`]; dropping it lets others have it, with full ordering.
///
/// # Invariants
///
/// `taken` is 1 because of this object.
pub struct TurnGuard<'a, T>(&'a Turn<T>);

// SAFETY: As a reference to the value that may change it.
unsafe impl<T: Sync> Sync for TurnGuard<'_, T> {}

impl<T> Deref for TurnGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariant nobody else uses the value.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for TurnGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By the type invariant nobody else uses the value.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for TurnGuard<'_, T> {
    fn drop(&mut self) {
        self.0.taken.xchg(0, Full);
    }
}
