// SPDX-License-Identifier: GPL-2.0

//! The socket that a user hands in for a connection.

use kernel::sync::aref::ARef;
use kernel_ext::net::socket::{Family, Socket, Type};
use kernel_ext::prelude::*;

/// Finds a socket of the running process that can carry a connection. Process context, may sleep.
///
/// # Errors
///
/// `EINVAL`: not an open descriptor, not a socket, not a stream, or of a family that is not known
/// to work. `ENOTCONN`: listening, not connected yet, or shut down already.
pub fn find(fd: i32) -> Result<ARef<Socket>> {
    let socket = Socket::from_fd(fd).map_err(|_| EINVAL)?;
    if socket.kind() != Type::Stream {
        return Err(EINVAL);
    }
    match socket.family() {
        Family::Inet | Family::Inet6 | Family::Unix | Family::Vsock => {}
        Family::Other(_) => return Err(EINVAL),
    }
    if !socket.is_connected() {
        return Err(ENOTCONN);
    }
    Ok(socket)
}
