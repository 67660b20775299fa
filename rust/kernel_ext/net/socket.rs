// SPDX-License-Identifier: GPL-2.0

//! Stream sockets that user space made and hands in by file descriptor.
//!
//! C header: [`include/linux/net.h`](srctree/include/linux/net.h)

pub use super::iov::{IoPage, IoSlice, IoSliceMut};
pub use super::peer::Peer;

use super::tls::{self, Control};
use crate::bindings;
use crate::errno::*;
use crate::time::Msecs;
use core::ptr::NonNull;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::aref::{ARef, AlwaysRefCounted};
use kernel::types::Opaque;

/// What a single send or receive takes at most, in bytes: the limit of `read(2)` and `write(2)`
/// (C: `MAX_RW_COUNT`), with the largest page size there is.
const MAX_BYTES: usize = 0x7fff_0000;

/// A socket. All methods may be called by several threads at once.
///
/// # Invariants
///
/// Always part of an open file, whose reference count is the socket's. `sk` is set, as it is
/// until the last reference to the file goes.
#[repr(transparent)]
pub struct Socket(Opaque<bindings::socket>);

// SAFETY: Sockets have their own locks and may be used and released by any thread.
unsafe impl Send for Socket {}
// SAFETY: As above.
unsafe impl Sync for Socket {}

// SAFETY: By the type invariant the count of the file keeps the socket alive.
unsafe impl AlwaysRefCounted for Socket {
    fn inc_ref(&self) {
        // SAFETY: By the type invariant `file` is set, and as there is a reference to `self` its
        // count is not 0.
        unsafe { bindings::get_file((*self.as_ptr()).file) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: By the requirements of this function the caller owns a reference to the file.
        unsafe { bindings::fput((*obj.cast::<bindings::socket>().as_ptr()).file) };
    }
}

/// The type of a socket, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `SOCK_STREAM`: a stream of bytes.
    Stream,
    /// Anything else.
    Other,
}

/// The address family of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `AF_INET`.
    Inet,
    /// `AF_INET6`.
    Inet6,
    /// `AF_UNIX`.
    Unix,
    /// `AF_VSOCK`.
    Vsock,
    /// Anything else, by its number.
    Other(u16),
}

/// Which direction to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Receiving.
    Receive,
    /// Sending.
    Send,
    /// Both.
    Both,
}

/// The outcome of receiving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many bytes; not 0 unless there was no room.
    Data(usize),
    /// The peer will send nothing more.
    Eof,
}

impl Socket {
    /// The socket behind a file descriptor of the running process.
    ///
    /// Process context of the process that handed the number in. C: `sockfd_lookup()`.
    ///
    /// # Errors
    ///
    /// `EBADF`, `ENOTSOCK`.
    pub fn from_fd(fd: i32) -> Result<ARef<Self>> {
        let mut error = 0;
        // SAFETY: `error` is valid for writes; any number will do for `fd`.
        let socket = unsafe { bindings::sockfd_lookup(fd, &mut error) };
        let Some(socket) = NonNull::new(socket) else {
            return Err(Error::from_errno(error));
        };
        // SAFETY: `sockfd_lookup()` took a reference, which is handed over. `Socket` is
        // `repr(transparent)`.
        let socket = unsafe { ARef::<Self>::from_raw(socket.cast()) };
        // SAFETY: The socket is valid.
        if unsafe { (*socket.as_ptr()).sk }.is_null() {
            return Err(ENOTSOCK);
        }
        // INVARIANT: It is part of a file, and `sk` was just seen.
        Ok(socket)
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::socket {
        self.0.get()
    }

    /// The type of the socket.
    pub fn kind(&self) -> Type {
        // SAFETY: By the type invariant; the type never changes.
        match u32::try_from(unsafe { (*self.as_ptr()).type_ }) {
            Ok(bindings::sock_type_SOCK_STREAM) => Type::Stream,
            _ => Type::Other,
        }
    }

    /// Its address family.
    pub fn family(&self) -> Family {
        // SAFETY: By the type invariant.
        let family = unsafe { bindings::sock_family(self.as_ptr()) };
        match u32::from(family) {
            bindings::AF_INET => Family::Inet,
            bindings::AF_INET6 => Family::Inet6,
            bindings::AF_UNIX => Family::Unix,
            bindings::AF_VSOCK => Family::Vsock,
            _ => Family::Other(family),
        }
    }

    /// Whether the connection stands and neither end has shut a direction down yet.
    ///
    /// For stream sockets of all families; false for one that listens or was never connected.
    pub fn is_connected(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::sock_is_connected(self.as_ptr()) }
    }

    /// Whether this is TCP, kernel TLS included. MPTCP is not: its options are different ones.
    pub fn is_tcp(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::sock_is_tcp(self.as_ptr()) }
    }

    /// Whether kernel TLS encrypts what is sent and decrypts what is received. May sleep.
    pub fn is_tls(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::sock_is_tls(self.as_ptr()) }
    }

    /// Whether both are the same end of the same connection, whatever descriptors they came from.
    pub fn same_sock(&self, other: &Socket) -> bool {
        // SAFETY: By the type invariant; `sk` does not change while there are references.
        unsafe { (*self.as_ptr()).sk == (*other.as_ptr()).sk }
    }

    /// Shuts one or both directions down, which ends every wait in [`Self::recv`] or
    /// [`Self::send`]. Any error means that it was down already. May sleep.
    pub fn shutdown(&self, how: How) {
        let how = match how {
            How::Receive => bindings::sock_shutdown_cmd_SHUT_RD,
            How::Send => bindings::sock_shutdown_cmd_SHUT_WR,
            How::Both => bindings::sock_shutdown_cmd_SHUT_RDWR,
        };
        // SAFETY: By the type invariant.
        unsafe { bindings::kernel_sock_shutdown(self.as_ptr(), how) };
    }

    /// Sends small segments at once (`TCP_NODELAY`). Does nothing unless [`Self::is_tcp`]. May
    /// sleep.
    pub fn set_tcp_nodelay(&self) {
        if self.is_tcp() {
            // SAFETY: By the type invariant, and it is a TCP socket.
            unsafe { bindings::tcp_set_nodelay(self.as_ptr()) };
        }
    }

    /// Switches keepalive on: probes after `idle` s of silence, every `interval` s, `count` times.
    ///
    /// A value that user space has set on this socket stays; one that it has not follows the
    /// system's default, which C keeps as 0 in the socket. Each is in the range of the respective
    /// `TCP_KEEP*` option, or ignored. Does nothing unless [`Self::is_tcp`]. May sleep.
    pub fn set_keepalive(&self, idle: u32, interval: u32, count: u32) {
        let value = |n: u32| c_int::try_from(n).unwrap_or(c_int::MAX);
        if self.is_tcp() {
            // SAFETY: By the type invariant, and it is a TCP socket.
            unsafe {
                bindings::tcp_set_keepalive(
                    self.as_ptr(),
                    value(idle),
                    value(interval),
                    value(count),
                )
            };
        }
    }

    /// Ends the connection when data stays unacknowledged for so long (`TCP_USER_TIMEOUT`), unless
    /// user space has set a value on this socket. Does nothing unless [`Self::is_tcp`]. May sleep.
    pub fn set_user_timeout(&self, timeout: Msecs) {
        let timeout = c_int::try_from(timeout).unwrap_or(c_int::MAX);
        if self.is_tcp() {
            // SAFETY: By the type invariant, and it is a TCP socket.
            unsafe { bindings::tcp_set_user_timeout(self.as_ptr(), timeout) };
        }
    }

    /// Makes allocations for this socket wait for no I/O, for when memory may be freed to what is
    /// at its other end. C: `sk_allocation`, `sk_use_task_frag`. Call it before sending or
    /// receiving.
    pub fn set_noio(&self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::sock_set_noio(self.as_ptr()) };
    }

    /// How long receiving waits before it fails with `EAGAIN`; `None`: for ever
    /// (`SO_RCVTIMEO`).
    pub fn recv_timeout(&self) -> Option<Msecs> {
        // SAFETY: By the type invariant.
        Msecs::try_from(unsafe { bindings::sock_rcvtimeo(self.as_ptr()) }).ok()
    }

    /// Sets how long receiving waits, at least a tick; see [`Self::recv_timeout`].
    pub fn set_recv_timeout(&self, timeout: Option<Msecs>) {
        // SAFETY: By the type invariant.
        unsafe { bindings::sock_set_rcvtimeo(self.as_ptr(), to_c(timeout)) };
    }

    /// How long sending waits for room before it fails with `EAGAIN`; `None`: for ever
    /// (`SO_SNDTIMEO`).
    pub fn send_timeout(&self) -> Option<Msecs> {
        // SAFETY: By the type invariant.
        Msecs::try_from(unsafe { bindings::sock_sndtimeo(self.as_ptr()) }).ok()
    }

    /// Sets how long sending waits, at least a tick; see [`Self::send_timeout`].
    pub fn set_send_timeout(&self, timeout: Option<Msecs>) {
        // SAFETY: By the type invariant.
        unsafe { bindings::sock_set_sndtimeo(self.as_ptr(), to_c(timeout)) };
    }

    /// How much memory what was sent takes that the peer has not taken or acknowledged, in bytes. It
    /// gets less as long as there is a peer that takes something, and nothing more is sent. Any context.
    pub fn unsent(&self) -> u32 {
        // SAFETY: By the type invariant.
        unsafe { bindings::sock_unsent(self.as_ptr()) }
    }

    /// The address of the other end.
    pub fn peer(&self) -> Peer {
        match self.family() {
            Family::Unix => return Peer::Unix,
            Family::Other(family) => return Peer::Other(family),
            Family::Inet | Family::Inet6 | Family::Vsock => {}
        }
        let mut addr = bindings::kernel_ext_peer_address::default();
        // SAFETY: By the type invariant; `addr` is valid for writes.
        if unsafe { bindings::sock_peer(self.as_ptr(), &mut addr) } < 0 {
            return Peer::Unknown;
        }
        match self.family() {
            Family::Inet => {
                let [a, b, c, d, ..] = addr.ip;
                Peer::Inet([a, b, c, d].into(), addr.port as u16)
            }
            Family::Inet6 => Peer::Inet6(addr.ip.into(), addr.port as u16),
            _ => Peer::Vsock(addr.cid, addr.port),
        }
    }

    /// Sends from `iov`, which may go out in part only; returns the number of bytes.
    ///
    /// `more` announces that something follows at once, which lets a partial segment wait. The
    /// memory was copied when this returns. Never raises SIGPIPE. May sleep.
    ///
    /// # Errors
    ///
    /// `EAGAIN`: the timeout ran out before a byte was taken. `EPIPE`: shut down. `ECONNRESET`,
    /// `ETIMEDOUT` and others that end the connection. `ERESTARTSYS` or `EINTR`: the thread is to
    /// stop.
    pub fn send(&self, iov: &mut [IoSlice<'_>], more: bool) -> Result<usize> {
        let len = total(iov.iter().map(IoSlice::len));
        if len == 0 {
            return Ok(0);
        }
        let mut msg = bindings::msghdr {
            msg_flags: bindings::MSG_NOSIGNAL | if more { bindings::MSG_MORE } else { 0 },
            ..Default::default()
        };
        // SAFETY: By the type invariant the socket is valid. `IoSlice` is a `repr(transparent)`
        // `kvec`, of which the slice holds `iov.len()`, all valid for reads; they are not written
        // to. The socket copies from the memory before it returns, as the flags do not ask it to
        // splice.
        let n = unsafe {
            bindings::kernel_sendmsg(
                self.as_ptr(),
                &mut msg,
                iov.as_mut_ptr().cast(),
                iov.len(),
                len,
            )
        };
        to_result(n)?;
        Ok(usize::try_from(n).unwrap_or(0))
    }

    /// As [`Self::send`], but the socket may keep references to the pages instead of a copy, until the
    /// peer has acknowledged the bytes or the socket is gone. What is written to the pages until
    /// then may be sent instead. May sleep. C: `MSG_SPLICE_PAGES`.
    ///
    /// # Errors
    ///
    /// As [`Self::send`].
    pub fn send_pages(&self, iov: &mut [IoPage<'_>], more: bool) -> Result<usize> {
        let len = total(iov.iter().map(IoPage::len));
        if len == 0 {
            return Ok(0);
        }
        let more = if more { bindings::MSG_MORE } else { 0 };
        let mut msg = bindings::msghdr {
            msg_flags: bindings::MSG_NOSIGNAL | bindings::MSG_SPLICE_PAGES | more,
            ..Default::default()
        };
        // SAFETY: By the type invariant the socket is valid. `IoPage` is a `repr(transparent)`
        // `bio_vec`, of which the slice holds `iov.len()`, all of counted pages; whoever keeps a page
        // takes a reference.
        let n = unsafe {
            bindings::iov_iter_bvec(
                &mut msg.msg_iter,
                bindings::ITER_SOURCE,
                iov.as_ptr().cast(),
                iov.len(),
                len,
            );
            bindings::sock_sendmsg(self.as_ptr(), &mut msg)
        };
        to_result(n)?;
        Ok(usize::try_from(n).unwrap_or(0))
    }

    /// Receives into `iov`, of which it may fill a part only.
    ///
    /// With `wait_all` it goes on until `iov` is full, the stream ends, the timeout runs out or an
    /// error happens, and reports what has arrived by then; otherwise until something is there.
    /// On a kernel TLS socket, records that are not data are taken care of: an alert that closes
    /// the stream is [`Received::Eof`], session tickets are ignored. May sleep.
    ///
    /// # Errors
    ///
    /// `EAGAIN`: the timeout ran out before a byte arrived. `ECONNRESET`, `ETIMEDOUT` and others
    /// that end the connection; `ECONNABORTED`: a TLS alert. `EKEYEXPIRED`: TLS, the peer has new
    /// keys and user space has not set them yet. `ERESTARTSYS` or `EINTR`: the thread is to stop.
    pub fn recv(&self, iov: &mut [IoSliceMut<'_>], wait_all: bool) -> Result<Received> {
        let len = total(iov.iter().map(IoSliceMut::len));
        if len == 0 {
            return Ok(Received::Data(0));
        }
        let flags = if wait_all { bindings::MSG_WAITALL } else { 0 };
        loop {
            let mut msg = bindings::msghdr::default();
            // SAFETY: By the type invariant the socket is valid. `IoSliceMut` is a
            // `repr(transparent)` `kvec`, of which the slice holds `iov.len()`, all valid for
            // writes; they themselves are not written to. There is no control buffer.
            let n = unsafe {
                bindings::kernel_recvmsg(
                    self.as_ptr(),
                    &mut msg,
                    iov.as_mut_ptr().cast(),
                    iov.len(),
                    len,
                    flags as c_int,
                )
            };
            match to_result(n) {
                Ok(()) if n == 0 => return Ok(Received::Eof),
                Ok(()) => return Ok(Received::Data(usize::try_from(n).unwrap_or(0))),
                // Without a control buffer TLS says so when a record comes that is not data, and
                // keeps the record (`tls_record_content_type()`).
                Err(error) if error == EIO && self.is_tcp() => {
                    match tls::take_control_record(self)? {
                        Control::Skip => {}
                        Control::Eof => return Ok(Received::Eof),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// A timeout as the helpers take it: -1 is for ever.
fn to_c(timeout: Option<Msecs>) -> c_long {
    timeout.map_or(-1, |ms| c_long::try_from(ms).unwrap_or(c_long::MAX))
}

/// The sum of lengths, at most what one call may take.
fn total(lengths: impl Iterator<Item = usize>) -> usize {
    lengths
        .fold(0, |sum: usize, len| sum.saturating_add(len))
        .min(MAX_BYTES)
}
