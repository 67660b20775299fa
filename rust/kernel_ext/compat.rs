// SPDX-License-Identifier: GPL-2.0

//! Differences between the supported kernel versions, one name for each.
//!
//! Kbuild defines `kernel_ge_7_N` for "Linux 7.N or newer".

/// All errnos as constants. Linux 7.3 has them, 7.2 the base ones only.
#[cfg(kernel_ge_7_3)]
pub use kernel::error::code as error_code;

/// All errnos as constants. Linux 7.3 has them, 7.2 the base ones only.
#[cfg(not(kernel_ge_7_3))]
pub mod error_code {
    use kernel::error::Error;

    pub use kernel::error::code::*;

    /// Makes an [`Error`] of a positive C errno; the kernel's constructor for constants is private.
    const fn error(errno: u32) -> Error {
        assert!(errno >= 1 && errno <= crate::bindings::MAX_ERRNO);
        // SAFETY: `Error` is a struct whose single field is a `NonZeroI32`, and the value is a
        // valid negative errno, which is the invariant of the type.
        // CAST: At most `MAX_ERRNO`.
        unsafe { core::mem::transmute::<i32, Error>(-(errno as i32)) }
    }

    macro_rules! declare {
        ($($name:ident, $doc:literal;)*) => {
            $(
                #[doc = $doc]
                pub const $name: Error = error(crate::bindings::$name);
            )*
        };
    }

    declare! {
        EDEADLK, "Resource deadlock would occur.";
        ENOSYS, "Function not implemented.";
        EIDRM, "Identifier removed.";
        ENOSR, "Out of streams resources.";
        ENODATA, "No data available.";
        ETIME, "Timer expired.";
        ECOMM, "Communication error on send.";
        EPROTO, "Protocol error.";
        EBADMSG, "Not a data message.";
        EBADFD, "File descriptor in bad state.";
        EILSEQ, "Illegal byte sequence.";
        ENOTSOCK, "Socket operation on non-socket.";
        EPROTOTYPE, "Protocol wrong type for socket.";
        ENOPROTOOPT, "Protocol not available.";
        EPROTONOSUPPORT, "Protocol not supported.";
        ESOCKTNOSUPPORT, "Socket type not supported.";
        EOPNOTSUPP, "Operation not supported on transport endpoint.";
        EAFNOSUPPORT, "Address family not supported by protocol.";
        EADDRINUSE, "Address already in use.";
        EADDRNOTAVAIL, "Cannot assign requested address.";
        ENETDOWN, "Network is down.";
        ENETUNREACH, "Network is unreachable.";
        ENETRESET, "Network dropped connection because of reset.";
        ECONNABORTED, "Software caused connection abort.";
        ECONNRESET, "Connection reset by peer.";
        ENOBUFS, "No buffer space available.";
        EISCONN, "Transport endpoint is already connected.";
        ENOTCONN, "Transport endpoint is not connected.";
        ESHUTDOWN, "Cannot send after transport endpoint shutdown.";
        ECONNREFUSED, "Connection refused.";
        EHOSTDOWN, "Host is down.";
        EHOSTUNREACH, "No route to host.";
        EALREADY, "Operation already in progress.";
        EINPROGRESS, "Operation now in progress.";
        EBADR, "Invalid request descriptor.";
        EREMOTEIO, "Remote I/O error.";
        ENOMEDIUM, "No medium found.";
        ECANCELED, "Operation canceled.";
        EKEYEXPIRED, "Key has expired.";
    }
}
