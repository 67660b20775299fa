// SPDX-License-Identifier: GPL-2.0

//! The socket that a user hands in for a connection.

use kernel::fmt;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel_ext::net::socket::{Family, Socket, Type};
use kernel_ext::prelude::*;

/// The parameter `require_tls`: only connections that kernel TLS encrypts are taken.
pub static REQUIRE_TLS: Atomic<bool> = Atomic::new(false);

/// Why a descriptor cannot carry a connection.
#[derive(Clone, Copy)]
pub enum Unfit {
    /// It is not an open descriptor, not a socket, not a stream, or of a family that is not known
    /// to work.
    NoStream,
    /// It listens, is not connected yet, or was shut down already.
    NotConnected,
    /// It is not encrypted, see [`REQUIRE_TLS`].
    Plain,
}

impl From<Unfit> for Error {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::NoStream => EINVAL,
            Unfit::NotConnected => ENOTCONN,
            Unfit::Plain => EACCES,
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unfit::NoStream => "is no stream socket of a family that is supported",
            Unfit::NotConnected => "is not connected",
            Unfit::Plain => "is not encrypted by kernel TLS, which require_tls asks for",
        })
    }
}

/// Finds a socket of the running process that can carry a connection. Process context, may sleep.
///
/// # Errors
///
/// See [`Unfit`].
pub fn find(fd: i32) -> Result<ARef<Socket>, Unfit> {
    let socket = Socket::from_fd(fd).map_err(|_| Unfit::NoStream)?;
    if socket.kind() != Type::Stream {
        return Err(Unfit::NoStream);
    }
    match socket.family() {
        Family::Inet | Family::Inet6 | Family::Unix | Family::Vsock => {}
        Family::Other(_) => return Err(Unfit::NoStream),
    }
    if !socket.is_connected() {
        return Err(Unfit::NotConnected);
    }
    if REQUIRE_TLS.load(Relaxed) && !socket.is_tls() {
        return Err(Unfit::Plain);
    }
    Ok(socket)
}
