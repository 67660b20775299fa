// SPDX-License-Identifier: GPL-2.0

//! USB host controllers.
//!
//! A driver implements [`Driver`] and creates one [`Registration`] for each root hub. usbcore then
//! enumerates the root hub, asks the driver about its ports and lends it the URBs of the devices
//! behind them; see [`super::urb`] for how those are owned.
//!
//! C header: [`include/linux/usb/hcd.h`](srctree/include/linux/usb/hcd.h)

use super::device::Device;
use super::urb::{Accepted, Submitted, UrbRef};
use crate::bindings;
use crate::errno::*;
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::device;
use kernel::error::{from_result, to_result, VTABLE_DEFAULT_ERROR};
use kernel::prelude::*;
use kernel::sync::Arc;

/// The generation of a root hub, `HCD_USB*` in `include/linux/usb/hcd.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// High speed, with a transaction translator for full and low speed devices.
    Usb2,
    /// SuperSpeedPlus at 10 Gb/s (Gen 2x1).
    Usb31,
    /// SuperSpeedPlus at 20 Gb/s (Gen 2x2).
    Usb32,
}

impl Generation {
    fn speed(self) -> c_int {
        (match self {
            Generation::Usb2 => bindings::HCD_USB2,
            Generation::Usb31 => bindings::HCD_USB31,
            Generation::Usb32 => bindings::HCD_USB32,
        }) as c_int
    }
}

/// A class request to a root hub, as `hub_control` gets it.
#[derive(Clone, Copy, Debug)]
pub struct HubRequest {
    /// `bmRequestType << 8 | bRequest`.
    pub type_req: u16,
    /// `wValue`.
    pub value: u16,
    /// `wIndex`.
    pub index: u16,
}

/// The operations of a host controller driver: one set for all of its root hubs.
///
/// C: `struct hc_driver`. Unless it says otherwise, a method may be called from several threads at
/// once and may sleep.
#[vtable]
pub trait Driver: Sized + 'static {
    /// What the driver keeps for one root hub.
    type Data: Send + Sync + 'static;

    /// The name of the driver (C: `hc_driver::description`).
    const DESCRIPTION: &'static CStr;

    /// The product string of its root hubs (C: `hc_driver::product_desc`).
    const PRODUCT: &'static CStr;

    /// Takes a URB in, or hands it back with the reason why not.
    ///
    /// Atomic context: the submitter may hold spinlocks and have interrupts off. The submitter's
    /// allocation flags are not passed on: memory for URBs is to be set aside beforehand, so that
    /// bringing one back cannot fail either.
    fn urb_enqueue<'a>(
        hub: &Self::Data,
        urb: Submitted<'a>,
    ) -> Result<Accepted<'a>, (Error, Submitted<'a>)>;

    /// Starts to bring a URB back early; it is given back in the end, here or later.
    ///
    /// Atomic context. `status` is for [`UrbRef::check_unlink`], whose error is to be returned.
    fn urb_dequeue(hub: &Self::Data, hcd: &Controller, urb: UrbRef<'_>, status: i32) -> Result;

    /// Writes the status change bitmap of the hub (bit 0 the hub, bit n port n) and returns its
    /// length in bytes, or 0 if nothing changed. Atomic context.
    fn hub_status_data(hub: &Self::Data, hcd: &Controller, bitmap: &mut [u8]) -> usize;

    /// Handles a class request to the hub.
    ///
    /// `data` has the length that the request asked for. Returns the number of bytes written, or
    /// 0 where usbcore knows the length of the answer.
    ///
    /// # Errors
    ///
    /// `EPIPE` is a stall.
    fn hub_control(
        hub: &Self::Data,
        hcd: &Controller,
        request: HubRequest,
        data: &mut [u8],
    ) -> Result<usize>;

    /// The current frame number, in ms. Any context.
    fn frame_number(hub: &Self::Data) -> u32;

    /// How many entries of a scatter list the controller takes, 0 for none. Optional: it takes any.
    /// Asked when the root hub is registered.
    fn sg_tablesize(hub: &Self::Data) -> u32 {
        let _ = hub;
        u32::MAX
    }

    /// Gives `device` the address that usbcore chose. Optional: without it a `SET_ADDRESS` request
    /// is submitted to the device instead.
    ///
    /// # Errors
    ///
    /// usbcore takes any as "device not accepting address".
    fn address_device(hub: &Self::Data, device: &Device) -> Result {
        let _ = (hub, device);
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// `device` was unplugged or given up: it has no URBs any more and will submit none. Optional.
    fn free_device(hub: &Self::Data, device: &Device) {
        let _ = (hub, device);
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// A host controller instance, one for each root hub: a reference to a C `struct usb_hcd`.
///
/// # Invariants
///
/// Points to an initialised `struct usb_hcd` that lives at least as long as the reference.
#[repr(transparent)]
pub struct Controller(kernel::types::Opaque<bindings::usb_hcd>);

// SAFETY: All methods are safe to call from any thread.
unsafe impl Sync for Controller {}

impl Controller {
    /// # Safety
    ///
    /// `ptr` must satisfy the invariants of [`Controller`] for `'a`.
    unsafe fn from_raw<'a>(ptr: *mut bindings::usb_hcd) -> &'a Self {
        // SAFETY: By the requirements of this function; `Controller` is `repr(transparent)`.
        unsafe { &*ptr.cast() }
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::usb_hcd {
        self.0.get()
    }

    /// Whether the controller answers (C: `HCD_HW_ACCESSIBLE()`). Any context.
    pub fn is_accessible(&self) -> bool {
        // SAFETY: By the type invariant; the helper reads the flag word atomically.
        unsafe { bindings::hcd_hw_accessible(self.as_ptr()) }
    }

    /// Says whether the controller answers, for system suspend and resume. Any context.
    pub fn set_accessible(&self, accessible: bool) {
        // SAFETY: By the type invariant; the helper changes the flag word atomically.
        unsafe { bindings::hcd_set_hw_accessible(self.as_ptr(), accessible) };
    }

    /// Wakes the root hub up if usbcore has suspended it. Any context.
    ///
    /// C: `usb_hcd_resume_root_hub()`, when `hcd->state` is `HC_STATE_SUSPENDED`.
    pub fn resume_root_hub_if_suspended(&self) {
        // SAFETY: By the type invariant. `state` is a plain int that the bus suspend and resume
        // callbacks write; a stale value costs a superfluous or a late resume, which the next
        // status poll repeats.
        unsafe {
            let state = core::ptr::read_volatile(&raw const (*self.as_ptr()).state);
            if state == bindings::HC_STATE_SUSPENDED as c_int {
                bindings::usb_hcd_resume_root_hub(self.as_ptr());
            }
        }
    }
}

/// A counted handle on a host controller instance and the driver's data for it.
///
/// # Invariants
///
/// Holds a reference on `hcd`, in whose private area lies a pointer to the contents of `data`.
pub struct Handle<D: Driver> {
    hcd: NonNull<bindings::usb_hcd>,
    data: Arc<D::Data>,
}

// SAFETY: The C object is reference counted and internally locked; `Arc<D::Data>` is `Send`.
unsafe impl<D: Driver> Send for Handle<D> {}
// SAFETY: As above.
unsafe impl<D: Driver> Sync for Handle<D> {}

impl<D: Driver> Handle<D> {
    /// The controller instance.
    pub fn controller(&self) -> &Controller {
        // SAFETY: By the type invariant this handle keeps the `usb_hcd` alive.
        unsafe { Controller::from_raw(self.hcd.as_ptr()) }
    }

    /// The driver's data.
    pub fn data(&self) -> &D::Data {
        &self.data
    }

    /// Asks usbcore to look at the status change bitmap now (C: `usb_hcd_poll_rh_status()`).
    ///
    /// Any context; hold no lock that [`Driver::hub_status_data`] takes. Does nothing when the
    /// root hub is not registered.
    pub fn poll_root_hub(&self) {
        // SAFETY: By the type invariant the controller and the data that the callback looks at
        // are alive; usbcore checks whether the root hub may be polled.
        unsafe { bindings::usb_hcd_poll_rh_status(self.hcd.as_ptr()) };
    }
}

impl<D: Driver> Drop for Handle<D> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant a reference is held, which ends here.
        unsafe { bindings::usb_put_hcd(self.hcd.as_ptr()) };
    }
}

/// A registered root hub. Dropping it disconnects all devices behind it and waits for that.
///
/// # Invariants
///
/// `usb_add_hcd()` succeeded for the controller and `usb_remove_hcd()` was not called.
pub struct Registration<D: Driver>(Arc<Handle<D>>);

impl<D: Driver> Registration<D> {
    /// Creates a host controller instance on `dev` and registers its root hub.
    ///
    /// With `primary` the new root hub is the second one of the same controller
    /// (C: `usb_create_shared_hcd()`), of a higher generation. May sleep; the hub driver may call
    /// back before this returns.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, or what `usb_add_hcd()` returned.
    pub fn new(
        dev: &device::Device<device::Bound>,
        generation: Generation,
        data: Arc<D::Data>,
        primary: Option<&Registration<D>>,
    ) -> Result<Self> {
        let dev: *mut bindings::device = core::ptr::from_ref(dev).cast_mut().cast();
        // SAFETY: `dev` is a valid device, bound to a driver for the duration of this call.
        // `usb_create_hcd()` stores the controller in the device's driver data; the slot belongs
        // to the bus abstraction of `dev`, which keeps its own pointer there, so put that back.
        let hcd = unsafe {
            let drvdata = bindings::dev_get_drvdata(dev);
            let hcd = match primary {
                None => bindings::usb_create_hcd(VTable::<D>::get(), dev, bindings::dev_name(dev)),
                Some(primary) => bindings::usb_create_shared_hcd(
                    VTable::<D>::get(),
                    dev,
                    bindings::dev_name(dev),
                    primary.0.hcd.as_ptr(),
                ),
            };
            bindings::dev_set_drvdata(dev, drvdata);
            hcd
        };
        let hcd = NonNull::new(hcd).ok_or(ENOMEM)?;

        // SAFETY: The controller is new and not known to anybody else. Its private area has room
        // for a pointer, as the operations table says.
        unsafe {
            let hcd = hcd.as_ptr();
            VTable::<D>::data_slot(hcd).write(Arc::as_ptr(&data));
            (*hcd).speed = generation.speed();
            // Changes are pushed with `poll_root_hub`, no timer is needed.
            (*hcd).set_uses_new_polling(1);
            (*hcd).set_has_tt((generation == Generation::Usb2).into());
            (*hcd).self_.sg_tablesize = D::sg_tablesize(&data);
            // Without DMA any entry of one will do.
            (*hcd).self_.set_no_sg_constraint(1);
        }
        // INVARIANT: `usb_create_hcd()` returned the controller with one reference, and its
        // private area was just set to point to `data`.
        let handle = Handle { hcd, data };
        let handle = Arc::new(handle, GFP_KERNEL)?;
        // SAFETY: The controller is initialised; no interrupt line is used.
        to_result(unsafe { bindings::usb_add_hcd(hcd.as_ptr(), 0, 0) })?;
        // INVARIANT: It was just added.
        Ok(Self(handle))
    }

    /// A handle that may outlive the registration.
    pub fn handle(&self) -> Arc<Handle<D>> {
        self.0.clone()
    }
}

impl<D: Driver> Drop for Registration<D> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the controller was added and not yet removed.
        unsafe { bindings::usb_remove_hcd(self.0.hcd.as_ptr()) };
    }
}

/// The operations table of a [`Driver`].
struct VTable<D: Driver>(PhantomData<D>);

impl<D: Driver> VTable<D> {
    const TABLE: bindings::hc_driver = bindings::hc_driver {
        description: kernel::str::as_char_ptr_in_const_context(D::DESCRIPTION),
        product_desc: kernel::str::as_char_ptr_in_const_context(D::PRODUCT),
        hcd_priv_size: core::mem::size_of::<*const D::Data>(),
        // Generation and sharing: usbcore takes the speed from `usb_hcd::speed`, set above.
        flags: (bindings::HCD_USB31 | bindings::HCD_SHARED) as c_int,
        start: Some(Self::start_callback),
        stop: Some(Self::stop_callback),
        get_frame_number: Some(Self::get_frame_number_callback),
        urb_enqueue: Some(Self::urb_enqueue_callback),
        urb_dequeue: Some(Self::urb_dequeue_callback),
        hub_status_data: Some(Self::hub_status_data_callback),
        hub_control: Some(Self::hub_control_callback),
        bus_suspend: Some(Self::bus_suspend_callback),
        bus_resume: Some(Self::bus_resume_callback),
        address_device: if D::HAS_ADDRESS_DEVICE {
            Some(Self::address_device_callback)
        } else {
            None
        },
        free_dev: if D::HAS_FREE_DEVICE {
            Some(Self::free_dev_callback)
        } else {
            None
        },
        ..pin_init::zeroed()
    };

    fn get() -> &'static bindings::hc_driver {
        &Self::TABLE
    }

    /// Where the pointer to the driver's data lies.
    ///
    /// # Safety
    ///
    /// `hcd` must have been created with this operations table.
    unsafe fn data_slot(hcd: *mut bindings::usb_hcd) -> *mut *const D::Data {
        // SAFETY: The private area begins at `hcd_priv`, is aligned to 8 bytes, and
        // `hcd_priv_size` of the table makes it large enough.
        unsafe { (&raw mut (*hcd).hcd_priv).cast() }
    }

    /// # Safety
    ///
    /// `hcd` must have been created by [`Registration::new`], and a [`Handle`] of it must exist
    /// for `'a`.
    unsafe fn data<'a>(hcd: *mut bindings::usb_hcd) -> &'a D::Data {
        // SAFETY: By the invariant of `Handle` the slot points to data that the handle keeps.
        unsafe { &*Self::data_slot(hcd).read() }
    }

    // All callbacks below are called by usbcore with a controller that was made by
    // `Registration::new` and while either the root hub is registered, or `usb_add_hcd()`,
    // `usb_remove_hcd()` or `usb_hcd_poll_rh_status()` is running on it. In all these cases the
    // `Registration` or the caller of `poll_root_hub` holds a `Handle`.

    /// # Safety
    ///
    /// Called by usbcore only, see above.
    unsafe extern "C" fn start_callback(hcd: *mut bindings::usb_hcd) -> c_int {
        // SAFETY: `hcd` is being added and belongs to this thread. There is nothing to start: a
        // virtual controller runs as soon as it exists.
        unsafe { (*hcd).state = bindings::HC_STATE_RUNNING as c_int };
        0
    }

    /// # Safety
    ///
    /// Called by usbcore only, see above.
    unsafe extern "C" fn stop_callback(_hcd: *mut bindings::usb_hcd) {}

    /// # Safety
    ///
    /// Called by usbcore only, see above.
    unsafe extern "C" fn get_frame_number_callback(hcd: *mut bindings::usb_hcd) -> c_int {
        // SAFETY: As explained above.
        let frame = D::frame_number(unsafe { Self::data(hcd) });
        // CAST: usbcore and drivers use the low bits only; keep it from looking like an errno.
        (frame & 0x7fff_ffff) as c_int
    }

    /// # Safety
    ///
    /// Called by usbcore only, see above.
    unsafe extern "C" fn urb_enqueue_callback(
        hcd: *mut bindings::usb_hcd,
        urb: *mut bindings::urb,
        _mem_flags: bindings::gfp_t,
    ) -> c_int {
        let Some(urb) = NonNull::new(urb) else {
            return EINVAL.to_errno();
        };
        // SAFETY: As explained above; the URB is the argument of this callback and the lifetime
        // of `submitted` ends with it.
        let (data, submitted) = unsafe { (Self::data(hcd), Submitted::from_raw(urb)) };
        match D::urb_enqueue(data, submitted) {
            Ok(_accepted) => 0,
            Err((error, submitted)) => {
                // A driver that hands back another URB than it got leaves this one queued.
                debug_assert!(submitted.is(urb));
                error.to_errno()
            }
        }
    }

    /// # Safety
    ///
    /// Called by usbcore only, see above.
    unsafe extern "C" fn urb_dequeue_callback(
        hcd: *mut bindings::usb_hcd,
        urb: *mut bindings::urb,
        status: c_int,
    ) -> c_int {
        let Some(urb) = NonNull::new(urb) else {
            return EINVAL.to_errno();
        };
        // SAFETY: As explained above; usbcore keeps the URB alive during the callback.
        let (data, hcd, urb) = unsafe {
            (
                Self::data(hcd),
                Controller::from_raw(hcd),
                UrbRef::from_raw(urb),
            )
        };
        from_result(|| D::urb_dequeue(data, hcd, urb, status).map(|()| 0))
    }

    /// # Safety
    ///
    /// Called by usbcore only, see above.
    unsafe extern "C" fn hub_status_data_callback(
        hcd: *mut bindings::usb_hcd,
        buf: *mut c_char,
    ) -> c_int {
        // The bitmap of the largest root hub: `USB_MAXCHILDREN` (31) ports and the hub itself.
        // usbcore's buffer has 6 bytes (`usb_hcd_poll_rh_status()`).
        const LEN: usize = 4;
        // SAFETY: As explained above; the buffer belongs to this call.
        let (data, hcd, bitmap) = unsafe {
            (
                Self::data(hcd),
                Controller::from_raw(hcd),
                core::slice::from_raw_parts_mut(buf.cast::<u8>(), LEN),
            )
        };
        bitmap.fill(0);
        D::hub_status_data(data, hcd, bitmap).min(LEN) as c_int
    }

    /// # Safety
    ///
    /// Called by usbcore only, see above.
    unsafe extern "C" fn hub_control_callback(
        hcd: *mut bindings::usb_hcd,
        type_req: u16,
        value: u16,
        index: u16,
        buf: *mut c_char,
        length: u16,
    ) -> c_int {
        // SAFETY: As explained above; `rh_call_control()` passes a zeroed buffer of at least
        // `length` bytes.
        let (data, hcd, buf) = unsafe {
            (
                Self::data(hcd),
                Controller::from_raw(hcd),
                core::slice::from_raw_parts_mut(buf.cast::<u8>(), length.into()),
            )
        };
        let request = HubRequest {
            type_req,
            value,
            index,
        };
        from_result(|| {
            let n = D::hub_control(data, hcd, request, buf)?;
            Ok(n.min(length.into()) as c_int)
        })
    }

    /// # Safety
    ///
    /// Called by usbcore only, see above.
    unsafe extern "C" fn bus_suspend_callback(hcd: *mut bindings::usb_hcd) -> c_int {
        // SAFETY: usbcore serialises suspend and resume of a root hub with its device lock.
        unsafe { (*hcd).state = bindings::HC_STATE_SUSPENDED as c_int };
        0
    }

    /// # Safety
    ///
    /// Called by usbcore only, see above.
    unsafe extern "C" fn bus_resume_callback(hcd: *mut bindings::usb_hcd) -> c_int {
        // SAFETY: As explained above.
        if !unsafe { Controller::from_raw(hcd) }.is_accessible() {
            return ESHUTDOWN.to_errno();
        }
        // SAFETY: As in `bus_suspend_callback`.
        unsafe { (*hcd).state = bindings::HC_STATE_RUNNING as c_int };
        0
    }

    /// # Safety
    ///
    /// Called by usbcore only, see above.
    unsafe extern "C" fn address_device_callback(
        hcd: *mut bindings::usb_hcd,
        udev: *mut bindings::usb_device,
        _timeout_ms: c_uint,
    ) -> c_int {
        // SAFETY: As explained above; the hub driver holds a reference on the device.
        let (data, device) = unsafe { (Self::data(hcd), Device::from_raw(udev)) };
        from_result(|| D::address_device(data, device).map(|()| 0))
    }

    /// # Safety
    ///
    /// Called by usbcore only, see above.
    unsafe extern "C" fn free_dev_callback(
        hcd: *mut bindings::usb_hcd,
        udev: *mut bindings::usb_device,
    ) {
        // SAFETY: As explained above; the hub driver holds a reference on the device.
        let (data, device) = unsafe { (Self::data(hcd), Device::from_raw(udev)) };
        D::free_device(data, device);
    }
}
