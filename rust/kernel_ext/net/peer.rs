// SPDX-License-Identifier: GPL-2.0

//! Names of the other end of a socket.
//!
//! C header: [`include/linux/socket.h`](srctree/include/linux/socket.h)

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

/// The address of the other end of a socket, to be shown to people.
///
/// Displays as `192.0.2.1:3240`, `[2001:db8::1]:3240`, `unix`, `vsock 2:3240`, or `family 38`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// IPv4 address and port.
    Inet(Ipv4Addr, u16),
    /// IPv6 address and port.
    Inet6(Ipv6Addr, u16),
    /// A Unix domain socket, which as a rule has no name.
    Unix,
    /// Context id and port of a virtual machine socket.
    Vsock(u32, u32),
    /// The number of another address family.
    Other(u16),
    /// The socket is not connected any more.
    Unknown,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Inet(addr, port) => write!(f, "{addr}:{port}"),
            Peer::Inet6(addr, port) => write!(f, "[{addr}]:{port}"),
            Peer::Unix => f.write_str("unix"),
            Peer::Vsock(cid, port) => write!(f, "vsock {cid}:{port}"),
            Peer::Other(family) => write!(f, "family {family}"),
            Peer::Unknown => f.write_str("unknown"),
        }
    }
}

// What the macros of the `kernel` crate format.
impl kernel::fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
