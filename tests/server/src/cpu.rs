// SPDX-License-Identifier: GPL-2.0

//! CPU time from the kernel's accounting.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// `USER_HZ`: the unit of `/proc/stat`. 100 on every architecture Linux runs USB on.
const USER_HZ: u64 = 100;

/// CPU time used between two moments.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Everything but idle and waiting for I/O, of all CPUs. Ticks: coarse, but nothing is missing.
    pub system: Duration,
    /// Run time per task name, exact to the nanosecond; without interrupts. Empty where the kernel does
    /// not account it.
    pub tasks: BTreeMap<String, Duration>,
}

/// Measures between two moments. What reading the tasks' times costs is not in the result: it is
/// done before the first and after the last look at `/proc/stat`.
pub struct Meter {
    before: Usage,
}

impl Meter {
    /// From now.
    ///
    /// # Errors
    ///
    /// `/proc` is not what it should be.
    pub fn start() -> Result<Self> {
        let tasks = tasks();
        let system = busy()?;
        Ok(Self {
            before: Usage { system, tasks },
        })
    }

    /// To now. Tasks that have used less than 1 ms are left out.
    ///
    /// # Errors
    ///
    /// `/proc` is not what it should be.
    pub fn stop(self) -> Result<Usage> {
        let system = busy()?;
        let Usage {
            system: system_before,
            tasks: before,
        } = self.before;
        let tasks = tasks().into_iter().filter_map(|(name, time)| {
            let old = before.get(&name).copied().unwrap_or_default();
            let used = time.saturating_sub(old);
            (used >= Duration::from_millis(1)).then_some((name, used))
        });
        Ok(Usage {
            system: system.saturating_sub(system_before),
            tasks: tasks.collect(),
        })
    }
}

fn busy() -> Result<Duration> {
    system(&fs::read_to_string("/proc/stat")?)
}

fn system(stat: &str) -> Result<Duration> {
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line
        .split_ascii_whitespace()
        .skip(1)
        .map_while(|word| word.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal; guest time is in user already.
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else {
        anyhow::bail!("/proc/stat: {line:?}");
    };
    let busy = user + nice + system + irq + softirq;
    Ok(Duration::from_millis(busy * 1000 / USER_HZ))
}

/// Run time of every thread by name, those of the same name together.
fn tasks() -> BTreeMap<String, Duration> {
    let mut all: BTreeMap<String, Duration> = BTreeMap::new();
    let entries = |path: &str| {
        fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    };
    for process in entries("/proc") {
        let number = process.file_name().and_then(|name| name.to_str());
        if !number.is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit())) {
            continue;
        }
        for task in entries(&format!("{}/task", process.display())) {
            let name = fs::read_to_string(task.join("comm"));
            let time = fs::read_to_string(task.join("schedstat"))
                .ok()
                .and_then(|text| text.split(' ').next()?.parse().ok())
                .map(Duration::from_nanos);
            if let (Ok(name), Some(time)) = (name, time) {
                *all.entry(name.trim_end().to_owned()).or_default() += time;
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_does_not_count() {
        let stat = "cpu  1 2 3 1000 500 4 5 6 0 0\ncpu0 1\n";
        assert_eq!(system(stat).unwrap(), Duration::from_millis(150));
        assert!(system("cpu  1 2\n").is_err());
    }

    #[test]
    fn work_shows() {
        let meter = Meter::start().unwrap();
        let accounted = !meter.before.tasks.is_empty();
        let end = std::time::Instant::now() + Duration::from_millis(50);
        while std::time::Instant::now() < end {
            std::hint::spin_loop();
        }
        let used = meter.stop().unwrap();
        // Where the kernel accounts tasks at all.
        assert!(!accounted || !used.tasks.is_empty());
    }
}
