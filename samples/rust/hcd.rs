// SPDX-License-Identifier: GPL-2.0

//! Sample of a USB host controller: a root hub with one port, and an echo device plugged into it.
//!
//! The device, `1209:0001`, is there as long as the module is loaded. It is of no class, so that it
//! is left to programs that open it under `/dev/bus/usb`:
//!
//! - Bytes sent to its bulk OUT endpoint come back from its bulk IN endpoint, of which 4 KiB wait
//!   in between: an OUT transfer ends when the device has taken all of it, an IN transfer when
//!   there was something to send.
//! - The second bulk OUT endpoint takes and forgets whatever is sent, the second bulk IN endpoint
//!   sends zeros, as many as asked for. Both do so at once, which makes them of use for measuring.
//! - Setting 1 of its interface has isochronous and interrupt endpoints as well, a source and a sink of
//!   either type. They have the frames of USB, one a millisecond: an isochronous transfer takes as
//!   many as it has packets, an interrupt transfer takes one. Each byte of an isochronous packet
//!   from the source is the number of its frame.
//! - The vendor requests of Gadget Zero: 0x5b stores what comes with it, up to 1024 bytes, and 0x5c
//!   sends it back.
//!
//! With `gadget_zero=1` it has the ids of Gadget Zero, so that the kernel's `usbtest` takes it.
//!
//! # The way of a URB
//!
//! usbcore lends a URB in [`hcd::Driver::urb_enqueue`]. It must not be given back in there, though
//! the answer may be known at once: that runs the completion of the USB driver, and the submitter
//! may hold a lock which the completion takes. So it waits in [`Echo`], and a work item plays the
//! device: it takes a URB from a queue, moves the data and gives it back, with no lock held. The
//! other way out is [`hcd::Driver::urb_dequeue`], for transfers that are cancelled. Either takes
//! the URB from the queue under the one lock of the device, so it has a single owner throughout.
//!
//! There are two work items, one for each schedule of a controller. Control and bulk transfers are
//! asynchronous: they take place when they can. Interrupt and isochronous ones are periodic: when a
//! URB is taken in, it gets the frames in which it will take place (`start_frame`), behind those of
//! the URBs that wait at the same endpoint. The second work item sleeps from frame to frame for as
//! long as there are any. A cancelled URB leaves a gap.
//!
//! The work queue is the module's own, as no work item may be left when its code is unloaded.
//!
//! This file has the controller and its root hub, `hcd/device.rs` the device.

#![deny(unsafe_code)]

use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use kernel_ext::new_spinlock_irqsave;
use kernel_ext::platform;
use kernel_ext::prelude::*;
use kernel_ext::sync::irqsave::SpinLockIrqSave;
use kernel_ext::time;
use kernel_ext::usb::hcd::{self, Controller, Generation, HubRequest};
use kernel_ext::usb::urb::{Accepted, Submitted, UrbRef};
use kernel_ext::workqueue::OwnedQueue;

#[path = "hcd/device.rs"]
mod device;
use device::{is_periodic, Echo, PERIODIC_SCHEDULE};

module! {
    type: Sample,
    name: "sample_hcd_rs",
    authors: ["The rusbip authors"],
    description: "One port with an echo device, a sample of a USB host controller in Rust",
    license: "GPL",
}

kernel_ext::module_version!();

static SCATTER_LISTS: Atomic<u32> = Atomic::new(1);
kernel_ext::param_uint!(
    scatter_lists,
    SCATTER_LISTS,
    0o444,
    "whether the controller takes scatter lists, 0 or 1 (default)"
);

static GADGET_ZERO: Atomic<u32> = Atomic::new(0);
kernel_ext::param_uint!(
    gadget_zero,
    GADGET_ZERO,
    0o444,
    "whether the device has the ids of Gadget Zero, 0 (default) or 1"
);

/// The driver goes first, and with it the controller.
struct Sample {
    _driver: platform::Registration<Platform>,
    _device: platform::PlatformDevice,
}

impl kernel::Module for Sample {
    fn init(module: &'static ThisModule) -> Result<Self> {
        Ok(Sample {
            _driver: platform::Registration::new(module, ())?,
            _device: platform::PlatformDevice::register(NAME, -1)?,
        })
    }
}

/// The name of the platform device and of its driver.
const NAME: &CStr = c"sample_hcd";

/// A controller needs a device that it is on.
struct Platform;

impl platform::Driver for Platform {
    const NAME: &'static CStr = NAME;
    type Context = ();
    type Data = KBox<hcd::Registration<Host>>;

    fn probe(dev: &platform::Device, _context: &()) -> Result<Self::Data> {
        let hub = Arc::pin_init(RootHub::new(), GFP_KERNEL)?;
        let registration = hcd::Registration::new(dev.as_ref(), Generation::Usb2, hub, None)?;
        Ok(KBox::new(registration, GFP_KERNEL)?)
    }
}

/// Class requests of hubs, `bmRequestType << 8 | bRequest` (USB 2.0, 11.24.2).
mod request {
    pub(super) const CLEAR_HUB_FEATURE: u16 = 0x2001;
    pub(super) const GET_HUB_STATUS: u16 = 0xa000;
    pub(super) const GET_HUB_DESCRIPTOR: u16 = 0xa006;
    pub(super) const CLEAR_PORT_FEATURE: u16 = 0x2301;
    pub(super) const SET_PORT_FEATURE: u16 = 0x2303;
    pub(super) const GET_PORT_STATUS: u16 = 0xa300;
}

/// Status bits of the port, whose numbers are also those of features (USB 2.0, 11.24.2.7). What
/// has changed is 16 bits further up.
mod port {
    pub(super) const CONNECTION: u32 = 1 << 0;
    pub(super) const ENABLE: u32 = 1 << 1;
    pub(super) const SUSPEND: u32 = 1 << 2;
    pub(super) const RESET: u32 = 1 << 4;
    pub(super) const POWER: u32 = 1 << 8;
    pub(super) const HIGH_SPEED: u32 = 1 << 10;
}

/// The lowest bit of `wPortChange`.
const CHANGES: u32 = 1 << 16;

/// USB 2.0, 11.23.2.1: one port, part of a compound device, so that what is on it cannot be removed;
/// power always on, no over-current protection.
const HUB_DESCRIPTOR: [u8; 9] = [9, 0x29, 1, 0x16, 0, 0, 0, 0x02, 0xff];

/// The root hub. The queue goes last: it waits for the work item, which has the device.
#[pin_data]
struct RootHub {
    /// `wPortStatus`, and `wPortChange` in the high half.
    #[pin]
    port: SpinLockIrqSave<u32>,
    echo: Arc<Echo>,
    queue: OwnedQueue,
}

impl RootHub {
    fn new() -> impl PinInit<Self, Error> {
        let plugged_in = port::POWER | port::CONNECTION | port::HIGH_SPEED;
        try_pin_init!(Self {
            port <- new_spinlock_irqsave!(plugged_in, "sample_hcd_port"),
            echo: Echo::new(GADGET_ZERO.load(Relaxed) != 0)?,
            queue: OwnedQueue::new_unbound(NAME)?,
        })
    }
}

/// The host controller driver.
struct Host;

#[vtable]
impl hcd::Driver for Host {
    type Data = RootHub;

    const DESCRIPTION: &'static CStr = NAME;
    const PRODUCT: &'static CStr = c"Sample Host Controller";

    fn urb_enqueue<'a>(
        hub: &RootHub,
        urb: Submitted<'a>,
    ) -> Result<Accepted<'a>, (Error, Submitted<'a>)> {
        let is_periodic = is_periodic(&urb);
        let accepted = hub.echo.enqueue(urb)?;
        // If it is queued already, it has not looked for URBs yet.
        let _ = if is_periodic {
            hub.queue.enqueue::<_, PERIODIC_SCHEDULE>(hub.echo.clone())
        } else {
            hub.queue.enqueue::<_, 0>(hub.echo.clone())
        };
        Ok(accepted)
    }

    fn urb_dequeue(hub: &RootHub, hcd: &Controller, urb: UrbRef<'_>, status: i32) -> Result {
        hub.echo.dequeue(hcd, &urb, status)
    }

    fn hub_status_data(hub: &RootHub, _hcd: &Controller, bitmap: &mut [u8]) -> usize {
        match bitmap.first_mut() {
            Some(byte) if *hub.port.lock() >= CHANGES => {
                // Port 1; bit 0 is the hub.
                *byte = 1 << 1;
                1
            }
            _ => 0,
        }
    }

    fn hub_control(
        hub: &RootHub,
        _hcd: &Controller,
        request: HubRequest,
        data: &mut [u8],
    ) -> Result<usize> {
        let mut port = hub.port.lock();
        match request.type_req {
            request::GET_HUB_DESCRIPTOR => return Ok(put(data, &HUB_DESCRIPTOR)),
            request::GET_HUB_STATUS => return Ok(put(data, &[0; 4])),
            request::CLEAR_HUB_FEATURE => return Ok(0),
            // All others are for a port, and there is but one.
            _ if request.index & 0xff != 1 => return Err(EPIPE),
            request::GET_PORT_STATUS => return Ok(put(data, &port.to_le_bytes())),
            _ => {}
        }
        let feature = 1u32.checked_shl(request.value.into()).ok_or(EPIPE)?;
        match (request.type_req, feature) {
            (request::SET_PORT_FEATURE, port::RESET) => {
                // It is over before the hub driver looks.
                *port &= !port::SUSPEND;
                *port |= port::ENABLE | port::RESET << 16;
                hub.echo.reset();
            }
            (request::SET_PORT_FEATURE, port::SUSPEND) => *port |= port::SUSPEND,
            (request::CLEAR_PORT_FEATURE, port::SUSPEND) => {
                // That is a resume.
                *port &= !port::SUSPEND;
                *port |= port::SUSPEND << 16;
            }
            (request::SET_PORT_FEATURE | request::CLEAR_PORT_FEATURE, port::POWER) => {}
            (request::CLEAR_PORT_FEATURE, port::ENABLE | CHANGES..) => *port &= !feature,
            _ => return Err(EPIPE),
        }
        Ok(0)
    }

    fn sg_tablesize(_hub: &RootHub) -> u32 {
        if SCATTER_LISTS.load(Relaxed) == 0 {
            return 0;
        }
        u32::MAX
    }

    fn frame_number(_hub: &RootHub) -> u32 {
        time::now_ms() as u32
    }
}

/// Writes as much of `bytes` as was asked for.
fn put(data: &mut [u8], bytes: &[u8]) -> usize {
    let pairs = data.iter_mut().zip(bytes);
    pairs.map(|(to, from)| *to = *from).count()
}
