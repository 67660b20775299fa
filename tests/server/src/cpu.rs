// SPDX-License-Identifier: GPL-2.0

//! CPU time from the kernel's accounting.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// `USER_HZ`: the unit of `/proc/stat`. 100 on every architecture Linux runs USB on.
const USER_HZ: u64 = 100;

/// CPU time used between two moments.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Everything but idle and waiting for I/O, of all CPUs. Samples, taken at ticks: what a tick
    /// itself begins, as a timer, is over before the next one and hardly seen.
    pub system: Duration,
    /// Run time of all tasks, also of those that have ended, exact to the nanosecond; without
    /// interrupts that find a CPU idle. `None` where the kernel does not account it.
    pub run: Option<Duration>,
    /// Run time by the names of tasks, exact to the nanosecond; without interrupts. Empty where the
    /// kernel does not account it.
    pub tasks: BTreeMap<String, Duration>,
}

/// Run time of each task, by its number, with its name at the time.
type Tasks = BTreeMap<u32, (String, Duration)>;

/// Measures between two moments. What reading the tasks' times costs is in that of this task, but in
/// nothing else: it is done before the first and after the last look at the other figures.
pub struct Meter {
    system: Duration,
    run: Option<Duration>,
    tasks: Tasks,
}

impl Meter {
    /// From now.
    ///
    /// # Errors
    ///
    /// `/proc` is not what it should be.
    pub fn start() -> Result<Self> {
        let tasks = tasks();
        let run = run();
        let system = busy()?;
        Ok(Self { system, run, tasks })
    }

    /// To now. What has used less than 1 ms is left out, and so are tasks that have ended.
    ///
    /// # Errors
    ///
    /// `/proc` is not what it should be.
    pub fn stop(self) -> Result<Usage> {
        let system = busy()?;
        let run = run();
        Ok(Usage {
            system: system.saturating_sub(self.system),
            run: self.run.zip(run).map(|(old, new)| new.saturating_sub(old)),
            tasks: used(&self.tasks, tasks()),
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

fn run() -> Option<Duration> {
    // The run time of a task is added when it stops running: let this one do so.
    thread::sleep(Duration::from_millis(1));
    run_time(&fs::read_to_string("/proc/schedstat").ok()?)
}

/// The time that tasks have run on all CPUs.
fn run_time(schedstat: &str) -> Option<Duration> {
    let cpus = schedstat.lines().filter(|line| line.starts_with("cpu"));
    // Behind the name are six counters.
    let times: Option<Vec<u64>> = cpus
        .map(|line| line.split_ascii_whitespace().nth(7)?.parse().ok())
        .collect();
    let times = times.filter(|times| !times.is_empty())?;
    Some(Duration::from_nanos(times.iter().sum()))
}

/// What tasks have used, those with the same name together.
fn used(before: &Tasks, after: Tasks) -> BTreeMap<String, Duration> {
    let mut all: BTreeMap<String, Duration> = BTreeMap::new();
    for (number, (name, time)) in after {
        let old = before
            .get(&number)
            .map_or(Duration::ZERO, |(_, time)| *time);
        *all.entry(kind(&name).to_owned()).or_default() += time.saturating_sub(old);
    }
    all.retain(|_, time| *time >= Duration::from_millis(1));
    all
}

/// The name without what tells the tasks of a kind apart: their CPU, and of a worker its pool and
/// what it did last.
fn kind(name: &str) -> &str {
    match name.split_once('/') {
        Some((kind, rest)) if kind == "kworker" || rest.bytes().all(|b| b.is_ascii_digit()) => kind,
        _ => name,
    }
}

fn tasks() -> Tasks {
    let mut all = Tasks::new();
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let entries = |path: &str| {
        fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    };
    for process in entries("/proc") {
        if number(&process).is_none() {
            continue;
        }
        for task in entries(&format!("{}/task", process.display())) {
            let name = fs::read_to_string(task.join("comm"));
            let time = fs::read_to_string(task.join("schedstat"))
                .ok()
                .and_then(|text| text.split(' ').next()?.parse().ok())
                .map(Duration::from_nanos);
            if let (Some(number), Ok(name), Some(time)) = (number(&task), name, time) {
                all.insert(number, (name.trim_end().to_owned(), time));
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
    fn run_time_is_that_of_all_cpus() {
        let text = "version 17\ntimestamp 4\ncpu0 0 0 9 8 7 6 1000 5 4\ndomain0 MC 3 1 2\n\
                    cpu1 0 0 9 8 7 6 30 5 4\n";
        assert_eq!(run_time(text), Some(Duration::from_nanos(1030)));
        assert_eq!(run_time("cpu0 0 0 9\n"), None);
        assert_eq!(run_time("version 17\n"), None);
    }

    #[test]
    fn tasks_of_a_kind_count_together() {
        let tasks = |list: &[(u32, &str, u64)]| -> Tasks {
            list.iter()
                .map(|&(number, name, ms)| (number, (name.to_owned(), Duration::from_millis(ms))))
                .collect()
        };
        let before = tasks(&[
            (1, "ksoftirqd/0", 100),
            (2, "ksoftirqd/1", 50),
            (3, "kworker/u8:1-events", 500),
            (4, "stub_rx", 7),
        ]);
        let after = tasks(&[
            (1, "ksoftirqd/0", 110),
            (2, "ksoftirqd/1", 55),
            // A worker is called after what it did last.
            (3, "kworker/u8:1+sample_hcd", 520),
            (4, "stub_rx", 7),
            (5, "stub_rx", 3),
            (6, "irq/24-xhci", 2),
        ]);
        let all: Vec<(String, u128)> = used(&before, after)
            .into_iter()
            .map(|(name, time)| (name, time.as_millis()))
            .collect();
        let expected = [
            ("irq/24-xhci", 2),
            ("ksoftirqd", 15),
            ("kworker", 20),
            ("stub_rx", 3),
        ];
        assert_eq!(all, expected.map(|(name, ms)| (name.to_owned(), ms)));
    }

    #[test]
    fn work_shows() {
        let meter = Meter::start().unwrap();
        let accounted = !meter.tasks.is_empty();
        let end = std::time::Instant::now() + Duration::from_millis(50);
        while std::time::Instant::now() < end {
            std::hint::spin_loop();
        }
        let used = meter.stop().unwrap();
        // Where the kernel accounts tasks at all.
        assert!(!accounted || !used.tasks.is_empty());
    }
}
