// SPDX-License-Identifier: GPL-2.0

//! Measures a USB/IP client through usbfs, against the null device of `usbip-bench-server`.
//!
//! For each case: round trips and bytes per second, and the CPU time all of it took, from the
//! kernel's own accounting. `--loopback` measures the same traffic over bare loopback TCP.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{bail, Result};
use clap::Parser;
use usbip_test_server::bench::{self, Case, Measured, CASES};
use usbip_test_server::cpu::Usage;
use usbip_test_server::usbfs::Device;

/// Benchmarks a USB/IP client.
#[derive(Parser)]
struct Arguments {
    /// The device's node; by default the first null device that is plugged in.
    #[arg(long)]
    node: Option<PathBuf>,
    /// Measure loopback TCP with the same message sizes instead of a device.
    #[arg(long, conflicts_with = "node")]
    loopback: bool,
    /// Seconds per case.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Only these cases (repeatable); see --list.
    #[arg(long = "case")]
    cases: Vec<String>,
    /// List the cases.
    #[arg(long)]
    list: bool,
    /// One JSON object per case instead of a table.
    #[arg(long)]
    json: bool,
    /// Text that goes into each JSON object as "label".
    #[arg(long, default_value = "")]
    label: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.list {
        CASES.iter().for_each(|case| println!("{}", case.name));
        return Ok(());
    }
    let cases = select(&arguments.cases)?;
    let span = Duration::from_secs_f64(arguments.seconds);
    let mut device = match (arguments.loopback, &arguments.node) {
        (true, _) => None,
        (false, Some(node)) => Some(Device::open(node)?),
        (false, None) => Some(Device::open(&bench::find_null_device()?)?),
    };
    if let Some(device) = &mut device {
        device.claim(0)?;
    }
    if !arguments.json {
        println!("{}", Measured::TITLE);
    }
    for case in cases {
        // One second at most to get queues, windows and clocks going.
        run(device.as_mut(), case, span.min(Duration::from_secs(1)) / 4)?;
        let before = Usage::now()?;
        let start = Instant::now();
        let urbs = run(device.as_mut(), case, span)?;
        let measured = Measured {
            case,
            urbs,
            elapsed: start.elapsed(),
            usage: Usage::now()?.since(&before),
        };
        match arguments.json {
            true => println!("{}", measured.json(&arguments.label)),
            false => println!("{measured}"),
        }
    }
    Ok(())
}

fn run(device: Option<&mut Device>, case: &Case, span: Duration) -> Result<u64> {
    match device {
        Some(device) => bench::run_usb(device, case, span),
        None => bench::run_loopback(case, span),
    }
}

fn select(names: &[String]) -> Result<Vec<&'static Case>> {
    if names.is_empty() {
        return Ok(CASES.iter().collect());
    }
    names
        .iter()
        .map(|name| match CASES.iter().find(|case| case.name == name) {
            Some(case) => Ok(case),
            None => bail!("no case {name:?}; see --list"),
        })
        .collect()
}
