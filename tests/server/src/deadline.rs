// SPDX-License-Identifier: GPL-2.0

//! When a measurement is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// A moment in the future. To ask whether it has passed is no system call, as to ask the clock is in
/// User-Mode Linux, where one takes as long as what is measured.
#[derive(Debug)]
pub struct Deadline {
    passed: Arc<AtomicBool>,
}

impl Deadline {
    /// `span` from now. A thread sleeps until then, whether or not anybody still asks.
    pub fn after(span: Duration) -> Self {
        let passed = Arc::new(AtomicBool::new(false));
        let ours = Arc::clone(&passed);
        thread::spawn(move || {
            thread::sleep(span);
            ours.store(true, Ordering::Relaxed);
        });
        Self { passed }
    }

    /// Whether it has passed.
    pub fn has_passed(&self) -> bool {
        self.passed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn passes_when_it_is_due() {
        let (span, start) = (Duration::from_millis(50), Instant::now());
        let deadline = Deadline::after(span);
        assert!(!Deadline::after(Duration::from_secs(3600)).has_passed());
        while !deadline.has_passed() {
            thread::yield_now();
        }
        assert!(start.elapsed() >= span);
    }
}
