// SPDX-License-Identifier: GPL-2.0

//! A spinlock that may be taken in any context, as it keeps interrupts off while it is held.
//!
//! C header: [`include/linux/spinlock.h`](srctree/include/linux/spinlock.h)

use crate::bindings;
use kernel::prelude::*;
use kernel::sync::lock::{Backend, Guard, Lock};

/// Creates a [`SpinLockIrqSave`] initialiser with the given name and a newly-created lock class.
///
/// Without a name one is made from the file name and line number.
#[macro_export]
macro_rules! new_spinlock_irqsave {
    ($inner:expr $(, $name:literal)? $(,)?) => {
        $crate::sync::irqsave::SpinLockIrqSave::new(
            $inner,
            ::kernel::optional_name!($($name)?),
            ::kernel::static_lock_class!(),
        )
    };
}

/// A spinlock that saves and disables interrupts, as `spin_lock_irqsave()` does.
///
/// On PREEMPT_RT it does neither and may sleep, as `spinlock_t` does there. Guards are to be
/// dropped in the reverse order in which they were taken: each restores the interrupt state that
/// it found.
///
/// Made with [`new_spinlock_irqsave!`](crate::new_spinlock_irqsave).
pub type SpinLockIrqSave<T> = Lock<T, SpinLockIrqSaveBackend>;

/// The guard of a [`SpinLockIrqSave`].
pub type SpinLockIrqSaveGuard<'a, T> = Guard<'a, T, SpinLockIrqSaveBackend>;

/// Shows that a lock is held under which interrupts are off.
///
/// For functions of the C side that are to be called "with interrupts disabled" (on PREEMPT_RT:
/// with such a lock held).
pub trait IrqsOff: sealed::Sealed {}

mod sealed {
    pub trait Sealed {}
    impl<T: ?Sized> Sealed for super::SpinLockIrqSaveGuard<'_, T> {}
}

impl<T: ?Sized> IrqsOff for SpinLockIrqSaveGuard<'_, T> {}

/// The backend of [`SpinLockIrqSave`].
pub struct SpinLockIrqSaveBackend;

// SAFETY: `spinlock_t` ensures mutual exclusion. `relock` is the default implementation, which uses
// the same locking method.
unsafe impl Backend for SpinLockIrqSaveBackend {
    type State = bindings::spinlock_t;
    type GuardState = c_ulong;

    #[inline]
    unsafe fn init(ptr: *mut Self::State, name: *const c_char, key: *mut bindings::lock_class_key) {
        // SAFETY: By the requirements of this function `ptr` is valid for writes, and `name` and
        // `key` for reads for ever.
        unsafe { bindings::__spin_lock_init(ptr, name, key) }
    }

    #[inline]
    unsafe fn lock(ptr: *mut Self::State) -> c_ulong {
        // SAFETY: By the requirements of this function the lock is initialised.
        unsafe { bindings::spin_lock_irqsave(ptr) }
    }

    #[inline]
    unsafe fn try_lock(ptr: *mut Self::State) -> Option<c_ulong> {
        let mut flags = 0;
        // SAFETY: By the requirements of this function the lock is initialised. If it cannot be
        // taken, the interrupt state is as it was.
        unsafe { bindings::spin_trylock_irqsave(ptr, &mut flags) }.then_some(flags)
    }

    #[inline]
    unsafe fn unlock(ptr: *mut Self::State, flags: &c_ulong) {
        // SAFETY: By the requirements of this function the caller owns the lock; `flags` comes
        // from taking it.
        unsafe { bindings::spin_unlock_irqrestore(ptr, *flags) }
    }

    #[inline]
    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // SAFETY: By the requirements of this function the lock is initialised.
        unsafe { bindings::spin_assert_is_held(ptr) }
    }
}
