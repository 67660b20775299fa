// SPDX-License-Identifier: GPL-2.0

//! URBs in the hands of a host controller driver.
//!
//! usbcore lends a URB to a host controller driver and gets it back exactly once. The states in
//! which the loan can be are types, and every step consumes the value:
//!
//! ```text
//!  Submitted ---> argument of `urb_enqueue`; handing it back with an error is the refusal
//!      | link(&irqs_off)
//!      v
//!  Linked    ---> on the queue of its endpoint; may be found by `urb_dequeue`
//!      | unlink(&irqs_off)
//!      v
//!  Finished  ---> on no queue any more
//!      | giveback(status)          (no lock held: it runs the completion of the USB driver)
//!      v
//!  back with the USB driver
//! ```
//!
//! A value that is dropped on the way is given back with `-ESHUTDOWN`, so that an oversight is a
//! failed transfer and not a USB driver that waits for ever.
//!
//! C header: [`include/linux/usb/hcd.h`](srctree/include/linux/usb/hcd.h)

use super::device::Device;
use super::TransferType;
use crate::bindings;
use crate::errno::*;
use crate::net::socket::{IoSlice, IoSliceMut};
use crate::net::tap::Bytes;
use crate::sync::irqsave::IrqsOff;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::rcu;

/// `transfer_flags` of a URB, as the USB driver set them and usbcore completed them.
///
/// Bits of the running kernel (`URB_*` in `include/linux/usb.h`), not of any wire format.
#[derive(Clone, Copy)]
pub struct Flags(u32);

impl Flags {
    /// A short IN transfer is an error (`URB_SHORT_NOT_OK`).
    pub const SHORT_NOT_OK: Flags = Flags(bindings::URB_SHORT_NOT_OK);
    /// Isochronous: as soon as possible (`URB_ISO_ASAP`).
    pub const ISO_ASAP: Flags = Flags(bindings::URB_ISO_ASAP);
    /// Finish a bulk OUT transfer with a short packet (`URB_ZERO_PACKET`).
    pub const ZERO_PACKET: Flags = Flags(bindings::URB_ZERO_PACKET);
    /// No interrupt needed at completion, a hint (`URB_NO_INTERRUPT`).
    pub const NO_INTERRUPT: Flags = Flags(bindings::URB_NO_INTERRUPT);
    /// The transfer goes from the device to the host (`URB_DIR_IN`).
    pub const DIR_IN: Flags = Flags(bindings::URB_DIR_IN);

    /// No flag.
    pub const NONE: Flags = Flags(0);

    /// From the bits `URB_*`; those that have no name here vanish.
    pub fn from_bits(bits: u32) -> Self {
        const ALL: u32 = bindings::URB_SHORT_NOT_OK
            | bindings::URB_ISO_ASAP
            | bindings::URB_ZERO_PACKET
            | bindings::URB_NO_INTERRUPT
            | bindings::URB_DIR_IN;
        Self(bits & ALL)
    }

    /// The bits, `URB_*`.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Whether all bits of `other` are set.
    pub fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a USB driver asked for one isochronous packet: where in the buffer, in bytes.
#[derive(Clone, Copy)]
pub struct IsoPacket {
    /// Offset from the start of the transfer buffer.
    pub offset: u32,
    /// Room for (IN) or length of (OUT) the packet.
    pub length: u32,
}

/// The untyped core of the three states: a URB that is lent to a host controller driver.
///
/// # Invariants
///
/// `0` points to a URB that usbcore passed to `urb_enqueue` and that was not given back. Its
/// `dev`, `ep`, `pipe`, `setup_packet`, `transfer_buffer`, `sg`, `transfer_buffer_length` and
/// `number_of_packets` do not change in that time, and its buffers are valid for it; the USB
/// driver must not touch a buffer that the device may write, but may read one that it reads.
struct Loan(NonNull<bindings::urb>);

impl Loan {
    fn as_ptr(&self) -> *mut bindings::urb {
        self.0.as_ptr()
    }

    fn hcd(&self) -> *mut bindings::usb_hcd {
        // SAFETY: By the type invariant the URB and its device are valid, and a device's bus is
        // the `self` member of the `usb_hcd` that the URB was submitted to.
        unsafe {
            let bus = (*(*self.as_ptr()).dev).bus;
            kernel::container_of!(bus, bindings::usb_hcd, self_)
        }
    }

    /// # Safety
    ///
    /// The URB must be on no queue, and this must be the last use of the loan.
    unsafe fn giveback(&self, status: i32) {
        // A completion must not sleep, and whoever frees what one uses may rely on RCU.
        let _atomic = rcu::read_lock();
        // SAFETY: By the invariant of `Loan` the URB is lent; the rest is a requirement of this
        // function.
        unsafe { bindings::usb_hcd_giveback_urb(self.hcd(), self.as_ptr(), status) };
    }
}

/// What may be asked of a lent URB in each of its states.
pub trait Lent: sealed::Lent {
    /// The device it is for.
    fn device(&self) -> &Device {
        // SAFETY: By the invariant of `Loan` the device is valid while the loan lasts, and so are
        // its parents, which a child pins.
        unsafe { Device::from_raw((*self.urb()).dev) }
    }

    /// The address of its device; 0 before `SET_ADDRESS` (C: `usb_pipedevice()`).
    fn device_address(&self) -> u8 {
        // SAFETY: By the invariant of `Loan`.
        ((unsafe { (*self.urb()).pipe } >> 8) & 0x7f) as u8
    }

    /// The type of its endpoint (C: `usb_endpoint_type()`).
    fn transfer_type(&self) -> TransferType {
        // SAFETY: By the invariant of `Loan`; `ep` is set by `usb_submit_urb()`.
        let attributes = unsafe { (*(*self.urb()).ep).desc.bmAttributes };
        match u32::from(attributes) & bindings::USB_ENDPOINT_XFERTYPE_MASK {
            bindings::USB_ENDPOINT_XFER_CONTROL => TransferType::Control,
            bindings::USB_ENDPOINT_XFER_ISOC => TransferType::Isochronous,
            bindings::USB_ENDPOINT_XFER_BULK => TransferType::Bulk,
            _ => TransferType::Interrupt,
        }
    }

    /// The number of its endpoint, 0 to 15, without direction (C: `usb_pipeendpoint()`).
    fn endpoint(&self) -> u8 {
        // SAFETY: By the invariant of `Loan`.
        ((unsafe { (*self.urb()).pipe } >> 15) & 0xf) as u8
    }

    /// Whether data flows from the device to the host (C: `usb_urb_dir_in()`).
    fn is_in(&self) -> bool {
        self.flags().contains(Flags::DIR_IN)
    }

    /// The flags.
    fn flags(&self) -> Flags {
        // SAFETY: By the invariant of `Loan`.
        Flags(unsafe { (*self.urb()).transfer_flags })
    }

    /// The size of the transfer buffer in bytes.
    fn length(&self) -> u32 {
        // SAFETY: By the invariant of `Loan`.
        unsafe { (*self.urb()).transfer_buffer_length }
    }

    /// Whether the transfer has a buffer that the CPU can reach and that is as long as it says, or needs
    /// none.
    ///
    /// A URB can come with a DMA address alone; a controller without DMA must refuse that. And nobody
    /// has compared a scatter list with the length of the transfer.
    fn has_buffer(&self) -> bool {
        let mut left = self.length() as usize;
        if left == 0 || !self.is_sg() {
            return left == 0 || !self.linear().is_null();
        }
        // SAFETY: By the invariant of `Loan`.
        let mut entry = unsafe { (*self.urb()).sg };
        while left > 0 && !entry.is_null() {
            // SAFETY: An entry of the URB's scatter list, which is valid while the loan lasts.
            let (len, next) = unsafe { ((*entry).length, bindings::sg_next(entry)) };
            left = left.saturating_sub(len as usize);
            entry = next;
        }
        left == 0
    }

    /// Whether the buffer is a scatter list.
    fn is_sg(&self) -> bool {
        // SAFETY: By the invariant of `Loan`.
        unsafe { (*self.urb()).num_sgs > 0 && !(*self.urb()).sg.is_null() }
    }

    /// The setup packet of a control transfer, bytes as on the bus.
    fn setup(&self) -> Option<[u8; 8]> {
        if self.transfer_type() != TransferType::Control {
            return None;
        }
        // SAFETY: By the invariant of `Loan`; usbcore refuses control URBs without setup packet,
        // and one has 8 bytes.
        let setup = unsafe { (*self.urb()).setup_packet };
        if setup.is_null() {
            return None;
        }
        // SAFETY: As above.
        Some(unsafe { core::ptr::read(setup.cast::<[u8; 8]>()) })
    }

    /// Isochronous: the frame to start in.
    fn start_frame(&self) -> i32 {
        // SAFETY: By the invariant of `Loan`.
        unsafe { (*self.urb()).start_frame }
    }

    /// Interrupt and isochronous: the polling interval in (micro)frames, normalised by usbcore.
    fn interval(&self) -> i32 {
        // SAFETY: By the invariant of `Loan`.
        unsafe { (*self.urb()).interval }
    }

    /// The number of isochronous packets; 0 for other types of transfer.
    fn iso_packets(&self) -> u32 {
        if self.transfer_type() != TransferType::Isochronous {
            return 0;
        }
        // SAFETY: By the invariant of `Loan`; `usb_submit_urb()` refuses numbers below 1.
        u32::try_from(unsafe { (*self.urb()).number_of_packets }).unwrap_or(0)
    }

    /// What was asked for packet `index`; `None` past the last.
    fn iso_packet(&self, index: u32) -> Option<IsoPacket> {
        if index >= self.iso_packets() {
            return None;
        }
        // SAFETY: By the invariant of `Loan` the URB has `number_of_packets` descriptors behind
        // it, and `index` is less than that.
        unsafe {
            let desc = (&raw const (*self.urb()).iso_frame_desc)
                .cast::<bindings::usb_iso_packet_descriptor>()
                .add(index as usize);
            Some(IsoPacket {
                offset: (*desc).offset,
                length: (*desc).length,
            })
        }
    }

    #[doc(hidden)]
    fn urb(&self) -> *mut bindings::urb {
        self.loan_ptr()
    }

    #[doc(hidden)]
    fn linear(&self) -> *mut u8 {
        // SAFETY: By the invariant of `Loan`.
        unsafe { (*self.urb()).transfer_buffer.cast() }
    }
}

mod sealed {
    pub trait Lent {
        fn loan_ptr(&self) -> *mut crate::bindings::urb;
    }
}

/// Proof that a URB was taken in by the controller: what `urb_enqueue` returns on success.
///
/// Only linking makes one, so a driver cannot report success for a URB that is not on a queue.
#[must_use]
pub struct Accepted<'a>(*mut bindings::urb, PhantomData<&'a ()>);

impl Accepted<'_> {
    /// Leaves a number with the URB by which `urb_dequeue` finds what the driver holds for it.
    ///
    /// C: `urb->hcpriv`. Call it before the lock taken for linking is released; 0 means none.
    pub fn set_token(&self, _guard: &impl IrqsOff, token: usize) {
        // SAFETY: `hcpriv` belongs to the controller driver while the URB is lent to it; the
        // lock that was taken for linking keeps others from giving the URB back.
        unsafe { (*self.0).hcpriv = core::ptr::without_provenance_mut(token) };
    }
}

/// A URB that usbcore is offering; valid for the call of `urb_enqueue` only.
pub struct Submitted<'a>(Loan, PhantomData<&'a ()>);

impl sealed::Lent for Submitted<'_> {
    fn loan_ptr(&self) -> *mut bindings::urb {
        self.0.as_ptr()
    }
}

impl Lent for Submitted<'_> {}

impl<'a> Submitted<'a> {
    /// # Safety
    ///
    /// `urb` must be the argument of a running `urb_enqueue` callback, and `'a` must not outlast
    /// the callback.
    pub(super) unsafe fn from_raw(urb: NonNull<bindings::urb>) -> Self {
        // INVARIANT: By the requirements of this function.
        Self(Loan(urb), PhantomData)
    }

    pub(super) fn is(&self, urb: NonNull<bindings::urb>) -> bool {
        self.0 .0 == urb
    }

    /// Puts the URB on the queue of its endpoint: from here on it can be dequeued.
    ///
    /// C: `usb_hcd_link_urb_to_ep()`. The guard shows that the lock which serialises this with
    /// [`UrbRef::check_unlink`] is held and interrupts are off.
    ///
    /// # Errors
    ///
    /// With the URB handed back: `EPERM` (being killed), `ENOENT` (endpoint disabled),
    /// `EHOSTUNREACH` (device suspended), `ESHUTDOWN` (controller stopped).
    pub fn link(self, _guard: &impl IrqsOff) -> Result<(Linked, Accepted<'a>), (Error, Self)> {
        // SAFETY: The URB is valid and offered to this controller; interrupts are off.
        match to_result(unsafe { bindings::usb_hcd_link_urb_to_ep(self.0.hcd(), self.urb()) }) {
            Ok(()) => {
                let accepted = Accepted(self.urb(), PhantomData);
                // INVARIANT: The URB was just linked.
                Ok((Linked(self.0), accepted))
            }
            Err(error) => Err((error, self)),
        }
    }
}

/// A URB on the queue of its endpoint, owned by the controller driver.
///
/// # Invariants
///
/// The URB is on its endpoint's queue, and no other `Linked` for it exists.
pub struct Linked(Loan);

// SAFETY: A lent URB may be worked on and given back from any thread.
unsafe impl Send for Linked {}
// SAFETY: Through a shared reference only fields that do not change during the loan are read.
unsafe impl Sync for Linked {}

impl sealed::Lent for Linked {
    fn loan_ptr(&self) -> *mut bindings::urb {
        self.0.as_ptr()
    }
}

impl Lent for Linked {}

impl Linked {
    /// Takes the loan out without running the destructor.
    fn into_loan(self) -> Loan {
        let this = ManuallyDrop::new(self);
        Loan(this.0 .0)
    }

    /// Undoes [`Submitted::link`] within the same call of `urb_enqueue`, to refuse the URB after
    /// all. Must be called before the lock taken for linking is released.
    ///
    /// Returns what `urb_enqueue` is to return: `error` and the URB. If `accepted` is another
    /// URB's, that one stays accepted, and this one is dropped.
    pub fn refuse<'a>(
        self,
        _guard: &impl IrqsOff,
        accepted: Accepted<'a>,
        error: Error,
    ) -> Result<Accepted<'a>, (Error, Submitted<'a>)> {
        if accepted.0 != self.urb() {
            return Ok(accepted);
        }
        // SAFETY: By the type invariant the URB is on its endpoint's queue; interrupts are off.
        unsafe { bindings::usb_hcd_unlink_urb_from_ep(self.0.hcd(), self.urb()) };
        // INVARIANT: `accepted` shows that the callback the URB was offered to is still running.
        Err((error, Submitted(self.into_loan(), PhantomData)))
    }

    /// Takes the URB off the queue of its endpoint: it can no longer be dequeued.
    ///
    /// C: `usb_hcd_unlink_urb_from_ep()`. The guard shows that the lock which serialises this with
    /// [`UrbRef::check_unlink`] is held and interrupts are off.
    pub fn unlink(self, _guard: &impl IrqsOff) -> Finished {
        // SAFETY: By the type invariant the URB is on its endpoint's queue; interrupts are off.
        unsafe { bindings::usb_hcd_unlink_urb_from_ep(self.0.hcd(), self.urb()) };
        // INVARIANT: The URB was just unlinked.
        Finished(self.into_loan())
    }

    /// The buffer of the transfer from byte `from` to before byte `to`, piece by piece, for
    /// sending.
    ///
    /// One piece for a linear buffer, one for each entry of a scatter list; what lies past the end
    /// of the buffer is left out.
    pub fn pieces(&self, from: u32, to: u32) -> Pieces<'_> {
        let to = to.min(self.length());
        let (linear, sg) = if self.is_sg() {
            // SAFETY: By the invariant of `Loan`.
            (core::ptr::null_mut(), unsafe { (*self.urb()).sg })
        } else {
            (self.linear(), core::ptr::null_mut())
        };
        // INVARIANT: `skip + left` is at most the length of the buffer that `linear` or `sg` is.
        Pieces {
            linear,
            sg,
            skip: from.min(to) as usize,
            left: to.saturating_sub(from) as usize,
            _urb: PhantomData,
        }
    }

    /// The same part of the buffer for receiving.
    pub fn pieces_mut(&mut self, from: u32, to: u32) -> PiecesMut<'_> {
        PiecesMut(self.pieces(from, to))
    }

    /// Copies bytes into the buffer from `offset` on; what does not fit is left out.
    ///
    /// Returns the number of bytes copied. Any context.
    pub fn write(&mut self, offset: u32, data: &[u8]) -> usize {
        let mut left = data;
        let mut pieces = self.pieces(offset, self.length());
        while let Some((start, len)) = pieces.next_raw() {
            let (head, rest) = left.split_at(len.min(left.len()));
            // SAFETY: `start` is valid for `len` bytes while the loan lasts and the device side of
            // a transfer, which is us, may write to the buffer; `head` is a Rust slice of at most
            // `len` bytes and cannot overlap memory that a USB driver lent.
            unsafe { core::ptr::copy_nonoverlapping(head.as_ptr(), start, head.len()) };
            left = rest;
            if left.is_empty() {
                break;
            }
        }
        data.len() - left.len()
    }

    /// As [`Self::write`], from wherever the bytes were received. Any context.
    pub fn write_received(&mut self, offset: u32, bytes: Bytes<'_>) {
        let mut at = 0;
        let mut pieces = self.pieces(offset, self.length());
        while let Some((start, len)) = pieces.next_raw() {
            let len = len.min(bytes.len() - at);
            // SAFETY: `start` is valid for `len` bytes while the loan lasts and the device side of
            // a transfer, which is us, may write to the buffer, which is memory that a USB driver lent.
            unsafe { bytes.copy_raw(at, start, len) };
            at += len;
            if at == bytes.len() {
                break;
            }
        }
    }

    /// Sets every byte of the buffer. Any context.
    pub fn fill(&mut self, byte: u8) {
        let mut pieces = self.pieces(0, self.length());
        while let Some((start, len)) = pieces.next_raw() {
            // SAFETY: `start` is valid for `len` bytes while the loan lasts, and the device side of
            // a transfer, which is us, may write to the buffer.
            unsafe { core::ptr::write_bytes(start, byte, len) };
        }
    }

    /// Copies bytes of the buffer from `offset` on, as many as `out` takes; what is left of `out`
    /// stays as it was.
    ///
    /// Returns the number of bytes copied. Any context.
    pub fn read(&self, offset: u32, out: &mut [u8]) -> usize {
        let mut done = 0;
        let len = u32::try_from(out.len()).unwrap_or(u32::MAX);
        let mut pieces = self.pieces(offset, offset.saturating_add(len));
        while let Some((start, len)) = pieces.next_raw() {
            let Some(room) = out.get_mut(done..) else {
                break;
            };
            let n = len.min(room.len());
            // SAFETY: `start` is valid for `len` bytes while the loan lasts and `n <= len`;
            // `room` is a Rust slice and cannot overlap memory that a USB driver lent.
            unsafe { core::ptr::copy_nonoverlapping(start, room.as_mut_ptr(), n) };
            done += n;
        }
        done
    }

    /// Sets how many bytes were transferred; more than the buffer holds counts as all of it.
    pub fn set_actual_length(&mut self, length: u32) {
        let length = length.min(self.length());
        // SAFETY: The field belongs to the controller driver while the URB is lent to it.
        unsafe { (*self.urb()).actual_length = length };
    }

    /// Isochronous: sets the frame that the transfer was started in.
    pub fn set_start_frame(&mut self, frame: i32) {
        // SAFETY: As for `set_actual_length`.
        unsafe { (*self.urb()).start_frame = frame };
    }

    /// Isochronous: sets the number of packets that failed.
    pub fn set_error_count(&mut self, errors: u32) {
        let errors = i32::try_from(errors).unwrap_or(i32::MAX);
        // SAFETY: As for `set_actual_length`.
        unsafe { (*self.urb()).error_count = errors };
    }

    /// Isochronous: sets the outcome of packet `index`.
    ///
    /// `actual_length` is cut to the length that was asked for; offset and length of the packet
    /// are the USB driver's and cannot be changed. Does nothing past the last packet.
    pub fn set_iso_result(&mut self, index: u32, actual_length: u32, status: i32) {
        let Some(packet) = self.iso_packet(index) else {
            return;
        };
        // SAFETY: `index` is less than the number of packets, as `iso_packet` found, and the
        // result fields belong to the controller driver while the URB is lent to it.
        unsafe {
            let desc = (&raw mut (*self.urb()).iso_frame_desc)
                .cast::<bindings::usb_iso_packet_descriptor>()
                .add(index as usize);
            (*desc).actual_length = actual_length.min(packet.length);
            (*desc).status = status;
        }
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        crate::pr_warn_ratelimited!("a URB was dropped by its host controller driver\n");
        // SAFETY: By the type invariant the URB is on its endpoint's queue. The helper turns
        // interrupts off around the call. The driver's lock may be missing here, and a `check_unlink`
        // for the same endpoint that runs at this moment could lose its way in the queue: a driver
        // that drops a URB is broken, which the line above says, and not to give the URB back would
        // make its USB driver wait for ever.
        unsafe { bindings::hcd_unlink_urb_irqsave(self.0.hcd(), self.urb()) };
        drop(Finished(Loan(self.0 .0)));
    }
}

/// A URB that is on no queue any more and has only to be given back.
///
/// # Invariants
///
/// The URB is lent to this driver, not on its endpoint's queue, and no other `Finished` for it
/// exists.
#[must_use]
pub struct Finished(Loan);

// SAFETY: A lent URB may be given back from any thread.
unsafe impl Send for Finished {}

impl Finished {
    /// Gives the URB back to its USB driver, with a status of 0 or a negative errno.
    ///
    /// C: `usb_hcd_giveback_urb()`. Runs the completion callback of the USB driver, which may
    /// submit again: hold no lock. Process or softirq context. If the URB was unlinked, usbcore
    /// reports the status of the unlink instead of this one.
    pub fn giveback(self, status: i32) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `self` is consumed, so this happens once.
        unsafe { this.0.giveback(status) };
    }
}

impl Drop for Finished {
    fn drop(&mut self) {
        // SAFETY: A destructor runs once.
        unsafe { self.0.giveback(ESHUTDOWN.to_errno()) };
    }
}

/// A URB that `urb_dequeue` is about; somebody else may own it.
///
/// # Invariants
///
/// usbcore keeps the `struct urb` alive for `'a`, but it may have been given back already.
pub struct UrbRef<'a>(NonNull<bindings::urb>, PhantomData<&'a ()>);

impl UrbRef<'_> {
    /// # Safety
    ///
    /// `urb` must be the argument of a running `urb_dequeue` callback, and `'a` must not outlast
    /// the callback.
    pub(super) unsafe fn from_raw(urb: NonNull<bindings::urb>) -> Self {
        Self(urb, PhantomData)
    }

    /// The device it is for.
    pub fn device(&self) -> &Device {
        // SAFETY: usbcore holds a reference on the device for the duration of the callback. Its parents
        // are there as well: USB drivers unlink nothing after their `disconnect` has returned, and a
        // hub goes after the devices behind it.
        unsafe { Device::from_raw((*self.0.as_ptr()).dev) }
    }

    /// Whether `linked` is this URB. Under the lock under which it was linked, this finds it in a
    /// driver's queue; [`Self::token`] saves the search.
    pub fn is(&self, linked: &Linked) -> bool {
        self.0 == linked.0 .0
    }

    /// Asks usbcore whether the URB is still there to be unlinked and records why it is.
    ///
    /// C: `usb_hcd_check_unlink_urb()`; `status` is what the USB driver will see. The guard shows
    /// that the lock under which the URB was linked is held.
    ///
    /// # Errors
    ///
    /// `EIDRM`: it is not queued (any more). `EBUSY`: it is being unlinked already.
    pub fn check_unlink(
        &self,
        hcd: &super::hcd::Controller,
        guard: &impl IrqsOff,
        status: i32,
    ) -> Result {
        let _ = guard;
        // SAFETY: By the type invariant the URB is alive, and the caller holds the lock that
        // serialises this with linking and unlinking.
        to_result(unsafe {
            bindings::usb_hcd_check_unlink_urb(hcd.as_ptr(), self.0.as_ptr(), status)
        })
    }

    /// The number that [`Accepted::set_token`] left. Meaningful under the lock under which the URB
    /// was linked, after [`Self::check_unlink`] succeeded.
    pub fn token(&self, _guard: &impl IrqsOff) -> usize {
        // SAFETY: By the type invariant the URB is alive.
        unsafe { (*self.0.as_ptr()).hcpriv }.addr()
    }
}

/// The pieces of a transfer buffer; see [`Linked::pieces`].
///
/// # Invariants
///
/// `linear` is null or valid for `skip + left` bytes; `sg` is null or the rest of the URB's
/// scatter list, whose entries are valid for their lengths.
pub struct Pieces<'a> {
    linear: *mut u8,
    sg: *mut bindings::scatterlist,
    skip: usize,
    left: usize,
    _urb: PhantomData<&'a Linked>,
}

// The buffers of URBs are addressed directly; with highmem a page may have no address.
#[cfg(CONFIG_HIGHMEM)]
compile_error!("scatter lists are not mapped page by page: CONFIG_HIGHMEM is not supported");

impl Pieces<'_> {
    /// The next piece, valid for the returned number of bytes, which is not 0.
    fn next_raw(&mut self) -> Option<(*mut u8, usize)> {
        while self.left > 0 {
            let (start, len) = if !self.linear.is_null() {
                let start = core::mem::replace(&mut self.linear, core::ptr::null_mut());
                (start, self.skip + self.left)
            } else if !self.sg.is_null() {
                let sg = self.sg;
                // SAFETY: By the type invariant `sg` is an entry of the list; `sg_next()` is null
                // at its end.
                unsafe {
                    self.sg = bindings::sg_next(sg);
                    (bindings::sg_virt(sg).cast::<u8>(), (*sg).length as usize)
                }
            } else {
                return None;
            };
            if self.skip >= len {
                self.skip -= len;
                continue;
            }
            // SAFETY: By the type invariant the piece has `len` bytes, and `skip` is less.
            let start = unsafe { start.add(self.skip) };
            let len = (len - self.skip).min(self.left);
            self.skip = 0;
            self.left -= len;
            return Some((start, len));
        }
        None
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = IoSlice<'a>;

    fn next(&mut self) -> Option<IoSlice<'a>> {
        let (start, len) = self.next_raw()?;
        // SAFETY: The piece is valid for reading while the loan lasts, hence for `'a`.
        Some(unsafe { IoSlice::from_raw(start, len) })
    }
}

/// The pieces of a transfer buffer for receiving; see [`Linked::pieces_mut`].
pub struct PiecesMut<'a>(Pieces<'a>);

impl<'a> Iterator for PiecesMut<'a> {
    type Item = IoSliceMut<'a>;

    fn next(&mut self) -> Option<IoSliceMut<'a>> {
        let (start, len) = self.0.next_raw()?;
        // SAFETY: The piece is valid for writing while the loan lasts, hence for `'a`, and the
        // URB is borrowed mutably for `'a`.
        Some(unsafe { IoSliceMut::from_raw(start, len) })
    }
}
