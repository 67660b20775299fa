// SPDX-License-Identifier: GPL-2.0

//! Memory as a whole.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use crate::bindings;

/// How much memory the kernel has to allocate from, in bytes. Any context. C:
/// `totalram_pages()`.
pub fn total_bytes() -> u64 {
    let mut info = bindings::sysinfo::default();
    // SAFETY: `info` is valid for writes.
    unsafe { bindings::si_meminfo(&mut info) };
    // CAST: `unsigned long` has at most 64 bits.
    (info.totalram as u64).saturating_mul(info.mem_unit.into())
}
