// SPDX-License-Identifier: GPL-2.0

//! Networking.

pub(crate) mod held;
pub mod iov;
pub mod peer;
pub mod socket;
pub mod tap;
mod tls;
