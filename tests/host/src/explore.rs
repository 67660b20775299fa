// SPDX-License-Identifier: GPL-2.0

//! Visits every state that a small world can reach.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::{Hash, Hasher};

/// A world of a few actors, each of which can take one of a few steps at any time.
pub trait World: Clone + Hash {
    /// One step of one actor.
    type Step: Copy + Debug;

    /// The steps that might be possible now.
    fn steps(&self) -> Vec<Self::Step>;

    /// Takes a step, and panics if something is wrong. Returns false if the step turns out not to
    /// be possible; the world is then thrown away.
    fn take(&mut self, step: Self::Step) -> bool;

    /// Checks what must hold in every state.
    fn check(&self);

    /// Checks what must hold where no step is possible.
    fn check_end(&self);
}

/// What [`explore`] saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Visited {
    /// Different states.
    pub states: usize,
    /// Steps from one to another.
    pub steps: usize,
    /// States without a step.
    pub ends: usize,
}

/// 128 bits over everything a world hashes: two states are the same if these are.
struct Fingerprint(u64, u64);

impl Hasher for Fingerprint {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.1 = (self.1.rotate_left(23) ^ word).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn fingerprint(world: &impl Hash) -> (u64, u64) {
    let mut hasher = Fingerprint(1, 2);
    world.hash(&mut hasher);
    (hasher.0, hasher.1)
}

/// Tells how the world came to where a check failed.
struct Path<S: Debug>(Vec<S>);

impl<S: Debug> Drop for Path<S> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("after {:?}", self.0);
        }
    }
}

/// Takes every step in every state that can be reached from `start`, depth first.
pub fn explore<W: World>(start: W) -> Visited {
    let mut seen = HashSet::new();
    let mut visited = Visited {
        states: 1,
        ..Visited::default()
    };
    let mut path = Path(Vec::new());
    seen.insert(fingerprint(&start));
    start.check();
    // The worlds on the path, each with the steps not yet tried and whether one was possible.
    let steps = start.steps();
    let mut stack = vec![(start, steps, false)];
    while let Some((world, steps, possible)) = stack.last_mut() {
        let Some(step) = steps.pop() else {
            if !*possible {
                visited.ends += 1;
                world.check_end();
            }
            stack.pop();
            path.0.pop();
            continue;
        };
        let mut next = world.clone();
        path.0.push(step);
        if !next.take(step) {
            path.0.pop();
            continue;
        }
        *possible = true;
        visited.steps += 1;
        if !seen.insert(fingerprint(&next)) {
            path.0.pop();
            continue;
        }
        visited.states += 1;
        next.check();
        let steps = next.steps();
        stack.push((next, steps, false));
    }
    visited
}
