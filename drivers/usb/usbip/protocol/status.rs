// SPDX-License-Identifier: GPL-2.0

//! Completion status.
//!
//! On the wire a status is zero or a negative errno in the numbering of Linux's generic
//! architectures, whatever the machine that sends it.

/// Errno values that occur as a status, positive as in `include/uapi/asm-generic/errno.h`.
#[allow(missing_docs)] // They are what errno(3) says.
pub mod errno {
    pub const ENOENT: i32 = 2;
    pub const ENOMEM: i32 = 12;
    pub const ENODEV: i32 = 19;
    pub const EXDEV: i32 = 18;
    pub const EINVAL: i32 = 22;
    pub const EPIPE: i32 = 32;
    pub const ETIME: i32 = 62;
    pub const ENOSR: i32 = 63;
    pub const ECOMM: i32 = 70;
    pub const EPROTO: i32 = 71;
    pub const EOVERFLOW: i32 = 75;
    pub const EILSEQ: i32 = 84;
    pub const EMSGSIZE: i32 = 90;
    pub const ECONNRESET: i32 = 104;
    pub const ESHUTDOWN: i32 = 108;
    pub const ETIMEDOUT: i32 = 110;
    pub const EINPROGRESS: i32 = 115;
    pub const EREMOTEIO: i32 = 121;
}
use errno::*;

/// A completion status that may be shown to a driver.
///
/// # Invariants
///
/// Zero or a negative errno that USB drivers expect
/// (`Documentation/driver-api/usb/error-codes.rst`); never `-EINPROGRESS`, which means that the
/// URB is still in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(i32);

/// What kind of status is expected from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The status of a URB.
    Urb {
        /// It is isochronous.
        iso: bool,
        /// It was asked to be unlinked.
        unlinking: bool,
    },
    /// The status of one isochronous packet.
    Packet,
}

impl Status {
    /// Success.
    pub const OK: Self = Self(0);
    /// `-EPROTO`, which also stands for every status that makes no sense.
    pub const PROTO: Self = Self(-EPROTO);
    /// `-ESHUTDOWN`: the connection is gone.
    pub const SHUTDOWN: Self = Self(-ESHUTDOWN);
    /// `-ECONNRESET`: unlinked.
    pub const CONNRESET: Self = Self(-ECONNRESET);

    /// Takes over a status from the peer.
    ///
    /// Only values that a host controller driver may report pass. Errno numbers of another
    /// operating system or architecture, positive numbers and `-EINPROGRESS` become `-EPROTO`;
    /// so do the unlink codes where nobody asked for an unlink, because drivers take them for
    /// their own.
    pub const fn from_peer(raw: i32, expect: Expect) -> Self {
        let Some(code) = raw.checked_neg() else {
            return Self::PROTO;
        };
        let ok = match code {
            0 | EPIPE | EPROTO | EILSEQ | EOVERFLOW | EREMOTEIO | ECOMM | ENOSR | ETIME
            | ETIMEDOUT | ENODEV | ESHUTDOWN => true,
            EXDEV => matches!(expect, Expect::Packet | Expect::Urb { iso: true, .. }),
            ECONNRESET | ENOENT => matches!(
                expect,
                Expect::Urb {
                    unlinking: true,
                    ..
                }
            ),
            _ => false,
        };
        if ok {
            Self(raw)
        } else {
            Self::PROTO
        }
    }

    /// Zero or the negative errno.
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// Whether this is success.
    pub const fn is_ok(self) -> bool {
        self.0 == 0
    }
}
