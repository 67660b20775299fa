// SPDX-License-Identifier: GPL-2.0

//! USB device controllers (UDCs): the hardware below a gadget driver.
//!
//! A driver implements [`Driver`] and creates one [`Registration`] for each controller. A gadget
//! driver is then bound to it, enables endpoints and lends the controller [`Request`]s, each of
//! which comes back to it exactly once; what the host asks on endpoint 0 is handed to the gadget
//! driver with [`Gadget::setup`].
//!
//! Nothing here is generated unless a module has such a driver, so that a module with these
//! abstractions but without a UDC does not depend on `udc-core`.
//!
//! C header: [`include/linux/usb/gadget.h`](srctree/include/linux/usb/gadget.h)

use crate::bindings;
use crate::errno::*;
use crate::new_spinlock_irqsave;
use crate::sync::irqsave::SpinLockIrqSave;
use crate::sync::wait::WaitQueue;
use crate::time;
use core::ptr::NonNull;
use kernel::device;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel::types::Opaque;

mod request;
mod vtable;

pub use request::{Request, RequestId, RequestQueue};
use vtable::VTable;

/// What [`Gadget::setup`] returns when the gadget driver will queue a request on endpoint 0 later
/// (`USB_GADGET_DELAYED_STATUS` of `include/linux/usb/composite.h`).
pub const DELAYED_STATUS: i32 = 0x7fff;

/// Speeds of a controller, `enum usb_device_speed` of `include/uapi/linux/usb/ch9.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Speed {
    /// 12 Mb/s.
    Full,
    /// 480 Mb/s.
    High,
    /// 5 Gb/s.
    Super,
    /// 10 Gb/s.
    SuperPlus,
}

impl Speed {
    fn raw(self) -> bindings::usb_device_speed {
        match self {
            Speed::Full => bindings::usb_device_speed_USB_SPEED_FULL,
            Speed::High => bindings::usb_device_speed_USB_SPEED_HIGH,
            Speed::Super => bindings::usb_device_speed_USB_SPEED_SUPER,
            Speed::SuperPlus => bindings::usb_device_speed_USB_SPEED_SUPER_PLUS,
        }
    }

    /// The fastest of these that is not faster than `raw`.
    fn from_raw(raw: bindings::usb_device_speed) -> Self {
        [Speed::SuperPlus, Speed::Super, Speed::High]
            .into_iter()
            .find(|speed| speed.raw() <= raw)
            .unwrap_or(Speed::Full)
    }
}

/// What a controller tells about its connection, `enum usb_device_state` of
/// `include/uapi/linux/usb/ch9.h`. The gadget driver adds "configured" itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No host.
    NotAttached,
    /// Was reset by a host.
    Default,
    /// Has an address.
    Address,
}

/// An endpoint of a controller.
pub struct EndpointInfo {
    /// Its name, as gadget drivers match it: `ep1out`.
    pub name: &'static CStr,
    /// Whether it can send.
    pub dir_in: bool,
    /// Whether it can receive.
    pub dir_out: bool,
}

/// What an endpoint is enabled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointConfig {
    /// `bEndpointAddress`.
    pub address: u8,
    /// Its type.
    pub kind: super::TransferType,
    /// Bytes of a packet, at least 1.
    pub max_packet: u16,
    /// `bInterval`.
    pub interval: u8,
}

/// Whether an endpoint stalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// It does not.
    Clear,
    /// Until the host clears it.
    Halted,
    /// Until the gadget driver clears it.
    Wedged,
}

/// The operations of a UDC driver, and what it keeps for one controller.
///
/// C: `struct usb_gadget_ops` and `struct usb_ep_ops`. Endpoints are named by their index in
/// [`Self::ENDPOINTS`]. The operations on endpoints may be called in any context, also by a gadget
/// driver that is being called by this controller: a controller must not call back with a lock held
/// that they take.
pub trait Driver: Send + Sync + Sized + 'static {
    /// The name of all its controllers (C: `usb_gadget::name`).
    const NAME: &'static CStr;

    /// The endpoints. The first is endpoint 0, for control both ways; the others can do every type but
    /// control, with packets of any size.
    const ENDPOINTS: &'static [EndpointInfo];

    /// How fast it can be at most.
    fn max_speed(&self) -> Speed;

    /// The current frame number, in ms. Any context.
    fn frame_number(&self) -> u32;

    /// Whether the device has power of its own, for the answer to GET_STATUS. Any context.
    fn set_self_powered(&self, on: bool);

    /// Shows the device to hosts, or hides it. `speed` is the fastest that controller and gadget
    /// driver have in common.
    ///
    /// When it is hidden, nothing of the gadget driver may be called before it is shown again, and a
    /// call that is going on has to be waited for. May sleep.
    ///
    /// # Errors
    ///
    /// The gadget stays as it was.
    fn pull_up(this: &Arc<Gadget<Self>>, on: bool, speed: Speed) -> Result;

    /// A gadget driver wants to use an endpoint, which is not enabled and not endpoint 0.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it cannot be used like that.
    fn enable(&self, endpoint: usize, config: EndpointConfig) -> Result;

    /// A gadget driver does not use an endpoint any more. Its requests must have come back, with
    /// `ESHUTDOWN`, when this returns; but one whose completion is running may still be. To wait for that
    /// is not possible, as the caller may hold a lock that the completion takes: other controllers do not
    /// either. Before the gadget driver is unbound, [`Self::pull_up`] waits.
    fn disable(&self, endpoint: usize);

    /// Takes a request on, or hands it back with the reason why not.
    fn queue(
        this: &Arc<Gadget<Self>>,
        endpoint: usize,
        request: Request<Self>,
    ) -> Result<(), (Error, Request<Self>)>;

    /// Brings a request back early, with `ECONNRESET`.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it is not queued there.
    fn dequeue(&self, endpoint: usize, id: RequestId) -> Result;

    /// Makes an endpoint stall, or not. On endpoint 0 the request that is going on.
    ///
    /// # Errors
    ///
    /// `EAGAIN`: it is to stall but has something to send.
    fn set_halt(this: &Arc<Gadget<Self>>, endpoint: usize, halt: Halt) -> Result;
}

/// The gadget driver that is bound, as far as it may be called.
///
/// # Invariants
///
/// A driver that was read from `driver` is valid for as long as `running` counts the reader.
struct Callbacks {
    driver: Option<NonNull<bindings::usb_gadget_driver>>,
    /// Whether udc-core allows calls.
    enabled: bool,
    /// Calls that are going on.
    running: u32,
}

// SAFETY: The driver's callbacks may be called by any thread.
unsafe impl Send for Callbacks {}

/// One endpoint: the C object, and where its operations find the rest.
struct Endpoint<T: Driver> {
    ep: Opaque<bindings::usb_ep>,
    index: usize,
    /// The controller that it belongs to. Written once, before anybody else knows of either.
    gadget: Opaque<*const Gadget<T>>,
}

/// The C object of a controller, and where its operations find the rest.
struct Hardware<T: Driver> {
    gadget: Opaque<bindings::usb_gadget>,
    /// Written once, before anybody else knows of either.
    owner: Opaque<*const Gadget<T>>,
}

/// A controller together with what its driver keeps for it.
///
/// # Invariants
///
/// `hardware` points to a [`Hardware`] that is freed with this object, or never; the elements of
/// `endpoints` are not moved.
#[pin_data(PinnedDrop)]
pub struct Gadget<T: Driver> {
    hardware: NonNull<Hardware<T>>,
    /// Not 0 if somebody may refer to `hardware` for ever.
    leaked: Atomic<u32>,
    endpoints: KVec<Endpoint<T>>,
    #[pin]
    callbacks: SpinLockIrqSave<Callbacks>,
    /// Whoever forbids calls waits here.
    #[pin]
    idle: WaitQueue,
    #[pin]
    data: T,
}

// SAFETY: The C object has its own locks; the rest is `Send`.
unsafe impl<T: Driver> Send for Gadget<T> {}
// SAFETY: As above; endpoints are only touched by the C side and through raw pointers.
unsafe impl<T: Driver> Sync for Gadget<T> {}

impl<T: Driver> Gadget<T> {
    fn as_ptr(&self) -> *mut bindings::usb_gadget {
        // SAFETY: By the type invariant.
        unsafe { self.hardware.as_ref() }.gadget.get()
    }

    /// What the driver keeps.
    pub fn data(&self) -> &T {
        &self.data
    }

    /// Calls the gadget driver, if there is one and it may be called.
    fn call<R>(
        &self,
        what: impl FnOnce(&bindings::usb_gadget_driver, *mut bindings::usb_gadget) -> R,
    ) -> Option<R> {
        let driver = {
            let mut callbacks = self.callbacks.lock();
            let driver = callbacks.driver.filter(|_| callbacks.enabled)?;
            // INVARIANT: From now on it is waited for before the driver goes.
            callbacks.running += 1;
            driver
        };
        let result = {
            let _irqs = IrqsOff::new();
            // SAFETY: By the invariant of `Callbacks`.
            what(unsafe { driver.as_ref() }, self.as_ptr())
        };
        let running = {
            let mut callbacks = self.callbacks.lock();
            callbacks.running -= 1;
            callbacks.running
        };
        if running == 0 {
            self.idle.wake_all();
        }
        Some(result)
    }

    /// Lets no further call begin, and waits for those that are going on. May sleep.
    fn forbid_calls(&self) {
        self.callbacks.lock().enabled = false;
        self.wait_for_calls();
    }

    /// Waits for calls that are going on. May sleep.
    fn wait_for_calls(&self) {
        self.idle.wait_until(|| self.callbacks.lock().running == 0);
    }

    /// Hands a control request of the host to the gadget driver, which answers by queueing a request
    /// on endpoint 0, before this returns or later. Process context.
    ///
    /// # Errors
    ///
    /// The endpoint is to stall: whatever the gadget driver says, or `ESHUTDOWN` if there is none.
    pub fn setup(&self, packet: &[u8; 8]) -> Result {
        // Mutable, as composite gadgets shorten `wLength` in place.
        let mut request = bindings::usb_ctrlrequest {
            bRequestType: packet[0],
            bRequest: packet[1],
            wValue: u16::from_ne_bytes([packet[2], packet[3]]),
            wIndex: u16::from_ne_bytes([packet[4], packet[5]]),
            wLength: u16::from_ne_bytes([packet[6], packet[7]]),
        };
        let status = self.call(|driver, gadget| {
            let setup = driver.setup?;
            // SAFETY: The driver is bound to this gadget; `request` is valid for the call, also for
            // writes.
            Some(unsafe { setup(gadget, &raw mut request) })
        });
        to_result(status.flatten().unwrap_or(ESHUTDOWN.to_errno()))
    }

    /// Tells the gadget driver that the host is gone; it disables its endpoints. Process context.
    pub fn disconnect(&self) {
        self.call(|driver, gadget| {
            if let Some(disconnect) = driver.disconnect {
                // SAFETY: The driver is bound to this gadget.
                unsafe { disconnect(gadget) };
            }
        });
    }

    /// Tells the gadget driver that the host has reset the device (C: `usb_gadget_udc_reset()`).
    /// Process context.
    pub fn reset(&self) {
        self.call(|driver, gadget| {
            if let Some(reset) = driver.reset {
                // SAFETY: The driver is bound to this gadget.
                unsafe { reset(gadget) };
            }
        });
        self.set_state(State::Default);
    }

    /// Sets what `/sys/class/udc/*/state` shows. Any context.
    pub fn set_state(&self, state: State) {
        let state = match state {
            State::NotAttached => bindings::usb_device_state_USB_STATE_NOTATTACHED,
            State::Default => bindings::usb_device_state_USB_STATE_DEFAULT,
            State::Address => bindings::usb_device_state_USB_STATE_ADDRESS,
        };
        // SAFETY: The gadget is initialised; the function has its own lock.
        unsafe { bindings::usb_gadget_set_state(self.as_ptr(), state) };
    }

    /// Sets the speed of the connection, and the size of packets on endpoint 0 that goes with it.
    /// Only in [`Driver::pull_up`].
    pub fn set_speed(&self, speed: Speed) {
        let max_packet = if speed >= Speed::Super { 512 } else { 64 };
        // SAFETY: The gadget is initialised. While it is not connected, nobody but the caller, who
        // has udc-core's lock for that, reads or writes the fields.
        unsafe {
            let gadget = self.as_ptr();
            (*gadget).speed = speed.raw();
            (*(*gadget).ep0).maxpacket = max_packet;
        }
    }
}

#[pinned_drop]
impl<T: Driver> PinnedDrop for Gadget<T> {
    fn drop(self: Pin<&mut Self>) {
        if self.leaked.load(Relaxed) == 0 {
            // SAFETY: By the type invariant; it was made by `Registration::new`, and nobody refers to
            // it any more.
            drop(unsafe { KBox::from_raw(self.hardware.as_ptr()) });
        }
    }
}

/// Gadget drivers expect what an interrupt handler would give them: interrupts off.
struct IrqsOff(c_ulong);

impl IrqsOff {
    #[inline]
    fn new() -> Self {
        // SAFETY: No requirements.
        Self(unsafe { bindings::gadget_callback_begin() })
    }
}

impl Drop for IrqsOff {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: The flags come from the beginning of the same section.
        unsafe { bindings::gadget_callback_end(self.0) };
    }
}

/// For how long a reference to a gadget that is gone is waited for, in ms, before its memory is given
/// up for lost.
const PATIENCE_MS: u64 = 1000;

/// A registered controller. Dropping it unbinds the gadget driver.
///
/// # Invariants
///
/// `usb_add_gadget()` succeeded for it and `usb_del_gadget()` was not called.
pub struct Registration<T: Driver>(Arc<Gadget<T>>);

impl<T: Driver> Registration<T> {
    /// Registers a controller below `dev`, with the name of that. A gadget driver that waits for one may
    /// be bound before this returns. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; what the driver core returns.
    pub fn new(dev: &device::Device<device::Bound>, data: impl PinInit<T, Error>) -> Result<Self> {
        let mut endpoints = KVec::with_capacity(T::ENDPOINTS.len(), GFP_KERNEL)?;
        for index in 0..T::ENDPOINTS.len() {
            let endpoint = Endpoint {
                ep: Opaque::zeroed(),
                index,
                gadget: Opaque::new(core::ptr::null()),
            };
            endpoints.push(endpoint, GFP_KERNEL)?;
        }
        let hardware = KBox::new(
            Hardware {
                gadget: Opaque::zeroed(),
                owner: Opaque::new(core::ptr::null()),
            },
            GFP_KERNEL,
        )?;
        let gadget = Arc::pin_init(
            // INVARIANT: The box is freed when the object is dropped.
            try_pin_init!(Gadget {
                endpoints,
                callbacks <- new_spinlock_irqsave!(
                    Callbacks { driver: None, enabled: false, running: 0 },
                    "usb_gadget_callbacks"
                ),
                idle <- WaitQueue::new(),
                data <- data,
                leaked: Atomic::new(0),
                // The last: nothing fails after it.
                // SAFETY: The pointer of a box is not null.
                hardware: unsafe { NonNull::new_unchecked(KBox::into_raw(hardware)) },
            }? Error),
            GFP_KERNEL,
        )?;
        let parent: *mut bindings::device = core::ptr::from_ref(dev).cast_mut().cast();
        let this = Arc::as_ptr(&gadget);
        let raw = gadget.as_ptr();
        // SAFETY: Nobody else knows the object yet, and all that is written is within `Opaque`s. The
        // parent is bound, and its driver drops the registration before it is unbound.
        unsafe {
            *gadget.hardware.as_ref().owner.get() = this;
            (*raw).name = T::NAME.as_char_ptr();
            (*raw).ops = &VTable::<T>::GADGET;
            (*raw).max_speed = gadget.data.max_speed().raw();
            if gadget.data.max_speed() == Speed::SuperPlus {
                (*raw).max_ssp_rate = bindings::usb_ssp_rate_USB_SSP_GEN_2x1;
            }
            bindings::usb_initialize_gadget(parent, raw, None);
            bindings::gadget_init_endpoints(raw);
            for (endpoint, info) in gadget.endpoints.iter().zip(T::ENDPOINTS) {
                *endpoint.gadget.get() = this;
                let ep = endpoint.ep.get();
                (*ep).name = info.name.as_char_ptr();
                (*ep).ops = &VTable::<T>::ENDPOINT;
                bindings::gadget_add_endpoint(raw, ep, info.dir_in, info.dir_out);
            }
        }
        // SAFETY: It is initialised.
        if let Err(error) = to_result(unsafe { bindings::usb_add_gadget(raw) }) {
            // SAFETY: The reference is the one of `usb_initialize_gadget()`, and the only one.
            unsafe { bindings::gadget_put(raw) };
            return Err(error);
        }
        // INVARIANT: It was just added.
        Ok(Self(gadget))
    }

    /// The controller.
    pub fn gadget(&self) -> &Arc<Gadget<T>> {
        &self.0
    }
}

impl<T: Driver> Drop for Registration<T> {
    fn drop(&mut self) {
        let raw = self.0.as_ptr();
        // SAFETY: By the type invariant it was added.
        unsafe { bindings::usb_del_gadget(raw) };
        // Nobody can get a reference any more, but somebody may still have one.
        let deadline = time::now_ms() + PATIENCE_MS;
        // SAFETY: We hold a reference, that of `usb_initialize_gadget()`.
        while unsafe { bindings::gadget_is_shared(raw) } {
            if time::now_ms() > deadline {
                // Of Linux 7.2, network functions: u_ether moves its device away from the gadget, and
                // the folder `net` that it was in keeps a reference for ever.
                pr_warn!("somebody refers to a gadget that is gone: its memory stays\n");
                self.0.leaked.store(1, Relaxed);
                break;
            }
            fsleep(Delta::from_millis(10));
        }
        // SAFETY: As above. What releases the device is code of udc-core.
        unsafe { bindings::gadget_put(raw) };
    }
}
