// SPDX-License-Identifier: GPL-2.0

//! Differences between the supported kernel versions, one name for each.
//!
//! Kbuild defines `kernel_ge_7_N` for "Linux 7.N or newer".

/// The errnos that `kernel::error::code` lacks.
///
/// Linux 7.2 has the base errnos only, 7.3 all of them.
pub(crate) mod error_code {
    #[cfg(not(kernel_ge_7_3))]
    use kernel::error::Error;

    /// Makes an [`Error`] of a positive C errno; the kernel's constructor for constants is private.
    #[cfg(not(kernel_ge_7_3))]
    const fn error(errno: u32) -> Error {
        assert!(errno >= 1 && errno <= crate::bindings::MAX_ERRNO);
        // SAFETY: `Error` is a struct whose single field is a `NonZeroI32`, and the value is a
        // valid negative errno, which is the invariant of the type.
        // CAST: At most `MAX_ERRNO`.
        unsafe { core::mem::transmute::<i32, Error>(-(errno as i32)) }
    }

    #[cfg(not(kernel_ge_7_3))]
    macro_rules! declare {
        ($($name:ident, $doc:literal;)*) => {
            $(
                #[doc = $doc]
                pub const $name: Error = error(crate::bindings::$name);
            )*
        };
    }

    #[cfg(not(kernel_ge_7_3))]
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
        EREMOTEIO, "Remote I/O error.";
        ENOMEDIUM, "No medium found.";
        ECANCELED, "Operation canceled.";
        EKEYEXPIRED, "Key has expired.";
    }
}
