// SPDX-License-Identifier: GPL-2.0

//! Doubly linked lists through the slots of a slice, by slot number.

/// No slot.
const NIL: u32 = u32::MAX;

/// The neighbours of a slot in the list it is on.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Links {
    prev: u32,
    next: u32,
}

impl Links {
    pub(super) const fn new() -> Self {
        Self {
            prev: NIL,
            next: NIL,
        }
    }
}

/// A slot that can be on a list. On one at a time.
pub(super) trait Linked {
    fn links(&mut self) -> &mut Links;
}

/// Head and tail of one list. All lists over the same slice are used with that slice only.
#[derive(Debug)]
#[cfg_attr(not(MODULE), derive(Clone, Hash))]
pub(super) struct List {
    head: u32,
    tail: u32,
}

fn links<N: Linked>(nodes: &mut [N], index: u32) -> Option<&mut Links> {
    nodes.get_mut(index as usize).map(Linked::links)
}

impl List {
    pub(super) const fn new() -> Self {
        Self {
            head: NIL,
            tail: NIL,
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.head == NIL
    }

    pub(super) const fn front(&self) -> Option<u32> {
        if self.head == NIL {
            None
        } else {
            Some(self.head)
        }
    }

    /// Appends `index`, which is on no list. Returns whether the list was empty.
    pub(super) fn push_back<N: Linked>(&mut self, nodes: &mut [N], index: u32) -> bool {
        let was_empty = self.is_empty();
        let Some(new) = links(nodes, index) else {
            return false;
        };
        *new = Links {
            prev: self.tail,
            next: NIL,
        };
        match links(nodes, self.tail) {
            Some(tail) => tail.next = index,
            None => self.head = index,
        }
        self.tail = index;
        was_empty
    }

    /// Takes out `index`, which is on this list.
    pub(super) fn remove<N: Linked>(&mut self, nodes: &mut [N], index: u32) {
        let Some(slot) = links(nodes, index) else {
            return;
        };
        let Links { prev, next } = core::mem::replace(slot, Links::new());
        match links(nodes, prev) {
            Some(before) => before.next = next,
            None => self.head = next,
        }
        match links(nodes, next) {
            Some(after) => after.prev = prev,
            None => self.tail = prev,
        }
    }

    pub(super) fn pop_front<N: Linked>(&mut self, nodes: &mut [N]) -> Option<u32> {
        let index = self.front()?;
        self.remove(nodes, index);
        Some(index)
    }
}
