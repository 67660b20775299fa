// SPDX-License-Identifier: GPL-2.0

//! Exports made-up devices over TCP, or attaches them to the local client.

use std::fs;
use std::io::{self, BufRead, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use anyhow::{bail, Context, Result};
use clap::Parser;
use usbip_test_server::attach::{self, Transport};
use usbip_test_server::op::{self, Export, Exports};
use usbip_test_server::session::Bell;
use usbip_test_server::spec::{Handle, Spec, HELP};

/// A USB/IP server with made-up devices.
#[derive(Parser)]
#[command(after_help = format!("Devices:\n{HELP}\n\n\
    Control commands (one answer line each): type BUSID TEXT | waiting BUSID |\n\
    recorded BUSID PATH | clear BUSID | quit"))]
struct Arguments {
    /// Address to listen on; port 0 takes a free one. The address is printed.
    #[arg(long, default_value = "127.0.0.1:3240")]
    listen: String,
    /// Attach the devices to the local client instead of listening. Ports are printed.
    #[arg(long, value_parser = ["unix", "tcp"], num_args = 0..=1, default_missing_value = "unix")]
    attach: Option<String>,
    /// Take commands from standard input and end with it.
    #[arg(long)]
    control: bool,
    /// A device (repeatable). Bus identifiers are 1-1, 1-2, ... unless given.
    #[arg(long = "device", value_name = "KIND[,NAME=VALUE]...", required = true)]
    devices: Vec<Spec>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut exports = Vec::new();
    let mut handles = Vec::new();
    for (index, spec) in arguments.devices.iter().enumerate() {
        let number = u16::try_from(index + 1)?;
        let busid = spec
            .busid()
            .map_or_else(|| format!("1-{number}"), str::to_owned);
        let bell = Bell::default();
        let (model, handle) = spec.build(&bell)?;
        // The address 1 is the root hub's.
        let place = (1, number + 1);
        exports.push(Export::new(
            &busid,
            place,
            model,
            Some(bell),
            spec.style()?,
        )?);
        handles.push((busid, handle));
    }
    let exports: Exports = Arc::new(exports);
    let server = match arguments.attach.as_deref() {
        Some(kind) => attach_all(&exports, kind)?,
        None => listen(&arguments.listen, exports)?,
    };
    if arguments.control {
        return control(&handles);
    }
    server
        .join()
        .map_err(|_| anyhow::anyhow!("the server died"))?
}

type Server = thread::JoinHandle<Result<()>>;

fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn listen(address: &str, exports: Exports) -> Result<Server> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    say(&format!("listening on {}", listener.local_addr()?))?;
    Ok(thread::spawn(move || Ok(op::listen(&listener, &exports)?)))
}

fn attach_all(exports: &Exports, kind: &str) -> Result<Server> {
    let transport = match kind {
        "tcp" => Transport::Tcp,
        _ => Transport::Unix,
    };
    let mut sessions = Vec::new();
    for index in 0..exports.len() {
        let (theirs, ours) = attach::pair(transport)?;
        let export = &exports[index];
        let port = attach::attach(&theirs, export.devid(), export.speed())?;
        drop(theirs);
        say(&format!("attached {} to port {port}", export.busid()))?;
        let exports = Arc::clone(exports);
        sessions.push(thread::spawn(move || exports[index].serve(ours)));
    }
    Ok(thread::spawn(move || {
        for session in sessions {
            match session.join() {
                Ok(end) => eprintln!("{:?}", end?),
                Err(_) => bail!("a session died"),
            }
        }
        Ok(())
    }))
}

fn control(handles: &[(String, Handle)]) -> Result<()> {
    for line in io::stdin().lock().lines() {
        let line = line?;
        if line == "quit" {
            break;
        }
        match command(handles, &line) {
            Ok(answer) => say(&format!("ok {answer}"))?,
            Err(error) => say(&format!("error {error:#}"))?,
        }
    }
    Ok(())
}

fn command(handles: &[(String, Handle)], line: &str) -> Result<String> {
    let mut words = line.splitn(3, ' ');
    let verb = words.next().unwrap_or_default();
    let busid = words.next().context("which device?")?;
    let argument = words.next();
    let (_, handle) = handles
        .iter()
        .find(|(name, _)| name == busid)
        .with_context(|| format!("no device {busid}"))?;
    match (verb, handle, argument) {
        ("type", Handle::Keys(keys), Some(text)) => {
            keys.type_text(&text.replace("\\n", "\n"));
            Ok(String::new())
        }
        ("waiting", Handle::Keys(keys), None) => Ok(keys.waiting().to_string()),
        ("recorded", Handle::Recording(recording), Some(path)) => {
            let bytes = recording.bytes();
            fs::write(path, &bytes).with_context(|| path.to_owned())?;
            Ok(bytes.len().to_string())
        }
        ("clear", Handle::Recording(recording), None) => {
            recording.clear();
            Ok(String::new())
        }
        _ => bail!("{line:?} makes no sense"),
    }
}
