// SPDX-License-Identifier: GPL-2.0

//! Finding a request by a number that the client chose: a hash table with chains.

use core::ops::DerefMut;

use crate::ledger::BadStorage;

/// No entry.
const NIL: u32 = u32::MAX;

/// One bucket, lent to a server ledger.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Bucket(u32);

impl Bucket {
    /// An empty bucket.
    pub const fn new() -> Self {
        Self(NIL)
    }
}

impl Default for Bucket {
    fn default() -> Self {
        Self::new()
    }
}

/// Number of [`Bucket`]s for a server ledger with `entries` entries: the next power of two. Fewer
/// do, any power of two from 2, at the cost of time.
pub fn bucket_len(entries: usize) -> Option<usize> {
    entries.max(2).checked_next_power_of_two()
}

/// An entry that can be in the table.
pub(super) trait Chained {
    fn key(&self) -> u32;
    fn chain(&mut self) -> &mut u32;
}

/// The table. All methods are used with the same slice of entries.
#[cfg_attr(not(MODULE), derive(Clone, Hash))]
pub(super) struct Table<B> {
    buckets: B,
    multiplier: u64,
    shift: u32,
}

impl<B: DerefMut<Target = [Bucket]>> Table<B> {
    pub(super) fn new(mut buckets: B, secret: u64) -> Result<Self, BadStorage> {
        if buckets.len() < 2 || !buckets.len().is_power_of_two() {
            return Err(BadStorage);
        }
        buckets.fill(Bucket::new());
        let shift = u64::BITS.saturating_sub(buckets.len().trailing_zeros());
        Ok(Self {
            buckets,
            multiplier: secret | 1,
            shift,
        })
    }

    /// Multiply-shift: two numbers chosen without knowledge of the multiplier share a bucket with
    /// a probability of at most two in the number of buckets.
    fn bucket(&mut self, key: u32) -> Option<&mut u32> {
        let hash = u64::from(key)
            .wrapping_mul(self.multiplier)
            .checked_shr(self.shift)?;
        self.buckets
            .get_mut(usize::try_from(hash).ok()?)
            .map(|bucket| &mut bucket.0)
    }

    /// The entry with this key.
    pub(super) fn find<N: Chained>(&mut self, nodes: &mut [N], key: u32) -> Option<u32> {
        let mut index = *self.bucket(key)?;
        loop {
            let node = nodes.get_mut(index as usize)?;
            if node.key() == key {
                return Some(index);
            }
            index = *node.chain();
        }
    }

    /// Adds the entry `index`, whose key is not in the table.
    pub(super) fn insert<N: Chained>(&mut self, nodes: &mut [N], index: u32) {
        let Some(node) = nodes.get_mut(index as usize) else {
            return;
        };
        if let Some(head) = self.bucket(node.key()) {
            *node.chain() = core::mem::replace(head, index);
        }
    }

    /// Takes out the entry `index`, which is in the table.
    pub(super) fn remove<N: Chained>(&mut self, nodes: &mut [N], index: u32) {
        let Some(node) = nodes.get_mut(index as usize) else {
            return;
        };
        let next = *node.chain();
        let Some(head) = self.bucket(node.key()) else {
            return;
        };
        if *head == index {
            *head = next;
            return;
        }
        let mut before = *head;
        while let Some(node) = nodes.get_mut(before as usize) {
            let link = node.chain();
            if *link == index {
                *link = next;
                return;
            }
            before = *link;
        }
    }
}
