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
use kernel::sync::Arc;
use kernel_ext::net::socket::Socket;
use kernel_ext::prelude::*;
use usbip_core::connection::Connection;
use usbip_core::stats::Stats;
use usbip_protocol::speed::Speed;

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
/// What [`usbip_core::socket::find()`] says, which is checked first, as in C; `EBUSY` if the port is in use;
/// `EINVAL` if the socket is in use already or a thread could not be had; `ENOMEM`.
pub(crate) fn new_session(
    vhci: &Vhci,
    hub: &Arc<Hub>,
    port: &Arc<Port>,
    sockfd: u32,
    devid: u32,
    speed: Speed,
) -> Result {
    let fd = i32::try_from(sockfd).map_err(|_| EINVAL)?;
    let socket = usbip_core::socket::find(fd).inspect_err(|unfit| {
        pr_err!("port {}: descriptor {} {}\n", port.number, sockfd, unfit);
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
    let connection = Connection::new(
        socket,
        Ok(client),
        stats,
        vhci.queue.clone(),
        crate::patience(),
    )?;
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
        port.unplug(connection.side());
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
