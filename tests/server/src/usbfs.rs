// SPDX-License-Identifier: GPL-2.0

//! Bulk URBs through usbfs, as few instructions as possible between the benchmark and the kernel; and
//! the kernel's driver for tests, which has its own.
//!
//! The only unsafe code of these programs: an ioctl whose argument the kernel remembers and
//! writes to later cannot be had from a safe interface.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint, c_void};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::ptr::{self, NonNull};

use rustix::ioctl::{self, opcode, Ioctl, IoctlOutput, Opcode};

/// `struct usbdevfs_urb` of `include/uapi/linux/usbdevice_fs.h`, without isochronous packets.
#[repr(C)]
struct RawUrb {
    kind: u8,
    endpoint: u8,
    status: c_int,
    flags: c_uint,
    buffer: *mut c_void,
    buffer_length: c_int,
    actual_length: c_int,
    start_frame: c_int,
    number_of_packets: c_int,
    error_count: c_int,
    signr: c_uint,
    usercontext: *mut c_void,
}

const BULK: u8 = 3;
const GROUP: u8 = b'U';

/// The driver of `drivers/usb/misc/usbtest.c`.
const USBTEST: &[u8] = b"usbtest";

/// `struct usbdevfs_disconnect_claim` of `include/uapi/linux/usbdevice_fs.h`.
#[repr(C)]
struct RawClaim {
    interface: c_uint,
    flags: c_uint,
    driver: [u8; 256],
}

/// `USBDEVFS_DISCONNECT_CLAIM_IF_DRIVER`.
const IF_DRIVER: c_uint = 1;

/// `struct usbdevfs_ioctl`: a command to an interface and, by default, its driver.
#[repr(C)]
struct RawCommand {
    interface: c_int,
    code: c_int,
    data: *mut c_void,
}

/// What `usbtest` is told by its ioctl, and what it says.
#[repr(C)]
struct RawTest {
    number: u32,
    iterations: u32,
    length: u32,
    vary: u32,
    depth: u32,
    seconds: i32,
    microseconds: i32,
}

const CONNECT: Opcode = opcode::none(GROUP, 23);
const TEST: Opcode = opcode::read_write::<RawTest>(GROUP, 100);

/// A bulk transfer.
///
/// # Invariants
///
/// `raw` comes from a box and belongs to this object. Its `buffer` and `buffer_length` describe
/// `data`, which is never resized. The kernel writes to both only while the URB is in
/// [`Device::pending`].
pub struct Urb {
    raw: NonNull<RawUrb>,
    data: Vec<u8>,
}

impl Urb {
    /// A transfer of all of `data`; for IN it is what gets filled.
    pub fn bulk(endpoint: u8, mut data: Vec<u8>) -> Self {
        let raw = Box::new(RawUrb {
            kind: BULK,
            endpoint,
            status: 0,
            flags: 0,
            buffer: data.as_mut_ptr().cast(),
            buffer_length: c_int::try_from(data.len()).unwrap_or(c_int::MAX),
            actual_length: 0,
            start_frame: 0,
            number_of_packets: 0,
            error_count: 0,
            signr: 0,
            usercontext: ptr::null_mut(),
        });
        // INVARIANT: the buffer of a vector stays where it is as long as it is not resized.
        Self {
            raw: NonNull::from(Box::leak(raw)),
            data,
        }
    }

    fn raw(&self) -> &RawUrb {
        // SAFETY: valid and initialised by the type's invariant. Callers have a reference to
        // `self`, and `Device` gives none to what the kernel is writing to.
        unsafe { self.raw.as_ref() }
    }

    /// Status after it was reaped: zero or a negative errno.
    pub fn status(&self) -> i32 {
        self.raw().status
    }

    /// Bytes transferred.
    pub fn actual(&self) -> usize {
        usize::try_from(self.raw().actual_length).unwrap_or(0)
    }

    /// The buffer.
    pub fn data(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Urb {
    fn drop(&mut self) {
        // SAFETY: from a box by the type's invariant, and not used any more: the kernel has let go
        // of it, because `Device` closes its file before it drops what is pending.
        drop(unsafe { Box::from_raw(self.raw.as_ptr()) });
    }
}

/// An open device node.
///
/// # Invariants
///
/// The kernel knows exactly the URBs in `pending`, and only through `file`, which nobody else has.
/// `file` is dropped first: closing it takes all URBs back from the kernel.
pub struct Device {
    file: File,
    pending: Vec<Urb>,
}

struct Submit(*mut RawUrb);

// SAFETY: USBDEVFS_SUBMITURB takes a pointer to a `usbdevfs_urb`; the opcode is that of 7.2's
// usbdevice_fs.h, and the output is not used. What the kernel does with the pointer afterwards is
// the duty of `Device::submit`.
unsafe impl Ioctl for Submit {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read::<RawUrb>(GROUP, 10)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.0.cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

struct Reap(*mut RawUrb);

// SAFETY: USBDEVFS_REAPURB takes a pointer to a pointer and stores the address of a submitted
// `usbdevfs_urb` there; the opcode is that of 7.2's usbdevice_fs.h.
unsafe impl Ioctl for Reap {
    type Output = *mut RawUrb;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::write::<*mut c_void>(GROUP, 12)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::from_mut(&mut self.0).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, out: *mut c_void) -> rustix::io::Result<*mut RawUrb> {
        // SAFETY: `out` is what `as_ptr` returned: a valid, initialised pointer field.
        Ok(unsafe { *out.cast::<*mut RawUrb>() })
    }
}

impl Device {
    /// Opens a node of `/dev/bus/usb`.
    ///
    /// # Errors
    ///
    /// As of open(2).
    pub fn open(node: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(node)?;
        // INVARIANT: a fresh file has no URBs.
        Ok(Self {
            file,
            pending: Vec::new(),
        })
    }

    /// Claims an interface, also from `usbtest`.
    ///
    /// # Errors
    ///
    /// Another driver has it, or it does not exist.
    pub fn claim(&self, interface: u32) -> io::Result<()> {
        let mut claim = RawClaim {
            interface,
            flags: IF_DRIVER,
            driver: [0; 256],
        };
        claim.driver[..USBTEST.len()].copy_from_slice(USBTEST);
        // SAFETY: USBDEVFS_DISCONNECT_CLAIM reads one `usbdevfs_disconnect_claim`.
        unsafe {
            let claim =
                ioctl::Setter::<{ opcode::read::<RawClaim>(GROUP, 27) }, RawClaim>::new(claim);
            ioctl::ioctl(&self.file, claim)?;
        }
        Ok(())
    }

    /// Gives interface 0 to the kernel's driver for it, unless it has one.
    ///
    /// # Errors
    ///
    /// No driver that is loaded wants it.
    pub fn connect(&self) -> io::Result<()> {
        // SAFETY: this command has no data.
        match unsafe { self.command(CONNECT, ptr::null_mut()) } {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
            result => result,
        }
    }

    /// Has `usbtest` transfer `length` bytes `depth * iterations` times, with `depth` URBs in flight,
    /// and waits until it has. Each URB is submitted again where the kernel completes it.
    ///
    /// # Errors
    ///
    /// Interface 0 has no such driver, or a URB has failed or was short.
    pub fn test(&self, number: u32, length: u32, depth: u32, iterations: u32) -> io::Result<()> {
        let mut test = RawTest {
            number,
            iterations,
            length,
            vary: 0,
            depth,
            seconds: 0,
            microseconds: 0,
        };
        // SAFETY: the command reads and writes one structure of the size that is in its code.
        unsafe { self.command(TEST, ptr::from_mut(&mut test).cast()) }
    }

    /// A command to interface 0.
    ///
    /// # Safety
    ///
    /// The kernel may read and write as many bytes at `data` as `code` says.
    unsafe fn command(&self, code: Opcode, data: *mut c_void) -> io::Result<()> {
        let command = RawCommand {
            interface: 0,
            // All 32 bits are in use.
            code: code as c_int,
            data,
        };
        // SAFETY: USBDEVFS_IOCTL reads one `usbdevfs_ioctl`; what that points to is the caller's duty.
        unsafe {
            let command = ioctl::Setter::<
                { opcode::read_write::<RawCommand>(GROUP, 18) },
                RawCommand,
            >::new(command);
            ioctl::ioctl(&self.file, command)?;
        }
        Ok(())
    }

    /// Hands a URB to the kernel.
    ///
    /// # Errors
    ///
    /// The kernel refuses; the URB is lost.
    pub fn submit(&mut self, urb: Urb) -> io::Result<()> {
        let raw = urb.raw.as_ptr();
        // SAFETY: `raw` is a complete `usbdevfs_urb` with a valid buffer (invariant of `Urb`). If
        // the call succeeds the kernel may use both until the URB is reaped or the file closed;
        // until then it stays in `pending` (invariant of `Device`).
        unsafe { ioctl::ioctl(&self.file, Submit(raw))? };
        self.pending.push(urb);
        Ok(())
    }

    /// Waits for a URB to finish and takes it back.
    ///
    /// # Errors
    ///
    /// The device is gone, or nothing is pending.
    pub fn reap(&mut self) -> io::Result<Urb> {
        // SAFETY: the output pointer is a field of `Reap`, alive during the call.
        let raw = unsafe { ioctl::ioctl(&self.file, Reap(ptr::null_mut()))? };
        let found = self
            .pending
            .iter()
            .position(|urb| urb.raw.as_ptr() == raw)
            .ok_or(io::ErrorKind::InvalidData)?;
        // INVARIANT: the kernel has just let go of this one.
        Ok(self.pending.swap_remove(found))
    }
}
