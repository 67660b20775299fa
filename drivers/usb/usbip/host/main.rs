// SPDX-License-Identifier: GPL-2.0

//! The module `usbip_host_rs`: exports USB devices of this machine.
//!
//! C counterpart: `usbip-host.ko`. Userspace sees the same names: the USB device driver
//! `usbip-host` with its files, and the files of each exported device.
//!
//! ```text
//!   driver.rs  which devices are taken     stub.rs    one exported device, its states
//!   server.rs  PDUs in and out             request.rs what of a request is acceptable
//!   flight.rs  a request at the device     special.rs requests that usbcore has to carry out
//! ```

// Only what `module!` expands to has any.
#![deny(unsafe_code)]

use crate::driver::{StubDriver, Taken};
use kernel::debugfs::Dir;
use kernel::sync::Arc;
use kernel_ext::prelude::*;
use kernel_ext::usb::driver::Registration;
use kernel_ext::workqueue::OwnedQueue;
use usbip_core::server::Limits;

mod driver;
mod flight;
mod request;
mod server;
mod special;
mod stub;
mod sysfs;
mod table;

module! {
    type: HostModule,
    name: "usbip_host_rs",
    authors: ["The rusbip authors"],
    description: "USB/IP Host Driver",
    license: "GPL",
    alias: ["usbip_host"],
}

kernel_ext::module_version!();
usbip_core::server_parameters!();

/// What all exported devices share.
pub(crate) struct Shared {
    /// What clients may take.
    pub(crate) limits: Limits,
    /// Where debugfs has a file with the statistics of each connection.
    pub(crate) statistics: Dir,
    /// Where connections are taken down.
    pub(crate) events: Arc<OwnedQueue>,
    /// Where requests run that usbcore has to carry out. Not the same: taking a connection down
    /// waits for them.
    pub(crate) specials: Arc<OwnedQueue>,
}

/// The module.
struct HostModule {
    driver: Option<Registration<StubDriver>>,
    taken: Arc<Taken>,
    /// A connection refers to them as well, so dropping these does not wait for its work items.
    events: Arc<OwnedQueue>,
    specials: Arc<OwnedQueue>,
}

impl kernel::Module for HostModule {
    fn init(module: &'static ThisModule) -> Result<Self> {
        if kernel_ext::usb_disabled() {
            return Err(ENODEV);
        }
        let events = Arc::new(OwnedQueue::new_unbound(c"usbip_event")?, GFP_KERNEL)?;
        let specials = Arc::new(OwnedQueue::new_unbound(c"usbip_special")?, GFP_KERNEL)?;
        let shared = Arc::new(
            Shared {
                limits: limits()?,
                statistics: Dir::new(c"usbip-host"),
                events: events.clone(),
                specials: specials.clone(),
            },
            GFP_KERNEL,
        )?;
        let taken = Taken::new()?;
        let driver = Registration::new(module, StubDriver::new(shared, taken.clone()))
            .inspect_err(|error| {
                if *error == EBUSY {
                    pr_err!(
                        "there is a usbip-host driver already: unload the C module (rmmod usbip_host)\n"
                    );
                }
            })?;
        Ok(Self {
            driver: Some(driver),
            taken,
            events,
            specials,
        })
    }
}

impl Drop for HostModule {
    fn drop(&mut self) {
        self.taken.leave();
        drop(self.driver.take());
        self.taken.give_back();
        // A device is given up when its connection is down; the work item that has done that may
        // still run, and have the last reference to the connection.
        self.events.flush();
        self.specials.flush();
    }
}
