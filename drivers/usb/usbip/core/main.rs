// SPDX-License-Identifier: GPL-2.0

//! The module `usbip_core_rs`: parameters of, and home for, the crates that all USB/IP modules
//! share.

// Only what `module!` and the parameter macros expand to has any.
#![deny(unsafe_code)]

use kernel::prelude::*;

module! {
    type: Core,
    name: "usbip_core_rs",
    authors: ["The rusbip authors"],
    description: "USB/IP core",
    license: "GPL",
    alias: ["usbip_core"],
}

kernel_ext::module_version!();
kernel_ext::param_ulong!(
    usbip_debug_flag,
    usbip_core::debug::FLAG,
    0o644,
    "debug flags (defined in usbip_core::debug)"
);
kernel_ext::param_bool!(
    require_tls,
    usbip_core::socket::REQUIRE_TLS,
    0o644,
    "take only connections that kernel TLS encrypts in both directions (default: N)"
);

struct Core;

impl kernel::Module for Core {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        Ok(Core)
    }
}
