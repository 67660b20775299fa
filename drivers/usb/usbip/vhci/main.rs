// SPDX-License-Identifier: GPL-2.0

//! The module `vhci_hcd_rs`: a virtual USB host controller whose devices are at the other end of
//! a network connection.
//!
//! C counterpart: `vhci-hcd.ko`. Userspace sees the same names: platform devices `vhci_hcd.N` with
//! the same files.

// Only what `module!` and the parameter macros expand to has any.
#![deny(unsafe_code)]

use crate::controller::{PlatformDriver, Vhci};
use crate::root_hub::{Lanes, MAX_PORTS};
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use kernel_ext::platform;
use kernel_ext::prelude::*;
use kernel_ext::workqueue::OwnedQueue;
use usbip_core::connection::Patience;

mod attach;
mod client;
mod controller;
mod hub;
mod port;
mod root_hub;
mod sysfs;

module! {
    type: VhciModule,
    name: "vhci_hcd_rs",
    authors: ["The rusbip authors"],
    description: "USB/IP 'Virtual' Host Controller (VHCI) Driver",
    license: "GPL",
    alias: ["vhci_hcd"],
}

kernel_ext::module_version!();
kernel_ext::param_uint!(
    nr_hcs,
    NR_HCS,
    0o444,
    "number of controllers, 1 to 32 (default: CONFIG_USBIP_VHCI_NR_HCS of the kernel)"
);
kernel_ext::param_uint!(
    hc_ports,
    HC_PORTS,
    0o444,
    "ports of each of the two root hubs of a controller, 1 to 15 (default: CONFIG_USBIP_VHCI_HC_PORTS of the kernel)"
);
kernel_ext::param_uint!(
    ssp_lanes,
    SSP_LANES,
    0o444,
    "lanes of SuperSpeedPlus devices: 1 for 10 Gb/s (default), 2 for 20 Gb/s"
);

kernel_ext::param_uint!(
    server_timeout,
    SERVER_TIMEOUT,
    0o644,
    "seconds after which a server that has vanished loses its port, 6 to 86400 (default: 30)"
);

/// The most controllers: what `USBIP_VHCI_NR_HCS` allows.
const MAX_HCS: u32 = 32;

static NR_HCS: Atomic<u32> = Atomic::new(number(env!("CONFIG_USBIP_VHCI_NR_HCS")));
static HC_PORTS: Atomic<u32> = Atomic::new(number(env!("CONFIG_USBIP_VHCI_HC_PORTS")));
static SSP_LANES: Atomic<u32> = Atomic::new(1);
static SERVER_TIMEOUT: Atomic<u32> = Atomic::new(30);

/// The number that a kernel option is set to.
const fn number(option: &str) -> u32 {
    let digits = option.as_bytes();
    let mut value = 0;
    let mut i = 0;
    while i < digits.len() {
        value = value * 10 + (digits[i] - b'0') as u32;
        i += 1;
    }
    value
}

/// How soon a server that has vanished is given up.
fn patience() -> Patience {
    Patience::seconds(SERVER_TIMEOUT.load(Relaxed))
}

/// The module.
struct VhciModule {
    devices: KVec<platform::PlatformDevice>,
    driver: Option<platform::Registration<PlatformDriver>>,
    /// Where connections are taken down.
    queue: Arc<OwnedQueue>,
}

impl kernel::Module for VhciModule {
    fn init(module: &'static ThisModule) -> Result<Self> {
        if kernel_ext::usb_disabled() {
            return Err(ENODEV);
        }
        let (controllers, ports) = (NR_HCS.load(Relaxed), HC_PORTS.load(Relaxed));
        if !(1..=MAX_HCS).contains(&controllers) {
            pr_err!("nr_hcs={}: must be 1 to {}\n", controllers, MAX_HCS);
            return Err(EINVAL);
        }
        if !(1..=u32::from(MAX_PORTS)).contains(&ports) {
            pr_err!("hc_ports={}: must be 1 to {}\n", ports, MAX_PORTS);
            return Err(EINVAL);
        }
        let timeout = SERVER_TIMEOUT.load(Relaxed);
        if !Patience::RANGE.contains(&timeout) {
            pr_err!("server_timeout={}: must be 6 to 86400\n", timeout);
            return Err(EINVAL);
        }
        let lanes = match SSP_LANES.load(Relaxed) {
            1 => Lanes::One,
            2 => Lanes::Two,
            other => {
                pr_err!("ssp_lanes={}: must be 1 or 2\n", other);
                return Err(EINVAL);
            }
        };

        let queue = Arc::new(OwnedQueue::new_unbound(c"usbip_event")?, GFP_KERNEL)?;
        let vhci = Vhci::new(controllers, ports, lanes, queue.clone())?;
        let driver = platform::Registration::new(module, vhci).inspect_err(|error| {
            if *error == EBUSY {
                pr_err!(
                    "there is a vhci_hcd driver already: unload the C module (rmmod vhci_hcd)\n"
                );
            }
        })?;
        let mut this = Self {
            devices: KVec::with_capacity(controllers as usize, GFP_KERNEL)?,
            driver: Some(driver),
            queue,
        };
        for index in 0..controllers {
            // CAST: At most 32.
            let device = platform::PlatformDevice::register(c"vhci_hcd", index as i32)?;
            this.devices.push(device, GFP_KERNEL)?;
        }
        Ok(this)
    }
}

impl Drop for VhciModule {
    fn drop(&mut self) {
        self.devices.clear();
        drop(self.driver.take());
        // The work item that has taken the last connection down may still run: it holds the queue, so
        // dropping that does not wait for it.
        self.queue.flush();
    }
}
