// SPDX-License-Identifier: GPL-2.0

//! URBs in the hands of a driver that submits them.
//!
//! A [`Transfer`] owns its URB, its buffer and what the driver wants to know at its end. Submitting
//! consumes it; it comes back through [`Completion::complete`], once, and only from there:
//!
//! ```text
//!   KBox<Transfer> --submit()--> in flight --> Completion::complete(KBox<Transfer>)
//!        ^  '--------------(error)---'  '^
//!        '------------------'            '-- Canceller::cancel(), Anchor::kill_all()
//! ```
//!
//! Where the host controller cannot take a scatter list, a transfer whose buffer has several pieces
//! goes out as so many URBs, one behind the other, and ends with the first that is short or fails:
//! those behind it are cancelled. Its driver does not notice, provided that no two threads submit
//! to the same endpoint at the same time.
//!
//! C header: [`include/linux/usb.h`](srctree/include/linux/usb.h)

mod pieces;

use super::buffer::Buffer;
use super::device::{Device, Endpoint};
use super::urb::Flags;
use super::TransferType;
use crate::bindings;
use crate::errno::*;
use crate::mm::Context;
use core::ptr::NonNull;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;
use kernel::types::{ForeignOwnable, Opaque};
use pieces::{Outcome, Pieces};

/// What happens at the end of a transfer. The type travels with the transfer.
pub trait Completion: Send + Sized + 'static {
    /// The transfer has ended; nobody else has anything to do with it any more.
    ///
    /// In softirq or interrupt context, or in that of whoever submits or cancels it: must not sleep.
    fn complete(transfer: KBox<Transfer<Self>>);
}

/// What to transfer.
#[derive(Clone, Copy)]
pub struct Request {
    /// From or to where. The direction of a control transfer follows from its setup packet.
    pub endpoint: Endpoint,
    /// What usbcore does not allow for the endpoint has no effect, nor has [`Flags::DIR_IN`].
    pub flags: Flags,
    /// The number of bytes, at most that of the buffer.
    pub length: u32,
    /// The setup packet of a control transfer, as on the bus.
    pub setup: [u8; 8],
    /// Interrupt and isochronous: the interval in (micro)frames.
    pub interval: i32,
    /// Isochronous: the frame to start in, unless [`Flags::ISO_ASAP`] is set.
    pub start_frame: i32,
    /// Isochronous: the number of packets, at most [`MAX_PACKETS`].
    pub packets: u32,
}

/// The most packets of an isochronous transfer.
pub const MAX_PACKETS: u32 = 1024;

/// One packet of an isochronous transfer.
#[derive(Clone, Copy)]
pub struct Packet {
    /// Where it starts in the buffer, in bytes.
    pub offset: u32,
    /// How many bytes it has room for, or is to send.
    pub length: u32,
    /// How many bytes were transferred.
    pub actual_length: u32,
    /// 0 or a negative errno.
    pub status: i32,
}

/// Those of the flags about which usbcore does not complain, see `usb_submit_urb()`.
fn allowed(flags: Flags, endpoint: Endpoint) -> Flags {
    let of_endpoint = match (endpoint.kind, endpoint.is_in) {
        (TransferType::Isochronous, _) => Flags::ISO_ASAP,
        (_, true) => Flags::SHORT_NOT_OK,
        (TransferType::Control, false) => Flags::NONE,
        (_, false) => Flags::ZERO_PACKET,
    };
    Flags::from_bits(flags.bits() & (of_endpoint.bits() | Flags::NO_INTERRUPT.bits()))
}

/// A transfer that is not in flight.
///
/// # Invariants
///
/// - `urb` is a URB with room for `packets` packets, not in flight, of which a reference is held.
/// - `request.length` is at most the length of `buffer`, and each packet lies within that length.
pub struct Transfer<C> {
    urb: NonNull<bindings::urb>,
    device: ARef<Device>,
    /// 8 bytes for the controller to read.
    setup: [u8; 8],
    request: Request,
    buffer: Buffer,
    /// What it takes to go out in pieces, if it has to.
    pieces: Option<Arc<Pieces>>,
    /// How it ended, if it went out in pieces.
    outcome: Option<Outcome>,
    /// What belongs to its driver.
    pub context: C,
}

// SAFETY: A URB that is not in flight may be used by any thread; everything else is `Send`.
unsafe impl<C: Send> Send for Transfer<C> {}
// SAFETY: Through a shared reference, fields are only read.
unsafe impl<C: Sync> Sync for Transfer<C> {}

impl<C: Completion> Transfer<C> {
    /// Prepares a transfer.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINVAL`: more than the buffer or more packets than [`MAX_PACKETS`], a buffer of
    /// several pieces for anything but a bulk transfer, or one that was
    /// [received](Buffer::is_received) for a transfer IN or a controller that does not
    /// [take it](Device::takes_any_scatter_list).
    pub fn new(
        device: ARef<Device>,
        mut request: Request,
        mut buffer: Buffer,
        context: C,
        place: Context,
    ) -> Result<KBox<Self>> {
        let is_bulk = request.endpoint.kind == TransferType::Bulk;
        if request.length > buffer.len()
            || request.packets > MAX_PACKETS
            || (!is_bulk && buffer.scatter_list().is_some())
        {
            return Err(EINVAL);
        }
        if request.endpoint.kind == TransferType::Control {
            let [kind, .., low, high] = request.setup;
            request.endpoint.is_in = kind & 0x80 != 0 && (low | high) != 0;
        }
        if buffer.is_received() && (request.endpoint.is_in || !device.takes_any_scatter_list()) {
            return Err(EINVAL);
        }
        request.flags = allowed(request.flags, request.endpoint);
        // CAST: At most `MAX_PACKETS`.
        //
        // SAFETY: Sleeps only where that is allowed.
        let urb = unsafe { bindings::usb_alloc_urb(request.packets as c_int, place.gfp()) };
        let urb = NonNull::new(urb).ok_or(ENOMEM)?;
        // SAFETY: The URB has room for that many descriptors. `usb_alloc_urb()` leaves in them what
        // the memory held before; a descriptor may be zeroed.
        unsafe {
            (&raw mut (*urb.as_ptr()).iso_frame_desc)
                .cast::<bindings::usb_iso_packet_descriptor>()
                .write_bytes(0, request.packets as usize)
        };
        // INVARIANT: A new URB, whose packets are empty.
        let this = Self {
            urb,
            device,
            setup: request.setup,
            request,
            buffer,
            pieces: None,
            outcome: None,
            context,
        };
        let mut this = KBox::new(this, place.flags())?;
        let more = this.pieces_behind_first();
        if more > 0 {
            this.pieces = Some(Pieces::new(more, place)?);
        }
        Ok(this)
    }

    /// How many pieces there are behind the first that the controller has to be given one by one.
    fn pieces_behind_first(&mut self) -> usize {
        let max = self.device.sg_tablesize();
        match self.buffer.scatter_list() {
            Some((_, count)) if count > max => {}
            _ => return 0,
        }
        let mut left = self.request.length;
        let mut count: usize = 0;
        while let Some((_, size)) = self.buffer.piece(count).filter(|_| left > 0) {
            left = left.saturating_sub(size);
            count += 1;
        }
        count.saturating_sub(1)
    }

    /// What cancels this transfer, whoever holds it by then. Any context.
    pub fn canceller(&self) -> Canceller {
        // SAFETY: By the type invariant the URB is valid.
        unsafe { bindings::usb_get_urb(self.urb.as_ptr()) };
        // INVARIANT: The references were just taken.
        Canceller {
            urb: self.urb,
            pieces: self.pieces.clone(),
            _device: self.device.clone(),
        }
    }

    /// Hands the transfer to the host controller.
    ///
    /// It belongs to `anchor` until it has ended.
    ///
    /// # Errors
    ///
    /// The transfer and what `usb_submit_urb()` says: `ENODEV`, `ENOENT` (the endpoint is not, or
    /// not any more, what it was when it was looked up), `EINVAL`, `EMSGSIZE`, `EBADR` (control: the
    /// setup packet has another length), `ENOSPC` (no bandwidth), `ENOMEM` and so on; `EPERM` if it
    /// was cancelled or the anchor killed. `EINVAL` as well if the anchor is one of another device.
    pub fn submit(
        mut self: KBox<Self>,
        anchor: Pin<&Anchor>,
        place: Context,
    ) -> Result<(), (Error, KBox<Self>)> {
        if self.device.key() != anchor.device.key() {
            return Err((EINVAL, self));
        }
        // usbcore goes by the endpoint that has this address now, and warns about flags that were
        // right for the one before.
        let endpoint = self.request.endpoint;
        if self.device.endpoint(endpoint.number, endpoint.is_in) != Some(endpoint) {
            let is_gone = self.device.is_unplugged();
            return Err((if is_gone { ENODEV } else { ENOENT }, self));
        }
        self.fill();
        let anchor = anchor.anchor.get();
        match self.pieces.clone() {
            Some(pieces) => {
                self.fill_pieces(&pieces);
                // SAFETY: The URBs were just filled, and an anchor is killed when it is dropped.
                unsafe { self.submit_pieces(&pieces, anchor, place) }
            }
            // SAFETY: As above.
            None => unsafe { self.submit_whole(anchor, place) },
        }
    }

    fn fill(&mut self) {
        let request = self.request;
        let scatter_list = self.buffer.scatter_list();
        let linear = self.buffer.piece(0);
        let urb = self.urb.as_ptr();
        // SAFETY: By the type invariant the URB is ours alone; the device is valid and lives as
        // long as this transfer, which the URB's context keeps.
        unsafe {
            (*urb).dev = self.device.as_ptr();
            (*urb).pipe = request.endpoint.pipe(&self.device);
            (*urb).complete = Some(Self::completed);
            (*urb).setup_packet = self.setup.as_mut_ptr();
            (*urb).interval = request.interval;
            (*urb).start_frame = request.start_frame;
            // CAST: At most `MAX_PACKETS`.
            (*urb).number_of_packets = request.packets as c_int;
            (*urb).error_count = 0;
            (*urb).transfer_flags = request.flags.bits();
            (*urb).transfer_buffer_length = request.length;
            (*urb).transfer_buffer = core::ptr::null_mut();
            (*urb).sg = core::ptr::null_mut();
            (*urb).num_sgs = 0;
            match (scatter_list, linear) {
                (Some((list, count)), _) if self.pieces.is_none() => {
                    (*urb).sg = list;
                    // CAST: At most the pages of 4 GiB.
                    (*urb).num_sgs = count as c_int;
                }
                (_, Some((start, _))) => (*urb).transfer_buffer = start.as_ptr().cast(),
                _ => {}
            }
        }
    }

    /// # Safety
    ///
    /// The URB is filled and ours alone; `anchor` must be valid, and be killed before it goes; `place`
    /// must be true.
    unsafe fn submit_whole(
        self: KBox<Self>,
        anchor: *mut bindings::usb_anchor,
        place: Context,
    ) -> Result<(), (Error, KBox<Self>)> {
        let urb = self.urb.as_ptr();
        let context = self.into_foreign();
        // SAFETY: By the requirements of this function. The context, which owns buffer and setup
        // packet, belongs to the URB from here until `completed` takes it back.
        let result = unsafe {
            (*urb).context = context.cast();
            bindings::usb_anchor_urb(urb, anchor);
            to_result(bindings::usb_submit_urb(urb, place.gfp()))
        };
        result.map_err(|error| {
            // SAFETY: The URB was not taken, so the context is still ours.
            unsafe {
                bindings::usb_unanchor_urb(urb);
                (error, KBox::<Self>::from_foreign(context))
            }
        })
    }

    /// # Safety
    ///
    /// Called by usbcore only, for a URB that `submit_whole` has handed over.
    unsafe extern "C" fn completed(urb: *mut bindings::urb) {
        // SAFETY: By the requirements of this function `context` is what `submit_whole` put there,
        // and usbcore calls this once for each submission.
        C::complete(unsafe { KBox::<Self>::from_foreign((*urb).context.cast()) });
    }
}

impl<C> Transfer<C> {
    /// What was asked for.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Its buffer.
    pub fn buffer(&self) -> &Buffer {
        &self.buffer
    }

    /// Its buffer, to be filled.
    pub fn buffer_mut(&mut self) -> &mut Buffer {
        &mut self.buffer
    }

    /// How it ended: 0 or a negative errno (`Documentation/driver-api/usb/error-codes.rst`).
    ///
    /// Like everything below, meaningful after its end only.
    pub fn status(&self) -> i32 {
        match &self.outcome {
            Some(outcome) => outcome.status,
            // SAFETY: By the type invariant the URB is valid and not in flight.
            None => unsafe { (*self.urb.as_ptr()).status },
        }
    }

    /// The number of bytes that were transferred, at most what was asked for.
    pub fn actual_length(&self) -> u32 {
        let actual = match &self.outcome {
            Some(outcome) => outcome.actual_length,
            // SAFETY: As for `status`.
            None => unsafe { (*self.urb.as_ptr()).actual_length },
        };
        actual.min(self.request.length)
    }

    /// Isochronous: the frame in which it started.
    pub fn start_frame(&self) -> i32 {
        // SAFETY: As for `status`.
        unsafe { (*self.urb.as_ptr()).start_frame }
    }

    /// Isochronous: how many packets failed.
    pub fn error_count(&self) -> i32 {
        // SAFETY: As for `status`.
        unsafe { (*self.urb.as_ptr()).error_count }
    }

    fn packet_ptr(&self, index: u32) -> Option<*mut bindings::usb_iso_packet_descriptor> {
        if index >= self.request.packets {
            return None;
        }
        // SAFETY: By the type invariant the URB has room for that many descriptors.
        Some(unsafe {
            (&raw mut (*self.urb.as_ptr()).iso_frame_desc)
                .cast::<bindings::usb_iso_packet_descriptor>()
                .add(index as usize)
        })
    }

    /// Isochronous: says where packet `index` is.
    ///
    /// # Errors
    ///
    /// `EINVAL`: there is no such packet, or it does not lie within the transfer.
    pub fn set_packet(&mut self, index: u32, offset: u32, length: u32) -> Result {
        let end = offset.checked_add(length).ok_or(EINVAL)?;
        let packet = self.packet_ptr(index).ok_or(EINVAL)?;
        if end > self.request.length {
            return Err(EINVAL);
        }
        // INVARIANT: The packet lies within the transfer.
        // SAFETY: The URB is ours alone.
        unsafe {
            (*packet).offset = offset;
            (*packet).length = length;
        }
        Ok(())
    }

    /// Isochronous: packet `index`; `None` past the last.
    pub fn packet(&self, index: u32) -> Option<Packet> {
        let packet = self.packet_ptr(index)?;
        // SAFETY: As for `status`.
        Some(unsafe {
            Packet {
                offset: (*packet).offset,
                length: (*packet).length,
                actual_length: (*packet).actual_length.min((*packet).length),
                status: (*packet).status,
            }
        })
    }
}

impl<C> Drop for Transfer<C> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant a reference is held.
        unsafe { bindings::usb_free_urb(self.urb.as_ptr()) };
    }
}

/// Cancels one transfer; see [`Transfer::canceller`].
///
/// It refers to the device: where the last of these references may be dropped, sleeping has to be
/// allowed.
///
/// # Invariants
///
/// A reference to the URB is held, and it and those of `pieces` were or will be submitted to
/// `_device` only.
pub struct Canceller {
    urb: NonNull<bindings::urb>,
    pieces: Option<Arc<Pieces>>,
    _device: ARef<Device>,
}

// SAFETY: A URB may be unlinked by any thread.
unsafe impl Send for Canceller {}
// SAFETY: As above.
unsafe impl Sync for Canceller {}

impl Canceller {
    /// Makes the transfer end soon, with `ECONNRESET` unless it ended by itself before; if it was
    /// not submitted yet, submitting it will fail with `EPERM`. Does not wait. Any context.
    ///
    /// Hold no lock that [`Completion::complete`] takes: it may be called from here.
    pub fn cancel(&self) {
        // SAFETY: By the type invariant the URB is valid, and so is the device, of which usbcore
        // takes a reference until the completion has returned to it; by then the transfer, and the
        // device with it, may be gone for everybody else.
        unsafe {
            if let Some(pieces) = &self.pieces {
                pieces.cancel();
            }
            bindings::usb_block_urb(self.urb.as_ptr());
            bindings::usb_unlink_urb(self.urb.as_ptr());
        }
    }
}

impl Drop for Canceller {
    fn drop(&mut self) {
        // SAFETY: By the type invariant a reference is held.
        unsafe { bindings::usb_free_urb(self.urb.as_ptr()) };
    }
}

/// All transfers that one user of a device has in flight. Dropping it kills them; that may sleep.
///
/// It must not be dropped by [`Completion::complete`], which it would wait for: keep one reference
/// to whatever contains it until [`Self::kill_all`] has returned.
///
/// # Invariants
///
/// All URBs of `anchor` are for `device`.
#[pin_data(PinnedDrop)]
pub struct Anchor {
    /// So that a completion, which must not sleep, never drops the last reference to the device.
    device: ARef<Device>,
    #[pin]
    anchor: Opaque<bindings::usb_anchor>,
}

// SAFETY: An anchor has a lock of its own.
unsafe impl Send for Anchor {}
// SAFETY: As above.
unsafe impl Sync for Anchor {}

impl Anchor {
    /// An anchor without transfers, for those to one device.
    pub fn new(device: ARef<Device>) -> impl PinInit<Self> {
        // INVARIANT: There are no URBs.
        pin_init!(Self {
            device,
            // SAFETY: `slot` is valid for writes.
            anchor <- Opaque::ffi_init(|slot| unsafe { bindings::init_usb_anchor(slot) }),
        })
    }

    /// Cancels all transfers and waits until [`Completion::complete`] has returned for the last of
    /// them. From then on submitting fails with `EPERM`. May sleep.
    pub fn kill_all(&self) {
        // SAFETY: The anchor is initialised, and by the type invariant the device of its URBs is
        // valid.
        unsafe { bindings::usb_poison_anchored_urbs(self.anchor.get()) };
    }
}

#[pinned_drop]
impl PinnedDrop for Anchor {
    fn drop(self: Pin<&mut Self>) {
        self.kill_all();
        // usbcore counts a completion as over (`usb_anchor_resume_wakeups()`) and looks at the
        // anchor once more. It does so in atomic context, which is where URBs are given back.
        //
        // SAFETY: No requirements.
        unsafe { bindings::synchronize_rcu() };
    }
}
