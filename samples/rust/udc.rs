// SPDX-License-Identifier: GPL-2.0

//! Sample of a USB device controller.
//!
//! It has a host built in, which does two things: it selects configuration 1 of a gadget that is
//! bound to it, and whatever the gadget sends on its endpoint 1 it sends back to the gadget, if that
//! has room for it. A thread plays the host; gadget drivers only leave requests for it.

#![deny(unsafe_code)]

use kernel::sync::atomic::{Atomic, Full};
use kernel::sync::{new_mutex, Arc, Mutex};
use kernel_ext::kthread::{self, KThread};
use kernel_ext::mm::Context;
use kernel_ext::new_spinlock_irqsave;
use kernel_ext::platform;
use kernel_ext::prelude::*;
use kernel_ext::sync::irqsave::SpinLockIrqSave;
use kernel_ext::sync::wait::WaitQueue;
use kernel_ext::usb::buffer::Buffer;
use kernel_ext::usb::gadget::{
    self, EndpointConfig, EndpointInfo, Gadget, Halt, Registration, Request, RequestId,
    RequestQueue, Speed, State,
};

module! {
    type: Sample,
    name: "sample_udc_rs",
    authors: ["The rusbip authors"],
    description: "USB device controller with a host built in, a sample in Rust",
    license: "GPL",
}

kernel_ext::module_version!();

/// The device goes first, and with it what its driver keeps for it.
struct Sample {
    _device: platform::PlatformDevice,
    _driver: platform::Registration<Driver>,
}

impl kernel::Module for Sample {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let driver = platform::Registration::new(module, ())?;
        Ok(Sample {
            _device: platform::PlatformDevice::register(NAME, 0)?,
            _driver: driver,
        })
    }
}

/// The name of the driver, of the gadget, and up to the dot of the device.
const NAME: &CStr = c"sample_udc";

struct Driver;

/// What belongs to the device. The registration goes first: its end brings all requests back.
struct Bound {
    _registration: Registration<Udc>,
    _host: KThread,
}

impl platform::Driver for Driver {
    const NAME: &'static CStr = NAME;
    type Context = ();
    type Data = KBox<Bound>;

    fn probe(dev: &platform::Device, _context: &()) -> Result<KBox<Bound>> {
        let registration = Registration::new(dev.as_ref(), Udc::new())?;
        let gadget = registration.gadget().clone();
        let host = KThread::spawn(NAME, move || play_host(&gadget))?;
        Ok(KBox::new(
            Bound {
                _registration: registration,
                _host: host,
            },
            GFP_KERNEL,
        )?)
    }
}

/// Endpoint 0, 1 out, 1 in, and 2 in, which the host never asks: many gadgets want one more.
const ENDPOINTS: usize = 4;
const OUT: usize = 1;
const IN: usize = 2;

/// SET_CONFIGURATION(1).
const CONFIGURE: [u8; 8] = [0, 9, 1, 0, 0, 0, 0, 0];

/// An endpoint.
struct Endpoint {
    requests: RequestQueue<Udc>,
    /// A gadget driver may be about to queue a request while another of its threads disables the
    /// endpoint.
    is_enabled: bool,
}

impl Endpoint {
    const DISABLED: Self = Self {
        requests: RequestQueue::new(),
        is_enabled: false,
    };
}

/// What the controller keeps.
#[pin_data]
struct Udc {
    #[pin]
    endpoints: SpinLockIrqSave<[Endpoint; ENDPOINTS]>,
    /// Whether there is a gadget. The host holds the lock for as long as it has requests of the gadget
    /// or calls it: when the gadget has vanished, what it has queued may be freed.
    #[pin]
    is_there: Mutex<bool>,
    /// Not 0 if there is something to do for the host.
    kicked: Atomic<u32>,
    /// Not 0 if a gadget has appeared.
    appeared: Atomic<u32>,
    #[pin]
    wait: WaitQueue,
}

impl Udc {
    fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            endpoints <- new_spinlock_irqsave!(
                [Endpoint::DISABLED; ENDPOINTS],
                "sample_udc_endpoints"
            ),
            is_there <- new_mutex!(false, "sample_udc_is_there"),
            kicked: Atomic::new(0),
            appeared: Atomic::new(0),
            wait <- WaitQueue::new(),
        }? Error)
    }

    /// Wakes the host. Any context.
    fn kick(&self) {
        self.kicked.xchg(1, Full);
        self.wait.wake_all();
    }

    /// Does something with an endpoint. Any context that `what` allows.
    fn with<R>(&self, endpoint: usize, what: impl FnOnce(&mut Endpoint) -> R) -> Option<R> {
        self.endpoints.lock().get_mut(endpoint).map(what)
    }

    /// Enables an endpoint, or disables it and gives its requests back.
    fn switch(&self, endpoint: usize, on: bool) {
        let requests = self.with(endpoint, |endpoint| {
            endpoint.is_enabled = on;
            core::mem::take(&mut endpoint.requests)
        });
        // Outside the lock: it calls the gadget driver.
        drop(requests);
    }

    /// Takes a request of each direction, if there are both.
    fn pop_both(&self) -> Option<(Request<Self>, Request<Self>)> {
        let mut endpoints = self.endpoints.lock();
        let is_idle = |endpoint: &Endpoint| endpoint.requests.is_empty();
        if is_idle(endpoints.get(IN)?) || is_idle(endpoints.get(OUT)?) {
            return None;
        }
        let from = endpoints.get_mut(IN)?.requests.pop()?;
        let to = endpoints.get_mut(OUT)?.requests.pop()?;
        Some((from, to))
    }
}

/// The thread.
fn play_host(gadget: &Arc<Gadget<Udc>>) {
    let udc = gadget.data();
    while !kthread::should_stop() {
        udc.wait
            .wait_until(|| udc.kicked.xchg(0, Full) != 0 || kthread::should_stop());
        let is_there = udc.is_there.lock();
        if !*is_there {
            continue;
        }
        if udc.appeared.xchg(0, Full) != 0 {
            gadget.set_state(State::Default);
            if let Err(error) = gadget.setup(&CONFIGURE) {
                pr_warn!("the gadget has no configuration 1: {}\n", error.to_errno());
            }
        }
        // Whatever the gadget answers is accepted.
        while let Some(Some(request)) = udc.with(0, |ep0| ep0.requests.pop()) {
            request.complete(0);
        }
        while let Some((mut from, mut to)) = udc.pop_both() {
            let len = from.len();
            let Ok(mut buffer) = Buffer::linear(len, Context::Process) else {
                // Dropping them says that the host is gone.
                continue;
            };
            from.send(&mut buffer, 0, len);
            to.receive(&buffer, 0, len);
            let fits = to.len() >= len;
            from.complete(0);
            to.complete(if fits { 0 } else { EOVERFLOW.to_errno() });
        }
    }
}

impl gadget::Driver for Udc {
    const NAME: &'static CStr = NAME;
    const ENDPOINTS: &'static [EndpointInfo] = &[
        EndpointInfo {
            name: c"ep0",
            dir_in: true,
            dir_out: true,
        },
        EndpointInfo {
            name: c"ep1out",
            dir_in: false,
            dir_out: true,
        },
        EndpointInfo {
            name: c"ep1in",
            dir_in: true,
            dir_out: false,
        },
        EndpointInfo {
            name: c"ep2in",
            dir_in: true,
            dir_out: false,
        },
    ];

    fn max_speed(&self) -> Speed {
        Speed::High
    }

    fn frame_number(&self) -> u32 {
        0
    }

    fn set_self_powered(&self, _on: bool) {}

    fn pull_up(this: &Arc<Gadget<Self>>, on: bool, speed: Speed) -> Result {
        let mut is_there = this.data().is_there.lock();
        *is_there = on;
        this.data().switch(0, on);
        if on {
            this.set_speed(speed);
            this.data().appeared.xchg(1, Full);
            this.data().kick();
        } else {
            this.data().appeared.xchg(0, Full);
            this.set_state(State::NotAttached);
        }
        Ok(())
    }

    fn enable(&self, endpoint: usize, _config: EndpointConfig) -> Result {
        self.switch(endpoint, true);
        Ok(())
    }

    fn disable(&self, endpoint: usize) {
        self.switch(endpoint, false);
    }

    fn queue(
        this: &Arc<Gadget<Self>>,
        endpoint: usize,
        request: Request<Self>,
    ) -> Result<(), (Error, Request<Self>)> {
        let udc = this.data();
        match udc.endpoints.lock().get_mut(endpoint) {
            Some(endpoint) if endpoint.is_enabled => endpoint.requests.push(request),
            _ => return Err((ESHUTDOWN, request)),
        }
        udc.kick();
        Ok(())
    }

    fn dequeue(&self, endpoint: usize, id: RequestId) -> Result {
        let request = self.with(endpoint, |endpoint| endpoint.requests.remove(id));
        let request = request.flatten().ok_or(EINVAL)?;
        request.complete(ECONNRESET.to_errno());
        Ok(())
    }

    fn set_halt(_this: &Arc<Gadget<Self>>, _endpoint: usize, _halt: Halt) -> Result {
        Ok(())
    }
}
