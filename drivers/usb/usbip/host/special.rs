// SPDX-License-Identifier: GPL-2.0

//! Requests that change what usbcore knows of a device, so that usbcore has to carry them out.
//!
//! C counterpart: `tweak_special_requests()` of `stub_rx.c`, which does it in the receiving thread:
//! meanwhile nothing else of the device goes on, and as the thread waits for the lock of the
//! device, it deadlocks with whoever unbinds the device and waits for the thread. Here a work item
//! does it, which tries for the lock and gives up when the connection goes down. Control requests
//! that come behind such a request wait for it, so that the device sees them in order.

use crate::flight::{Done, Flight};
use crate::server;
use crate::stub;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{Arc, Mutex};
use kernel::workqueue::{impl_has_work, Work, WorkItem};
use kernel::{new_mutex, new_work};
use kernel_ext::prelude::*;
use kernel_ext::sync::wait::WaitQueue;
use kernel_ext::time::Msecs;
use kernel_ext::usb::device::{Endpoint, Locked};
use kernel_ext::usb::transfer::Transfer;
use kernel_ext::workqueue::OwnedQueue;
use usbip_protocol::setup::Setup;

/// A request for usbcore.
#[derive(Clone, Copy)]
pub(crate) enum Special {
    /// CLEAR_FEATURE(ENDPOINT_HALT): usbcore resets the data toggle of the host as well.
    ClearHalt(Endpoint),
    /// SET_INTERFACE.
    SetInterface {
        /// Number of the interface.
        interface: u16,
        /// Number of the alternate setting.
        alternate: u16,
    },
    /// SET_CONFIGURATION, 0 included.
    SetConfiguration(u8),
    /// SET_FEATURE(PORT_RESET), which belongs to hubs: some clients ask for a reset that way.
    Reset,
}

impl Special {
    /// What a control request is, if it is one of these (USB 2.0 tables 9-3 to 9-6, 11-15 to
    /// 11-17). `endpoint` finds an endpoint by number and direction.
    pub(crate) fn parse(
        setup: &Setup,
        endpoint: impl FnOnce(u8, bool) -> Option<Endpoint>,
    ) -> Option<Self> {
        const CLEAR_FEATURE: u8 = 1;
        const SET_FEATURE: u8 = 3;
        const SET_CONFIGURATION: u8 = 9;
        const SET_INTERFACE: u8 = 11;
        const TO_DEVICE: u8 = 0x00;
        const TO_INTERFACE: u8 = 0x01;
        const TO_ENDPOINT: u8 = 0x02;
        const TO_PORT: u8 = 0x23;
        const ENDPOINT_HALT: u16 = 0;
        const PORT_RESET: u16 = 4;

        match (setup.request(), setup.value()) {
            ((TO_ENDPOINT, CLEAR_FEATURE), ENDPOINT_HALT) => {
                let [number, _] = setup.index().to_le_bytes();
                endpoint(number & 0x0f, number & 0x80 != 0).map(Self::ClearHalt)
            }
            ((TO_INTERFACE, SET_INTERFACE), alternate) => Some(Self::SetInterface {
                interface: setup.index(),
                alternate,
            }),
            ((TO_DEVICE, SET_CONFIGURATION), value) => {
                u8::try_from(value).ok().map(Self::SetConfiguration)
            }
            ((TO_PORT, SET_FEATURE), PORT_RESET) => Some(Self::Reset),
            _ => None,
        }
    }

    fn carry_out(self, device: &Locked<'_>) -> Result {
        match self {
            Self::ClearHalt(endpoint) => device.clear_halt(endpoint),
            Self::SetInterface {
                interface,
                alternate,
            } => device.set_interface(interface, alternate),
            Self::SetConfiguration(value) => device.set_configuration(value),
            Self::Reset => device.reset(),
        }
    }
}

/// A control request that waits for its turn.
struct Item {
    transfer: KBox<Transfer<Flight>>,
    /// `None`: it goes to the device as it is.
    special: Option<Special>,
}

/// The requests of one connection that usbcore has to carry out, and those behind them.
#[pin_data]
pub(crate) struct Specials {
    #[pin]
    items: Mutex<KVec<Item>>,
    /// Not 0 while a work item is queued or running. Changes under the lock of `items`.
    busy: Atomic<u32>,
    /// Whoever takes the connection down waits here.
    #[pin]
    idle: WaitQueue,
    #[pin]
    work: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Specials { self.work }
}

impl Specials {
    /// Nothing to do. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                items <- new_mutex!(KVec::new(), "usbip_specials"),
                busy: Atomic::new(0),
                idle <- WaitQueue::new(),
                work <- new_work!("usbip_special"),
            }),
            GFP_KERNEL,
        )
    }

    /// Whether such a request is waiting or being carried out. Any context.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Relaxed) != 0
    }

    /// Takes a control request that is special, or comes behind one that is; others come back. May
    /// sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; then the request is dropped.
    pub(crate) fn take(
        self: &Arc<Self>,
        transfer: KBox<Transfer<Flight>>,
        special: Option<Special>,
        queue: &OwnedQueue,
    ) -> Result<Option<KBox<Transfer<Flight>>>> {
        let mut items = self.items.lock();
        if special.is_none() && !self.is_busy() {
            return Ok(Some(transfer));
        }
        items.push(Item { transfer, special }, GFP_KERNEL)?;
        if !self.is_busy() {
            self.busy.store(1, Relaxed);
            // It is not queued: only the work item itself makes it idle again.
            let _ = queue.enqueue(self.clone());
        }
        Ok(None)
    }

    /// Waits until nothing is being carried out, or `give_up` holds, but not for more than
    /// `timeout`. For the rx thread: whoever stops it wakes it up. May sleep.
    pub(crate) fn wait_idle_timeout(&self, timeout: Msecs, give_up: impl Fn() -> bool) {
        self.idle
            .wait_until_timeout(timeout, || !self.is_busy() || give_up());
    }

    /// Waits until nothing is being carried out any more, once the connection is going down. May
    /// sleep.
    pub(crate) fn wait_idle(&self) {
        self.idle.wait_until(|| !self.is_busy());
    }
}

impl WorkItem for Specials {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        loop {
            let items = {
                let mut items = this.items.lock();
                if items.is_empty() {
                    this.busy.store(0, Relaxed);
                    break;
                }
                core::mem::replace(&mut *items, KVec::new())
            };
            for item in items {
                run(item);
            }
        }
        this.idle.wake_all();
    }
}

fn run(item: Item) {
    let connection = item.transfer.context.connection.clone();
    let token = item.transfer.context.token;
    let device = connection.side().device();
    let give_up = || connection.is_dying() || device.is_unplugged();
    if let Some(special) = item.special {
        let Some(locked) = stub::lock(device, give_up) else {
            let requests = &connection.side().requests;
            return requests.fail(&connection, token, ESHUTDOWN, 0);
        };
        let result = special.carry_out(&locked);
        drop(locked);
        if result.is_ok() {
            let requests = &connection.side().requests;
            return requests.complete(&connection, token, Done::Special(item.transfer));
        }
    }
    // What usbcore does not want the device may still like.
    server::launch(&connection, item.transfer);
}
