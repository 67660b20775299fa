// SPDX-License-Identifier: GPL-2.0

//! Attaching to the local client without a network: one end of a socket pair goes into vhci.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{bail, Context, Result};
use usbip_protocol::speed::{PortStatus, Speed};

const VHCI: &str = "/sys/devices/platform/vhci_hcd.0";

/// Kind of the socket pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// AF_UNIX.
    Unix,
    /// TCP over loopback, without Nagle.
    Tcp,
}

/// Two connected stream sockets.
///
/// # Errors
///
/// As of the system calls.
pub fn pair(transport: Transport) -> Result<(OwnedFd, OwnedFd)> {
    Ok(match transport {
        Transport::Unix => {
            let (one, other) = UnixStream::pair()?;
            (one.into(), other.into())
        }
        Transport::Tcp => {
            let listener = TcpListener::bind(("127.0.0.1", 0))?;
            let one = TcpStream::connect(listener.local_addr()?)?;
            let (other, _) = listener.accept()?;
            one.set_nodelay(true)?;
            other.set_nodelay(true)?;
            (one.into(), other.into())
        }
    })
}

/// One line of the client's status files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Whether it is on a USB 3 hub.
    pub superspeed: bool,
    /// Global number.
    pub number: u32,
    /// State, as a number.
    pub state: u32,
    /// Name of the device, while the state is [`PortStatus::PortUsed`].
    pub busid: String,
}

/// Reads all ports of the local client.
///
/// # Errors
///
/// There is no client, or it shows something else than ports.
pub fn ports() -> Result<Vec<Port>> {
    let mut ports = Vec::new();
    for number in 0.. {
        let name = match number {
            0 => "status".into(),
            n => format!("status.{n}"),
        };
        let path = Path::new(VHCI).join(name);
        if number > 0 && !path.exists() {
            break;
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        for line in text.lines().skip(1) {
            ports.push(parse(line).with_context(|| format!("status line {line:?}"))?);
        }
    }
    Ok(ports)
}

fn parse(line: &str) -> Option<Port> {
    let mut words = line.split_ascii_whitespace();
    let superspeed = match words.next()? {
        "hs" => false,
        "ss" => true,
        _ => return None,
    };
    let number = words.next()?.parse().ok()?;
    let state = words.next()?.parse().ok()?;
    Some(Port {
        superspeed,
        number,
        state,
        busid: words.nth(3)?.into(),
    })
}

/// Gives a connected socket to the first free port for `speed`; returns the port's number.
///
/// # Errors
///
/// No port is free, or the client refuses.
pub fn attach(socket: &OwnedFd, devid: u32, speed: u32) -> Result<u32> {
    let superspeed = Speed::from_raw(speed).is_some_and(Speed::is_super);
    loop {
        let free = ports()?
            .into_iter()
            .find(|port| port.superspeed == superspeed && port.state == PortStatus::PortFree.raw());
        let Some(port) = free else {
            bail!("no free port");
        };
        let line = format!("{} {} {devid} {speed}", port.number, socket.as_raw_fd());
        let mut file = OpenOptions::new()
            .write(true)
            .open(Path::new(VHCI).join("attach"))?;
        match file.write_all(line.as_bytes()) {
            Ok(()) => return Ok(port.number),
            // Somebody was faster: look again.
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {}
            Err(error) => return Err(error).context("attach"),
        }
    }
}

/// Takes whatever is on a port off it.
///
/// # Errors
///
/// The port is free already.
pub fn detach(port: u32) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .open(Path::new(VHCI).join("detach"))?;
    Ok(file.write_all(port.to_string().as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        let port = parse("ss  0010 006 006 00010002 000003 2-3").unwrap();
        assert!(port.superspeed);
        assert_eq!(
            (port.number, port.state, port.busid.as_str()),
            (10, 6, "2-3")
        );
        assert_eq!(parse("xx  0010 006 006 00010002 000003 2-3"), None);
        assert_eq!(parse("hs  0010"), None);
    }
}
