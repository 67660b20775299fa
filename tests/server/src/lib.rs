// SPDX-License-Identifier: GPL-2.0

//! A USB/IP server with made-up devices.
//!
//! A [`device::Model`] is a device as a host sees it: descriptors ([`descriptor`]) and what its
//! endpoints do. [`device::Device`] adds chapter 9 ([`chapter9`]) to it. A [`session::Session`] runs
//! the URB phase of one connection on any stream socket; [`op`] speaks the phase before it on a
//! listener, [`attach`] skips that phase and hands one end of a socket pair to the local client.
//!
//! The models are in [`models`]. Threads only; nothing here is asynchronous.

pub mod attach;
pub mod bench;
pub mod chapter9;
pub mod cpu;
pub mod deadline;
pub mod descriptor;
pub mod device;
pub mod disk;
pub mod models;
pub mod op;
pub mod session;
pub mod spec;
pub mod stream;
pub mod usbfs;
pub mod usbtest;
