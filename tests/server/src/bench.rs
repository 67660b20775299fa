// SPDX-License-Identifier: GPL-2.0

//! What is measured, and how.

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use usbip_protocol::wire::HEADER_LEN;

use crate::cpu::Usage;
use crate::deadline::Deadline;
use crate::models::null;
use crate::usbfs::{Device, Urb};

/// One way to load the client.
#[derive(Debug)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// Whether data comes in.
    pub incoming: bool,
    /// Bytes per URB.
    pub size: usize,
    /// URBs in flight.
    pub depth: usize,
    /// Whether the kernel's `usbtest` submits the URBs, instead of a program.
    pub by_kernel: bool,
}

const fn case(name: &'static str, incoming: bool, size: usize, depth: usize) -> Case {
    Case {
        name,
        incoming,
        size,
        depth,
        by_kernel: false,
    }
}

const fn by_kernel(name: &'static str, incoming: bool, size: usize, depth: usize) -> Case {
    Case {
        by_kernel: true,
        ..case(name, incoming, size, depth)
    }
}

/// Every case.
pub const CASES: [Case; 20] = [
    case("in-64-d1", true, 64, 1),
    case("in-64-d32", true, 64, 32),
    case("out-64-d1", false, 64, 1),
    case("out-64-d32", false, 64, 32),
    case("in-4k-d1", true, 4 << 10, 1),
    case("in-4k-d32", true, 4 << 10, 32),
    case("out-4k-d1", false, 4 << 10, 1),
    case("out-4k-d32", false, 4 << 10, 32),
    case("in-64k-d8", true, 64 << 10, 8),
    case("out-64k-d8", false, 64 << 10, 8),
    // Few enough for the 16 MiB that usbfs lends out by default.
    case("in-1m-d4", true, 1 << 20, 4),
    case("out-1m-d4", false, 1 << 20, 4),
    by_kernel("in-4k-d1-kernel", true, 4 << 10, 1),
    by_kernel("in-4k-d32-kernel", true, 4 << 10, 32),
    by_kernel("out-4k-d1-kernel", false, 4 << 10, 1),
    by_kernel("out-4k-d32-kernel", false, 4 << 10, 32),
    by_kernel("in-64k-d8-kernel", true, 64 << 10, 8),
    by_kernel("out-64k-d8-kernel", false, 64 << 10, 8),
    by_kernel("in-1m-d4-kernel", true, 1 << 20, 4),
    by_kernel("out-1m-d4-kernel", false, 1 << 20, 4),
];

/// What a case gave.
pub struct Measured {
    /// The case.
    pub case: &'static Case,
    /// URBs that finished.
    pub urbs: u64,
    /// Time it took.
    pub elapsed: Duration,
    /// CPU time it took.
    pub usage: Usage,
}

impl Measured {
    /// Heading for the lines of [`Display`](fmt::Display).
    pub const TITLE: &'static str =
        "case                   URBs/s      MiB/s  us/URB  CPU us/URB  CPU ms/MiB  busiest tasks";

    fn rate(&self) -> f64 {
        self.urbs as f64 / self.elapsed.as_secs_f64()
    }

    fn mib(&self) -> f64 {
        self.urbs as f64 * self.case.size as f64 / f64::from(1 << 20)
    }

    fn cpu_per_urb(&self) -> f64 {
        self.usage.system.as_secs_f64() * 1e6 / self.urbs as f64
    }

    fn cpu_per_mib(&self) -> f64 {
        self.usage.system.as_secs_f64() * 1e3 / self.mib()
    }

    /// Run time of all tasks in units of which a second has `units`, for each of `count`; JSON.
    fn run_per(&self, units: f64, count: f64) -> String {
        self.usage.run.map_or("null".to_owned(), |run| {
            format!("{:.3}", run.as_secs_f64() * units / count)
        })
    }

    /// One object, in one line.
    pub fn json(&self, label: &str) -> String {
        let tasks: Vec<String> = self
            .usage
            .tasks
            .iter()
            .map(|(name, time)| format!("{name:?}: {}", time.as_nanos()))
            .collect();
        format!(
            "{{\"label\": {label:?}, \"case\": {:?}, \"size\": {}, \"depth\": {}, \"urbs\": {}, \
             \"seconds\": {:.6}, \"urbs_per_s\": {:.1}, \"mib_per_s\": {:.3}, \
             \"cpu_us_per_urb\": {:.3}, \"cpu_ms_per_mib\": {:.3}, \"run_us_per_urb\": {}, \
             \"run_ms_per_mib\": {}, \"tasks_ns\": {{{}}}}}",
            self.case.name,
            self.case.size,
            self.case.depth,
            self.urbs,
            self.elapsed.as_secs_f64(),
            self.rate(),
            self.mib() / self.elapsed.as_secs_f64(),
            self.cpu_per_urb(),
            self.cpu_per_mib(),
            self.run_per(1e6, self.urbs as f64),
            self.run_per(1e3, self.mib()),
            tasks.join(", ")
        )
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tasks: Vec<_> = self.usage.tasks.iter().collect();
        tasks.sort_by_key(|&(_, time)| std::cmp::Reverse(time));
        let share = |time: &Duration| 100.0 * time.as_secs_f64() / self.elapsed.as_secs_f64();
        let busiest: Vec<String> = tasks
            .iter()
            .take(4)
            .map(|(name, time)| format!("{name} {:.0}%", share(time)))
            .collect();
        write!(
            f,
            "{:17} {:9.0} {:10.2} {:7.1} {:11.1} {:11.2}  {}",
            self.case.name,
            self.rate(),
            self.mib() / self.elapsed.as_secs_f64(),
            1e6 / self.rate(),
            self.cpu_per_urb(),
            self.cpu_per_mib(),
            busiest.join(", ")
        )
    }
}

/// The node of the first null device that is plugged in.
///
/// # Errors
///
/// There is none.
pub fn find_null_device() -> Result<PathBuf> {
    for entry in fs::read_dir("/sys/bus/usb/devices")? {
        let path = entry?.path();
        let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
        let configured = !read("bConfigurationValue").trim().is_empty();
        if read("idVendor").trim() == "1209" && read("idProduct").trim() == "0002" && configured {
            let number = |name| read(name).trim().parse::<u32>().context("no device number");
            let (bus, device) = (number("busnum")?, number("devnum")?);
            return Ok(format!("/dev/bus/usb/{bus:03}/{device:03}").into());
        }
    }
    bail!("no null device is plugged in")
}

/// Numbers of the bulk endpoints of a device that are measured.
#[derive(Clone, Copy, Debug)]
pub struct Endpoints {
    /// The one that gives as much as is asked for.
    pub incoming: u8,
    /// The one that takes whatever is sent.
    pub outgoing: u8,
}

impl Endpoints {
    /// Those of the null device.
    pub const NULL: Self = Self {
        incoming: null::IN & 0xf,
        outgoing: null::OUT,
    };

    fn address(self, case: &Case) -> u8 {
        match case.incoming {
            true => self.incoming | 0x80,
            false => self.outgoing,
        }
    }
}

/// Keeps `case.depth` URBs in flight for `span`; returns how many finished.
///
/// # Errors
///
/// A URB fails or is short.
pub fn run_usb(
    device: &mut Device,
    endpoints: Endpoints,
    case: &Case,
    span: Duration,
) -> Result<u64> {
    let endpoint = endpoints.address(case);
    let deadline = Deadline::after(span);
    for _ in 0..case.depth {
        device.submit(Urb::bulk(endpoint, vec![0; case.size]))?;
    }
    let mut finished = 0;
    let mut pending = case.depth;
    while pending > 0 {
        let urb = device.reap()?;
        ensure!(
            urb.status() == 0 && urb.actual() == case.size,
            "URB ended with status {} after {} bytes",
            urb.status(),
            urb.actual()
        );
        finished += 1;
        if !deadline.has_passed() {
            device.submit(urb)?;
        } else {
            pending -= 1;
        }
    }
    Ok(finished)
}

/// The same messages as [`run_usb`] over bare loopback TCP: a header and data one way, a header
/// and data the other.
///
/// # Errors
///
/// As of the sockets.
pub fn run_loopback(case: &Case, span: Duration) -> Result<u64> {
    let (request, reply) = if case.incoming {
        (HEADER_LEN, HEADER_LEN + case.size)
    } else {
        (HEADER_LEN + case.size, HEADER_LEN)
    };
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let server = thread::spawn(move || {
        let (mut input, output) = (vec![0; request], vec![0; reply]);
        while far.read_exact(&mut input).is_ok() && far.write_all(&output).is_ok() {}
    });
    // With one request under way the thread that reads may write as well, which saves a wake-up.
    // With more, full windows in both directions would stop both ends.
    if case.depth == 1 {
        let (mut finished, output, mut input) = (0, vec![0; request], vec![0; reply]);
        let deadline = Deadline::after(span);
        while !deadline.has_passed() {
            near.write_all(&output)?;
            near.read_exact(&mut input)?;
            finished += 1;
        }
        near.shutdown(std::net::Shutdown::Both)?;
        server.join().map_err(|_| anyhow::anyhow!("server died"))?;
        return Ok(finished);
    }
    let mut writer = near.try_clone()?;
    let (go, orders) = std::sync::mpsc::channel::<()>();
    let sender = thread::spawn(move || {
        let output = vec![0; request];
        while orders.recv().is_ok() && writer.write_all(&output).is_ok() {}
    });
    let deadline = Deadline::after(span);
    let mut input = vec![0; reply];
    let (mut finished, mut pending) = (0, case.depth);
    for _ in 0..case.depth {
        go.send(())?;
    }
    while pending > 0 {
        near.read_exact(&mut input)?;
        finished += 1;
        if !deadline.has_passed() {
            go.send(())?;
        } else {
            pending -= 1;
        }
    }
    drop(go);
    near.shutdown(std::net::Shutdown::Both)?;
    sender.join().map_err(|_| anyhow::anyhow!("sender died"))?;
    server.join().map_err(|_| anyhow::anyhow!("server died"))?;
    Ok(finished)
}
