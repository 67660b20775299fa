// SPDX-License-Identifier: GPL-2.0

//! Attaching a device to a port.
//!
//! C counterpart: the second half of `attach_store()` in `vhci_sysfs.c`.

use crate::client::Client;
use crate::controller::Vhci;
use crate::hub::{Hub, Poll};
use crate::port::{new_ledger, Link, Port, Session};
use kernel::prelude::fmt;
use kernel::str::CString;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;
use kernel_ext::net::socket::{Family, Socket, Type};
use kernel_ext::prelude::*;
use usbip_core::connection::Connection;
use usbip_core::stats::Stats;
use usbip_protocol::speed::Speed;

/// Finds a socket that can carry a connection.
///
/// # Errors
///
/// `EINVAL`: not an open descriptor, not a socket, not a stream, or of a family that is not known
/// to work. `ENOTCONN`: listening, not connected yet, or shut down already.
fn find_socket(sockfd: u32) -> Result<ARef<Socket>> {
    let fd = i32::try_from(sockfd).map_err(|_| EINVAL)?;
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

/// Whether a connection of ours has this socket already.
fn is_in_use(vhci: &Vhci, socket: &Socket) -> bool {
    vhci.controllers()
        .iter()
        .flat_map(|vhc| vhc.ports())
        .any(|port| match &port.inner.lock().link {
            Link::Up(session) => session.connection.socket().same_sock(socket),
            _ => false,
        })
}

/// Attaches the device behind a socket to a port. May sleep.
///
/// # Errors
///
/// What [`find_socket`] says, which is checked first, as in C; `EBUSY` if the port is in use;
/// `EINVAL` if the socket is in use already or a thread could not be had; `ENOMEM`.
pub(crate) fn new_session(
    vhci: &Vhci,
    hub: &Arc<Hub>,
    port: &Arc<Port>,
    sockfd: u32,
    devid: u32,
    speed: Speed,
) -> Result {
    let socket = find_socket(sockfd).inspect_err(|error| {
        pr_err!(
            "port {}: descriptor {} is no connected stream socket, error {}\n",
            port.number,
            sockfd,
            error.to_errno()
        );
    })?;
    let _attaching = vhci.attaching.lock();
    if hub.handle().is_none() {
        return Err(EAGAIN);
    }
    if !matches!(port.inner.lock().link, Link::Free) {
        return Err(EBUSY);
    }
    if is_in_use(vhci, &socket) {
        pr_err!(
            "port {}: the socket of descriptor {} is attached already\n",
            port.number,
            sockfd
        );
        return Err(EINVAL);
    }
    let peer = socket.peer();
    let client = Client::new(port.clone(), peer, Poll::new(hub.clone()));
    let stats = Arc::new(Stats::new(), GFP_KERNEL)?;
    let statistics = KBox::pin_init(
        vhci.statistics.read_callback_file(
            &CString::try_from_fmt(fmt!("port{}", port.number))?,
            stats.clone(),
            &|stats: &Arc<Stats>, f| stats.show(f),
        ),
        GFP_KERNEL,
    )?;
    let connection = Connection::new(socket, client, stats, vhci.queue.clone())?;
    let session = Session {
        connection: connection.clone(),
        _statistics: statistics,
        ledger: new_ledger()?,
        devid,
        speed,
        sockfd,
    };
    port.plug(session).map_err(|_| EBUSY)?;
    if connection.start().is_err() {
        pr_err!("port {}: no memory for threads\n", port.number);
        port.unplug();
        return Err(EINVAL);
    }
    pr_info!(
        "port {}: attached device {}-{} of {}, speed {}\n",
        port.number,
        devid >> 16,
        devid & 0xffff,
        peer,
        speed.raw()
    );
    Poll::new(hub.clone()).poll();
    Ok(())
}
