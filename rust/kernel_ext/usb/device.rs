// SPDX-License-Identifier: GPL-2.0

//! USB devices as host controller drivers meet them.
//!
//! C header: [`include/linux/usb.h`](srctree/include/linux/usb.h)

use super::TransferType;
use crate::bindings;
use crate::errno::*;
use core::ptr::NonNull;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::aref::{ARef, AlwaysRefCounted};
use kernel::types::{NotThreadSafe, Opaque};

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
// are any. usbcore itself holds the parents of a device only until it is unplugged, so a reference
// to a device is one to each of its parents as well.
unsafe impl AlwaysRefCounted for Device {
    fn inc_ref(&self) {
        let mut dev = self.as_ptr();
        while !dev.is_null() {
            // SAFETY: By the type invariant the device and all its parents are valid.
            unsafe {
                bindings::usb_get_dev(dev);
                dev = (*dev).parent;
            }
        }
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        let mut dev: *mut bindings::usb_device = obj.cast().as_ptr();
        while !dev.is_null() {
            // SAFETY: By the requirements of this function the caller gives up a reference to the
            // device, and with it one to each of its parents.
            unsafe {
                let parent = (*dev).parent;
                bindings::usb_put_dev(dev);
                dev = parent;
            }
        }
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

    pub(super) fn as_ptr(&self) -> *mut bindings::usb_device {
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

    /// The device with this name in sysfs, as `3-1`. May sleep.
    pub fn find(name: &[u8]) -> Option<ARef<Self>> {
        /// # Safety
        ///
        /// `udev` must be valid, and `data` a `Search`.
        unsafe extern "C" fn look(udev: *mut bindings::usb_device, data: *mut c_void) -> c_int {
            // SAFETY: By the requirements of this function.
            let (device, search) = unsafe {
                let device = Device::from_raw(udev);
                (device, &mut *data.cast::<Search<'_>>())
            };
            if device.name().to_bytes() != search.name {
                return 0;
            }
            search.found = Some(device.into());
            1
        }
        struct Search<'a> {
            name: &'a [u8],
            found: Option<ARef<Device>>,
        }
        let mut search = Search { name, found: None };
        // SAFETY: `look` is called with each USB device, of which usbcore holds a reference
        // meanwhile, and with `search`.
        unsafe { bindings::usb_for_each_dev((&raw mut search).cast(), Some(look)) };
        search.found
    }

    /// The number of its bus. Any context.
    pub fn busnum(&self) -> u32 {
        // SAFETY: By the type invariant; a device keeps its bus, and a bus its number.
        u32::try_from(unsafe { (*(*self.as_ptr()).bus).busnum }).unwrap_or(0)
    }

    /// Its number on the bus: not its address, but what is in the name of its file in
    /// `/dev/bus/usb`. Any context.
    pub fn devnum(&self) -> u32 {
        // SAFETY: By the type invariant.
        u32::try_from(unsafe { bindings::usb_devnum(self.as_ptr()) }).unwrap_or(0)
    }

    /// The class in its device descriptor (`USB_CLASS_*`).
    pub fn class(&self) -> u8 {
        // SAFETY: By the type invariant; the descriptor is read before the device is registered.
        unsafe { (*self.as_ptr()).descriptor.bDeviceClass }
    }

    /// How many entries of a scatter list its controller takes; 0: none.
    pub fn sg_tablesize(&self) -> usize {
        // SAFETY: By the type invariant; set when the controller is registered.
        unsafe { (*(*self.as_ptr()).bus).sg_tablesize as usize }
    }

    /// Whether its controller takes scatter lists of any number of pieces of any length. Otherwise it
    /// may want all of them but the last to be whole packets. C: `no_sg_constraint` in
    /// `struct usb_bus`.
    pub fn takes_any_scatter_list(&self) -> bool {
        // SAFETY: As for `sg_tablesize`.
        let is_free = unsafe { (*(*self.as_ptr()).bus).no_sg_constraint() } != 0;
        is_free && self.sg_tablesize() == u32::MAX as usize
    }

    /// Whether it was unplugged, or is being (`USB_STATE_NOTATTACHED`). Any context; it may be a
    /// moment old.
    pub fn is_unplugged(&self) -> bool {
        self.state() == bindings::usb_device_state_USB_STATE_NOTATTACHED
    }

    fn state(&self) -> bindings::usb_device_state {
        // SAFETY: By the type invariant. usbcore changes the state while it is read, so the read is
        // volatile, as READ_ONCE().
        unsafe { (&raw const (*self.as_ptr()).state).read_volatile() }
    }

    /// The endpoint with this number and direction in the configuration and the alternate settings
    /// that are chosen at the moment; endpoint 0 has both directions. Any context.
    pub fn endpoint(&self, number: u8, is_in: bool) -> Option<Endpoint> {
        let dev = self.as_ptr();
        let index = usize::from(number);
        // SAFETY: By the type invariant. The tables may change at any time, so the read is
        // volatile; what they point to stays, as usbcore keeps the descriptors of a device as long
        // as the device.
        let attributes = unsafe {
            let table = if is_in {
                &raw const (*dev).ep_in
            } else {
                &raw const (*dev).ep_out
            };
            let slot = table.cast::<*mut bindings::usb_host_endpoint>();
            if index >= 16 {
                return None;
            }
            let endpoint = slot.add(index).read_volatile();
            if endpoint.is_null() {
                return None;
            }
            (*endpoint).desc.bmAttributes
        };
        Some(Endpoint {
            number,
            is_in,
            kind: transfer_type(attributes),
        })
    }

    /// Whether an endpoint with the address of this one has another type in another alternate
    /// setting or configuration. Any context.
    pub fn has_other_type(&self, endpoint: Endpoint) -> bool {
        let address = endpoint.number | if endpoint.is_in { 0x80 } else { 0 };
        let dev = self.as_ptr();
        // SAFETY: By the type invariant the device is valid. usbcore reads and checks the
        // descriptors before it registers a device, and keeps them unchanged as long as that: a
        // configuration has as many interfaces, an interface as many settings and a setting as many
        // endpoints as are said next to each. What lies beside them may change, so there are no
        // references.
        unsafe {
            items((*dev).config, (*dev).descriptor.bNumConfigurations.into())
                .flat_map(|config| {
                    let caches = (&raw const (*config).intf_cache)
                        .cast::<*const bindings::usb_interface_cache>();
                    items(caches, (*config).desc.bNumInterfaces.into())
                })
                .map(|cache| cache.read())
                .filter(|cache| !cache.is_null())
                .flat_map(|cache| {
                    let settings = &raw const (*cache).altsetting;
                    items(
                        settings.cast::<bindings::usb_host_interface>(),
                        (*cache).num_altsetting as usize,
                    )
                })
                .flat_map(|setting| {
                    items(
                        (*setting).endpoint.cast_const(),
                        (*setting).desc.bNumEndpoints.into(),
                    )
                })
                .any(|one| {
                    (*one).desc.bEndpointAddress & 0x8f == address
                        && transfer_type((*one).desc.bmAttributes) != endpoint.kind
                })
        }
    }

    /// Takes the device's own lock if it is free.
    ///
    /// Drivers are bound to the device and unbound, and it is reset and configured, with this lock
    /// held; so whoever runs while a driver must be unbound cannot wait for it. C:
    /// `usb_trylock_device()`.
    pub fn try_lock(&self) -> Option<Locked<'_>> {
        // SAFETY: By the type invariant the device is initialised.
        unsafe { bindings::device_trylock(&raw mut (*self.as_ptr()).dev) }
            .then_some(Locked(self, NotThreadSafe))
    }

    /// Makes the driver core look for a driver, as after plugging in. Does nothing for a device
    /// that has one or is gone. May sleep; the lock of neither the device nor its hub may be held.
    ///
    /// C: `device_attach()` under the lock of the parent.
    ///
    /// # Errors
    ///
    /// `ENODEV`: it is gone.
    pub fn find_driver(&self) -> Result {
        let dev = self.as_ptr();
        // SAFETY: By the type invariant the device is initialised. usbcore marks a device as
        // unplugged before it takes the device's lock to remove it; so one that is not marked stays
        // in sysfs until the lock is released, and that keeps its parent: a hub, or the controller
        // of a root hub.
        let parent = unsafe {
            let dev = &raw mut (*dev).dev;
            bindings::device_lock(dev);
            let parent = if self.is_unplugged() {
                core::ptr::null_mut()
            } else {
                bindings::get_device((*dev).parent)
            };
            bindings::device_unlock(dev);
            parent
        };
        if parent.is_null() {
            return Err(ENODEV);
        }
        // SAFETY: A reference to the parent was just taken, and is given up last. `device_attach()`
        // takes the lock of the device and finds out whether it is unbound.
        unsafe {
            bindings::device_lock(parent);
            let result = if self.is_registered() {
                // 1: a driver was found; 0: none.
                to_result(bindings::device_attach(&raw mut (*dev).dev))
            } else {
                Err(ENODEV)
            };
            bindings::device_unlock(parent);
            bindings::put_device(parent);
            result
        }
    }
}

/// The type of an endpoint by the attributes of its descriptor (USB 2.0 table 9-13).
fn transfer_type(attributes: u8) -> TransferType {
    match u32::from(attributes) & bindings::USB_ENDPOINT_XFERTYPE_MASK {
        bindings::USB_ENDPOINT_XFER_CONTROL => TransferType::Control,
        bindings::USB_ENDPOINT_XFER_ISOC => TransferType::Isochronous,
        bindings::USB_ENDPOINT_XFER_BULK => TransferType::Bulk,
        _ => TransferType::Interrupt,
    }
}

/// Pointers to the items of an array in memory; none if `start` is null.
fn items<T>(start: *const T, count: usize) -> impl Iterator<Item = *const T> {
    let count = if start.is_null() { 0 } else { count };
    (0..count).map(move |index| start.wrapping_add(index))
}

/// An endpoint of a device, as it was when it was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// 0 to 15.
    pub number: u8,
    /// Whether it sends to the host.
    pub is_in: bool,
    /// What it is.
    pub kind: TransferType,
}

impl Endpoint {
    /// The pipe to it (C: `usb_rcvbulkpipe()` and the like).
    pub(super) fn pipe(&self, device: &Device) -> c_uint {
        let kind = match self.kind {
            TransferType::Control => bindings::PIPE_CONTROL,
            TransferType::Isochronous => bindings::PIPE_ISOCHRONOUS,
            TransferType::Bulk => bindings::PIPE_BULK,
            TransferType::Interrupt => bindings::PIPE_INTERRUPT,
        };
        let direction = if self.is_in { bindings::USB_DIR_IN } else { 0 };
        // SAFETY: The device is valid.
        let address = unsafe { bindings::usb_create_pipe(device.as_ptr(), self.number.into()) };
        kind << 30 | address | direction
    }
}

/// A device whose lock is held by this thread; see [`Device::try_lock`].
pub struct Locked<'a>(&'a Device, NotThreadSafe);

impl Locked<'_> {
    fn as_ptr(&self) -> *mut bindings::usb_device {
        self.0.as_ptr()
    }

    /// Whether usbcore may be asked to do something with the device: once it was unplugged and this
    /// lock was released, its controller may be gone. It stays as long as the lock is held.
    fn check_attached(&self) -> Result {
        if self.0.is_unplugged() {
            return Err(ENODEV);
        }
        Ok(())
    }

    /// Resets the device and restores its configuration; its transfers end. May sleep, for half a
    /// second as a rule. C: `usb_reset_device()`.
    ///
    /// # Errors
    ///
    /// `ENODEV`: it is gone, or came back as another device. `EHOSTUNREACH`: it is suspended.
    /// Whatever the hub or the device fail with.
    pub fn reset(&self) -> Result {
        self.check_attached()?;
        if self.0.state() == bindings::usb_device_state_USB_STATE_SUSPENDED {
            return Err(EHOSTUNREACH);
        }
        // SAFETY: The device is valid and locked, and in none of the states that are not allowed.
        to_result(unsafe { bindings::usb_reset_device(self.as_ptr()) })
    }

    /// Chooses a configuration by its value; 0: none. Interfaces appear, but no driver is bound to
    /// them if the port of the device is [claimed](super::driver::Bound::claim_port). May sleep. C:
    /// `usb_set_configuration()`.
    ///
    /// # Errors
    ///
    /// `ENODEV`: it is gone. `EINVAL`: there is no such configuration. Whatever the device fails
    /// with.
    pub fn set_configuration(&self, value: u8) -> Result {
        self.check_attached()?;
        // SAFETY: The device is valid, locked and attached.
        to_result(unsafe { bindings::usb_set_configuration(self.as_ptr(), value.into()) })
    }

    /// Chooses an alternate setting. May sleep. C: `usb_set_interface()`.
    ///
    /// # Errors
    ///
    /// `ENODEV`: it is gone. `EINVAL`: there is no such interface or setting. Whatever the device
    /// fails with.
    pub fn set_interface(&self, interface: u16, alternate: u16) -> Result {
        self.check_attached()?;
        // SAFETY: The device is valid, locked and attached.
        to_result(unsafe {
            bindings::usb_set_interface(self.as_ptr(), interface.into(), alternate.into())
        })
    }

    /// Ends the halt of an endpoint on both sides. May sleep. C: `usb_clear_halt()`.
    ///
    /// # Errors
    ///
    /// `ENODEV`: it is gone. Whatever the device fails with.
    pub fn clear_halt(&self, endpoint: Endpoint) -> Result {
        self.check_attached()?;
        // SAFETY: The device is valid, locked and attached.
        to_result(unsafe {
            bindings::usb_clear_halt(self.as_ptr(), endpoint.pipe(self.0) as c_int)
        })
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held, and nobody else releases it.
        unsafe { bindings::device_unlock(&raw mut (*self.as_ptr()).dev) };
    }
}

/// Keeps drivers from binding to the interfaces of a device; see [`super::driver::Bound::claim_port`].
///
/// Dropping it gives that up, which has to happen before the driver is unbound: later the hub may be
/// on its way out as well.
///
/// # Invariants
///
/// The port that `device` is plugged into was claimed with the address of this device as the
/// owner.
pub(super) struct PortClaim {
    device: ARef<Device>,
}

impl PortClaim {
    /// Claims the port of a device. May sleep. C: `usb_hub_claim_port()`.
    ///
    /// # Errors
    ///
    /// `EBUSY`: somebody else has claimed it, as usbfs does for a program. `ENODEV`: the device is
    /// a root hub, or gone.
    ///
    /// # Safety
    ///
    /// The device is bound to the caller's driver, its lock is held, and the result is dropped
    /// before it is unbound, with its lock held as well.
    pub(super) unsafe fn new(device: ARef<Device>) -> Result<Self> {
        with_hub(&device, |hub, port, owner| {
            // SAFETY: See `with_hub`.
            to_result(unsafe { bindings::usb_hub_claim_port(hub, port, owner) })
        })?;
        // INVARIANT: Just claimed.
        Ok(Self { device })
    }
}

impl Drop for PortClaim {
    fn drop(&mut self) {
        // It fails if the hub is gone, and the claim with it.
        let _ = with_hub(&self.device, |hub, port, owner| {
            // SAFETY: See `with_hub`.
            to_result(unsafe { bindings::usb_hub_release_port(hub, port, owner) })
        });
    }
}

/// Calls `f` with the hub of a device, the number of its port, and a pointer that tells its owner
/// from others.
///
/// The caller has the lock of the device, which keeps its hub's driver from letting go of the
/// port. What the lock of the hub protects in addition is one claim from another. Up to 7.2 it is
/// held whenever a driver is bound or unbound, in 7.3 it is not when a write to sysfs is the reason
/// (and then a program that claims the same port through usbfs at the same moment could do so as
/// well): it is taken where it is free, which it is not where somebody up the stack has it.
fn with_hub<R>(
    device: &Device,
    f: impl FnOnce(*mut bindings::usb_device, c_uint, *mut bindings::usb_dev_state) -> Result<R>,
) -> Result<R> {
    let udev = device.as_ptr();
    // SAFETY: The device is valid, and so is its parent, of which it holds a reference.
    unsafe {
        let hub = (*udev).parent;
        if hub.is_null() {
            return Err(ENODEV);
        }
        let locked = bindings::device_trylock(&raw mut (*hub).dev);
        let result = f(hub, (*udev).portnum.into(), udev.cast());
        if locked {
            bindings::device_unlock(&raw mut (*hub).dev);
        }
        result
    }
}
