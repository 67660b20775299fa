// SPDX-License-Identifier: GPL-2.0

//! Reading from a TCP socket where its data arrives, instead of in a thread that has to be woken up.
//!
//! A socket calls its `sk_data_ready` when it has got something: in the softirq that has received the
//! packet, or in the context of whoever held the lock of the socket meanwhile. A [`Tap`] puts itself
//! in the place of this callback and may read there and then. What it does not want to do in such a
//! context it leaves to a thread that reads as usual, with
//! [`Socket::recv`](super::socket::Socket::recv).
//!
//! C header: [`include/net/sock.h`](srctree/include/net/sock.h)

use super::socket::Socket;
use crate::bindings;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::types::Opaque;

/// What is done when something has arrived.
pub trait Receiver: Send + Sync + Sized + 'static {
    /// What only those use that have the lock of the socket.
    type State: Send;

    /// Something has arrived. Returns whether it was taken care of; if not, whoever waits for it in
    /// the socket is woken up.
    ///
    /// Atomic context, with the lock of the socket.
    fn data_ready(&self, state: &mut Self::State, arrived: &mut Arrived<'_>) -> bool;

    /// The peer will send nothing more, or the connection is gone; those who wait in the socket are
    /// woken up anyway.
    ///
    /// Atomic context, with the lock of the socket.
    fn state_changed(&self, state: &mut Self::State);
}

/// A TCP socket whose lock is held: what has arrived there, and a way to send.
pub struct Arrived<'a> {
    sk: *mut bindings::sock,
    _lock: PhantomData<&'a mut ()>,
}

impl Arrived<'_> {
    /// Reads with `take`: it is given one piece after the other, and says how many bytes of it it has
    /// taken. With 0 it is over.
    pub fn read(&mut self, take: impl FnMut(&Piece<'_>) -> usize) {
        let mut reader = Reader {
            head: bindings::kernel_ext_tcp_reader {
                take: Some(Self::take_with(&take)),
            },
            take,
        };
        // SAFETY: By the existence of `self` the lock of the socket is held. `reader` is valid for the
        // call, and what `take` in its head expects.
        unsafe { bindings::tcp_read(self.sk, (&raw mut reader).cast()) };
    }

    /// The function that calls closures of this type.
    fn take_with<F: FnMut(&Piece<'_>) -> usize>(
        _: &F,
    ) -> unsafe extern "C" fn(
        *mut bindings::kernel_ext_tcp_reader,
        *mut bindings::sk_buff,
        c_uint,
        usize,
    ) -> c_int {
        take::<F>
    }

    /// Sends as many of `bytes` as there is room for, and returns how many; it has copied them. Whoever
    /// sends with [`Socket::send`] meanwhile comes before or behind that. Atomic context.
    ///
    /// # Errors
    ///
    /// `EAGAIN`: there is no room or no memory, or this is not a softirq. Others as [`Socket::send`].
    pub fn send(&mut self, bytes: &[u8]) -> Result<usize> {
        // SAFETY: By the existence of `self` the lock of the socket is held; `bytes` is valid for reads.
        let n = unsafe { bindings::tcp_send_now(self.sk, bytes.as_ptr().cast(), bytes.len()) };
        to_result(n)?;
        Ok(usize::try_from(n).unwrap_or(0))
    }

    /// Whether [`Socket::recv`] would wait now, and for as long as it takes: there is nothing to read, no
    /// end of the stream nor an error to hear of, and no [timeout](Socket::recv_timeout).
    pub fn is_quiet(&self) -> bool {
        // SAFETY: By the existence of `self` the lock of the socket is held.
        unsafe { bindings::tcp_is_quiet(self.sk) }
    }
}

impl Socket {
    /// Reads what has arrived with `take`, as [`Arrived::read`] does, if this is a TCP socket without
    /// kernel TLS; otherwise nothing is read. May sleep, and so may `take`.
    pub fn read_arrived(&self, take: impl FnMut(&Piece<'_>) -> usize) {
        if !self.is_tcp() {
            return;
        }
        // SAFETY: The socket is valid and one of TCP; its lock is given back.
        unsafe {
            bindings::sock_lock(self.as_ptr());
            let sk = (*self.as_ptr()).sk;
            if bindings::tcp_is_plain(sk) {
                let mut arrived = Arrived {
                    sk,
                    _lock: PhantomData,
                };
                arrived.read(take);
            }
            bindings::sock_unlock(self.as_ptr());
        }
    }

    /// Waits until a TCP socket may have `len` bytes to read, a good part of what it has room for, or
    /// something to hear of. For any other it is [`Self::recv`] that waits. May sleep.
    ///
    /// # Errors
    ///
    /// `EAGAIN`: the timeout ran out, and nothing has arrived.
    pub fn wait_arrived(&self, len: usize) -> Result {
        if !self.is_tcp() {
            return Ok(());
        }
        // SAFETY: The socket is valid and one of TCP.
        to_result(unsafe { bindings::tcp_wait(self.as_ptr(), len) })
    }

    /// Calls `f` with the lock of the socket, for a TCP socket that nobody else uses at the moment. Not
    /// where interrupts are off, or for one with kernel TLS: `None` is returned then. `f` is called in
    /// atomic context.
    ///
    /// Whoever calls this must not hold a lock that is taken in a [`Receiver`], nor be called by one of
    /// the same socket.
    pub fn with_lock_now<T>(&self, f: impl FnOnce(&mut Arrived<'_>) -> T) -> Option<T> {
        // SAFETY: The socket is valid; if its lock was taken it is given back.
        unsafe {
            if !bindings::tcp_lock_now(self.as_ptr()) {
                return None;
            }
            let mut arrived = Arrived {
                sk: (*self.as_ptr()).sk,
                _lock: PhantomData,
            };
            let result = f(&mut arrived);
            bindings::tcp_unlock_now(self.as_ptr());
            Some(result)
        }
    }
}

/// A piece of what has arrived.
///
/// # Invariants
///
/// `skb` is valid for `'a` and has `len` bytes from `offset` on; the lock of its socket is held.
pub struct Piece<'a> {
    pub(super) skb: *mut bindings::sk_buff,
    pub(super) offset: u32,
    len: usize,
    _skb: PhantomData<&'a ()>,
}

impl Piece<'_> {
    /// Its length in bytes, which is not 0.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Copies from byte `from` on into `to`, which must not be longer than what is left; otherwise
    /// nothing is copied. Returns whether it was. Any context.
    pub fn copy_to(&self, from: usize, to: &mut [u8]) -> bool {
        // SAFETY: `to` is valid for writes.
        unsafe { self.copy_raw(from, to.as_mut_ptr(), to.len()) }
    }

    /// As [`Self::copy_to`], for memory that need not belong to Rust.
    ///
    /// # Safety
    ///
    /// `to` must be valid for writes of `len` bytes.
    pub(crate) unsafe fn copy_raw(&self, from: usize, to: *mut u8, len: usize) -> bool {
        let end = from.checked_add(len);
        if end.is_none_or(|end| end > self.len) {
            return false;
        }
        // CAST: The length of a socket buffer is an `unsigned int`, of which C makes an `int` here.
        let (offset, len) = ((self.offset as usize + from) as c_int, len as c_int);
        // SAFETY: By the type invariant there are `len` bytes; the rest is a requirement of this
        // function.
        unsafe { bindings::skb_copy_bits(self.skb, offset, to.cast(), len) == 0 }
    }
}

/// Bytes that were received: in memory, or still where the socket has them.
#[derive(Clone, Copy)]
pub enum Bytes<'a> {
    /// In memory.
    Here(&'a [u8]),
    /// `len` bytes of a piece, from `from` on.
    There {
        /// The piece.
        piece: &'a Piece<'a>,
        /// Where they begin.
        from: usize,
        /// Their number.
        len: usize,
    },
}

impl<'a> Bytes<'a> {
    /// Their number.
    pub fn len(&self) -> usize {
        match self {
            Bytes::Here(bytes) => bytes.len(),
            Bytes::There { len, .. } => *len,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `len` of them, at most all.
    pub fn first(self, len: usize) -> Self {
        match self {
            Bytes::Here(bytes) => Bytes::Here(bytes.get(..len).unwrap_or(bytes)),
            Bytes::There {
                piece,
                from,
                len: all,
            } => Bytes::There {
                piece,
                from,
                len: all.min(len),
            },
        }
    }

    /// Copies `len` of them, from `at` on; nothing if there are not so many.
    ///
    /// # Safety
    ///
    /// `to` must be valid for writes of `len` bytes, and not overlap memory that belongs to Rust.
    pub(crate) unsafe fn copy_raw(&self, at: usize, to: *mut u8, len: usize) {
        match self {
            Bytes::Here(bytes) => {
                if let Some(bytes) = bytes.get(at..).and_then(|bytes| bytes.get(..len)) {
                    // SAFETY: By the requirements of this function; `bytes` has that length.
                    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, len) };
                }
            }
            Bytes::There {
                piece,
                from,
                len: all,
            } => {
                let is_inside = at.checked_add(len).is_some_and(|end| end <= *all);
                if let (true, Some(start)) = (is_inside, from.checked_add(at)) {
                    // SAFETY: By the requirements of this function.
                    unsafe { piece.copy_raw(start, to, len) };
                }
            }
        }
    }
}

/// A closure that reads, behind what C knows of it.
#[repr(C)]
struct Reader<F> {
    head: bindings::kernel_ext_tcp_reader,
    take: F,
}

/// Calls the closure of a reader.
///
/// # Safety
///
/// `reader` must point to a `Reader<F>` that nobody else uses, `skb` to a socket buffer with `len`
/// bytes from `offset` on.
unsafe extern "C" fn take<F: FnMut(&Piece<'_>) -> usize>(
    reader: *mut bindings::kernel_ext_tcp_reader,
    skb: *mut bindings::sk_buff,
    offset: c_uint,
    len: usize,
) -> c_int {
    // SAFETY: By the requirements of this function.
    let reader = unsafe { &mut *reader.cast::<Reader<F>>() };
    // INVARIANT: By the requirements of this function; whoever reads has the lock.
    let piece = Piece {
        skb,
        offset,
        len,
        _skb: PhantomData,
    };
    let taken = (reader.take)(&piece).min(len);
    c_int::try_from(taken).unwrap_or(c_int::MAX)
}

/// What the callbacks of a socket find as their data: the beginning of an [`Inner`].
#[repr(C)]
struct Head {
    data_ready: unsafe fn(*const Head, &mut Arrived<'_>) -> bool,
    state_changed: unsafe fn(*const Head),
    /// What the socket called before. Written once, before any callback can run.
    before: Opaque<bindings::kernel_ext_sock_callbacks>,
}

/// The callbacks. They are no generic functions, so that they belong to the module of this crate, which
/// [`bindings::tcp_untap`] keeps if the socket may call them later on.
static CALLBACKS: bindings::kernel_ext_sock_callbacks = bindings::kernel_ext_sock_callbacks {
    data_ready: Some(data_ready),
    state_change: Some(state_change),
    error_report: Some(error_report),
};

/// Puts the callbacks into a socket, if it has none but its own.
///
/// # Safety
///
/// `head` must be valid until [`untap`] has returned, and what its functions expect.
unsafe fn tap(socket: &Socket, head: *mut Head) -> bool {
    // SAFETY: By the requirements of this function; `before` is written while no callback can run.
    unsafe {
        bindings::tcp_tap(
            socket.as_ptr(),
            head.cast(),
            &CALLBACKS,
            (*head).before.get(),
        )
    }
}

/// Takes the callbacks out again, after which none runs.
///
/// # Safety
///
/// [`tap`] has put them in with this `head`.
unsafe fn untap(socket: &Socket, head: *mut Head) {
    // SAFETY: By the requirements of this function.
    unsafe { bindings::tcp_untap(socket.as_ptr(), &CALLBACKS, (*head).before.get()) }
}

/// Calls `f` for the data of the callbacks of a socket, if they still have any.
///
/// # Safety
///
/// Called from one of [`CALLBACKS`], with the lock of the socket held.
unsafe fn with_head(sk: *mut bindings::sock, f: impl FnOnce(*const Head)) {
    // SAFETY: By the requirements of this function. The data is a `Head`, as `tap` has put it there,
    // and stays valid until `tap_leave`: taking callbacks out waits for that.
    unsafe {
        let head = bindings::tap_enter(sk).cast::<Head>();
        if !head.is_null() {
            f(head);
        }
        bindings::tap_leave(sk);
    }
}

/// What the socket calls as `sk_data_ready`.
///
/// # Safety
///
/// To be called by a socket into which [`tap`] has put it, with the lock of the socket held.
unsafe extern "C" fn data_ready(sk: *mut bindings::sock) {
    // SAFETY: By the requirements of this function. `before` was written when this was installed.
    unsafe {
        with_head(sk, |head| {
            let mut arrived = Arrived {
                sk,
                _lock: PhantomData,
            };
            let is_done = bindings::tcp_is_plain(sk) && ((*head).data_ready)(head, &mut arrived);
            if let (false, Some(before)) = (is_done, (*(*head).before.get()).data_ready) {
                before(sk);
            }
        })
    }
}

/// What the socket calls as `sk_state_change`.
///
/// # Safety
///
/// As for [`data_ready`].
unsafe extern "C" fn state_change(sk: *mut bindings::sock) {
    // SAFETY: As for `data_ready`.
    unsafe {
        with_head(sk, |head| {
            ((*head).state_changed)(head);
            if let Some(before) = (*(*head).before.get()).state_change {
                before(sk);
            }
        })
    }
}

/// What the socket calls as `sk_error_report`.
///
/// # Safety
///
/// As for [`data_ready`].
unsafe extern "C" fn error_report(sk: *mut bindings::sock) {
    // SAFETY: As for `data_ready`.
    unsafe {
        with_head(sk, |head| {
            ((*head).state_changed)(head);
            if let Some(before) = (*(*head).before.get()).error_report {
                before(sk);
            }
        })
    }
}

/// A receiver in a TCP socket. Dropping it takes it out, after which it is not called any more.
///
/// # Invariants
///
/// `inner` is from [`KBox::into_raw`] and belongs to this object; [`tap`] has put its head into its
/// socket.
pub struct Tap<R: Receiver> {
    inner: NonNull<Inner<R>>,
}

#[repr(C)]
struct Inner<R: Receiver> {
    head: Head,
    socket: ARef<Socket>,
    receiver: R,
    /// Used with the lock of the socket only.
    state: UnsafeCell<R::State>,
}

// SAFETY: A socket may be used by any thread, as may the receiver; the state is used by one after
// the other.
unsafe impl<R: Receiver> Send for Tap<R> {}
// SAFETY: As above: through a shared reference the state is used with the lock of the socket only.
unsafe impl<R: Receiver> Sync for Tap<R> {}

impl<R: Receiver> Inner<R> {
    /// # Safety
    ///
    /// `head` must be that of an `Inner<R>`, and the lock of its socket be held.
    unsafe fn data_ready(head: *const Head, arrived: &mut Arrived<'_>) -> bool {
        // SAFETY: By the requirements of this function; nobody else uses the state.
        unsafe {
            let inner = &*head.cast::<Self>();
            inner.receiver.data_ready(&mut *inner.state.get(), arrived)
        }
    }

    /// # Safety
    ///
    /// As [`Self::data_ready`].
    unsafe fn state_changed(head: *const Head) {
        // SAFETY: As above.
        unsafe {
            let inner = &*head.cast::<Self>();
            inner.receiver.state_changed(&mut *inner.state.get());
        }
    }
}

impl<R: Receiver> Tap<R> {
    /// Puts a receiver into a socket, if it is one of TCP and has no callbacks but its own: with
    /// kernel TLS, for example, what arrives is not what the peer has sent. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn install(socket: ARef<Socket>, receiver: R, state: R::State) -> Result<Option<Self>> {
        if !socket.is_tcp() {
            return Ok(None);
        }
        let inner = KBox::into_raw(KBox::new(
            Inner {
                head: Head {
                    data_ready: Inner::<R>::data_ready,
                    state_changed: Inner::<R>::state_changed,
                    before: Opaque::uninit(),
                },
                socket,
                receiver,
                state: UnsafeCell::new(state),
            },
            GFP_KERNEL,
        )?);
        // SAFETY: `inner` is valid, and belongs to the object that takes it out before it frees it.
        if !unsafe { tap(&(*inner).socket, inner.cast()) } {
            // SAFETY: Nobody else has got to know of it.
            drop(unsafe { KBox::from_raw(inner) });
            return Ok(None);
        }
        // INVARIANT: As just done.
        // SAFETY: A `KBox` is never null.
        let inner = unsafe { NonNull::new_unchecked(inner) };
        Ok(Some(Self { inner }))
    }

    /// Calls `f` with the lock of the socket; meanwhile the receiver is not called. May sleep.
    pub fn with_lock<T>(&self, f: impl FnOnce(&mut R::State, &mut Arrived<'_>) -> T) -> T {
        // SAFETY: By the type invariant.
        let inner = unsafe { self.inner.as_ref() };
        let socket = inner.socket.as_ptr();
        // SAFETY: The socket is valid. With its lock nobody else uses the state, and `f` cannot keep
        // what it is given.
        unsafe {
            bindings::sock_lock(socket);
            let mut arrived = Arrived {
                sk: (*socket).sk,
                _lock: PhantomData,
            };
            let result = f(&mut *inner.state.get(), &mut arrived);
            bindings::sock_unlock(socket);
            result
        }
    }
}

impl<R: Receiver> Drop for Tap<R> {
    fn drop(&mut self) {
        let inner = self.inner.as_ptr();
        // SAFETY: By the type invariant; once it is out of the socket, nobody else uses `inner`.
        unsafe {
            untap(&(*inner).socket, inner.cast());
            drop(KBox::from_raw(inner));
        }
    }
}
