// SPDX-License-Identifier: GPL-2.0

//! Drivers for whole USB devices, as opposed to interfaces.
//!
//! C: `struct usb_device_driver` in [`include/linux/usb.h`](srctree/include/linux/usb.h). The
//! driver that configures most devices is one of these, and a new device is offered to it first.
//! Another is asked about the devices that have no driver when it is registered, and about one whose
//! name the user writes to its `bind` file.

use super::device::{Device, PortClaim};
use crate::bindings;
use crate::sysfs::{self, Page};
use core::marker::PhantomData;
use kernel::container_of;
use kernel::device;
use kernel::devres;
use kernel::error::{from_result, to_result};
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::sync::{Arc, LockClassKey};
use kernel::types::{ForeignOwnable, Opaque};

/// A device that a driver is bound to, or being bound to or unbound from. Its lock is held.
///
/// # Invariants
///
/// As [`Device`]; no other callback of its driver runs for it.
#[repr(transparent)]
pub struct Bound(Device);

impl core::ops::Deref for Bound {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.0
    }
}

impl Bound {
    /// The name of the device's bus, which is that of the controller, as `vhci_hcd.0` or
    /// `0000:00:14.0`.
    pub fn bus_name(&self) -> &CStr {
        // SAFETY: By the type invariant the device is registered, and with it the root hub, which
        // holds the controller that the name belongs to.
        unsafe { CStr::from_char_ptr((*(*self.0.as_ptr()).bus).bus_name) }
    }

    /// Keeps other drivers from binding to the interfaces of the device, until this one is unbound
    /// from it. For `probe`. May sleep. C: `usb_hub_claim_port()`.
    ///
    /// # Errors
    ///
    /// `EBUSY`: somebody else has claimed the port of the device, as usbfs does for a program.
    /// `ENODEV`: the device is a root hub, or gone. `ENOMEM`.
    pub fn claim_port(&self) -> Result {
        // SAFETY: By the type invariant the device is bound, or being bound, and its lock is held.
        // The driver core drops what is registered here when the driver is unbound or has refused
        // the device, before it releases the lock.
        let claim = unsafe { PortClaim::new((&self.0).into()) }?;
        devres::register(self.as_ref(), claim, GFP_KERNEL)
    }
}

impl AsRef<device::Device<device::Bound>> for Bound {
    fn as_ref(&self) -> &device::Device<device::Bound> {
        // SAFETY: By the type invariant the device is valid, and bound for the lifetime of the
        // reference.
        unsafe { device::Device::from_raw(&raw mut (*self.0.as_ptr()).dev) }
    }
}

/// A driver for USB devices.
pub trait Driver: Send + Sync + Sized + 'static {
    /// The name of the driver in `/sys/bus/usb/drivers`.
    const NAME: &'static CStr;

    /// The files in its folder there.
    const FILES: &'static [File<Self>];

    /// What it keeps for a device while it is bound to it.
    type Data: Send + Sync + 'static;

    /// Takes a device on. It is not configured unless it was before. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` refuses it silently, any other is logged; then the device stays without driver.
    fn probe(&self, dev: &Bound) -> Result<Arc<Self::Data>>;

    /// Gives a device up, which may be gone already. May sleep.
    fn disconnect(&self, dev: &Bound, data: Arc<Self::Data>);
}

/// Writes what a file of a driver shows. Process context, may sleep.
///
/// # Errors
///
/// What `read(2)` returns.
pub type Show<T> = fn(driver: &T, page: &mut Page<'_>) -> Result;

/// Takes what was written to a file of a driver. Process context, in the writing task; may sleep.
///
/// # Errors
///
/// What `write(2)` returns.
pub type Store<T> = fn(driver: &T, text: &[u8]) -> Result;

/// What a file in the folder of a driver does; the file is [`File::new`] of a type with this trait.
///
/// The mode follows from what there is: 0444, 0200 or 0644.
pub trait Attribute<T: Driver> {
    /// The name of the file.
    const NAME: &'static CStr;
    /// What it shows; `None`: it cannot be read.
    const SHOW: Option<Show<T>> = None;
    /// What it does with what is written; `None`: it cannot be written.
    const STORE: Option<Store<T>> = None;
}

/// A file in the folder of a driver.
pub struct File<T> {
    name: &'static CStr,
    show: Option<unsafe extern "C" fn(*mut bindings::device_driver, *mut c_char) -> isize>,
    store:
        Option<unsafe extern "C" fn(*mut bindings::device_driver, *const c_char, usize) -> isize>,
    _driver: PhantomData<fn(T)>,
}

impl<T: Driver> File<T> {
    /// The file that `A` describes.
    pub const fn new<A: Attribute<T>>() -> Self {
        Self {
            name: A::NAME,
            show: if A::SHOW.is_some() {
                Some(Self::show_callback::<A>)
            } else {
                None
            },
            store: if A::STORE.is_some() {
                Some(Self::store_callback::<A>)
            } else {
                None
            },
            _driver: PhantomData,
        }
    }

    fn attribute(&self, class: Pin<&'static LockClassKey>) -> bindings::driver_attribute {
        let read = if self.show.is_some() { 0o444 } else { 0 };
        let write = if self.store.is_some() { 0o200 } else { 0 };
        let mut attribute = bindings::driver_attribute::default();
        attribute.attr.name = kernel::str::as_char_ptr_in_const_context(self.name);
        attribute.attr.mode = read | write;
        #[cfg(CONFIG_DEBUG_LOCK_ALLOC)]
        {
            attribute.attr.key = class.as_ptr();
        }
        let _ = class;
        attribute.show = self.show;
        attribute.store = self.store;
        attribute
    }

    /// # Safety
    ///
    /// Called by sysfs only, for the driver of a [`Registration<T>`], with a buffer of a page.
    unsafe extern "C" fn show_callback<A: Attribute<T>>(
        driver: *mut bindings::device_driver,
        buf: *mut c_char,
    ) -> isize {
        // SAFETY: By the requirements of this function; the files are removed before the driver
        // goes.
        let inner = unsafe { Inner::<T>::from_driver(driver) };
        // SAFETY: By the requirements of this function; sysfs has zeroed the buffer, which belongs
        // to this call.
        let buf = unsafe { core::slice::from_raw_parts_mut(buf.cast::<u8>(), PAGE_SIZE) };
        sysfs::call_show(buf, |page| match A::SHOW {
            Some(show) => show(&inner.context, page),
            None => Err(EIO),
        })
    }

    /// # Safety
    ///
    /// Called by sysfs only, for the driver of a [`Registration<T>`], with `len` bytes at `buf`.
    unsafe extern "C" fn store_callback<A: Attribute<T>>(
        driver: *mut bindings::device_driver,
        buf: *const c_char,
        len: usize,
    ) -> isize {
        // SAFETY: By the requirements of this function; the files are removed before the driver
        // goes.
        let inner = unsafe { Inner::<T>::from_driver(driver) };
        // SAFETY: By the requirements of this function.
        let text = unsafe { core::slice::from_raw_parts(buf.cast::<u8>(), len) };
        sysfs::call_store(text, |text| match A::STORE {
            Some(store) => store(&inner.context, text),
            None => Err(EIO),
        })
    }
}

/// What the C object of a driver is embedded in.
///
/// # Invariants
///
/// `groups` points to `group` and then null, `group` to `pointers`, which point to `attributes` and
/// then null; none of these is moved or changed.
#[pin_data]
struct Inner<T: Driver> {
    #[pin]
    driver: Opaque<bindings::usb_device_driver>,
    context: T,
    attributes: KVec<bindings::driver_attribute>,
    pointers: KVec<*mut bindings::attribute>,
    group: KBox<bindings::attribute_group>,
    groups: [*const bindings::attribute_group; 2],
}

impl<T: Driver> Inner<T> {
    /// # Safety
    ///
    /// `driver` must be the driver of a [`Registration<T>`] that lives for `'a`.
    unsafe fn from_driver<'a>(driver: *mut bindings::device_driver) -> &'a Self {
        // SAFETY: By the requirements of this function `driver` is embedded in a
        // `usb_device_driver`, and that in an `Inner<T>`.
        unsafe {
            let driver = container_of!(driver, bindings::usb_device_driver, driver);
            &*container_of!(Opaque::cast_from(driver), Self, driver)
        }
    }
}

/// A registered driver. Dropping it unbinds it from all devices, which stay without a driver, and
/// unregisters it.
///
/// # Invariants
///
/// `driver` is registered with the callbacks of [`Callbacks<T>`].
pub struct Registration<T: Driver>(Pin<KBox<Inner<T>>>);

// SAFETY: The driver core has its own locks; anybody may unregister a driver. The context is `Send`
// and `Sync`, and the pointers are to what belongs to the same object.
unsafe impl<T: Driver> Send for Registration<T> {}
// SAFETY: With a shared reference only the context can be reached.
unsafe impl<T: Driver> Sync for Registration<T> {}

impl<T: Driver> Registration<T> {
    /// Registers a driver. Its files are there when this returns. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` if there is a driver of that name already, which the kernel also logs;
    /// `ENODEV` if USB is disabled.
    pub fn new(module: &'static ThisModule, context: T) -> Result<Self> {
        let mut attributes = KVec::with_capacity(T::FILES.len(), GFP_KERNEL)?;
        for file in T::FILES {
            attributes.push(file.attribute(kernel::static_lock_class!()), GFP_KERNEL)?;
        }
        let mut pointers = KVec::with_capacity(attributes.len() + 1, GFP_KERNEL)?;
        for attribute in &mut attributes {
            pointers.push(&raw mut attribute.attr, GFP_KERNEL)?;
        }
        pointers.push(core::ptr::null_mut(), GFP_KERNEL)?;
        let mut group = KBox::new(bindings::attribute_group::default(), GFP_KERNEL)?;
        group.__bindgen_anon_2.attrs = pointers.as_mut_ptr();
        let groups = [core::ptr::from_ref(&*group), core::ptr::null()];
        // INVARIANT: As just made; vectors and boxes keep their contents in place when they are
        // moved.
        let inner = KBox::pin_init(
            pin_init!(Inner {
                driver <- Opaque::ffi_init(|slot: *mut bindings::usb_device_driver| {
                    let name = kernel::str::as_char_ptr_in_const_context(T::NAME);
                    let mut driver = bindings::usb_device_driver {
                        name,
                        probe: Some(Callbacks::<T>::probe),
                        disconnect: Some(Callbacks::<T>::disconnect),
                        ..Default::default()
                    };
                    driver.set_supports_autosuspend(0);
                    // SAFETY: `slot` is valid for writes.
                    unsafe { slot.write(driver) };
                }),
                context,
                attributes,
                pointers,
                group,
                groups,
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The driver is initialised and pinned; it is unregistered before it goes. `groups`
        // lies next to it.
        to_result(unsafe {
            (*inner.driver.get()).driver.groups = inner.groups.as_ptr().cast_mut();
            bindings::usb_register_device_driver(inner.driver.get(), module.as_ptr())
        })?;
        // INVARIANT: It was just registered.
        Ok(Self(inner))
    }

    /// The driver's own data.
    pub fn context(&self) -> &T {
        &self.0.context
    }
}

impl<T: Driver> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is registered. No callback runs when this returns, and
        // no file is left.
        unsafe { bindings::usb_deregister_device_driver(self.0.driver.get()) };
    }
}

/// The callbacks of a driver.
///
/// usbcore calls them under the device's lock, with a device that is being bound to or unbound from
/// the driver of a [`Registration<T>`]. In between, the driver data of the device is a foreign-owned
/// `Arc<T::Data>`: nobody but the driver that is bound writes to that of a USB device.
struct Callbacks<T: Driver>(PhantomData<T>);

impl<T: Driver> Callbacks<T> {
    /// # Safety
    ///
    /// Called by usbcore only, see above.
    unsafe extern "C" fn probe(udev: *mut bindings::usb_device) -> c_int {
        // SAFETY: By the requirements of this function; `Bound` is `repr(transparent)`.
        let (inner, dev) = unsafe {
            (
                Inner::<T>::from_driver((*udev).dev.driver),
                &*udev.cast::<Bound>(),
            )
        };
        from_result(|| {
            let data = inner.context.probe(dev)?;
            // SAFETY: The device is valid, and nobody else writes its driver data.
            unsafe { bindings::dev_set_drvdata(&raw mut (*udev).dev, data.into_foreign().cast()) };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by usbcore only, see above.
    unsafe extern "C" fn disconnect(udev: *mut bindings::usb_device) {
        // SAFETY: By the requirements of this function; `Bound` is `repr(transparent)`.
        let (inner, dev) = unsafe {
            (
                Inner::<T>::from_driver((*udev).dev.driver),
                &*udev.cast::<Bound>(),
            )
        };
        // SAFETY: `probe` has succeeded for this device, so this is what it put there, and it is
        // taken out once.
        let data = unsafe {
            let data = bindings::dev_get_drvdata(&raw const (*udev).dev);
            bindings::dev_set_drvdata(&raw mut (*udev).dev, core::ptr::null_mut());
            Arc::<T::Data>::from_foreign(data.cast())
        };
        inner.context.disconnect(dev, data);
    }
}
