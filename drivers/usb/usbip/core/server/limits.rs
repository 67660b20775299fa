// SPDX-License-Identifier: GPL-2.0

//! What clients may take of a server's memory.

use kernel::sync::atomic::{Atomic, Relaxed};
use kernel_ext::mm;
use kernel_ext::prelude::*;
use usbip_protocol::ledger::server::Caps;

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
        check("client_timeout", timeout, 6, 86_400)?;
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
