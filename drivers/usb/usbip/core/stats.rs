// SPDX-License-Identifier: GPL-2.0

//! Counters of one connection, shown in debugfs.

use kernel::fmt;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel_ext::time;

/// Buckets of the round-trip histogram: bucket 0 is below 1 µs, bucket n from 2^(n-1) µs up to
/// below 2^n µs, the last is everything above.
pub const RTT_BUCKETS: usize = 24;

/// What happened on a connection since it was set up.
///
/// All counters are independent of each other: a reader may see a URB counted as sent before its
/// bytes are.
pub struct Stats {
    /// URBs that went over the wire.
    pub urbs: Atomic<i64>,
    /// URBs that came back with a status other than 0.
    pub errors: Atomic<i64>,
    /// URBs that are out at the peer.
    pub in_flight: Atomic<i64>,
    /// Unlinks that went over the wire.
    pub unlinks: Atomic<i64>,
    /// Bytes received, headers included.
    pub bytes_in: Atomic<i64>,
    /// Bytes sent, headers included.
    pub bytes_out: Atomic<i64>,
    /// Calls of `recvmsg` and `sendmsg`: how well batching works.
    pub receives: Atomic<i64>,
    /// See `receives`.
    pub sends: Atomic<i64>,
    /// Of the bytes received, those that were not copied.
    pub held: Atomic<i64>,
    /// PDUs that were handled without the rx thread.
    pub direct: Atomic<i64>,
    /// Of the calls of `sendmsg`, those without the tx thread.
    pub direct_sends: Atomic<i64>,
    /// When something came last, as [`time::now_ms`].
    heard: Atomic<u64>,
    rtt: [Atomic<i64>; RTT_BUCKETS],
}

impl Stats {
    /// All zero.
    pub const fn new() -> Self {
        Self {
            urbs: Atomic::new(0),
            errors: Atomic::new(0),
            in_flight: Atomic::new(0),
            unlinks: Atomic::new(0),
            bytes_in: Atomic::new(0),
            bytes_out: Atomic::new(0),
            receives: Atomic::new(0),
            sends: Atomic::new(0),
            held: Atomic::new(0),
            direct: Atomic::new(0),
            direct_sends: Atomic::new(0),
            heard: Atomic::new(0),
            rtt: [const { Atomic::new(0) }; RTT_BUCKETS],
        }
    }

    /// Counts one more. Any context.
    #[inline]
    pub fn count(counter: &Atomic<i64>) {
        counter.add(1, Relaxed);
    }

    /// Adds `n`. Any context.
    #[inline]
    pub fn add(counter: &Atomic<i64>, n: usize) {
        counter.add(i64::try_from(n).unwrap_or(i64::MAX), Relaxed);
    }

    /// Counts what a call of `recvmsg` has brought. rx thread.
    pub(crate) fn received(&self, bytes: usize) {
        Self::count(&self.receives);
        Self::add(&self.bytes_in, bytes);
        self.heard.store(time::now_ms(), Relaxed);
    }

    /// When something came last, as [`time::now_ms`]; 0 if nothing has yet. Any context.
    pub(crate) fn heard_ms(&self) -> u64 {
        self.heard.load(Relaxed)
    }

    /// Enters a round trip of `ns` nanoseconds into the histogram. Any context.
    #[inline]
    pub fn round_trip(&self, ns: u64) {
        let us = ns / 1000;
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        if let Some(counter) = self.rtt.get(bucket.min(RTT_BUCKETS - 1)) {
            counter.add(1, Relaxed);
        }
    }

    /// Writes all counters, one `name value` a line, then the histogram: `rtt_us <limit> count`
    /// for each bucket that is not empty, where the limit is exclusive.
    pub fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, counter) in [
            ("urbs", &self.urbs),
            ("errors", &self.errors),
            ("in_flight", &self.in_flight),
            ("unlinks", &self.unlinks),
            ("bytes_in", &self.bytes_in),
            ("bytes_out", &self.bytes_out),
            ("receives", &self.receives),
            ("sends", &self.sends),
            ("held", &self.held),
            ("direct", &self.direct),
            ("direct_sends", &self.direct_sends),
        ] {
            writeln!(f, "{name} {}", counter.load(Relaxed))?;
        }
        for (bucket, counter) in self.rtt.iter().enumerate() {
            let count = counter.load(Relaxed);
            if count == 0 {
                continue;
            }
            if bucket == RTT_BUCKETS - 1 {
                writeln!(f, "rtt_us inf {count}")?;
            } else {
                writeln!(f, "rtt_us {} {count}", 1u64 << bucket)?;
            }
        }
        Ok(())
    }
}

/// What happened, in a few words for the log.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "URBs: {}, errors: {}, unlinks: {}, bytes in: {}, out: {}",
            self.urbs.load(Relaxed),
            self.errors.load(Relaxed),
            self.unlinks.load(Relaxed),
            self.bytes_in.load(Relaxed),
            self.bytes_out.load(Relaxed),
        )
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self::new()
    }
}
