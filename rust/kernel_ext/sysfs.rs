// SPDX-License-Identifier: GPL-2.0

//! Attribute files of devices, in a list that is made at run time.
//!
//! C headers: [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h),
//! [`include/linux/device.h`](srctree/include/linux/device.h)
//!
//! ```ignore
//! fn show_ports(hub: &Hub, _index: u32, page: &mut Page<'_>) -> Result {
//!     Ok(writeln!(page, "{}", hub.ports())?)
//! }
//!
//! let files = Files::create(
//!     dev,
//!     hub.clone(),
//!     [Attribute::read_only(c"nports", show_ports), Attribute::write_only(c"attach", attach)],
//! )?;
//! ```

use crate::bindings;
use core::fmt;
use kernel::container_of;
use kernel::device;
use kernel::error::to_result;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::aref::ARef;
use kernel::sync::{Arc, LockClassKey};
use kernel::types::Opaque;

/// What a file shows: text, one byte less than a page at most.
///
/// Writing more fails, and what did not fit is left out. C: `sysfs_emit()`.
pub struct Page<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl Page<'_> {
    /// How many bytes can still be written. (sysfs takes a full page for an overrun.)
    pub fn room(&self) -> usize {
        self.buf.len().saturating_sub(self.len + 1)
    }

    /// How many bytes were written.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl fmt::Write for Page<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let fits = s.len().min(self.room());
        let to = self
            .buf
            .get_mut(self.len..)
            .and_then(|to| to.get_mut(..fits));
        if let (Some(to), Some(from)) = (to, s.as_bytes().get(..fits)) {
            to.copy_from_slice(from);
        }
        self.len += fits;
        if fits < s.len() {
            return Err(fmt::Error);
        }
        Ok(())
    }
}

/// Writes what a file shows. Process context, may sleep; several may run at once.
///
/// # Errors
///
/// What `read(2)` returns.
pub type Show<D> = fn(data: &D, index: u32, page: &mut Page<'_>) -> Result;

/// Takes what was written to a file, all of it. Process context, in the writing task; may sleep.
///
/// # Errors
///
/// What `write(2)` returns.
pub type Store<D> = fn(data: &D, index: u32, text: &[u8]) -> Result;

/// The name of a file.
pub enum Name {
    /// Known when compiling.
    Static(&'static CStr),
    /// Made at run time.
    Owned(CString),
}

impl Name {
    fn as_cstr(&self) -> &CStr {
        match self {
            Name::Static(name) => name,
            Name::Owned(name) => name,
        }
    }
}

impl From<&'static CStr> for Name {
    fn from(name: &'static CStr) -> Self {
        Name::Static(name)
    }
}

impl From<CString> for Name {
    fn from(name: CString) -> Self {
        Name::Owned(name)
    }
}

/// An attribute file of a device whose driver keeps a `D` for it.
///
/// The mode follows from what it can do: 0444, 0200 or 0644.
pub struct Attribute<D> {
    name: Name,
    show: Option<Show<D>>,
    store: Option<Store<D>>,
    index: u32,
    #[cfg_attr(
        not(CONFIG_DEBUG_LOCK_ALLOC),
        expect(dead_code, reason = "for lockdep")
    )]
    class: Option<Pin<&'static LockClassKey>>,
}

impl<D> Attribute<D> {
    fn new(name: Name, show: Option<Show<D>>, store: Option<Store<D>>) -> Self {
        Self {
            name,
            show,
            store,
            index: 0,
            class: None,
        }
    }

    /// A file to read. C: `DEVICE_ATTR_RO()`.
    pub fn read_only(name: impl Into<Name>, show: Show<D>) -> Self {
        Self::new(name.into(), Some(show), None)
    }

    /// A file to write. C: `DEVICE_ATTR_WO()`.
    pub fn write_only(name: impl Into<Name>, store: Store<D>) -> Self {
        Self::new(name.into(), None, Some(store))
    }

    /// A file to read and to write. C: `DEVICE_ATTR_RW()`.
    pub fn read_write(name: impl Into<Name>, show: Show<D>, store: Store<D>) -> Self {
        Self::new(name.into(), Some(show), Some(store))
    }

    /// With a number for the callbacks, for several files that share them. It is 0 otherwise.
    pub fn index(self, index: u32) -> Self {
        Self { index, ..self }
    }

    /// With a lock class of its own for lockdep, of
    /// [`static_lock_class!`](kernel::static_lock_class).
    ///
    /// Needed where a callback removes files that belong to another class; all files without one
    /// share one. C: the argument of `sysfs_attr_init()`.
    pub fn lock_class(self, class: Pin<&'static LockClassKey>) -> Self {
        Self {
            class: Some(class),
            ..self
        }
    }
}

/// One file: the C object, and where its callbacks find the rest.
///
/// # Invariants
///
/// `attr` is initialised, its name is `attribute.name`.
struct File<D> {
    attr: Opaque<bindings::device_attribute>,
    attribute: Attribute<D>,
    data: Arc<D>,
}

impl<D: Send + Sync + 'static> File<D> {
    fn new(attribute: Attribute<D>, data: Arc<D>) -> Self {
        let read = if attribute.show.is_some() { 0o444 } else { 0 };
        let write = if attribute.store.is_some() { 0o200 } else { 0 };
        #[cfg(CONFIG_DEBUG_LOCK_ALLOC)]
        let class = attribute
            .class
            .unwrap_or_else(|| kernel::static_lock_class!());
        #[cfg_attr(
            not(CONFIG_DEBUG_LOCK_ALLOC),
            expect(clippy::needless_update, reason = "there are more fields for lockdep")
        )]
        let attr = bindings::device_attribute {
            attr: bindings::attribute {
                name: attribute.name.as_cstr().as_char_ptr(),
                mode: read | write,
                #[cfg(CONFIG_DEBUG_LOCK_ALLOC)]
                key: class.as_ptr(),
                ..pin_init::zeroed()
            },
            __bindgen_anon_1: bindings::device_attribute__bindgen_ty_1 {
                show: attribute.show.and(Some(Self::show_callback)),
            },
            __bindgen_anon_2: bindings::device_attribute__bindgen_ty_2 {
                store: attribute.store.and(Some(Self::store_callback)),
            },
        };
        // INVARIANT: The name lies in static memory or on the heap, where it stays when the
        // attribute is moved.
        Self {
            attr: Opaque::new(attr),
            attribute,
            data,
        }
    }

    /// # Safety
    ///
    /// `attr` must be the `attr` field of a `File<D>` that is valid for `'a`.
    unsafe fn from_attr<'a>(attr: *mut bindings::device_attribute) -> &'a Self {
        // SAFETY: By the requirements of this function.
        unsafe { &*container_of!(Opaque::cast_from(attr), Self, attr) }
    }

    /// # Safety
    ///
    /// Called by sysfs only, with the file that it belongs to, which [`Files`] keeps until sysfs
    /// has no callback running any more, and with a buffer of a page.
    unsafe extern "C" fn show_callback(
        _dev: *mut bindings::device,
        attr: *mut bindings::device_attribute,
        buf: *mut c_char,
    ) -> isize {
        // SAFETY: By the requirements of this function. The buffer is zeroed and belongs to this
        // call.
        let (file, buf) = unsafe {
            (
                Self::from_attr(attr),
                core::slice::from_raw_parts_mut(buf.cast::<u8>(), PAGE_SIZE),
            )
        };
        let Some(show) = file.attribute.show else {
            return EIO.to_errno() as isize;
        };
        call_show(buf, |page| show(&file.data, file.attribute.index, page))
    }

    /// # Safety
    ///
    /// Called by sysfs only, with the file that it belongs to, which [`Files`] keeps until sysfs
    /// has no callback running any more, and with `len` bytes at `buf`.
    unsafe extern "C" fn store_callback(
        _dev: *mut bindings::device,
        attr: *mut bindings::device_attribute,
        buf: *const c_char,
        len: usize,
    ) -> isize {
        // SAFETY: By the requirements of this function.
        let (file, text) = unsafe {
            (
                Self::from_attr(attr),
                core::slice::from_raw_parts(buf.cast::<u8>(), len),
            )
        };
        let Some(store) = file.attribute.store else {
            return EIO.to_errno() as isize;
        };
        call_store(text, |text| store(&file.data, file.attribute.index, text))
    }
}

/// Has a page written and returns what a `show` callback returns.
pub(crate) fn call_show(buf: &mut [u8], show: impl FnOnce(&mut Page<'_>) -> Result) -> isize {
    let mut page = Page { buf, len: 0 };
    match show(&mut page) {
        // CAST: At most a page.
        Ok(()) => page.len as isize,
        Err(error) => error.to_errno() as isize,
    }
}

/// Hands over what was written and returns what a `store` callback returns.
pub(crate) fn call_store(text: &[u8], store: impl FnOnce(&[u8]) -> Result) -> isize {
    match store(text) {
        // CAST: sysfs cuts what is written to a page.
        Ok(()) => text.len() as isize,
        Err(error) => error.to_errno() as isize,
    }
}

/// Files in the folder of a device. Dropping it removes them and waits for callbacks that are
/// running.
///
/// It has to be dropped by the time the device's driver is unbound, and not by a callback of one
/// of its own files, which would wait for itself. The data is kept by the files: if it contains
/// them, neither is ever freed.
///
/// # Invariants
///
/// `pointers` ends with a null pointer and holds the address of the `attr` of every element of
/// `files`, which are not moved; all were created in the folder of `dev`.
pub struct Files<D: Send + Sync + 'static> {
    dev: ARef<device::Device>,
    pointers: KVec<*const bindings::attribute>,
    #[expect(dead_code, reason = "what `pointers` point to")]
    files: KVec<File<D>>,
}

// SAFETY: The raw pointers are to `files`, and sysfs may be used by any thread.
unsafe impl<D: Send + Sync + 'static> Send for Files<D> {}
// SAFETY: As above.
unsafe impl<D: Send + Sync + 'static> Sync for Files<D> {}

impl<D: Send + Sync + 'static> Files<D> {
    /// Creates files for a device, all of them or none.
    ///
    /// Callbacks may run before this returns. Process context, may sleep. C: `sysfs_create_files()`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EEXIST` if there is a file of that name already.
    pub fn create(
        dev: &device::Device<device::Bound>,
        data: Arc<D>,
        attributes: impl IntoIterator<Item = Attribute<D>>,
    ) -> Result<Self> {
        let mut files = KVec::new();
        for attribute in attributes {
            files.push(File::new(attribute, data.clone()), GFP_KERNEL)?;
        }
        let mut pointers = KVec::with_capacity(files.len() + 1, GFP_KERNEL)?;
        for file in &files {
            pointers.push(file.attr.get().cast_const().cast(), GFP_KERNEL)?;
        }
        pointers.push(core::ptr::null(), GFP_KERNEL)?;
        let dev: ARef<device::Device> = dev.into();
        // SAFETY: The device is bound, hence registered; the list ends with null, and what it
        // points to is initialised and stays in place on the heap for as long as the files exist.
        to_result(unsafe { bindings::sysfs_create_files(kobj(&dev), pointers.as_ptr()) })?;
        // INVARIANT: As just done.
        Ok(Self {
            dev,
            pointers,
            files,
        })
    }
}

impl<D: Send + Sync + 'static> Drop for Files<D> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the files were created there; no callback runs when this
        // returns.
        unsafe { bindings::sysfs_remove_files(kobj(&self.dev), self.pointers.as_ptr()) };
    }
}

/// Reads from a binary file into `out`, from `offset` on; both lie within the size of the file. Process
/// context, may sleep; several may run at once. Returns how many bytes were written.
///
/// # Errors
///
/// What `read(2)` returns.
pub type Read<D> = fn(data: &D, offset: usize, out: &mut [u8]) -> Result<usize>;

/// A binary file to read in the folder of a device, of mode 0444. Dropping it removes it and waits for
/// callbacks that are running. For when it has to be dropped see [`Files`].
///
/// # Invariants
///
/// `inner.attr` was created in the folder of `dev`.
pub struct BinaryFile<D: Send + Sync + 'static> {
    dev: ARef<device::Device>,
    inner: KBox<BinaryInner<D>>,
}

struct BinaryInner<D> {
    attr: Opaque<bindings::bin_attribute>,
    read: Read<D>,
    data: Arc<D>,
}

// SAFETY: The C object is not used by Rust code, and sysfs may be used by any thread.
unsafe impl<D: Send + Sync + 'static> Send for BinaryFile<D> {}
// SAFETY: As above.
unsafe impl<D: Send + Sync + 'static> Sync for BinaryFile<D> {}

impl<D: Send + Sync + 'static> BinaryFile<D> {
    /// Creates a file of `size` bytes. Callbacks may run before this returns. Process context, may
    /// sleep. C: `sysfs_create_bin_file()`.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EEXIST` if there is a file of that name already.
    pub fn create(
        dev: &device::Device<device::Bound>,
        data: Arc<D>,
        name: &'static CStr,
        size: usize,
        read: Read<D>,
    ) -> Result<Self> {
        #[cfg_attr(
            not(CONFIG_DEBUG_LOCK_ALLOC),
            expect(clippy::needless_update, reason = "there are more fields for lockdep")
        )]
        let attr = bindings::bin_attribute {
            attr: bindings::attribute {
                name: name.as_char_ptr(),
                mode: 0o444,
                #[cfg(CONFIG_DEBUG_LOCK_ALLOC)]
                key: kernel::static_lock_class!().as_ptr(),
                ..pin_init::zeroed()
            },
            size,
            read: Some(Self::read_callback),
            ..pin_init::zeroed()
        };
        let inner = BinaryInner {
            attr: Opaque::new(attr),
            read,
            data,
        };
        let inner = KBox::new(inner, GFP_KERNEL)?;
        let dev: ARef<device::Device> = dev.into();
        // SAFETY: The device is bound, hence registered; the attribute is initialised and stays in
        // place on the heap for as long as the file exists.
        to_result(unsafe { bindings::sysfs_create_bin_file(kobj(&dev), inner.attr.get()) })?;
        // INVARIANT: As just done.
        Ok(Self { dev, inner })
    }

    /// # Safety
    ///
    /// Called by sysfs only, with the attribute of a `BinaryFile<D>`, which keeps it until sysfs has
    /// no callback running any more, and with a buffer of `len` bytes within the size of the file.
    unsafe extern "C" fn read_callback(
        _file: *mut bindings::file,
        _kobj: *mut bindings::kobject,
        attr: *const bindings::bin_attribute,
        buf: *mut c_char,
        offset: bindings::loff_t,
        len: usize,
    ) -> isize {
        // SAFETY: By the requirements of this function. The buffer belongs to this call; its memory
        // comes from the C side, so for the compiler it has some value also where nobody wrote.
        let (inner, out) = unsafe {
            let inner: *const BinaryInner<D> =
                container_of!(Opaque::cast_from(attr), BinaryInner<D>, attr);
            (
                &*inner,
                core::slice::from_raw_parts_mut(buf.cast::<u8>(), len),
            )
        };
        let Ok(offset) = usize::try_from(offset) else {
            return EINVAL.to_errno() as isize;
        };
        match (inner.read)(&inner.data, offset, out) {
            // CAST: At most `len`.
            Ok(count) => count.min(len) as isize,
            Err(error) => error.to_errno() as isize,
        }
    }
}

impl<D: Send + Sync + 'static> Drop for BinaryFile<D> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the file was created there; no callback runs when this
        // returns.
        unsafe { bindings::sysfs_remove_bin_file(kobj(&self.dev), self.inner.attr.get()) };
    }
}

fn kobj(dev: &device::Device) -> *mut bindings::kobject {
    let dev: *mut bindings::device = core::ptr::from_ref(dev).cast_mut().cast();
    // SAFETY: `Device` is a `repr(transparent)` `struct device` that is valid.
    unsafe { &raw mut (*dev).kobj }
}
