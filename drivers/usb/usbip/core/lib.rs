// SPDX-License-Identifier: GPL-2.0

//! What the USB/IP modules share: the connection engine, its statistics and the debug switch.
//!
//! A [`connection::Connection`] owns a stream socket and two threads: one parses what the peer
//! sends, one sends what the local side has queued. Which PDUs there are and what they do is
//! the business of a [`connection::Side`]; sockets, threads, buffering, liveness, teardown and
//! statistics exist here, once, for the client (vhci) and for both servers (host, vudc).
//!
//! C counterparts: `usbip_common.c`, `usbip_event.c` and the `*_rx.c`/`*_tx.c` loops.

#![deny(unsafe_code)]

pub mod connection;
pub mod debug;
mod direct;
pub mod down;
pub mod inbox;
pub mod outbox;
mod patience;
pub mod server;
mod side;
pub mod socket;
pub mod stats;

/// What this crate's log lines begin with.
#[allow(dead_code)]
const __LOG_PREFIX: &[u8] = b"usbip_core_rs\0";
