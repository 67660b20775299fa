// SPDX-License-Identifier: GPL-2.0

//! USB devices as host controller drivers meet them.
//!
//! C header: [`include/linux/usb.h`](srctree/include/linux/usb.h)

use crate::bindings;
use core::ptr::NonNull;
use kernel::prelude::*;
use kernel::sync::aref::AlwaysRefCounted;
use kernel::types::Opaque;

/// A USB device: a shared reference to a C `struct usb_device`.
///
/// # Invariants
///
/// A `&Device` points to an initialised `struct usb_device` whose `parent` chain up to the root
/// hub, `portnum` and name stay valid and unchanged for the lifetime of the reference.
#[repr(transparent)]
pub struct Device(Opaque<bindings::usb_device>);

/// Tells one live device from another.
///
/// Compares equal for the same `struct usb_device` only as long as that device lives: whoever
/// keeps a key drops it when usbcore reports the device as freed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DeviceKey(usize);

// SAFETY: `usb_get_dev()` and `usb_put_dev()` count references, and a device lives as long as there
// are any; a device holds its parents.
unsafe impl AlwaysRefCounted for Device {
    fn inc_ref(&self) {
        // SAFETY: By the type invariant the device is valid.
        unsafe { bindings::usb_get_dev(self.as_ptr()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: By the requirements of this function the caller gives up a reference.
        unsafe { bindings::usb_put_dev(obj.cast().as_ptr()) };
    }
}

// SAFETY: References to a device may be dropped by any thread; all fields that methods read are
// unchanging, or written by usbcore without regard to threads.
unsafe impl Send for Device {}
// SAFETY: As above.
unsafe impl Sync for Device {}

impl Device {
    /// Makes a reference from a C pointer.
    ///
    /// # Safety
    ///
    /// `ptr` must satisfy the invariants of [`Device`] for `'a`.
    pub unsafe fn from_raw<'a>(ptr: *mut bindings::usb_device) -> &'a Self {
        // SAFETY: By the requirements of this function; `Device` is `repr(transparent)`.
        unsafe { &*ptr.cast() }
    }

    fn as_ptr(&self) -> *mut bindings::usb_device {
        self.0.get()
    }

    /// The identity of this device.
    pub fn key(&self) -> DeviceKey {
        DeviceKey(self.as_ptr().addr())
    }

    /// The number (from 1) of the root hub port at the top of this device's branch.
    ///
    /// For a device behind a hub this is the port *the hub* is plugged into, which is why the
    /// device's own `portnum` must not be used to find the port of the host controller. 0 for a
    /// root hub itself. Any context.
    pub fn root_port(&self) -> u8 {
        let mut dev = self.as_ptr();
        let mut port = 0;
        loop {
            // SAFETY: By the type invariant the device and all its parents are valid.
            let parent = unsafe { (*dev).parent };
            if parent.is_null() {
                return port;
            }
            // SAFETY: As above.
            port = unsafe { (*dev).portnum };
            dev = parent;
        }
    }

    /// Whether this device is plugged straight into the root hub. Any context.
    pub fn is_on_root_hub(&self) -> bool {
        // SAFETY: By the type invariant the device and all its parents are valid.
        unsafe {
            let parent = (*self.as_ptr()).parent;
            !parent.is_null() && (*parent).parent.is_null()
        }
    }

    /// Whether the device is in sysfs (C: `device_is_registered()`). Any context.
    pub fn is_registered(&self) -> bool {
        // SAFETY: By the type invariant the device is initialised. The bit shares its word with
        // others that the driver core writes, so it may be a moment old.
        unsafe { (*self.as_ptr()).dev.kobj.state_in_sysfs() != 0 }
    }

    /// Whether a driver is bound to the device, or being bound. Any context; it may be a moment
    /// old.
    pub fn has_driver(&self) -> bool {
        // SAFETY: By the type invariant the device is initialised. The driver core writes the
        // pointer while it is read, so the read is volatile, as READ_ONCE().
        let driver = unsafe { (&raw const (*self.as_ptr()).dev.driver).read_volatile() };
        !driver.is_null()
    }

    /// The name of the device in sysfs, as `3-1` or `3-1.2` (C: `dev_name()`).
    pub fn name(&self) -> &CStr {
        // SAFETY: By the type invariant the device is initialised, and usbcore names it in
        // `usb_alloc_dev()` and never renames it.
        unsafe { CStr::from_char_ptr(bindings::dev_name(&raw const (*self.as_ptr()).dev)) }
    }

    /// Exempts the device from system suspend and resume.
    ///
    /// For devices whose controller cannot suspend them, as the remote end decides about their
    /// power (C: `dev_pm_syscore_device()`).
    pub fn mark_syscore(&self) {
        // SAFETY: By the type invariant the device is initialised. The field is written before the
        // device is registered or under the device's own lock by the hub driver that calls
        // `address_device`, and read by the PM core in system transitions only.
        unsafe { bindings::dev_pm_syscore_device(&raw mut (*self.as_ptr()).dev, true) };
    }
}
