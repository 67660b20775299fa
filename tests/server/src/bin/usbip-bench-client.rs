// SPDX-License-Identifier: GPL-2.0

//! Measures a USB device through usbfs: the null device of `usbip-bench-server`, or another one that
//! has a source and a sink; and, if the kernel's driver `usbtest` takes that, from inside the kernel.
//!
//! For each case: round trips and bytes per second, and the CPU time all of it took, from the
//! kernel's own accounting. `--loopback` measures the same traffic over bare loopback TCP, `--disk`
//! reads and overwrites the start of a disk.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{bail, Result};
use clap::Parser;
use usbip_test_server::bench::{self, Case, Endpoints, Measured};
use usbip_test_server::cpu::Meter;
use usbip_test_server::disk::{self, Disk};
use usbip_test_server::usbfs::Device;
use usbip_test_server::usbtest::Tested;

/// Measures a USB device.
#[derive(Parser)]
struct Arguments {
    /// The device's node; by default the first null device that is plugged in.
    #[arg(long)]
    node: Option<PathBuf>,
    /// Number of the bulk IN endpoint that gives as much as is asked for.
    #[arg(long = "in", default_value_t = Endpoints::NULL.incoming, value_parser = ENDPOINT)]
    incoming: u8,
    /// Number of the bulk OUT endpoint that takes whatever is sent.
    #[arg(long = "out", default_value_t = Endpoints::NULL.outgoing, value_parser = ENDPOINT)]
    outgoing: u8,
    /// Measure loopback TCP with the same message sizes instead of a device.
    #[arg(long, conflicts_with = "node")]
    loopback: bool,
    /// Measure a disk, past the page cache. What is at its start is lost.
    #[arg(long, conflicts_with_all = ["node", "loopback"])]
    disk: Option<PathBuf>,
    /// Seconds per case.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Only these cases (repeatable); see --list. By default all but those of the kernel.
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

const ENDPOINT: fn(&str) -> Result<u8> = |text| match text.parse()? {
    number @ 1..=15 => Ok(number),
    _ => bail!("no endpoint number"),
};

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let all: &'static [Case] = match arguments.disk {
        Some(_) => &disk::CASES,
        None => &bench::CASES,
    };
    if arguments.list {
        all.iter().for_each(|case| println!("{}", case.name));
        return Ok(());
    }
    let cases = select(all, &arguments.cases)?;
    let span = Duration::from_secs_f64(arguments.seconds);
    if !arguments.json {
        println!("{}", Measured::TITLE);
    }
    // Only one of a program and the kernel has the device at a time.
    for cases in cases.chunk_by(|one, next| one.by_kernel == next.by_kernel) {
        let mut target = Target::open(&arguments, cases[0].by_kernel)?;
        for case in cases {
            // One second at most to get queues, windows and clocks going.
            target.warm_up(case, span.min(Duration::from_secs(1)) / 4)?;
            let meter = Meter::start()?;
            let start = Instant::now();
            let urbs = target.run(case, span)?;
            let measured = Measured {
                case,
                urbs,
                elapsed: start.elapsed(),
                usage: meter.stop()?,
            };
            match arguments.json {
                true => println!("{}", measured.json(&arguments.label)),
                false => println!("{measured}"),
            }
        }
    }
    Ok(())
}

/// What is measured.
enum Target {
    Usb(Device, Endpoints),
    Kernel(Tested),
    Loopback,
    Disk(Disk),
}

impl Target {
    fn open(arguments: &Arguments, by_kernel: bool) -> Result<Self> {
        if let Some(disk) = &arguments.disk {
            return Ok(Self::Disk(Disk::open(disk)?));
        }
        if arguments.loopback {
            return Ok(Self::Loopback);
        }
        let node = match &arguments.node {
            Some(node) => node,
            None => &bench::find_null_device()?,
        };
        if by_kernel {
            return Ok(Self::Kernel(Tested::open(node)?));
        }
        let device = Device::open(node)?;
        device.claim(0)?;
        let endpoints = Endpoints {
            incoming: arguments.incoming,
            outgoing: arguments.outgoing,
        };
        Ok(Self::Usb(device, endpoints))
    }

    fn warm_up(&mut self, case: &Case, span: Duration) -> Result<()> {
        match self {
            Self::Kernel(tested) => tested.warm_up(case, span),
            _ => self.run(case, span).map(drop),
        }
    }

    fn run(&mut self, case: &Case, span: Duration) -> Result<u64> {
        match self {
            Self::Kernel(tested) => tested.run(case, span),
            Self::Usb(device, endpoints) => bench::run_usb(device, *endpoints, case, span),
            Self::Loopback => bench::run_loopback(case, span),
            Self::Disk(disk) => Ok(disk.run(case, span)?),
        }
    }
}

fn select(all: &'static [Case], names: &[String]) -> Result<Vec<&'static Case>> {
    if names.is_empty() {
        return Ok(all.iter().filter(|case| !case.by_kernel).collect());
    }
    names
        .iter()
        .map(|name| match all.iter().find(|case| case.name == name) {
            Some(case) => Ok(case),
            None => bail!("no case {name:?}; see --list"),
        })
        .collect()
}
