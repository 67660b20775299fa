// SPDX-License-Identifier: GPL-2.0

//! CPU time from the kernel's accounting.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// `USER_HZ`: the unit of `/proc/stat`. 100 on every architecture Linux runs USB on.
const USER_HZ: u64 = 100;

/// CPU time used since boot, or between two moments.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Everything but idle and waiting for I/O, of all CPUs. Ticks: coarse, but nothing is missing.
    pub system: Duration,
    /// Run time per task name, exact to the nanosecond; without interrupts. Empty where the kernel does
    /// not account it.
    pub tasks: BTreeMap<String, Duration>,
}

impl Usage {
    /// Up to now.
    ///
    /// # Errors
    ///
    /// `/proc` is not what it should be.
    pub fn now() -> Result<Self> {
        Ok(Self {
            system: system(&fs::read_to_string("/proc/stat")?)?,
            tasks: tasks(),
        })
    }

    /// From `before` to this moment. Tasks that have used less than 1 ms are left out.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let tasks = self.tasks.iter().filter_map(|(name, &time)| {
            let old = before.tasks.get(name).copied().unwrap_or_default();
            let used = time.saturating_sub(old);
            (used >= Duration::from_millis(1)).then(|| (name.clone(), used))
        });
        Self {
            system: self.system.saturating_sub(before.system),
            tasks: tasks.collect(),
        }
    }
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
        let before = Usage::now().unwrap();
        let end = std::time::Instant::now() + Duration::from_millis(50);
        while std::time::Instant::now() < end {
            std::hint::spin_loop();
        }
        let used = Usage::now().unwrap().since(&before);
        // Where the kernel accounts tasks at all.
        assert!(before.tasks.is_empty() || !used.tasks.is_empty());
    }
}
