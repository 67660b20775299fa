// SPDX-License-Identifier: GPL-2.0

//! A controller: its gadget, and the client that has it.
//!
//! C counterparts: `struct vudc`, `vudc_dev.c`, and the connecting part of `vudc_sysfs.c`.
//!
//! ```text
//!   pull-up           fd                      the connection is down
//!   ------> Available(1) --> Used(2) ------------------------------> disconnect, reset --> Available
//! ```

use crate::bus::{Bus, ENDPOINTS, GET_DEVICE_DESCRIPTOR};
use crate::patience;
use crate::server::Server;
use crate::sysfs::{VudcFiles, DESCRIPTOR};
use kernel::debugfs::Dir;
use kernel::prelude::fmt;
use kernel::str::CString;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{Arc, Mutex};
use kernel::workqueue::{impl_has_work, Work, WorkItem};
use kernel::{new_mutex, new_work};
use kernel_ext::new_spinlock_irqsave;
use kernel_ext::platform;
use kernel_ext::prelude::*;
use kernel_ext::sync::irqsave::SpinLockIrqSave;
use kernel_ext::sync::wait::WaitQueue;
use kernel_ext::time;
use kernel_ext::usb::gadget::{
    self, EndpointConfig, EndpointInfo, Gadget, Halt, Registration, Request, RequestId, Speed,
    State,
};
use kernel_ext::workqueue::OwnedQueue;
use usbip_core::down::Down;
use usbip_core::server::{Client, Limits};
use usbip_core::usbip_dbg;

/// How long a gadget driver has to answer when somebody asks for the device descriptor, in ms.
const ANSWER_MS: u32 = 1000;

/// A controller, as others refer to it.
pub(crate) type Udc = Gadget<Vudc>;

/// What all controllers share.
pub(crate) struct Shared {
    /// What clients may take.
    pub(crate) limits: Limits,
    /// How fast they are at most.
    pub(crate) max_speed: Speed,
    /// Where debugfs has a file with the statistics of each connection.
    pub(crate) statistics: Dir,
    /// Where connections are taken down.
    pub(crate) events: Arc<OwnedQueue>,
}

/// What a controller is doing.
enum Phase {
    /// Nothing: a client may have it, if there is a gadget.
    Available,
    /// A client has it.
    Used(Client<Server>),
    /// The connection is down; the gadget is being told.
    Closing,
}

/// What a controller keeps.
#[pin_data]
pub(crate) struct Vudc {
    /// That of the platform device.
    name: CString,
    shared: Arc<Shared>,
    /// Its endpoints. Gadget drivers come here in any context.
    #[pin]
    pub(crate) bus: SpinLockIrqSave<Bus>,
    #[pin]
    state: Mutex<Phase>,
    /// Not 0 while there is a client. Changes with `state`.
    used: Atomic<u32>,
    /// Not 0 while the gadget driver wants to be seen. Changes under the lock of `state`.
    pulled_up: Atomic<u32>,
    /// Whoever hides the gadget waits here for the end of the connection, and whoever asks for the
    /// device descriptor for the answer.
    #[pin]
    idle: WaitQueue,
    /// When the client came, as [`time::now_ms`].
    since_ms: Atomic<u64>,
    /// Takes the device descriptor when the gadget driver answers later.
    answer: Arc<Answer>,
}

impl Vudc {
    fn new(number: i32, shared: Arc<Shared>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            name: CString::try_from_fmt(fmt!("usbip-vudc.{}", number))?,
            shared,
            bus <- new_spinlock_irqsave!(Bus::new(), "vudc_bus"),
            state <- new_mutex!(Phase::Available, "vudc_state"),
            used: Atomic::new(0),
            pulled_up: Atomic::new(0),
            idle <- WaitQueue::new(),
            since_ms: Atomic::new(0),
            answer: Answer::new()?,
        }? Error)
    }

    /// Its name, for messages.
    pub(crate) fn name(&self) -> &CStr {
        &self.name
    }

    /// What it shares with other controllers.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The device descriptor of the gadget, if there is a gadget that tells it. May sleep.
    pub(crate) fn descriptor(&self, udc: &Udc) -> Option<[u8; DESCRIPTOR]> {
        let known = || self.bus.lock().descriptor;
        if let Some(descriptor) = known() {
            return Some(descriptor);
        }
        {
            let state = self.state.lock();
            if self.pulled_up.load(Relaxed) == 0 || !matches!(*state, Phase::Available) {
                return None;
            }
            self.ask(udc).ok()?;
        }
        self.idle.wait_until_timeout(ANSWER_MS, || {
            let bus = self.bus.lock();
            bus.descriptor.is_some() || !bus.is_asked
        });
        known()
    }

    /// What `usbip_status` shows: `SDEV_ST_*` of `include/uapi/linux/usbip.h`.
    pub(crate) fn status(&self) -> u32 {
        match &*self.state.lock() {
            Phase::Available => 1,
            Phase::Used(_) | Phase::Closing => 2,
        }
    }

    /// Gives the gadget to the client at the other end of a socket. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV`: there is no gadget. `EBUSY`: another client has it. `EINVAL`: the descriptor is no
    /// connected stream socket, or a thread could not be had. `EACCES`: TLS is required, and the socket
    /// has none. `ENOMEM`.
    pub(crate) fn connect(udc: &Arc<Udc>, fd: i32) -> Result {
        let this = udc.data();
        // Asks for it if it is not known.
        this.descriptor(udc);
        let mut state = this.state.lock();
        this.check_gadget()?;
        if !matches!(*state, Phase::Available) {
            return Err(EBUSY);
        }
        this.since_ms.store(time::now_ms(), Relaxed);
        let shared = &this.shared;
        let client = Client::new(
            &this.name,
            fd,
            &shared.statistics,
            &shared.events,
            patience(),
            |peer| Server::new(udc.clone(), peer),
        )
        .and_then(|client| {
            // Before the first request can come, or the tx thread would not hear of its answer.
            this.bus.lock().connection = Some(client.connection.clone());
            client.start().map(|()| client)
        })
        .map_err(|why| {
            let connection = this.bus.lock().connection.take();
            drop(connection);
            pr_err!("{}: {}\n", &*this.name, why);
            why.error()
        })?;
        usbip_core::log_client!(&*this.name, client.peer);
        this.used.store(1, Relaxed);
        *state = Phase::Used(client);
        Ok(())
    }

    /// Ends the connection; the gadget is available some time after this has returned.
    ///
    /// # Errors
    ///
    /// `ENODEV`: there is no gadget. `EINVAL`: there is no client.
    pub(crate) fn disconnect(&self) -> Result {
        let state = self.state.lock();
        self.check_gadget()?;
        match &*state {
            Phase::Used(client) => {
                client.connection.kill(Down::Detached);
                Ok(())
            }
            Phase::Closing => Ok(()),
            Phase::Available => Err(EINVAL),
        }
    }

    fn check_gadget(&self) -> Result {
        if self.pulled_up.load(Relaxed) == 0 || self.bus.lock().descriptor.is_none() {
            return Err(ENODEV);
        }
        Ok(())
    }

    /// The connection is down, and nothing of the client is left. May sleep.
    pub(crate) fn client_gone(&self, udc: &Udc) {
        // The file with the statistics has to be gone before there can be another.
        let client = core::mem::replace(&mut *self.state.lock(), Phase::Closing);
        drop(client);
        self.give_requests_back();
        if self.pulled_up.load(Relaxed) != 0 {
            udc.disconnect();
            udc.reset();
        }
        {
            let mut state = self.state.lock();
            *state = Phase::Available;
            self.used.store(0, Relaxed);
        }
        self.idle.wake_all();
    }

    /// Gives all requests of the gadget driver back, with `ESHUTDOWN`. May sleep.
    fn give_requests_back(&self) {
        for index in 0..ENDPOINTS {
            let requests = self.bus.lock().take_requests(index);
            drop(requests);
        }
    }

    /// Takes the answer of the gadget driver to the question for its device descriptor, if it is there.
    /// The caller holds `state`, so that nobody asks again or becomes a client before the gadget driver
    /// has its request back. Process context.
    fn take_descriptor(&self) {
        let (request, is_good) = {
            let mut bus = self.bus.lock();
            if !bus.is_asked {
                return;
            }
            let Some(mut request) = bus.pop_request(0) else {
                return;
            };
            let mut descriptor = [0; DESCRIPTOR];
            let is_good = request.len() as usize == DESCRIPTOR
                && request.send_bytes(&mut descriptor) == DESCRIPTOR;
            if is_good {
                bus.descriptor = Some(descriptor);
            }
            // Together: whoever waits takes the one without the other for a refusal.
            bus.is_asked = false;
            (request, is_good)
        };
        if !is_good {
            pr_err!(
                "{}: the device descriptor of the gadget has {} bytes instead of {}\n",
                &*self.name,
                request.len(),
                DESCRIPTOR
            );
        }
        request.complete(if is_good { 0 } else { EOVERFLOW.to_errno() });
        self.idle.wake_all();
    }

    /// Asks the gadget driver for its device descriptor, unless that has been done. The caller holds
    /// `state`, and there is no client. May sleep.
    fn ask(&self, udc: &Udc) -> Result {
        {
            let mut bus = self.bus.lock();
            if bus.is_asked || bus.descriptor.is_some() {
                return Ok(());
            }
            bus.is_asked = true;
        }
        udc.setup(&GET_DEVICE_DESCRIPTOR.0)
            .inspect_err(|_| self.bus.lock().is_asked = false)?;
        // If the answer comes later, `Answer` takes it.
        self.take_descriptor();
        Ok(())
    }

    fn show(&self, udc: &Udc, speed: Speed) {
        udc.set_speed(speed);
        self.bus.lock().set_speed(speed);
        let _state = self.state.lock();
        self.pulled_up.store(1, Relaxed);
        if let Err(error) = self.ask(udc) {
            // Some do not answer before they are bound; whoever wants to know will ask again.
            usbip_dbg!(
                Urb,
                "{}: the gadget does not tell its device descriptor, error {}\n",
                &*self.name,
                error.to_errno()
            );
        }
    }

    fn hide(&self, udc: &Udc) {
        {
            let state = self.state.lock();
            self.pulled_up.store(0, Relaxed);
            if let Phase::Used(client) = &*state {
                client.connection.kill(Down::Removed);
            }
        }
        self.idle.wait_until(|| self.used.load(Relaxed) == 0);
        // Whoever takes a late answer. Nobody asks any more.
        self.shared.events.flush();
        {
            let mut bus = self.bus.lock();
            bus.is_asked = false;
            bus.descriptor = None;
        }
        self.give_requests_back();
        udc.set_state(State::NotAttached);
    }

    /// Tells the tx thread that there is something to do. Any context.
    fn kick(&self) {
        // Under the lock: a reference of our own might be the last one, and this any context.
        if let Some(connection) = &self.bus.lock().connection {
            connection.kick();
        }
    }
}

/// The names of all endpoints, in the order of [`crate::bus::index`].
macro_rules! endpoints {
    ($($out:literal $in:literal),* $(,)?) => {
        &[
            EndpointInfo { name: c"ep0", dir_in: true, dir_out: true },
            $(
                EndpointInfo { name: $out, dir_in: false, dir_out: true },
                EndpointInfo { name: $in, dir_in: true, dir_out: false },
            )*
        ]
    };
}

impl gadget::Driver for Vudc {
    const NAME: &'static CStr = c"usbip-vudc";
    const ENDPOINTS: &'static [EndpointInfo] = endpoints![
        c"ep1out" c"ep1in", c"ep2out" c"ep2in", c"ep3out" c"ep3in", c"ep4out" c"ep4in",
        c"ep5out" c"ep5in", c"ep6out" c"ep6in", c"ep7out" c"ep7in", c"ep8out" c"ep8in",
        c"ep9out" c"ep9in", c"ep10out" c"ep10in", c"ep11out" c"ep11in", c"ep12out" c"ep12in",
        c"ep13out" c"ep13in", c"ep14out" c"ep14in", c"ep15out" c"ep15in",
    ];

    fn max_speed(&self) -> Speed {
        self.shared.max_speed
    }

    fn frame_number(&self) -> u32 {
        let ms = time::now_ms().saturating_sub(self.since_ms.load(Relaxed));
        // CAST: A frame number has 11 bits.
        (ms & 0x7ff) as u32
    }

    fn set_self_powered(&self, on: bool) {
        self.bus.lock().set_self_powered(on);
    }

    fn pull_up(udc: &Arc<Udc>, on: bool, speed: Speed) -> Result {
        if on {
            udc.data().show(udc, speed);
        } else {
            udc.data().hide(udc);
        }
        Ok(())
    }

    fn enable(&self, endpoint: usize, config: EndpointConfig) -> Result {
        self.bus.lock().enable(endpoint, config)
    }

    fn disable(&self, endpoint: usize) {
        let requests = self.bus.lock().disable(endpoint);
        drop(requests);
        // Transfers that waited there.
        self.kick();
    }

    fn queue(
        udc: &Arc<Udc>,
        endpoint: usize,
        request: Request<Self>,
    ) -> Result<(), (Error, Request<Self>)> {
        let this = udc.data();
        let (queued, is_answer) = {
            let mut bus = this.bus.lock();
            let is_answer = endpoint == 0 && bus.is_asked;
            (bus.queue(endpoint, request), is_answer)
        };
        let wake = queued.map_err(|request| (ESHUTDOWN, request))?;
        if wake {
            this.kick();
        }
        if is_answer {
            this.answer.schedule(udc, &this.shared.events);
        }
        Ok(())
    }

    fn dequeue(&self, endpoint: usize, id: RequestId) -> Result {
        let request = self.bus.lock().dequeue(endpoint, id).ok_or(EINVAL)?;
        request.complete(ECONNRESET.to_errno());
        // Whoever waits for a device descriptor, if this was to be the answer.
        self.idle.wake_all();
        Ok(())
    }

    fn set_halt(udc: &Arc<Udc>, endpoint: usize, halt: Halt) -> Result {
        let wake = udc.data().bus.lock().set_halt(endpoint, halt)?;
        if wake {
            udc.data().kick();
        }
        // Whoever waits for a device descriptor.
        udc.data().idle.wake_all();
        Ok(())
    }
}

/// Takes a late answer to the question for the device descriptor, as that may come in any context
/// and taking it calls the gadget driver.
#[pin_data]
struct Answer {
    #[pin]
    udc: SpinLockIrqSave<Option<Arc<Udc>>>,
    #[pin]
    work: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Answer { self.work }
}

impl Answer {
    fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                udc <- new_spinlock_irqsave!(None, "vudc_answer"),
                work <- new_work!("vudc_answer"),
            }),
            GFP_KERNEL,
        )
    }

    /// Any context.
    fn schedule(self: &Arc<Self>, udc: &Arc<Udc>, queue: &OwnedQueue) {
        *self.udc.lock() = Some(udc.clone());
        // If it is queued already it will find this answer as well.
        let _ = queue.enqueue(self.clone());
    }
}

impl WorkItem for Answer {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let udc = this.udc.lock().take();
        if let Some(udc) = udc {
            let _state = udc.data().state.lock();
            udc.data().take_descriptor();
        }
    }
}

/// The platform driver `usbip-vudc`.
pub(crate) struct PlatformDriver;

/// What the platform driver keeps for a controller. The order of the fields is the order of the
/// teardown.
pub(crate) struct Bound {
    _files: VudcFiles,
    _registration: Registration<Vudc>,
}

impl platform::Driver for PlatformDriver {
    const NAME: &'static CStr = c"usbip-vudc";
    type Context = Arc<Shared>;
    type Data = KBox<Bound>;

    fn probe(dev: &platform::Device, shared: &Arc<Shared>) -> Result<KBox<Bound>> {
        let registration = Registration::new(dev.as_ref(), Vudc::new(dev.id(), shared.clone()))?;
        let files = VudcFiles::create(dev.as_ref(), registration.gadget())?;
        Ok(KBox::new(
            Bound {
                _files: files,
                _registration: registration,
            },
            GFP_KERNEL,
        )?)
    }
}
