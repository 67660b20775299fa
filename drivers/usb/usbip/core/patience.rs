// SPDX-License-Identifier: GPL-2.0

//! How long a peer is waited for.

use core::ops::RangeInclusive;
use kernel_ext::time::Msecs;

/// How soon a peer that has vanished is given up.
#[derive(Clone, Copy)]
pub struct Patience {
    /// How long a peer may stop in the middle of a PDU, or take nothing of what is sent to it.
    /// Also what `TCP_USER_TIMEOUT` is set to.
    pub(crate) stall: Msecs,
    /// TCP keepalive: idle time and interval (s), where the user left the system's defaults.
    pub(crate) idle: u32,
    pub(crate) interval: u32,
}

/// Probes of TCP keepalive that may stay without an answer. TCP goes by the user timeout where there
/// is one, and ends a connection with the first probe after that; this is what `ss` shows.
pub(crate) const PROBES: u32 = 3;

impl Patience {
    /// The least and the most, in seconds. The system's default for a peer whose power was cut while
    /// nothing was going on is 2 h.
    pub const RANGE: RangeInclusive<u32> = 6..=86_400;

    /// So many seconds, or the bound of [`Self::RANGE`] that is next to it.
    pub fn seconds(seconds: u32) -> Self {
        let seconds = seconds.clamp(*Self::RANGE.start(), *Self::RANGE.end());
        Self {
            stall: seconds * 1000,
            idle: seconds / 3,
            interval: seconds / 6,
        }
    }
}
