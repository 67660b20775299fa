// SPDX-License-Identifier: GPL-2.0

//! What clients may take of a server's memory.

use crate::connection::Patience;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel_ext::mm;
use kernel_ext::prelude::*;
use usbip_protocol::ledger::server::Caps;
use usbip_protocol::limits::{MAX_CONNECTION_BYTES, MAX_CONNECTION_URBS};

/// Bytes of buffers for all clients, by default: 256 MiB, or an eighth of the memory.
const TOTAL_BYTES: u64 = 256 << 20;

/// What the clients of this machine may take.
#[derive(Clone, Copy)]
pub struct Limits {
    /// For one client.
    pub caps: Caps,
    /// Bytes for all of them.
    pub total: u64,
}

impl Limits {
    /// Requests of one client, by default.
    // CAST: 4096.
    pub const URBS: u32 = MAX_CONNECTION_URBS as u32;
    /// MiB of their buffers, by default.
    // CAST: 32.
    pub const MIB: u32 = (MAX_CONNECTION_BYTES >> 20) as u32;

    /// From the parameters of a module: requests and MiB of a client, MiB of all clients (0: 256, or
    /// an eighth of the memory if that is less), and the time after which a client that has vanished
    /// is given up, in s. Process context.
    ///
    /// # Errors
    ///
    /// `EINVAL`, after a message that says which is out of range.
    pub fn new(urbs: u32, mib: u32, total_mib: u32, timeout: u32) -> Result<Self> {
        let check = |name: &str, value: u32, min: u32, max: u32| {
            if (min..=max).contains(&value) {
                return Ok(value);
            }
            pr_err!("{}={}: must be {} to {}\n", name, value, min, max);
            Err(EINVAL)
        };
        let urbs = check("connection_urbs", urbs, 16, 65536)?;
        let mib = check("connection_mib", mib, 1, 4096)?;
        let (least, most) = Patience::RANGE.into_inner();
        check("client_timeout", timeout, least, most)?;
        let total = match total_mib {
            0 => TOTAL_BYTES.min(mm::total_bytes() / 8),
            mib => u64::from(mib) << 20,
        };
        Ok(Self {
            caps: Caps {
                requests: urbs as usize,
                bytes: u64::from(mib) << 20,
            },
            total,
        })
    }
}

/// Bytes of buffers of all connections.
static CHARGED: Atomic<i64> = Atomic::new(0);

/// Bytes that a request has been charged with. Dropping it gives them back.
pub struct Charge(u32);

impl Charge {
    /// Charges `bytes`, if no more than `limit` are charged in all then. Any context.
    pub fn new(bytes: u32, limit: u64) -> Option<Self> {
        let charge = Self(bytes);
        // Dropping gives back what is too much.
        let before = CHARGED.fetch_add(bytes.into(), Relaxed);
        u64::try_from(before.saturating_add(bytes.into()))
            .is_ok_and(|sum| sum <= limit)
            .then_some(charge)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        CHARGED.add(-i64::from(self.0), Relaxed);
    }
}

/// The parameters of a server's module, `limits()`, which is what they say, and `patience()`.
#[macro_export]
macro_rules! server_parameters {
    () => {
        ::kernel_ext::param_uint!(
            connection_urbs,
            CONNECTION_URBS,
            0o444,
            "most requests of one client that wait for a reply, 16 to 65536 (default: 4096)"
        );
        ::kernel_ext::param_uint!(
            connection_mib,
            CONNECTION_MIB,
            0o444,
            "most MiB of buffers for one client, 1 to 4096 (default: 32)"
        );
        ::kernel_ext::param_uint!(
            total_mib,
            TOTAL_MIB,
            0o444,
            "most MiB of buffers for all clients (default: 256, or an eighth of the memory if that is less)"
        );
        ::kernel_ext::param_uint!(
            client_timeout,
            CLIENT_TIMEOUT,
            0o644,
            "seconds after which a client that has vanished loses its device, 6 to 86400 (default: 30)"
        );

        static CONNECTION_URBS: ::kernel::sync::atomic::Atomic<u32> =
            ::kernel::sync::atomic::Atomic::new($crate::server::Limits::URBS);
        static CONNECTION_MIB: ::kernel::sync::atomic::Atomic<u32> =
            ::kernel::sync::atomic::Atomic::new($crate::server::Limits::MIB);
        static TOTAL_MIB: ::kernel::sync::atomic::Atomic<u32> =
            ::kernel::sync::atomic::Atomic::new(0);
        static CLIENT_TIMEOUT: ::kernel::sync::atomic::Atomic<u32> =
            ::kernel::sync::atomic::Atomic::new(30);

        /// What clients may take, from the parameters.
        fn limits() -> ::kernel::error::Result<$crate::server::Limits> {
            use ::kernel::sync::atomic::Relaxed;
            $crate::server::Limits::new(
                CONNECTION_URBS.load(Relaxed),
                CONNECTION_MIB.load(Relaxed),
                TOTAL_MIB.load(Relaxed),
                CLIENT_TIMEOUT.load(Relaxed),
            )
        }

        /// How soon a client that has vanished is given up.
        pub(crate) fn patience() -> $crate::connection::Patience {
            let seconds = CLIENT_TIMEOUT.load(::kernel::sync::atomic::Relaxed);
            $crate::connection::Patience::seconds(seconds)
        }
    };
}
