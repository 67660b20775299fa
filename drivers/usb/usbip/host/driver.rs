// SPDX-License-Identifier: GPL-2.0

//! The USB device driver `usbip-host`: which devices it takes, and its files.
//!
//! C counterpart: `stub_main.c` and `stub_probe()`, `stub_disconnect()` of `stub_dev.c`.

use crate::stub::{Exported, Stub};
use crate::table::{BusId, Table};
use crate::Shared;
use core::fmt::Write;
use kernel::new_mutex;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{Arc, Mutex};
use kernel_ext::prelude::*;
use kernel_ext::sysfs::Page;
use kernel_ext::task;
use kernel_ext::usb::device::Device;
use kernel_ext::usb::driver::{Attribute, Bound, Driver, File, Show, Store};

/// `USB_CLASS_HUB` of `include/uapi/linux/usb/ch9.h`.
const CLASS_HUB: u8 = 9;

/// The driver.
pub(crate) struct StubDriver {
    shared: Arc<Shared>,
    taken: Arc<Taken>,
}

impl StubDriver {
    /// The driver. `taken` is what it takes.
    pub(crate) fn new(shared: Arc<Shared>, taken: Arc<Taken>) -> Self {
        Self { shared, taken }
    }
}

impl Driver for StubDriver {
    const NAME: &'static CStr = c"usbip-host";
    const FILES: &'static [File<Self>] = &[File::new::<MatchBusid>(), File::new::<Rebind>()];
    type Data = Exported;

    fn probe(&self, dev: &Bound) -> Result<Arc<Exported>> {
        let name = dev.name();
        if !self.taken.table.lock().contains(name.to_bytes()) {
            // The wording is what the kernel's selftest looks for.
            pr_info!("{} is not in match_busid table... skip!\n", name);
            return Err(ENODEV);
        }
        if dev.class() == CLASS_HUB {
            pr_info!("{}: a hub cannot be exported\n", name);
            return Err(ENODEV);
        }
        if is_imported(dev) {
            pr_info!("{}: it is imported itself, by {}\n", name, dev.bus_name());
            return Err(ENODEV);
        }
        dev.claim_port().inspect_err(|error| {
            pr_err!(
                "{}: its port is in use by another program, error {}\n",
                name,
                error.to_errno()
            );
        })?;
        let device: ARef<Device> = (&**dev).into();
        self.taken.add(&device)?;
        Stub::new(device, self.shared.clone())
            .and_then(|stub| Exported::new(dev, stub))
            .inspect_err(|_| self.taken.remove(dev))
    }

    fn disconnect(&self, dev: &Bound, data: Arc<Exported>) {
        data.stub.shut_down();
        drop(data);
        self.taken.remove(dev);
    }
}

/// Whether a device is attached through USB/IP: exporting it would lead in circles.
fn is_imported(dev: &Bound) -> bool {
    dev.bus_name()
        .to_bytes()
        .strip_prefix(b"vhci_hcd")
        .is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'.'))
}

/// The file `match_busid`: the names of devices that may be exported.
struct MatchBusid;

impl Attribute<StubDriver> for MatchBusid {
    const NAME: &'static CStr = c"match_busid";
    const SHOW: Option<Show<StubDriver>> = Some(Self::show);
    const STORE: Option<Store<StubDriver>> = Some(Self::store);
}

impl MatchBusid {
    fn show(driver: &StubDriver, page: &mut Page<'_>) -> Result {
        for name in driver.taken.table.lock().names() {
            // What does not fit on the page is left out. A space and the newline go with it.
            if page.room() < name.as_str().len() + 2 {
                break;
            }
            write!(page, "{} ", name.as_str())?;
        }
        Ok(writeln!(page)?)
    }

    /// `add BUSID` or `del BUSID`.
    fn store(driver: &StubDriver, text: &[u8]) -> Result {
        task::require_admin()?;
        let (verb, name) = text.split_at_checked(4).ok_or(EINVAL)?;
        let name = BusId::parse(name)?;
        match verb {
            b"add " => driver.taken.table.lock().add(name),
            b"del " if driver.taken.table.lock().remove(name) => Ok(()),
            b"del " => Err(ENODEV),
            _ => Err(EINVAL),
        }
    }
}

/// The file `rebind`: gives a device back to its own driver.
struct Rebind;

impl Attribute<StubDriver> for Rebind {
    const NAME: &'static CStr = c"rebind";
    const STORE: Option<Store<StubDriver>> = Some(Self::store);
}

impl Rebind {
    /// Takes the name of a device. It is removed from the table if it is there; the tools remove it
    /// before, so a device without driver is welcome as well.
    fn store(driver: &StubDriver, text: &[u8]) -> Result {
        task::require_admin()?;
        let name = BusId::parse(text)?;
        let was_listed = driver.taken.table.lock().remove(name);
        let device = Device::find(name.as_bytes());
        if let Some(device) = device.filter(|device| was_listed || !device.has_driver()) {
            return device.find_driver();
        }
        if was_listed {
            return Ok(());
        }
        Err(ENODEV)
    }
}

/// What the driver may take and has taken, also when it is unregistered: then all of these devices
/// are given back to their own drivers.
#[pin_data]
pub(crate) struct Taken {
    #[pin]
    table: Mutex<Table>,
    /// Devices that are bound to the driver, or were when it was unregistered.
    #[pin]
    devices: Mutex<KVec<ARef<Device>>>,
    /// Not 0 when the module goes: devices that are unbound stay on the list.
    leaving: Atomic<u32>,
}

impl Taken {
    /// Nothing. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                table <- new_mutex!(Table::new(), "usbip_match_busid"),
                devices <- new_mutex!(KVec::new(), "usbip_host_taken"),
                leaving: Atomic::new(0),
            }),
            GFP_KERNEL,
        )
    }

    /// The module goes: to be called before the driver is unregistered.
    pub(crate) fn leave(&self) {
        self.leaving.store(1, Relaxed);
    }

    /// Gives the devices to their drivers, after the driver was unregistered; those as well that
    /// were unbound from it and are still in the table. May sleep.
    pub(crate) fn give_back(&self) {
        for device in core::mem::replace(&mut *self.devices.lock(), KVec::new()) {
            give_back(&device);
        }
        let table = core::mem::replace(&mut *self.table.lock(), Table::new());
        for name in table.names() {
            if let Some(device) = Device::find(name.as_bytes()) {
                give_back(&device);
            }
        }
    }

    /// Takes a device on the list, so that nothing can fail when it is given back.
    fn add(&self, device: &ARef<Device>) -> Result {
        Ok(self.devices.lock().push(device.clone(), GFP_KERNEL)?)
    }

    /// A device is not exported any more.
    fn remove(&self, device: &Device) {
        if self.leaving.load(Relaxed) == 0 {
            let key = device.key();
            self.devices.lock().retain(|one| one.key() != key);
        }
    }
}

fn give_back(device: &Device) {
    if device.is_unplugged() || device.has_driver() {
        return;
    }
    if let Err(error) = device.find_driver() {
        pr_err!(
            "{}: not given back to its driver, error {}\n",
            device.name(),
            error.to_errno()
        );
    }
}
