// SPDX-License-Identifier: GPL-2.0

//! Which requests are on the wire, and who owns each: the state machines of both ends.
//!
//! A ledger is driven under the lock of its connection: every call is short, takes bounded time
//! and never allocates. Its storage is lent at construction. Requests are move-only values that
//! enter a ledger once and leave it exactly once. Outside the kernel a ledger of clonable requests
//! can be cloned and hashed, which is what exploring all its states takes.

use core::num::{NonZeroU32, NonZeroU64};

pub mod client;
mod list;
mod ring;
pub mod server;

pub use ring::{ring_len, RingSlot};

/// Names one request in a ledger from its entry to its end, and nothing ever after.
///
/// Slot number and generation: when the slot is used for another request the token is stale, and
/// every call made with it says so. A slot's generations repeat after 2^32 requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    index: u32,
    generation: NonZeroU32,
}

impl Token {
    /// As one number that is never zero, for instance to keep in `urb->hcpriv` of a 64-bit
    /// machine.
    pub const fn into_raw(self) -> NonZeroU64 {
        let high = (self.generation.get() as u64) << 32;
        match NonZeroU64::new(high | self.index as u64) {
            Some(raw) => raw,
            // The generation is not zero.
            None => NonZeroU64::MIN,
        }
    }

    /// The reverse of [`Token::into_raw`]; [`None`] if `raw` never was a token.
    pub const fn from_raw(raw: u64) -> Option<Self> {
        match NonZeroU32::new((raw >> 32) as u32) {
            Some(generation) => Some(Self {
                index: raw as u32,
                generation,
            }),
            None => None,
        }
    }
}

/// The storage lent to a ledger is unusable: empty, more slots than can be numbered, or a table
/// that is too small for the entries or whose length is not a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadStorage;

/// The generation that follows `generation`.
fn next_generation(generation: NonZeroU32) -> NonZeroU32 {
    NonZeroU32::new(generation.get().wrapping_add(1)).unwrap_or(NonZeroU32::MIN)
}
