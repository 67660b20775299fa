// SPDX-License-Identifier: GPL-2.0

//! The operations of a controller as udc-core and gadget drivers call them.
//!
//! C header: [`include/linux/usb/gadget.h`](srctree/include/linux/usb/gadget.h)

use super::request::{self, Request, RequestId};
use super::{Driver, Endpoint, EndpointConfig, Gadget, Halt, Hardware, Speed};
use crate::bindings;
use crate::errno::*;
use crate::usb::TransferType;
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::container_of;
use kernel::error::from_result;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::Opaque;

/// The operations tables of a [`Driver`].
///
/// udc-core and gadget drivers call them with a gadget of a [`Registration<T>`], or with one of its
/// endpoints, and with requests that were allocated with `alloc_request` below. None does so any more
/// when the registration is gone.
pub(super) struct VTable<T: Driver>(PhantomData<T>);

impl<T: Driver> VTable<T> {
    pub(super) const GADGET: bindings::usb_gadget_ops = bindings::usb_gadget_ops {
        get_frame: Some(Self::get_frame_callback),
        set_selfpowered: Some(Self::set_selfpowered_callback),
        pullup: Some(Self::pullup_callback),
        udc_start: Some(Self::udc_start_callback),
        udc_stop: Some(Self::udc_stop_callback),
        udc_async_callbacks: Some(Self::udc_async_callbacks_callback),
        ..pin_init::zeroed()
    };

    pub(super) const ENDPOINT: bindings::usb_ep_ops = bindings::usb_ep_ops {
        enable: Some(Self::enable_callback),
        disable: Some(Self::disable_callback),
        alloc_request: Some(Self::alloc_request_callback),
        free_request: Some(Self::free_request_callback),
        queue: Some(Self::queue_callback),
        dequeue: Some(Self::dequeue_callback),
        set_halt: Some(Self::set_halt_callback),
        set_wedge: Some(Self::set_wedge_callback),
        ..pin_init::zeroed()
    };

    /// The object that a gadget belongs to.
    ///
    /// # Safety
    ///
    /// `gadget` must be the argument of a callback that lasts longer than `'a`, see above.
    unsafe fn gadget<'a>(gadget: *mut bindings::usb_gadget) -> &'a Gadget<T> {
        // SAFETY: As explained above it is embedded in the `Hardware<T>` of a `Gadget<T>` that is
        // alive and was registered.
        unsafe {
            let hardware: *const Hardware<T> =
                container_of!(Opaque::cast_from(gadget), Hardware<T>, gadget);
            &**(*hardware).owner.get()
        }
    }

    /// The same with a reference of its own.
    ///
    /// # Safety
    ///
    /// As [`Self::gadget`].
    unsafe fn shared(gadget: *const Gadget<T>) -> Arc<Gadget<T>> {
        // SAFETY: Every `Gadget<T>` is made by `Registration::new`, which puts it into an `Arc`. The
        // count is raised for the new one, and what `from_raw` takes over is left alone.
        unsafe {
            let owner = core::mem::ManuallyDrop::new(Arc::from_raw(gadget));
            Arc::clone(&owner)
        }
    }

    /// The controller and the index of an endpoint.
    ///
    /// # Safety
    ///
    /// `ep` must be the argument of a callback that lasts longer than `'a`, see above.
    unsafe fn endpoint<'a>(ep: *mut bindings::usb_ep) -> (&'a Gadget<T>, usize) {
        // SAFETY: As explained above it is embedded in an `Endpoint<T>` of a `Gadget<T>` that is
        // alive and was registered.
        unsafe {
            let endpoint: *const Endpoint<T> =
                container_of!(Opaque::cast_from(ep), Endpoint<T>, ep);
            (&**(*endpoint).gadget.get(), (*endpoint).index)
        }
    }

    /// # Safety
    ///
    /// Called as [`VTable`] says.
    unsafe extern "C" fn get_frame_callback(gadget: *mut bindings::usb_gadget) -> c_int {
        // SAFETY: By the requirements of this function.
        let this = unsafe { Self::gadget(gadget) };
        // CAST: USB has 11 bits for it.
        (this.data.frame_number() & 0x7ff) as c_int
    }

    /// # Safety
    ///
    /// Called as [`VTable`] says.
    unsafe extern "C" fn set_selfpowered_callback(
        gadget: *mut bindings::usb_gadget,
        on: c_int,
    ) -> c_int {
        // SAFETY: By the requirements of this function.
        unsafe { Self::gadget(gadget) }
            .data
            .set_self_powered(on != 0);
        0
    }

    /// # Safety
    ///
    /// Called as [`VTable`] says.
    unsafe extern "C" fn pullup_callback(gadget: *mut bindings::usb_gadget, on: c_int) -> c_int {
        // SAFETY: By the requirements of this function.
        let this = unsafe { Self::shared(Self::gadget(gadget)) };
        let driver = this.callbacks.lock().driver;
        let speed = driver.map_or(Speed::Full, |driver| {
            // SAFETY: It is valid until `udc_stop`, which udc-core does not call meanwhile.
            Speed::from_raw(unsafe { driver.as_ref() }.max_speed)
        });
        let speed = speed.min(this.data.max_speed());
        from_result(|| T::pull_up(&this, on != 0, speed).map(|()| 0))
    }

    /// # Safety
    ///
    /// Called as [`VTable`] says.
    unsafe extern "C" fn udc_start_callback(
        gadget: *mut bindings::usb_gadget,
        driver: *mut bindings::usb_gadget_driver,
    ) -> c_int {
        // SAFETY: By the requirements of this function.
        let this = unsafe { Self::gadget(gadget) };
        // INVARIANT: It is valid until `udc_stop`.
        this.callbacks.lock().driver = NonNull::new(driver);
        0
    }

    /// # Safety
    ///
    /// Called as [`VTable`] says.
    unsafe extern "C" fn udc_stop_callback(gadget: *mut bindings::usb_gadget) -> c_int {
        // SAFETY: By the requirements of this function.
        let this = unsafe { Self::gadget(gadget) };
        // Not `forbid_calls()`: with `soft_connect` there is a start without permission after it.
        this.callbacks.lock().driver = None;
        this.wait_for_calls();
        // SAFETY: udc-core holds its lock for connections.
        unsafe { (*gadget).speed = bindings::usb_device_speed_USB_SPEED_UNKNOWN };
        0
    }

    /// # Safety
    ///
    /// Called as [`VTable`] says.
    unsafe extern "C" fn udc_async_callbacks_callback(
        gadget: *mut bindings::usb_gadget,
        enable: bool,
    ) {
        // SAFETY: By the requirements of this function.
        let this = unsafe { Self::gadget(gadget) };
        if enable {
            this.callbacks.lock().enabled = true;
        } else {
            this.forbid_calls();
        }
    }

    /// # Safety
    ///
    /// Called as [`VTable`] says.
    unsafe extern "C" fn enable_callback(
        ep: *mut bindings::usb_ep,
        desc: *const bindings::usb_endpoint_descriptor,
    ) -> c_int {
        // SAFETY: By the requirements of this function.
        let (this, index) = unsafe { Self::endpoint(ep) };
        // SAFETY: udc-core has checked that there is a descriptor; it is valid for this call.
        let (desc, kind) = unsafe { (&*desc, bindings::usb_endpoint_type(desc)) };
        let kind = match u32::try_from(kind) {
            Ok(bindings::USB_ENDPOINT_XFER_ISOC) => TransferType::Isochronous,
            Ok(bindings::USB_ENDPOINT_XFER_BULK) => TransferType::Bulk,
            Ok(bindings::USB_ENDPOINT_XFER_INT) => TransferType::Interrupt,
            _ => return EINVAL.to_errno(),
        };
        // USB 2.0 section 9.6.6: bits 12..11 are something else.
        let max_packet = u16::from_le(desc.wMaxPacketSize) & 0x7ff;
        if index == 0 || max_packet == 0 {
            return EINVAL.to_errno();
        }
        let config = EndpointConfig {
            address: desc.bEndpointAddress,
            kind,
            max_packet,
            interval: desc.bInterval,
        };
        if this.callbacks.lock().driver.is_none() {
            return ESHUTDOWN.to_errno();
        }
        from_result(|| {
            this.data.enable(index, config)?;
            // SAFETY: The endpoint belongs to whoever enables it; C does the same here.
            unsafe { (*ep).maxpacket = max_packet };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called as [`VTable`] says.
    unsafe extern "C" fn disable_callback(ep: *mut bindings::usb_ep) -> c_int {
        // SAFETY: By the requirements of this function.
        let (this, index) = unsafe { Self::endpoint(ep) };
        this.data.disable(index);
        0
    }

    /// # Safety
    ///
    /// Called as [`VTable`] says.
    unsafe extern "C" fn alloc_request_callback(
        _ep: *mut bindings::usb_ep,
        flags: bindings::gfp_t,
    ) -> *mut bindings::usb_request {
        request::allocate::<T>(flags)
    }

    /// # Safety
    ///
    /// Called as [`VTable`] says.
    unsafe extern "C" fn free_request_callback(
        _ep: *mut bindings::usb_ep,
        request: *mut bindings::usb_request,
    ) {
        // SAFETY: It was allocated above; the gadget driver does not use it any more, nor has it
        // queued it.
        unsafe { request::free::<T>(request) };
    }

    /// # Safety
    ///
    /// Called as [`VTable`] says.
    unsafe extern "C" fn queue_callback(
        ep: *mut bindings::usb_ep,
        request: *mut bindings::usb_request,
        _flags: bindings::gfp_t,
    ) -> c_int {
        // SAFETY: By the requirements of this function.
        let (this, index) = unsafe { Self::endpoint(ep) };
        // SAFETY: As above.
        let this = unsafe { Self::shared(this) };
        // SAFETY: The gadget driver lends the request from now until it is completed, with a buffer
        // of the length that it says.
        let request = match unsafe { Request::from_raw(ep, request) } {
            Ok(request) => request,
            Err(error) => return error.to_errno(),
        };
        match T::queue(&this, index, request) {
            Ok(()) => 0,
            Err((error, request)) => {
                request.give_up();
                error.to_errno()
            }
        }
    }

    /// # Safety
    ///
    /// Called as [`VTable`] says.
    unsafe extern "C" fn dequeue_callback(
        ep: *mut bindings::usb_ep,
        request: *mut bindings::usb_request,
    ) -> c_int {
        // SAFETY: By the requirements of this function.
        let (this, index) = unsafe { Self::endpoint(ep) };
        from_result(|| {
            this.data.dequeue(index, RequestId::new(request))?;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called as [`VTable`] says.
    unsafe extern "C" fn set_halt_callback(ep: *mut bindings::usb_ep, on: c_int) -> c_int {
        let halt = if on == 0 { Halt::Clear } else { Halt::Halted };
        // SAFETY: By the requirements of this function.
        unsafe { Self::set_halt(ep, halt) }
    }

    /// # Safety
    ///
    /// Called as [`VTable`] says.
    unsafe extern "C" fn set_wedge_callback(ep: *mut bindings::usb_ep) -> c_int {
        // SAFETY: By the requirements of this function.
        unsafe { Self::set_halt(ep, Halt::Wedged) }
    }

    /// # Safety
    ///
    /// As [`Self::endpoint`].
    unsafe fn set_halt(ep: *mut bindings::usb_ep, halt: Halt) -> c_int {
        // SAFETY: By the requirements of this function.
        let (this, index) = unsafe { Self::endpoint(ep) };
        // SAFETY: As above.
        let this = unsafe { Self::shared(this) };
        from_result(|| T::set_halt(&this, index, halt).map(|()| 0))
    }
}
