// SPDX-License-Identifier: GPL-2.0

//! Sequence numbers of a client: handing them out and finding what they stand for.

use core::ops::DerefMut;

use super::BadStorage;
use crate::limits::MAX_TOMBSTONES;
use crate::wire::{Direction, UrbMeta};

/// What a sequence number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Slot {
    Free,
    /// The CMD_SUBMIT of an entry.
    Submit(u32),
    /// The CMD_UNLINK of an entry.
    Unlink(u32),
    /// A request that was given back although its reply may still come.
    Tombstone {
        direction: Direction,
        iso_packets: u16,
        length: u32,
    },
}

/// One slot of the table of sequence numbers, lent to a client ledger.
#[derive(Clone, Copy, Debug, Hash)]
pub struct RingSlot {
    seqnum: u32,
    slot: Slot,
}

impl RingSlot {
    /// An unused slot.
    pub const fn new() -> Self {
        Self {
            seqnum: 0,
            slot: Slot::Free,
        }
    }
}

impl Default for RingSlot {
    fn default() -> Self {
        Self::new()
    }
}

/// Number of [`RingSlot`]s that a client ledger with `entries` entries needs; [`None`] if that is
/// beyond what it can number.
///
/// An entry has at most two numbers in use, and there are [`MAX_TOMBSTONES`]. Twice that, so that
/// looking for a number whose slot is free takes two steps on average even when all are in use.
pub fn ring_len(entries: usize) -> Option<usize> {
    entries
        .checked_mul(2)?
        .checked_add(MAX_TOMBSTONES)?
        .checked_mul(2)?
        .checked_next_power_of_two()
}

/// The table: sequence number modulo length is the slot. Its length is a power of two, so that
/// this stays true when the numbers wrap.
#[cfg_attr(not(MODULE), derive(Clone, Hash))]
pub(super) struct Ring<R> {
    slots: R,
    mask: u32,
    last: u32,
    /// The sequence numbers that became tombstones, in a circle.
    tombstones: [u32; MAX_TOMBSTONES],
    /// Where the next one goes, and the oldest is.
    next_tombstone: usize,
}

impl<R: DerefMut<Target = [RingSlot]>> Ring<R> {
    pub(super) fn new(mut slots: R, entries: usize, last: u32) -> Result<Self, BadStorage> {
        let needed = ring_len(entries).ok_or(BadStorage)?;
        let len = u32::try_from(slots.len()).map_err(|_| BadStorage)?;
        if !len.is_power_of_two() || slots.len() < needed {
            return Err(BadStorage);
        }
        slots.fill(RingSlot::new());
        Ok(Self {
            slots,
            mask: len.wrapping_sub(1),
            last,
            tombstones: [0; MAX_TOMBSTONES],
            next_tombstone: 0,
        })
    }

    fn at(&mut self, seqnum: u32) -> Option<&mut RingSlot> {
        self.slots.get_mut((seqnum & self.mask) as usize)
    }

    /// What `seqnum` stands for.
    pub(super) fn get(&mut self, seqnum: u32) -> Slot {
        match self.at(seqnum) {
            Some(found) if found.seqnum == seqnum => found.slot,
            _ => Slot::Free,
        }
    }

    /// Takes the next number: above the last one, not zero, and with a free slot. [`None`] if
    /// there is none, which the size of the table rules out.
    pub(super) fn allocate(&mut self, slot: Slot) -> Option<u32> {
        let mut seqnum = self.last;
        for _ in 0..=self.slots.len() {
            seqnum = seqnum.wrapping_add(1);
            if seqnum == 0 {
                continue;
            }
            if let Some(free) = self.at(seqnum).filter(|at| at.slot == Slot::Free) {
                *free = RingSlot { seqnum, slot };
                self.last = seqnum;
                return Some(seqnum);
            }
        }
        None
    }

    /// Forgets `seqnum`.
    pub(super) fn release(&mut self, seqnum: u32) {
        if let Some(found) = self.at(seqnum).filter(|at| at.seqnum == seqnum) {
            *found = RingSlot::new();
        }
    }

    /// Makes the number of a request that was just released a tombstone, and drops the oldest one
    /// if there are too many.
    pub(super) fn bury(&mut self, seqnum: u32, meta: UrbMeta) {
        // No server accepts so many packets that they don't fit.
        let Ok(iso_packets) = u16::try_from(meta.iso_packets) else {
            return;
        };
        let slot = Slot::Tombstone {
            direction: meta.direction,
            iso_packets,
            length: meta.length,
        };
        match self.at(seqnum).filter(|at| at.slot == Slot::Free) {
            Some(free) => *free = RingSlot { seqnum, slot },
            None => return,
        }
        let at = self.next_tombstone;
        self.next_tombstone = at.wrapping_add(1) % MAX_TOMBSTONES;
        let Some(oldest) = self.tombstones.get_mut(at) else {
            return;
        };
        let oldest = core::mem::replace(oldest, seqnum);
        self.drop_tombstone(oldest);
    }

    fn drop_tombstone(&mut self, seqnum: u32) {
        // Its reply may have come, and the number may be in use again.
        if matches!(self.get(seqnum), Slot::Tombstone { .. }) {
            self.release(seqnum);
        }
    }

    /// Forgets all tombstones.
    pub(super) fn clear_tombstones(&mut self) {
        for at in 0..MAX_TOMBSTONES {
            if let Some(seqnum) = self.tombstones.get_mut(at).map(core::mem::take) {
                self.drop_tombstone(seqnum);
            }
        }
    }
}
