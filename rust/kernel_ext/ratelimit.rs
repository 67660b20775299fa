// SPDX-License-Identifier: GPL-2.0

//! Log lines that somebody else can provoke, at a limited rate.
//!
//! C header: [`include/linux/ratelimit.h`](srctree/include/linux/ratelimit.h)

use crate::time;
use kernel::sync::atomic::{Atomic, Relaxed};

/// Lets so many lines pass in each interval of [`Self::INTERVAL_MS`].
///
/// Two CPUs that begin an interval at the same time may let a few lines more pass. C: `struct
/// ratelimit_state`, with its defaults.
pub struct Ratelimit {
    /// When the interval began, in ms, plus 1; 0 before the first line.
    begin: Atomic<u64>,
    burst: u32,
    passed: Atomic<u32>,
    missed: Atomic<u32>,
}

impl Ratelimit {
    /// C: `DEFAULT_RATELIMIT_INTERVAL`.
    pub const INTERVAL_MS: u64 = 5000;
    /// C: `DEFAULT_RATELIMIT_BURST`.
    pub const BURST: u32 = 10;

    /// Lets `burst` lines pass in an interval.
    pub const fn new(burst: u32) -> Self {
        Self {
            begin: Atomic::new(0),
            burst,
            passed: Atomic::new(0),
            missed: Atomic::new(0),
        }
    }

    /// Asks for a line to pass. `None`: it is to be held back; else how many were in the interval
    /// that just ended, for the first line of a new one. Any context but NMI.
    pub fn check(&self) -> Option<u32> {
        let now = time::now_ms().wrapping_add(1);
        let begin = self.begin.load(Relaxed);
        let mut held_back = 0;
        if begin == 0 || now.wrapping_sub(begin) >= Self::INTERVAL_MS {
            self.begin.store(now, Relaxed);
            self.passed.store(0, Relaxed);
            held_back = self.missed.xchg(0, Relaxed);
        }
        if self.passed.fetch_add(1, Relaxed) < self.burst {
            return Some(held_back);
        }
        self.missed.add(1, Relaxed);
        None
    }
}

/// Prints with the given macro of the `pr_*!` family at a limited rate; each use has a limit of
/// its own, [`Ratelimit::BURST`] unless another is given.
#[macro_export]
macro_rules! pr_ratelimited {
    (burst $burst:expr, $print:path, $($arg:tt)+) => {{
        static LIMIT: $crate::ratelimit::Ratelimit = $crate::ratelimit::Ratelimit::new($burst);
        if let Some(held_back) = LIMIT.check() {
            if held_back > 0 {
                $print!("{} similar messages held back\n", held_back);
            }
            $print!($($arg)+);
        }
    }};
    ($print:path, $($arg:tt)+) => {
        $crate::pr_ratelimited!(burst $crate::ratelimit::Ratelimit::BURST, $print, $($arg)+)
    };
}

/// [`pr_err!`](kernel::pr_err) at a limited rate.
#[macro_export]
macro_rules! pr_err_ratelimited {
    ($($arg:tt)+) => { $crate::pr_ratelimited!(::kernel::pr_err, $($arg)+) };
}

/// [`pr_warn!`](kernel::pr_warn) at a limited rate.
#[macro_export]
macro_rules! pr_warn_ratelimited {
    ($($arg:tt)+) => { $crate::pr_ratelimited!(::kernel::pr_warn, $($arg)+) };
}

/// [`pr_info!`](kernel::pr_info) at a limited rate.
#[macro_export]
macro_rules! pr_info_ratelimited {
    ($($arg:tt)+) => { $crate::pr_ratelimited!(::kernel::pr_info, $($arg)+) };
}

/// Prints at debug level, at a limited rate.
///
/// Unlike [`pr_debug!`](kernel::pr_debug) in every build: for lines that have a switch of their
/// own.
#[macro_export]
macro_rules! pr_dbg_ratelimited {
    ($($arg:tt)+) => { $crate::pr_ratelimited!($crate::pr_dbg, $($arg)+) };
}

/// Prints at debug level in every build.
#[macro_export]
macro_rules! pr_dbg {
    ($($arg:tt)+) => {
        ::kernel::print_macro!(::kernel::print::format_strings::DEBUG, false, $($arg)+)
    };
}
