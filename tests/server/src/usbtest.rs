// SPDX-License-Identifier: GPL-2.0

//! Cases of the benchmark without a system call for each URB: the kernel's driver `usbtest` submits a
//! URB again where it is completed, so that a call of it is as long as a case.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::bench::Case;
use crate::usbfs::Device;

/// Tests of `usbtest`: URBs in flight that are written and read.
const WRITE: u32 = 27;
const READ: u32 = 28;

/// Iterations at a time. `usbtest` counts URBs in 32 bits, and has 128 in flight at most.
const MOST: u32 = u32::MAX / 128;

/// A device that `usbtest` has.
pub struct Tested {
    device: Device,
    /// How often in a second as many URBs finish as are in flight.
    rate: f64,
}

impl Tested {
    /// Opens a device and leaves it to `usbtest`.
    ///
    /// # Errors
    ///
    /// As of open(2), or `usbtest` is not loaded or does not know the device.
    pub fn open(node: &Path) -> Result<Self> {
        let device = Device::open(node)?;
        device.connect()?;
        Ok(Self { device, rate: 0.0 })
    }

    /// Runs a case for `span` at most, or once, and finds out how fast it goes.
    ///
    /// # Errors
    ///
    /// A URB fails or is short.
    pub fn warm_up(&mut self, case: &Case, span: Duration) -> Result<()> {
        self.rate = rate(span, |iterations| self.test(case, iterations))?;
        Ok(())
    }

    /// Runs the case that has warmed up for about `span`; returns how many URBs finished.
    ///
    /// # Errors
    ///
    /// A URB fails or is short.
    pub fn run(&self, case: &Case, span: Duration) -> Result<u64> {
        let iterations = fill(span, self.rate, |iterations| self.test(case, iterations))?;
        Ok(iterations * case.depth as u64)
    }

    /// Returns how long it took.
    fn test(&self, case: &Case, iterations: u32) -> Result<Duration> {
        let number = if case.incoming { READ } else { WRITE };
        let start = Instant::now();
        self.device
            .test(number, case.size as u32, case.depth as u32, iterations)
            .with_context(|| format!("{}: test {number} of usbtest", case.name))?;
        Ok(start.elapsed())
    }
}

/// Iterations in a second, by the last of runs of which each has twice as many as the one before.
/// Together they take `span` at most, unless the first one does not.
fn rate(span: Duration, mut run: impl FnMut(u32) -> Result<Duration>) -> Result<f64> {
    let mut iterations = 1;
    loop {
        let time = run(iterations)?;
        if time >= span / 4 {
            return Ok(f64::from(iterations) / time.as_secs_f64());
        }
        iterations *= 2;
    }
}

/// Iterations that take about `span`: in one run, unless that goes faster than `rate` says.
fn fill(
    span: Duration,
    mut rate: f64,
    mut run: impl FnMut(u32) -> Result<Duration>,
) -> Result<u64> {
    let (mut finished, mut spent) = (0, Duration::ZERO);
    while spent < span * 3 / 4 {
        let left = rate * (span - spent).as_secs_f64();
        let iterations = (left as u32).clamp(1, MOST);
        spent += run(iterations)?;
        finished += u64::from(iterations);
        rate = finished as f64 / spent.as_secs_f64();
    }
    Ok(finished)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rate that is found if an iteration takes `each`, and the time until then.
    fn found(span: Duration, each: Duration) -> (f64, Duration) {
        let mut spent = Duration::ZERO;
        let rate = rate(span, |iterations| {
            spent += each * iterations;
            Ok(each * iterations)
        });
        (rate.unwrap().round(), spent)
    }

    #[test]
    fn the_rate_is_found_in_time() {
        let span = Duration::from_millis(200);
        for us in [1, 10, 1000, 49_000, 50_000] {
            let (rate, spent) = found(span, Duration::from_micros(us));
            assert_eq!(rate, (1e6 / us as f64).round());
            assert!((span / 4..span).contains(&spent), "{us}: {spent:?}");
        }
        // It cannot take less than once.
        let each = Duration::from_millis(250);
        assert_eq!(found(span, each), (4.0, each));
    }

    /// The runs of `fill` by a wrong or right rate, if an iteration takes 1 ms.
    fn filled(rate: f64) -> (u64, Vec<u32>) {
        let mut runs = Vec::new();
        let finished = fill(Duration::from_millis(200), rate, |iterations| {
            runs.push(iterations);
            Ok(Duration::from_millis(iterations.into()))
        });
        (finished.unwrap(), runs)
    }

    #[test]
    fn the_time_is_filled() {
        assert_eq!(filled(1000.0), (200, vec![200]));
        assert_eq!(filled(1100.0), (220, vec![220]));
        assert_eq!(filled(800.0), (160, vec![160]));
        // Something was in the way while the rate was looked for.
        assert_eq!(filled(500.0), (200, vec![100, 100]));
        assert_eq!(filled(1.0), (200, vec![1, 199]));
        let slow = fill(Duration::from_millis(200), 0.5, |_| {
            Ok(Duration::from_secs(2))
        });
        assert_eq!(slow.unwrap(), 1);
    }

    #[test]
    fn an_error_ends_it() {
        let mut runs = 0;
        let result = rate(Duration::from_secs(1), |_| {
            runs += 1;
            anyhow::bail!("gone")
        });
        assert_eq!(
            (result.unwrap_err().to_string().as_str(), runs),
            ("gone", 1)
        );
    }
}
