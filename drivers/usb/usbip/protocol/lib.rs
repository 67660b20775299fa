// SPDX-License-Identifier: GPL-2.0

//! USB/IP: the wire format and the state machines of both ends, as pure code.
//!
//! Nothing in this crate knows the kernel, allocates, or can panic. The same files are compiled by
//! Kbuild for the modules and by cargo for host tests, fuzzing and userspace, so that what is
//! tested on the host is what runs in the kernel.
//!
//! - [`wire`]: the 48-byte headers of the URB phase and what follows them;
//! - [`iso`]: isochronous packet descriptors, compaction and expansion;
//! - [`flags`], [`status`], [`speed`]: the values that fields carry;
//! - [`op`]: the device list, import and export records that precede the URB phase;
//! - [`ledger`]: which URBs are on the wire, for the client and for the server;
//! - [`setup`]: the setup packet of a control request;
//! - [`transaction`]: how the two ends of a transfer meet on an endpoint;
//! - [`limits`]: every bound, with its source.
//!
//! C counterparts: `drivers/usb/usbip/usbip_common.{c,h}` for the format, the lists in
//! `vhci_{hcd,tx,rx}.c` and `stub_{tx,rx}.c` for the ledgers, `tools/usb/usbip/src/usbip_network.h`
//! for the op phase.

#![cfg_attr(not(MODULE), no_std)]
#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unreachable,
    clippy::unwrap_used
)]
#![warn(clippy::as_underscore, clippy::cast_lossless, clippy::ptr_as_ptr)]

pub mod flags;
pub mod iso;
pub mod ledger;
pub mod limits;
pub mod op;
pub mod setup;
pub mod speed;
pub mod status;
pub mod transaction;
pub mod wire;
