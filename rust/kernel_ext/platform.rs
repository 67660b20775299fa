// SPDX-License-Identifier: GPL-2.0

//! Platform devices that a module makes itself, and drivers for them.
//!
//! The `kernel` crate's platform drivers match firmware nodes and know neither device creation nor
//! power management; these match by name.
//!
//! C header: [`include/linux/platform_device.h`](srctree/include/linux/platform_device.h)

use crate::bindings;
use core::marker::PhantomData;
use core::ptr::NonNull;
use kernel::container_of;
use kernel::device;
use kernel::error::{from_err_ptr, from_result, to_result};
use kernel::prelude::*;
use kernel::sync::Mutex;
use kernel::types::{ForeignOwnable, Opaque};

/// A platform device that this module has registered. Dropping it unbinds and unregisters it.
///
/// # Invariants
///
/// The pointer is to a registered platform device, of which a reference is held.
pub struct PlatformDevice(NonNull<bindings::platform_device>);

// SAFETY: The driver core has its own locks; anybody may unregister a device.
unsafe impl Send for PlatformDevice {}
// SAFETY: There is nothing to do with a shared reference.
unsafe impl Sync for PlatformDevice {}

impl PlatformDevice {
    /// Makes and registers the device `name.id`, or just `name` if `id` is negative, without a
    /// parent. A driver of that name is bound before this returns if there is one.
    ///
    /// May sleep. C: `platform_device_register_simple()`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EEXIST` if there is a device of that name already, which the kernel also logs.
    pub fn register(name: &CStr, id: i32) -> Result<Self> {
        let info = bindings::platform_device_info {
            name: name.as_char_ptr(),
            // PLATFORM_DEVID_NONE; -2 would have a number chosen.
            id: id.max(-1),
            ..Default::default()
        };
        // SAFETY: `info` is valid, and nothing of it is kept but copies.
        let device = from_err_ptr(unsafe { bindings::platform_device_register_full(&info) })?;
        // INVARIANT: It was just registered.
        // SAFETY: Neither null nor an error.
        Ok(Self(unsafe { NonNull::new_unchecked(device) }))
    }

    /// Whether a driver has it: one that refuses it is no error of [`Self::register`]. Any context.
    pub fn is_bound(&self) -> bool {
        // SAFETY: By the type invariant the device is valid.
        unsafe { bindings::device_is_bound(&raw mut (*self.0.as_ptr()).dev) }
    }
}

impl Drop for PlatformDevice {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is registered; the reference ends here.
        unsafe { bindings::platform_device_unregister(self.0.as_ptr()) };
    }
}

/// A platform device in the hands of its driver.
///
/// # Invariants
///
/// Points to a platform device that is bound to a driver for the lifetime of the reference.
#[repr(transparent)]
pub struct Device(Opaque<bindings::platform_device>);

// SAFETY: What can be done with a shared reference may be done by any thread.
unsafe impl Sync for Device {}

impl Device {
    /// # Safety
    ///
    /// `ptr` must satisfy the invariants of [`Device`] for `'a`.
    unsafe fn from_raw<'a>(ptr: *mut bindings::platform_device) -> &'a Self {
        // SAFETY: By the requirements of this function; `Device` is `repr(transparent)`.
        unsafe { &*ptr.cast() }
    }

    /// The number in its name; negative if there is none.
    pub fn id(&self) -> i32 {
        // SAFETY: By the type invariant; the number never changes.
        unsafe { (*self.0.get()).id }
    }
}

impl AsRef<device::Device<device::Bound>> for Device {
    fn as_ref(&self) -> &device::Device<device::Bound> {
        // SAFETY: By the type invariant the device is valid, and bound for the lifetime of the
        // reference.
        unsafe { device::Device::from_raw(&raw mut (*self.0.get()).dev) }
    }
}

/// A driver for the platform devices of one name.
///
/// The driver core calls one method at a time for a device.
pub trait Driver: 'static {
    /// The name of the driver and, up to the dot, of its devices.
    const NAME: &'static CStr;

    /// What all devices share; it belongs to the [`Registration`].
    type Context: Send + Sync + 'static;

    /// What the driver keeps for a device, from `probe` until after `remove`.
    type Data: ForeignOwnable + Send + Sync + 'static;

    /// Takes a device on. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV` and `ENXIO` refuse it silently, any other is logged; then the device stays without
    /// driver.
    fn probe(dev: &Device, context: &Self::Context) -> Result<Self::Data>;

    /// Gives a device up. The data is dropped afterwards. May sleep.
    fn remove(dev: &Device, data: <Self::Data as ForeignOwnable>::Borrowed<'_>) {
        let _ = (dev, data);
    }

    /// The system goes to sleep or is being saved to disk. May sleep.
    ///
    /// # Errors
    ///
    /// Any makes the system stay awake; `EBUSY` says that the device is in use.
    fn suspend(dev: &Device, data: <Self::Data as ForeignOwnable>::Borrowed<'_>) -> Result {
        let _ = (dev, data);
        Ok(())
    }

    /// The system is awake again, or its image on disk was made. May sleep.
    ///
    /// # Errors
    ///
    /// Any is logged.
    fn resume(dev: &Device, data: <Self::Data as ForeignOwnable>::Borrowed<'_>) -> Result {
        let _ = (dev, data);
        Ok(())
    }
}

/// The name of the lock class of all [`Inner::bound`]: lockdep wants the same pointer for all locks
/// of a class, and a literal in generic code has another one in each module.
static BOUND_NAME: &CStr = c"platform_driver_bound";

/// What the C object of a driver is embedded in.
///
/// The data of a device is not in the device's driver data, as other code writes there
/// (`usb_create_hcd()` is one).
#[pin_data]
struct Inner<T: Driver> {
    #[pin]
    driver: Opaque<bindings::platform_driver>,
    context: T::Context,
    /// Each bound device with its data, foreign-owned.
    #[pin]
    bound: Mutex<KVec<(*mut bindings::device, *mut c_void)>>,
    _data: PhantomData<T::Data>,
}

impl<T: Driver> Inner<T> {
    /// The data of a device; `None` if it is not bound.
    fn data_of(&self, dev: *mut bindings::device) -> Option<*mut c_void> {
        let bound = self.bound.lock();
        bound.iter().find(|(one, _)| *one == dev).map(|pair| pair.1)
    }
}

/// A registered platform driver. Dropping it unbinds the driver from all devices and unregisters
/// it.
///
/// # Invariants
///
/// `driver` is registered, with the callbacks of [`Callbacks<T>`]; `bound` lists the devices whose
/// data is alive.
pub struct Registration<T: Driver>(Pin<KBox<Inner<T>>>);

// SAFETY: The driver core has its own locks; anybody may unregister a driver. Context and data are
// `Send` and `Sync`.
unsafe impl<T: Driver> Send for Registration<T> {}
// SAFETY: With a shared reference only the context can be reached.
unsafe impl<T: Driver> Sync for Registration<T> {}

impl<T: Driver> Registration<T> {
    /// Registers a driver; devices that wait for it are probed before this returns. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` if there is a driver of that name already, which the kernel also logs.
    pub fn new(module: &'static ThisModule, context: T::Context) -> Result<Self> {
        let inner = KBox::pin_init(
            pin_init!(Inner {
                driver <- Opaque::ffi_init(|slot: *mut bindings::platform_driver| {
                    let driver = bindings::platform_driver {
                        probe: Some(Callbacks::<T>::probe),
                        remove: Some(Callbacks::<T>::remove),
                        driver: bindings::device_driver {
                            name: kernel::str::as_char_ptr_in_const_context(T::NAME),
                            pm: &Callbacks::<T>::PM,
                            ..Default::default()
                        },
                        ..Default::default()
                    };
                    // SAFETY: `slot` is valid for writes.
                    unsafe { slot.write(driver) };
                }),
                context,
                bound <- Mutex::new(KVec::new(), BOUND_NAME, kernel::static_lock_class!()),
                _data: PhantomData,
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The driver is initialised and pinned; it is unregistered before it goes. No name
        // is needed for a driver with a module.
        to_result(unsafe {
            bindings::__platform_driver_register(
                inner.driver.get(),
                module.as_ptr(),
                core::ptr::null(),
            )
        })?;
        // INVARIANT: It was just registered.
        Ok(Self(inner))
    }

    /// What all devices share.
    pub fn context(&self) -> &T::Context {
        &self.0.context
    }
}

impl<T: Driver> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is registered. No callback runs when this returns.
        unsafe { bindings::platform_driver_unregister(self.0.driver.get()) };
    }
}

/// The callbacks of a driver.
///
/// The driver core calls them with a platform device that is bound, or being bound or unbound, to
/// the driver of a [`Registration<T>`], under the device's lock. A device is in `Inner::bound` from
/// the end of `probe` to the beginning of `remove`, so other callbacks find it there, and its data
/// stays until they have returned.
struct Callbacks<T: Driver>(PhantomData<T>);

impl<T: Driver> Callbacks<T> {
    const PM: bindings::dev_pm_ops = bindings::dev_pm_ops {
        suspend: Some(Self::suspend),
        freeze: Some(Self::suspend),
        poweroff: Some(Self::suspend),
        resume: Some(Self::resume),
        thaw: Some(Self::resume),
        restore: Some(Self::resume),
        ..pin_init::zeroed()
    };

    /// The driver of a device, and the device with its type.
    ///
    /// # Safety
    ///
    /// `dev` must be the argument of a callback that lasts longer than `'a`, see above.
    unsafe fn split<'a>(dev: *mut bindings::device) -> (&'a Device, &'a Inner<T>) {
        // SAFETY: As explained above the device is a valid platform device, and its driver is
        // embedded in a `platform_driver`, which is embedded in an `Inner<T>` that the
        // registration keeps until no callback runs.
        unsafe {
            let driver = container_of!((*dev).driver, bindings::platform_driver, driver);
            let inner: *const Inner<T> = container_of!(Opaque::cast_from(driver), Inner<T>, driver);
            let pdev = container_of!(dev, bindings::platform_device, dev);
            (Device::from_raw(pdev), &*inner)
        }
    }

    /// # Safety
    ///
    /// Called by the driver core only, see above.
    unsafe extern "C" fn probe(pdev: *mut bindings::platform_device) -> c_int {
        // SAFETY: By the requirements of this function.
        let dev = unsafe { &raw mut (*pdev).dev };
        // SAFETY: As above.
        let (device, inner) = unsafe { Self::split(dev) };
        from_result(|| {
            let data = T::probe(device, &inner.context)?.into_foreign();
            let pushed = inner.bound.lock().push((dev, data), GFP_KERNEL);
            pushed.inspect_err(|_| {
                // SAFETY: The data was just made and is known to nobody else.
                unsafe { Self::give_up(device, data) };
            })?;
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by the driver core only, see above.
    unsafe extern "C" fn remove(pdev: *mut bindings::platform_device) {
        // SAFETY: By the requirements of this function.
        let dev = unsafe { &raw mut (*pdev).dev };
        // SAFETY: As above.
        let (device, inner) = unsafe { Self::split(dev) };
        let Some(data) = inner.data_of(dev) else {
            return;
        };
        inner.bound.lock().retain(|(one, _)| *one != dev);
        // SAFETY: It was on the list until now, so it is what `probe` returned; the device's lock
        // keeps other callbacks away.
        unsafe { Self::give_up(device, data) };
    }

    /// # Safety
    ///
    /// `data` must be foreign-owned `T::Data` that nobody else uses or will use.
    unsafe fn give_up(device: &Device, data: *mut c_void) {
        // SAFETY: By the requirements of this function.
        T::remove(device, unsafe { T::Data::borrow(data) });
        // SAFETY: By the requirements of this function; what was borrowed is gone.
        drop(unsafe { T::Data::from_foreign(data) });
    }

    /// # Safety
    ///
    /// Called by the driver core only, see above.
    unsafe extern "C" fn suspend(dev: *mut bindings::device) -> c_int {
        // SAFETY: By the requirements of this function.
        unsafe { Self::call(dev, T::suspend) }
    }

    /// # Safety
    ///
    /// Called by the driver core only, see above.
    unsafe extern "C" fn resume(dev: *mut bindings::device) -> c_int {
        // SAFETY: By the requirements of this function.
        unsafe { Self::call(dev, T::resume) }
    }

    /// Calls a method with the data of a device; a device that is not bound has nothing to do.
    ///
    /// # Safety
    ///
    /// `dev` must be the argument of a running callback, see above.
    unsafe fn call(
        dev: *mut bindings::device,
        method: for<'a> fn(&'a Device, <T::Data as ForeignOwnable>::Borrowed<'a>) -> Result,
    ) -> c_int {
        // SAFETY: By the requirements of this function.
        let (device, inner) = unsafe { Self::split(dev) };
        let Some(data) = inner.data_of(dev) else {
            return 0;
        };
        // SAFETY: It is on the list, and as explained above stays there until this returns.
        from_result(|| method(device, unsafe { T::Data::borrow(data) }).map(|()| 0))
    }
}
