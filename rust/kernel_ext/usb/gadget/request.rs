// SPDX-License-Identifier: GPL-2.0

//! Requests of gadget drivers.
//!
//! C header: [`include/linux/usb/gadget.h`](srctree/include/linux/usb/gadget.h)

use super::{Driver, IrqsOff};
use crate::bindings;
use crate::errno::*;
use crate::usb::buffer::Buffer;
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::container_of;
use kernel::prelude::*;
use kernel::types::Opaque;

/// What is allocated for a request: the C object and the link of the queue that it is in.
struct Node<T: Driver> {
    request: Opaque<bindings::usb_request>,
    next: Option<Request<T>>,
}

/// Allocates a request of a controller of `T`; null if there is no memory. Any context that the
/// flags allow.
pub(super) fn allocate<T: Driver>(flags: bindings::gfp_t) -> *mut bindings::usb_request {
    let node = Node::<T> {
        request: Opaque::zeroed(),
        next: None,
    };
    // SAFETY: `Flags` is a transparent wrapper of `gfp_t`, and any combination that C code passes on
    // is one for the allocator.
    let flags = unsafe { core::mem::transmute::<bindings::gfp_t, kernel::alloc::Flags>(flags) };
    match KBox::new(node, flags) {
        // SAFETY: The node is valid; only its address is taken.
        Ok(node) => unsafe { (*KBox::into_raw(node)).request.get() },
        Err(_) => core::ptr::null_mut(),
    }
}

/// Frees a request.
///
/// # Safety
///
/// It must come from [`allocate`] with the same `T`, not be queued, and not be used any more.
pub(super) unsafe fn free<T: Driver>(request: *mut bindings::usb_request) {
    // SAFETY: By the requirements of this function.
    unsafe {
        let node: *mut Node<T> =
            container_of!(Opaque::cast_from(request), Node<T>, request).cast_mut();
        drop(KBox::from_raw(node));
    }
}

/// Which request: for comparison only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId(usize);

impl RequestId {
    pub(super) fn new(request: *mut bindings::usb_request) -> Self {
        Self(request.addr())
    }
}

/// A request that a gadget driver has lent to the controller.
///
/// [Completing](Self::complete) it gives it back; dropping it does so with `ESHUTDOWN`. Either calls the
/// gadget driver, which may queue other requests meanwhile.
///
/// # Invariants
///
/// Points to the request of a [`Node`] that is in no queue, whose `buf` is valid for `length` bytes,
/// and which was queued on `ep`.
pub struct Request<T: Driver> {
    node: NonNull<Node<T>>,
    ep: NonNull<bindings::usb_ep>,
    _driver: PhantomData<fn() -> T>,
}

// SAFETY: A request may be worked on and completed by any thread.
unsafe impl<T: Driver> Send for Request<T> {}
// SAFETY: With a shared reference it can only be read.
unsafe impl<T: Driver> Sync for Request<T> {}

impl<T: Driver> Request<T> {
    /// Takes a request on.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it has no buffer, or nobody to be told of its end.
    ///
    /// # Safety
    ///
    /// `request` must come from [`allocate`] with the same `T` and not be queued; the gadget driver
    /// leaves it and its buffer alone until it is completed.
    pub(super) unsafe fn from_raw(
        ep: *mut bindings::usb_ep,
        request: *mut bindings::usb_request,
    ) -> Result<Self> {
        let ep = NonNull::new(ep).ok_or(EINVAL)?;
        // SAFETY: By the requirements of this function.
        let node = unsafe {
            let raw = &mut *request;
            if raw.complete.is_none() || (raw.length > 0 && raw.buf.is_null()) {
                return Err(EINVAL);
            }
            raw.status = EINPROGRESS.to_errno();
            raw.actual = 0;
            container_of!(Opaque::cast_from(request), Node<T>, request).cast_mut()
        };
        let node = NonNull::new(node).ok_or(EINVAL)?;
        // INVARIANT: As just checked; the rest is required of the caller.
        Ok(Self {
            node,
            ep,
            _driver: PhantomData,
        })
    }

    fn raw(&self) -> *mut bindings::usb_request {
        // SAFETY: By the type invariant the node is valid.
        unsafe { (*self.node.as_ptr()).request.get() }
    }

    /// The number of this one.
    pub fn id(&self) -> RequestId {
        RequestId::new(self.raw())
    }

    /// How many bytes are to be sent, or fit.
    pub fn len(&self) -> u32 {
        // SAFETY: By the type invariant.
        unsafe { (*self.raw()).length }
    }

    /// Whether there is nothing to be sent and no room.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes were moved.
    pub fn actual(&self) -> u32 {
        // SAFETY: By the type invariant.
        unsafe { (*self.raw()).actual }
    }

    /// Whether an empty packet is to follow data that ends with a full one.
    pub fn zero(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { (*self.raw()).zero() != 0 }
    }

    /// Copies the next `len` bytes into `buffer` at `offset`, as far as there are so many and they fit,
    /// and counts them as moved. Any context.
    pub fn send(&mut self, buffer: &mut Buffer, offset: u32, len: u32) {
        if let Some((start, len)) = self.next(len) {
            // SAFETY: By the type invariant the memory is valid, and nobody else writes to it.
            buffer.write(offset, unsafe {
                core::slice::from_raw_parts(start, len as usize)
            });
            self.advance(len);
        }
    }

    /// Copies `len` bytes of `buffer` from `offset` on behind what was received, as far as they fit, and
    /// counts them as moved. Any context.
    pub fn receive(&mut self, buffer: &Buffer, offset: u32, len: u32) {
        if let Some((start, len)) = self.next(len) {
            // SAFETY: By the type invariant the memory is valid, and nobody else uses it. The memory
            // comes from the C side, so for the compiler it has some value.
            buffer.read(offset, unsafe {
                core::slice::from_raw_parts_mut(start, len as usize)
            });
            self.advance(len);
        }
    }

    /// Copies the next bytes into `out`, as many as there are and fit, and counts them as moved;
    /// returns how many. Any context.
    pub fn send_bytes(&mut self, out: &mut [u8]) -> usize {
        let room = u32::try_from(out.len()).unwrap_or(u32::MAX);
        let Some((start, len)) = self.next(room) else {
            return 0;
        };
        if let Some(out) = out.get_mut(..len as usize) {
            // SAFETY: By the type invariant the memory is valid, and nobody else writes to it.
            out.copy_from_slice(unsafe { core::slice::from_raw_parts(start, len as usize) });
        }
        self.advance(len);
        len as usize
    }

    /// The next at most `len` bytes, if there are any.
    fn next(&self, len: u32) -> Option<(*mut u8, u32)> {
        let len = len.min(self.len().saturating_sub(self.actual()));
        // SAFETY: By the type invariant.
        let start: *mut u8 = unsafe { (*self.raw()).buf }.cast();
        if len == 0 || start.is_null() {
            return None;
        }
        // SAFETY: `actual` is at most `length`, for which the buffer is valid.
        Some((unsafe { start.add(self.actual() as usize) }, len))
    }

    fn advance(&mut self, len: u32) {
        // SAFETY: By the type invariant.
        unsafe { (*self.raw()).actual += len };
    }

    /// Gives the request back, with 0 or a negative errno. Any context, with no lock held that
    /// [`Driver::queue`] takes.
    pub fn complete(self, status: i32) {
        let this = core::mem::ManuallyDrop::new(self);
        this.give_back(status);
    }

    fn give_back(&self, status: i32) {
        let request = self.raw();
        let _irqs = IrqsOff::new();
        // SAFETY: By the type invariant request and endpoint are valid; this is the end of what was
        // lent, as the caller has consumed the object or is dropping it.
        unsafe {
            (*request).status = status;
            bindings::usb_gadget_giveback_request(self.ep.as_ptr(), request);
        }
    }

    /// The request was not taken on after all: the gadget driver is told by other means.
    pub(super) fn give_up(self) {
        core::mem::forget(self);
    }
}

impl<T: Driver> Drop for Request<T> {
    fn drop(&mut self) {
        self.give_back(ESHUTDOWN.to_errno());
    }
}

/// Requests in the order in which they were queued. Takes no memory but that of the requests.
///
/// Dropping it gives them back, see [`Request`].
///
/// # Invariants
///
/// `last` is the node of the last request of the chain that begins with `first`.
pub struct RequestQueue<T: Driver> {
    first: Option<Request<T>>,
    last: Option<NonNull<Node<T>>>,
}

// SAFETY: As for `Request`; `last` points into the chain.
unsafe impl<T: Driver> Send for RequestQueue<T> {}

impl<T: Driver> RequestQueue<T> {
    /// No requests.
    pub const fn new() -> Self {
        Self {
            first: None,
            last: None,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Adds one at the end. Any context.
    pub fn push(&mut self, request: Request<T>) {
        let node = request.node;
        match self.last {
            None => self.first = Some(request),
            // SAFETY: By the type invariant it is the node of a request that this queue owns, and the
            // queue is borrowed mutably.
            Some(last) => unsafe { (*last.as_ptr()).next = Some(request) },
        }
        // INVARIANT: It was just put at the end.
        self.last = Some(node);
    }

    /// The first one. Any context.
    pub fn first_mut(&mut self) -> Option<&mut Request<T>> {
        self.first.as_mut()
    }

    /// Takes the first one out. Any context.
    pub fn pop(&mut self) -> Option<Request<T>> {
        let request = self.first.take()?;
        // SAFETY: The node is valid; the link belongs to the queue, which is borrowed mutably.
        self.first = unsafe { (*request.node.as_ptr()).next.take() };
        if self.first.is_none() {
            // INVARIANT: There is no last one.
            self.last = None;
        }
        Some(request)
    }

    /// Takes one out. Any context.
    pub fn remove(&mut self, id: RequestId) -> Option<Request<T>> {
        let mut rest = core::mem::take(self);
        let mut found = None;
        while let Some(request) = rest.pop() {
            if request.id() == id {
                found = Some(request);
            } else {
                self.push(request);
            }
        }
        found
    }
}

impl<T: Driver> Default for RequestQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Driver> Drop for RequestQueue<T> {
    fn drop(&mut self) {
        while let Some(request) = self.pop() {
            drop(request);
        }
    }
}
