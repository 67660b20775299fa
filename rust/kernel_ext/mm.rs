// SPDX-License-Identifier: GPL-2.0

//! Memory as a whole.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use crate::bindings;
use kernel::alloc::{flags, Flags};

/// Where something happens that allocates memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// Where sleeping is allowed.
    Process,
    /// In a softirq or an interrupt, or with a spinlock held.
    Atomic,
}

impl Context {
    /// Whether sleeping is not allowed.
    pub fn is_atomic(self) -> bool {
        self == Context::Atomic
    }

    /// The flags of an allocation.
    pub fn flags(self) -> Flags {
        match self {
            Context::Process => flags::GFP_KERNEL,
            Context::Atomic => flags::GFP_ATOMIC,
        }
    }

    /// The same for C.
    pub(crate) fn gfp(self) -> bindings::gfp_t {
        match self {
            Context::Process => bindings::GFP_KERNEL,
            Context::Atomic => bindings::GFP_ATOMIC,
        }
    }
}

/// How much memory the kernel has to allocate from, in bytes. Any context. C:
/// `totalram_pages()`.
pub fn total_bytes() -> u64 {
    let mut info = bindings::sysinfo::default();
    // SAFETY: `info` is valid for writes.
    unsafe { bindings::si_meminfo(&mut info) };
    // CAST: `unsigned long` has at most 64 bits.
    (info.totalram as u64).saturating_mul(info.mem_unit.into())
}
