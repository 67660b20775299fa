// SPDX-License-Identifier: GPL-2.0

//! Memory to send from and to receive into, which need not belong to Rust.
//!
//! C header: [`include/linux/uio.h`](srctree/include/linux/uio.h)

use crate::bindings;
use core::marker::PhantomData;

/// A piece of memory to send from.
///
/// # Invariants
///
/// `vec` is valid for reads of its length for `'a`. Others may write to it at the same time: only
/// C code may read it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct IoSlice<'a> {
    vec: bindings::kvec,
    _memory: PhantomData<&'a [u8]>,
}

/// A piece of memory to receive into.
///
/// # Invariants
///
/// `vec` is valid for writes of its length for `'a`, by C code only.
#[repr(transparent)]
pub struct IoSliceMut<'a> {
    vec: bindings::kvec,
    _memory: PhantomData<&'a mut [u8]>,
}

impl<'a> IoSlice<'a> {
    /// From a Rust slice.
    #[inline]
    pub const fn new(slice: &'a [u8]) -> Self {
        // SAFETY: The slice is valid for reads for `'a`.
        unsafe { Self::from_raw(slice.as_ptr(), slice.len()) }
    }

    /// Nothing.
    #[inline]
    pub const fn empty() -> Self {
        Self::new(&[])
    }

    /// From memory that is no Rust slice.
    ///
    /// # Safety
    ///
    /// `start` must be valid for reads of `len` bytes for `'a`. Other code may write to the memory
    /// meanwhile, in which case what is sent is either.
    #[inline]
    pub const unsafe fn from_raw(start: *const u8, len: usize) -> Self {
        // INVARIANT: By the requirements of this function.
        Self {
            vec: bindings::kvec {
                iov_base: start.cast_mut().cast(),
                iov_len: len,
            },
            _memory: PhantomData,
        }
    }

    /// The length in bytes.
    #[inline]
    pub const fn len(&self) -> usize {
        self.vec.iov_len
    }

    /// Whether it is of length 0.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes away the first `n` bytes of `iov`, and the elements that were used up or were empty.
    ///
    /// More than there is counts as all of it. What is left of an element that was used in part
    /// takes its place.
    #[expect(clippy::mut_mut, reason = "as `std::io::IoSlice::advance_slices`")]
    pub fn advance(iov: &mut &mut [Self], n: usize) {
        advance(iov, n, |one| &mut one.vec);
    }
}

impl<'a> IoSliceMut<'a> {
    /// From a Rust slice.
    #[inline]
    pub const fn new(slice: &'a mut [u8]) -> Self {
        // SAFETY: The slice is valid for writes for `'a`.
        unsafe { Self::from_raw(slice.as_mut_ptr(), slice.len()) }
    }

    /// Nothing.
    #[inline]
    pub const fn empty() -> Self {
        Self::new(&mut [])
    }

    /// From memory that is no Rust slice.
    ///
    /// # Safety
    ///
    /// `start` must be valid for writes of `len` bytes for `'a`, and no Rust reference to it may
    /// be in use meanwhile.
    #[inline]
    pub const unsafe fn from_raw(start: *mut u8, len: usize) -> Self {
        // INVARIANT: By the requirements of this function.
        Self {
            vec: bindings::kvec {
                iov_base: start.cast(),
                iov_len: len,
            },
            _memory: PhantomData,
        }
    }

    /// The length in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.vec.iov_len
    }

    /// Whether it is of length 0.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As [`IoSlice::advance`].
    #[expect(clippy::mut_mut, reason = "as `std::io::IoSlice::advance_slices`")]
    pub fn advance(iov: &mut &mut [Self], n: usize) {
        advance(iov, n, |one| &mut one.vec);
    }

    /// Shortens it to the first `len` bytes; longer than it is has no effect.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.vec.iov_len = self.vec.iov_len.min(len);
    }
}

/// A part of pages to send from without a copy; see [`Socket::send_pages`](super::socket::Socket).
///
/// # Invariants
///
/// `vec` is a part of pages that are counted and of which somebody holds a reference for `'a`.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct IoPage<'a> {
    vec: bindings::bio_vec,
    _memory: PhantomData<&'a [u8]>,
}

impl IoPage<'_> {
    /// Nothing.
    pub const fn empty() -> Self {
        // INVARIANT: It is no part of anything.
        Self {
            vec: bindings::bio_vec {
                bv_page: core::ptr::null_mut(),
                bv_len: 0,
                bv_offset: 0,
            },
            _memory: PhantomData,
        }
    }

    /// `len` bytes from `offset` on of a page or of several that belong together.
    ///
    /// # Safety
    ///
    /// The pages must be counted (not of `kmalloc()`), must have that many bytes, and somebody must
    /// hold a reference for `'a`.
    pub(crate) unsafe fn from_raw(page: *mut bindings::page, offset: u32, len: u32) -> Self {
        // INVARIANT: By the requirements of this function.
        Self {
            vec: bindings::bio_vec {
                bv_page: page,
                bv_len: len,
                bv_offset: offset,
            },
            _memory: PhantomData,
        }
    }

    /// The length in bytes.
    pub const fn len(&self) -> usize {
        self.vec.bv_len as usize
    }

    /// Whether it is of length 0.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As [`IoSlice::advance`].
    #[expect(clippy::mut_mut, reason = "as `std::io::IoSlice::advance_slices`")]
    pub fn advance(iov: &mut &mut [Self], mut n: usize) {
        let mut rest = core::mem::take(iov);
        while let Some(first) = rest.first_mut() {
            if n < first.len() {
                // INVARIANT: A part of what it was. CAST: Less than the length.
                first.vec.bv_offset += n as u32;
                first.vec.bv_len -= n as u32;
                break;
            }
            n -= first.len();
            rest = rest.split_at_mut(1).1;
        }
        *iov = rest;
    }
}

/// See [`IoSlice::advance`].
#[expect(clippy::mut_mut, reason = "as `std::io::IoSlice::advance_slices`")]
fn advance<T>(iov: &mut &mut [T], mut n: usize, vec: fn(&mut T) -> &mut bindings::kvec) {
    let mut rest = core::mem::take(iov);
    while let Some(first) = rest.first_mut() {
        let vec = vec(first);
        if n < vec.iov_len {
            // INVARIANT: A part of the memory that it was.
            vec.iov_base = vec.iov_base.wrapping_byte_add(n);
            vec.iov_len -= n;
            break;
        }
        n -= vec.iov_len;
        rest = rest.split_at_mut(1).1;
    }
    *iov = rest;
}
