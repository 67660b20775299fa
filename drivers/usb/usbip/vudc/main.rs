// SPDX-License-Identifier: GPL-2.0

//! The module `usbip_vudc_rs`: device controllers without hardware, whose hosts are at the other end
//! of a network connection.
//!
//! C counterpart: `usbip-vudc.ko`. Userspace sees the same names: platform devices `usbip-vudc.N`
//! with the same files, and UDCs of these names.
//!
//! ```text
//!   udc.rs      one controller: its gadget, its client    bus.rs      endpoints, where both meet
//!   server.rs   PDUs in and out                           control.rs  what the controller answers
//!   transfer.rs a request of the client                   sysfs.rs    files
//! ```

// Only what `module!` and the parameter macros expand to has any.
#![deny(unsafe_code)]

use crate::udc::{PlatformDriver, Shared};
use kernel::debugfs::Dir;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use kernel_ext::platform;
use kernel_ext::prelude::*;
use kernel_ext::usb::gadget::Speed;
use kernel_ext::workqueue::OwnedQueue;

mod bus;
mod control;
mod server;
mod sysfs;
mod transfer;
mod udc;

module! {
    type: VudcModule,
    name: "usbip_vudc_rs",
    authors: ["The rusbip authors"],
    description: "USB over IP Device Controller",
    license: "GPL",
    alias: ["usbip_vudc"],
}

kernel_ext::module_version!();
kernel_ext::param_uint!(
    num,
    NUM,
    0o444,
    "number of emulated controllers, 1 to 256 (default: 1)"
);
kernel_ext::param_uint!(
    max_speed,
    MAX_SPEED,
    0o444,
    "fastest speed: 2 full, 3 high (default), 5 super, 6 super-plus"
);
usbip_core::server_parameters!();

/// The most controllers; a sane bound, C has none.
const MAX_NUM: u32 = 256;

static NUM: Atomic<u32> = Atomic::new(1);
static MAX_SPEED: Atomic<u32> = Atomic::new(3);

/// The module. The order of the fields is the order of the teardown.
struct VudcModule {
    devices: KVec<platform::PlatformDevice>,
    driver: Option<platform::Registration<PlatformDriver>>,
    /// A connection refers to it as well, so dropping it does not wait for its work items.
    events: Arc<OwnedQueue>,
}

impl kernel::Module for VudcModule {
    fn init(module: &'static ThisModule) -> Result<Self> {
        if kernel_ext::usb_disabled() {
            return Err(ENODEV);
        }
        let num = NUM.load(Relaxed);
        if !(1..=MAX_NUM).contains(&num) {
            pr_err!("num={}: must be 1 to {}\n", num, MAX_NUM);
            return Err(EINVAL);
        }
        let max_speed = match MAX_SPEED.load(Relaxed) {
            2 => Speed::Full,
            3 => Speed::High,
            5 => Speed::Super,
            6 => Speed::SuperPlus,
            other => {
                pr_err!("max_speed={}: must be 2, 3, 5 or 6\n", other);
                return Err(EINVAL);
            }
        };
        let events = Arc::new(OwnedQueue::new_unbound(c"usbip_event")?, GFP_KERNEL)?;
        let shared = Arc::new(
            Shared {
                limits: limits()?,
                max_speed,
                statistics: Dir::new(c"usbip-vudc"),
                events: events.clone(),
            },
            GFP_KERNEL,
        )?;
        let driver = platform::Registration::new(module, shared).inspect_err(|error| {
            if *error == EBUSY {
                pr_err!(
                    "there is a usbip-vudc driver already: unload the C module (rmmod usbip_vudc)\n"
                );
            }
        })?;
        let mut this = Self {
            devices: KVec::with_capacity(num as usize, GFP_KERNEL)?,
            driver: Some(driver),
            events,
        };
        for index in 0..num {
            // CAST: At most 256.
            let device = platform::PlatformDevice::register(c"usbip-vudc", index as i32)?;
            if !device.is_bound() {
                // The log has the reason.
                return Err(EINVAL);
            }
            this.devices.push(device, GFP_KERNEL)?;
        }
        Ok(this)
    }
}

impl Drop for VudcModule {
    fn drop(&mut self) {
        self.devices.clear();
        drop(self.driver.take());
        // The work item that has taken the last connection down may still run.
        self.events.flush();
    }
}
