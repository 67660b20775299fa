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
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use kernel_ext::prelude::*;
use kernel_ext::usb::driver::Registration;
use kernel_ext::workqueue::OwnedQueue;
use usbip_core::connection::Patience;
use usbip_core::server::Limits;
use usbip_protocol::limits::{MAX_CONNECTION_BYTES, MAX_CONNECTION_URBS};

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
}

kernel_ext::module_version!();
kernel_ext::param_uint!(
    connection_urbs,
    CONNECTION_URBS,
    0o444,
    "most requests of one client that wait for a reply, 16 to 65536 (default: 4096)"
);
kernel_ext::param_uint!(
    connection_mib,
    CONNECTION_MIB,
    0o444,
    "most MiB of buffers for one client, 1 to 4096 (default: 32)"
);
kernel_ext::param_uint!(
    total_mib,
    TOTAL_MIB,
    0o444,
    "most MiB of buffers for all clients (default: 256, or an eighth of the memory if that is less)"
);
kernel_ext::param_uint!(
    client_timeout,
    CLIENT_TIMEOUT,
    0o644,
    "seconds after which a client that has vanished loses its device, 6 to 86400 (default: 30)"
);

static CONNECTION_URBS: Atomic<u32> = Atomic::new(MAX_CONNECTION_URBS as u32);
static CONNECTION_MIB: Atomic<u32> = Atomic::new((MAX_CONNECTION_BYTES >> 20) as u32);
static TOTAL_MIB: Atomic<u32> = Atomic::new(0);
static CLIENT_TIMEOUT: Atomic<u32> = Atomic::new(30);

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

impl Shared {
    /// How soon a client that has vanished is given up.
    pub(crate) fn patience(&self) -> Patience {
        Patience::seconds(CLIENT_TIMEOUT.load(Relaxed))
    }
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
                limits: Limits::new(
                    CONNECTION_URBS.load(Relaxed),
                    CONNECTION_MIB.load(Relaxed),
                    TOTAL_MIB.load(Relaxed),
                    CLIENT_TIMEOUT.load(Relaxed),
                )?,
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
                        "there is a usbip-host driver already: unload the C module usbip-host first\n"
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
