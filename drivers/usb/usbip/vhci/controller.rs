// SPDX-License-Identifier: GPL-2.0

//! The controllers: one platform device each, with two root hubs.
//!
//! C counterpart: `struct vhci`, `vhci_hcd_probe()` and its neighbours in `vhci_hcd.c`.

use crate::attach::new_session;
use crate::hub::{Hub, VhciHcd};
use crate::port::Port;
use crate::root_hub::{HubKind, Lanes};
use crate::sysfs;
use kernel::debugfs::Dir;
use kernel::new_mutex;
use kernel::sync::{Arc, Mutex};
use kernel_ext::platform;
use kernel_ext::prelude::*;
use kernel_ext::sysfs::Files;
use kernel_ext::usb::hcd::{Generation, Registration};
use kernel_ext::workqueue::OwnedQueue;
use usbip_core::down::Down;
use usbip_protocol::speed::Speed;

/// A controller.
pub(crate) struct Vhc {
    /// The USB 2 root hub.
    pub usb2: Arc<Hub>,
    /// The USB 3 root hub.
    pub usb3: Arc<Hub>,
}

impl Vhc {
    fn hubs(&self) -> [&Arc<Hub>; 2] {
        [&self.usb2, &self.usb3]
    }

    /// Its ports in the order of their numbers.
    pub(crate) fn ports(&self) -> impl Iterator<Item = &Arc<Port>> {
        [self.usb2.ports(), self.usb3.ports()].into_iter().flatten()
    }

    /// Whether both of its root hubs are registered.
    pub(crate) fn is_up(&self) -> bool {
        self.hubs().iter().all(|hub| hub.handle().is_some())
    }
}

/// All controllers.
#[pin_data]
pub(crate) struct Vhci {
    controllers: KVec<Vhc>,
    /// Ports of one root hub.
    pub(crate) ports_per_hub: u32,
    lanes: Lanes,
    /// Where connections are taken down.
    pub(crate) queue: Arc<OwnedQueue>,
    /// Where debugfs has a file with the statistics of each attached device.
    pub(crate) statistics: Dir,
    /// Serialises attaching.
    #[pin]
    pub(crate) attaching: Mutex<()>,
}

impl Vhci {
    /// Sets up controllers that are not registered yet. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(
        count: u32,
        ports_per_hub: u32,
        lanes: Lanes,
        queue: Arc<OwnedQueue>,
    ) -> Result<Arc<Self>> {
        let mut controllers = KVec::with_capacity(count as usize, GFP_KERNEL)?;
        for index in 0..count {
            let first = 2 * ports_per_hub * index;
            let vhc = Vhc {
                usb2: Hub::new(HubKind::Usb2, lanes, first, ports_per_hub)?,
                usb3: Hub::new(HubKind::Usb3, lanes, first + ports_per_hub, ports_per_hub)?,
            };
            controllers.push(vhc, GFP_KERNEL)?;
        }
        Arc::pin_init(
            pin_init!(Self {
                controllers,
                ports_per_hub,
                lanes,
                queue,
                statistics: Dir::new(c"vhci_hcd"),
                attaching <- new_mutex!((), "vhci_attach"),
            }),
            GFP_KERNEL,
        )
    }

    /// The controllers.
    pub(crate) fn controllers(&self) -> &[Vhc] {
        &self.controllers
    }

    /// How many ports there are in all.
    pub(crate) fn port_count(&self) -> u32 {
        // At most 32 controllers of 2 * 15 ports.
        self.controllers.len() as u32 * 2 * self.ports_per_hub
    }

    /// The index of the controller that port `number` would be on.
    fn index(&self, number: u32) -> Result<usize> {
        let index = number.checked_div(2 * self.ports_per_hub).ok_or(EINVAL)?;
        Ok(index as usize)
    }

    /// The controller that port `number` is on.
    ///
    /// # Errors
    ///
    /// `EINVAL`: no such port. `EAGAIN`: its controller is not registered (yet).
    fn controller(&self, number: u32) -> Result<&Vhc> {
        let vhc = self.controllers.get(self.index(number)?).ok_or(EINVAL)?;
        if !vhc.is_up() {
            return Err(EAGAIN);
        }
        Ok(vhc)
    }

    /// Attaches the device behind a socket of the calling process.
    ///
    /// The hub is the one that fits the speed, and `number` selects the controller and the port
    /// on the hub; so numbers from either half of a controller's range will do. May sleep.
    ///
    /// # Errors
    ///
    /// See `attach` in `Documentation/ABI/testing/sysfs-platform-vhci-hcd`.
    pub(crate) fn attach(&self, number: u32, sockfd: u32, devid: u32, speed: u32) -> Result {
        if self.index(number)? >= self.controllers.len() {
            return Err(EINVAL);
        }
        let speed = Speed::from_raw(speed)
            .filter(|speed| speed.is_attachable())
            .ok_or(EINVAL)?;
        let vhc = self.controller(number)?;
        let hub = if speed.is_super() {
            &vhc.usb3
        } else {
            &vhc.usb2
        };
        let index = number.checked_rem(self.ports_per_hub).ok_or(EINVAL)?;
        let port = hub.ports().get(index as usize).ok_or(EINVAL)?;
        new_session(self, hub, port, sockfd, devid, speed)
    }

    /// Detaches what is attached to port `number`. Returns before that is finished.
    ///
    /// # Errors
    ///
    /// `EINVAL`: no such port, or nothing attached. `EAGAIN`: its controller is not registered.
    pub(crate) fn detach(&self, number: u32) -> Result {
        let vhc = self.controller(number)?;
        let index = number.checked_rem(2 * self.ports_per_hub).ok_or(EINVAL)?;
        let port = vhc.ports().nth(index as usize).ok_or(EINVAL)?;
        if port.kill(Down::Detached) {
            Ok(())
        } else {
            Err(EINVAL)
        }
    }
}

/// What is kept for a platform device that is bound. The order of the fields is the order of the
/// teardown.
pub(crate) struct Bound {
    /// Of the first controller only: the files for all of them.
    files: Option<Files<Vhci>>,
    /// Takes all connections down.
    connections: Connections,
    _usb3: Registration<VhciHcd>,
    _usb2: Registration<VhciHcd>,
}

/// Dropping it ends all connections of a controller and waits for that.
struct Connections {
    vhci: Arc<Vhci>,
    index: usize,
}

impl Drop for Connections {
    fn drop(&mut self) {
        let Some(vhc) = self.vhci.controllers.get(self.index) else {
            return;
        };
        {
            // Who is attaching is done when this is had; who comes after finds no hub.
            let _attaching = self.vhci.attaching.lock();
            for hub in vhc.hubs() {
                hub.set_handle(None);
            }
        }
        for port in vhc.ports() {
            port.kill(Down::Removed);
        }
        self.vhci.queue.flush();
    }
}

/// The platform driver.
pub(crate) struct PlatformDriver;

impl platform::Driver for PlatformDriver {
    const NAME: &'static CStr = c"vhci_hcd";

    type Context = Arc<Vhci>;
    type Data = KBox<Bound>;

    fn probe(dev: &platform::Device, vhci: &Arc<Vhci>) -> Result<KBox<Bound>> {
        let index = usize::try_from(dev.id()).map_err(|_| ENODEV)?;
        let vhc = vhci.controllers.get(index).ok_or(ENODEV)?;
        let generation = match vhci.lanes {
            Lanes::One => Generation::Usb31,
            Lanes::Two => Generation::Usb32,
        };
        let usb2 = Registration::new(dev.as_ref(), Generation::Usb2, vhc.usb2.clone(), None)?;
        let usb3 = Registration::new(dev.as_ref(), generation, vhc.usb3.clone(), Some(&usb2))?;
        vhc.usb2.set_handle(Some(usb2.handle()));
        vhc.usb3.set_handle(Some(usb3.handle()));
        let mut bound = KBox::new(
            Bound {
                files: None,
                connections: Connections {
                    vhci: vhci.clone(),
                    index,
                },
                _usb3: usb3,
                _usb2: usb2,
            },
            GFP_KERNEL,
        )?;
        if index == 0 {
            bound.files = Some(sysfs::create(dev.as_ref(), vhci)?);
        }
        Ok(bound)
    }

    fn suspend(dev: &platform::Device, data: &Bound) -> Result {
        let Some(vhc) = vhc_of(dev, data) else {
            return Ok(());
        };
        let attached = vhc.hubs().iter().filter(|hub| hub.is_connected()).count();
        if attached > 0 {
            pr_info!("a device is attached, the system cannot be suspended\n");
            return Err(EBUSY);
        }
        set_accessible(vhc, false);
        Ok(())
    }

    fn resume(dev: &platform::Device, data: &Bound) -> Result {
        if let Some(vhc) = vhc_of(dev, data) {
            set_accessible(vhc, true);
        }
        Ok(())
    }
}

fn vhc_of<'a>(dev: &platform::Device, bound: &'a Bound) -> Option<&'a Vhc> {
    let index = usize::try_from(dev.id()).ok()?;
    bound.connections.vhci.controllers.get(index)
}

fn set_accessible(vhc: &Vhc, accessible: bool) {
    for hub in vhc.hubs() {
        if let Some(handle) = hub.handle() {
            handle.controller().set_accessible(accessible);
            if accessible {
                handle.poll_root_hub();
            }
        }
    }
}
