// SPDX-License-Identifier: GPL-2.0

//! The null device behind the local client: `usbip-bench-client` measures through it.
//!
//! Prints the port and ends when the device is detached.

use std::io::{self, Write};

use anyhow::Result;
use clap::Parser;
use usbip_protocol::speed::Speed;
use usbip_test_server::attach::{self, Transport};
use usbip_test_server::models::null::Null;
use usbip_test_server::op::Export;
use usbip_test_server::session::Style;

/// Attaches a device that answers everything at once to the local client.
#[derive(Parser)]
struct Arguments {
    /// Kind of the socket pair.
    #[arg(long, value_parser = ["unix", "tcp"], default_value = "tcp")]
    transport: String,
    /// Speed number of the device, 2 to 6.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=6))]
    speed: u32,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let speed = Speed::from_raw(arguments.speed).unwrap_or(Speed::Super);
    let model = Box::new(Null::new(speed));
    let export = Export::new("1-1", (1, 2), model, None, Style::default())?;
    let transport = match arguments.transport.as_str() {
        "unix" => Transport::Unix,
        _ => Transport::Tcp,
    };
    let (theirs, ours) = attach::pair(transport)?;
    let port = attach::attach(&theirs, export.devid(), export.speed())?;
    drop(theirs);
    println!("attached to port {port}");
    io::stdout().flush()?;
    export.serve(ours)?;
    Ok(())
}
