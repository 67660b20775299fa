// SPDX-License-Identifier: GPL-2.0

//! Sample of a driver for whole USB devices that submits URBs.
//!
//! It takes every device that it is offered. One that has a driver is taken from that first:
//!
//! ```sh
//! echo 3-1 > /sys/bus/usb/drivers/usb/unbind
//! echo 3-1 > /sys/bus/usb/drivers/sample_usb/bind
//! cat /sys/bus/usb/devices/3-1/live_descriptor
//! ```
//!
//! The file `taken` in the driver's folder shows how many devices it has taken so far. Each device
//! has a file `live_descriptor`: writing `get` asks the device for its device descriptor, as probing
//! does, and `cancel` takes the request back. Reading shows what became of the last one: `pending`,
//! the descriptor in hexadecimal, or `error` and an errno.
//!
//! # The way of a transfer
//!
//! [`Inquiry::ask`] makes a [`Transfer`] and submits it, which gives it away; it comes back in
//! [`Completion::complete`], in atomic context, however it ends. Whoever holds a [`Canceller`] can
//! make that happen soon, and the [`Anchor`] makes it happen to all of a device before the driver
//! lets go of it.

#![deny(unsafe_code)]

use core::fmt::Write;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use kernel_ext::mm::Context;
use kernel_ext::new_spinlock_irqsave;
use kernel_ext::prelude::*;
use kernel_ext::sync::irqsave::SpinLockIrqSave;
use kernel_ext::sysfs::{self, Files, Page};
use kernel_ext::usb::buffer::Buffer;
use kernel_ext::usb::device::Device;
use kernel_ext::usb::driver::{self, Bound, File, Registration};
use kernel_ext::usb::transfer::{Anchor, Canceller, Completion, Request, Transfer};
use kernel_ext::usb::urb::Flags;

module! {
    type: Sample,
    name: "sample_usb_rs",
    authors: ["The rusbip authors"],
    description: "Asks USB devices for their descriptor, a sample of a USB device driver in Rust",
    license: "GPL",
}

kernel_ext::module_version!();

struct Sample {
    _driver: Registration<Driver>,
}

impl kernel::Module for Sample {
    fn init(module: &'static ThisModule) -> Result<Self> {
        Ok(Sample {
            _driver: Registration::new(
                module,
                Driver {
                    taken: Atomic::new(0),
                },
            )?,
        })
    }
}

struct Driver {
    /// Devices taken so far.
    taken: Atomic<u32>,
}

/// What belongs to a device.
struct Taken {
    inquiry: Arc<Inquiry>,
    _files: Files<Arc<Inquiry>>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        // A transfer refers to the inquiry, whose last reference no completion may drop. Nothing is
        // submitted any more after this, though the files are still there.
        self.inquiry.anchor.kill_all();
    }
}

impl driver::Driver for Driver {
    const NAME: &'static CStr = c"sample_usb";
    const FILES: &'static [File<Self>] = &[File::new::<ShowTaken>()];
    type Data = Taken;

    fn probe(&self, dev: &Bound) -> Result<Arc<Taken>> {
        let inquiry = Arc::pin_init(Inquiry::new((&**dev).into()), GFP_KERNEL)?;
        let files = Files::create(
            dev.as_ref(),
            Arc::new(inquiry.clone(), GFP_KERNEL)?,
            [sysfs::Attribute::read_write(
                c"live_descriptor",
                Inquiry::show,
                Inquiry::store,
            )],
        )?;
        let taken = Taken {
            inquiry,
            _files: files,
        };
        let taken = Arc::new(taken, GFP_KERNEL)?;
        self.taken.add(1, Relaxed);
        // The device is taken in any case; the file tells what became of the inquiry.
        let _ = taken.inquiry.ask();
        Ok(taken)
    }

    fn disconnect(&self, _dev: &Bound, data: Arc<Taken>) {
        drop(data);
    }
}

/// The file `taken`.
struct ShowTaken;

impl driver::Attribute<Driver> for ShowTaken {
    const NAME: &'static CStr = c"taken";
    const SHOW: Option<driver::Show<Driver>> =
        Some(|driver, page| Ok(writeln!(page, "{}", driver.taken.load(Relaxed))?));
}

/// The length of a device descriptor (USB 2.0, 9.6.1).
const LENGTH: u16 = 18;

/// GET_DESCRIPTOR for the device descriptor (USB 2.0, 9.4.3).
const GET_DESCRIPTOR: [u8; 8] = [0x80, 6, 0, 1, 0, 0, LENGTH as u8, 0];

type Descriptor = [u8; LENGTH as usize];

/// What a device was asked and has answered.
#[pin_data]
struct Inquiry {
    device: ARef<Device>,
    #[pin]
    state: SpinLockIrqSave<State>,
    anchor: Pin<KBox<Anchor>>,
}

enum State {
    /// The device was asked.
    Pending(Canceller),
    /// It was asked and need not answer any more.
    Cancelled,
    Answered(Descriptor),
    Failed(i32),
}

impl Inquiry {
    fn new(device: ARef<Device>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            state <- new_spinlock_irqsave!(State::Failed(ENODATA.to_errno()), "sample_usb_state"),
            anchor: KBox::pin_init(Anchor::new(device.clone()), GFP_KERNEL)?,
            device,
        })
    }

    /// Asks the device. Returns when it is asked, not when it has answered.
    fn ask(self: &Arc<Self>) -> Result {
        let transfer = Transfer::new(
            self.device.clone(),
            Request {
                endpoint: self.device.endpoint(0, true).ok_or(ENODEV)?,
                flags: Flags::SHORT_NOT_OK,
                length: LENGTH.into(),
                setup: GET_DESCRIPTOR,
                interval: 0,
                start_frame: 0,
                packets: 0,
            },
            Buffer::linear(LENGTH.into(), Context::Process)?,
            Answer(self.clone()),
            Context::Process,
        )?;
        let canceller = transfer.canceller();
        {
            let mut state = self.state.lock();
            if matches!(*state, State::Pending(_) | State::Cancelled) {
                return Err(EBUSY);
            }
            *state = State::Pending(canceller);
        }
        transfer
            .submit(self.anchor.as_ref(), Context::Process)
            .map_err(|(error, _)| {
                self.end(State::Failed(error.to_errno()));
                error
            })
    }

    /// Takes the last request back, if it is still pending.
    fn cancel(&self) {
        let before = {
            let mut state = self.state.lock();
            if !matches!(*state, State::Pending(_)) {
                return;
            }
            core::mem::replace(&mut *state, State::Cancelled)
        };
        // Without the lock, which the completion takes.
        if let State::Pending(canceller) = before {
            canceller.cancel();
        }
    }

    fn end(&self, state: State) {
        let before = core::mem::replace(&mut *self.state.lock(), state);
        drop(before);
    }

    fn show(self: &Arc<Self>, _index: u32, page: &mut Page<'_>) -> Result {
        match &*self.state.lock() {
            State::Pending(_) | State::Cancelled => write!(page, "pending")?,
            State::Answered(bytes) => {
                for byte in bytes {
                    write!(page, "{byte:02x}")?;
                }
            }
            State::Failed(errno) => write!(page, "error {errno}")?,
        }
        Ok(writeln!(page)?)
    }

    fn store(self: &Arc<Self>, _index: u32, text: &[u8]) -> Result {
        match text.trim_ascii_end() {
            b"get" => self.ask(),
            b"cancel" => {
                self.cancel();
                Ok(())
            }
            _ => Err(EINVAL),
        }
    }
}

/// What travels with a transfer.
struct Answer(Arc<Inquiry>);

impl Completion for Answer {
    fn complete(transfer: KBox<Transfer<Self>>) {
        let mut bytes = [0; LENGTH as usize];
        // Short answers come as errors: it was asked for that.
        let state = match transfer.status() {
            0 => {
                transfer.buffer().read(0, &mut bytes);
                State::Answered(bytes)
            }
            errno => State::Failed(errno),
        };
        transfer.context.0.end(state);
    }
}
