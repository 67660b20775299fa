// SPDX-License-Identifier: GPL-2.0

//! The two root hubs of a controller, and what usbcore asks of them.
//!
//! C counterpart: `struct vhci_hcd` and the `hc_driver` of `vhci_hcd.c`.

use crate::port::Port;
use crate::root_hub::{self, HubKind, Lanes, Stall};
use kernel::new_mutex;
use kernel::sync::{Arc, Mutex};
use kernel_ext::prelude::*;
use kernel_ext::time;
use kernel_ext::usb::device::Device;
use kernel_ext::usb::hcd::{self, Controller, Handle, HubRequest};
use kernel_ext::usb::urb::{Accepted, Lent, Submitted, UrbRef};

/// The host controller driver.
pub(crate) struct VhciHcd;

/// A root hub and its ports.
#[pin_data]
pub(crate) struct Hub {
    kind: HubKind,
    ports: KVec<Arc<Port>>,
    /// The registered controller instance, from after registration until before removal.
    #[pin]
    handle: Mutex<Option<Arc<Handle<VhciHcd>>>>,
}

impl Hub {
    /// A hub with `count` ports, the first of which has the number `first`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(kind: HubKind, lanes: Lanes, first: u32, count: u32) -> Result<Arc<Self>> {
        let mut ports = KVec::with_capacity(count as usize, GFP_KERNEL)?;
        for number in first..first.saturating_add(count) {
            ports.push(Port::new(number, kind, lanes)?, GFP_KERNEL)?;
        }
        Arc::pin_init(
            pin_init!(Self {
                kind,
                ports,
                handle <- new_mutex!(None, "vhci_hub_handle"),
            }),
            GFP_KERNEL,
        )
    }

    /// Its ports; the first is number 1 to usbcore.
    pub(crate) fn ports(&self) -> &[Arc<Port>] {
        &self.ports
    }

    /// The port that usbcore calls `number`.
    fn port(&self, number: u16) -> Option<&Arc<Port>> {
        self.ports.get(usize::from(number).checked_sub(1)?)
    }

    /// Says that the hub is registered, or about to be removed. May sleep.
    pub(crate) fn set_handle(&self, handle: Option<Arc<Handle<VhciHcd>>>) {
        *self.handle.lock() = handle;
    }

    /// The registered controller instance; `None` while there is none. May sleep.
    pub(crate) fn handle(&self) -> Option<Arc<Handle<VhciHcd>>> {
        self.handle.lock().clone()
    }

    /// Whether anything is plugged in.
    pub(crate) fn is_connected(&self) -> bool {
        self.ports
            .iter()
            .any(|port| port.inner.lock().root.is_connected())
    }
}

/// Makes usbcore look at a hub.
pub(crate) struct Poll(Arc<Hub>);

impl Poll {
    /// For this hub.
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self(hub)
    }

    /// Makes usbcore look at the hub's ports now. May sleep; hold no port's lock.
    pub(crate) fn poll(&self) {
        if let Some(handle) = self.0.handle() {
            handle.poll_root_hub();
        }
    }
}

#[vtable]
impl hcd::Driver for VhciHcd {
    type Data = Hub;

    const DESCRIPTION: &'static CStr = c"vhci_hcd";
    const PRODUCT: &'static CStr = c"USB/IP Virtual Host Controller";

    fn urb_enqueue<'a>(
        hub: &Hub,
        urb: Submitted<'a>,
    ) -> Result<Accepted<'a>, (Error, Submitted<'a>)> {
        match hub.port(urb.device().root_port().into()) {
            Some(port) => port.enqueue(urb),
            None => Err((ENODEV, urb)),
        }
    }

    fn urb_dequeue(hub: &Hub, hcd: &Controller, urb: UrbRef<'_>, status: i32) -> Result {
        match hub.port(urb.device().root_port().into()) {
            Some(port) => port.dequeue(hcd, &urb, status),
            None => Err(EIDRM),
        }
    }

    fn hub_status_data(hub: &Hub, hcd: &Controller, bitmap: &mut [u8]) -> usize {
        if !hcd.is_accessible() {
            return 0;
        }
        let mut changed = false;
        for (index, port) in hub.ports.iter().enumerate() {
            if !port.inner.lock().root.has_changed() {
                continue;
            }
            changed = true;
            // Bit 0 is the hub itself.
            let bit = index + 1;
            if let Some(byte) = bitmap.get_mut(bit / 8) {
                *byte |= 1 << (bit % 8);
            }
        }
        if !changed {
            return 0;
        }
        hcd.resume_root_hub_if_suspended();
        hub.ports.len() / 8 + 1
    }

    fn hub_control(
        hub: &Hub,
        hcd: &Controller,
        request: HubRequest,
        data: &mut [u8],
    ) -> Result<usize> {
        if !hcd.is_accessible() {
            return Err(ETIMEDOUT);
        }
        // The high byte of wIndex selects a test, an indicator or a timeout.
        let port = hub.port(request.index & 0xff);
        let mut inner = port.map(|port| port.inner.lock());
        let result = root_hub::hub_control(
            hub.kind,
            // At most `MAX_PORTS`.
            hub.ports.len() as u8,
            inner.as_deref_mut().map(|inner| &mut inner.root),
            request.type_req,
            request.value,
            time::now_ms(),
            data,
        );
        result.map_err(|Stall| EPIPE)
    }

    fn frame_number(_hub: &Hub) -> u32 {
        // There are no frames on a network. What counts ms serves those who want a clock.
        time::now_ms() as u32 & 0x7ff
    }

    fn address_device(hub: &Hub, device: &Device) -> Result {
        let port = hub.port(device.root_port().into()).ok_or(ENODEV)?;
        port.address(device)?;
        // The server decides about the power of the device; here it cannot be suspended, and the
        // controller refuses system suspend while it is attached.
        device.mark_syscore();
        Ok(())
    }

    fn free_device(hub: &Hub, device: &Device) {
        if let Some(port) = hub.port(device.root_port().into()) {
            port.free_device(device);
        }
    }
}
