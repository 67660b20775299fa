// SPDX-License-Identifier: GPL-2.0

//! The device: an echo, a source and a sink.

use kernel::alloc::kvec::PushError;
use kernel::sync::Arc;
use kernel::workqueue::{impl_has_work, new_work, Work, WorkItem};
use kernel_ext::new_spinlock_irqsave;
use kernel_ext::prelude::*;
use kernel_ext::sync::irqsave::SpinLockIrqSave;
use kernel_ext::usb::hcd::Controller;
use kernel_ext::usb::urb::{Accepted, Lent, Linked, Submitted, UrbRef};
use kernel_ext::usb::TransferType;

mod descriptors;
use descriptors::{
    CONFIGURATION, DEVICE, ECHO_IN, ECHO_OUT, LANGUAGES, MANUFACTURER, PRODUCT, SERIAL, SINK,
    SOURCE,
};

/// Standard requests (USB 2.0, 9.4), and the vendor's own.
mod request {
    pub(super) const GET_STATUS: u8 = 0;
    pub(super) const CLEAR_FEATURE: u8 = 1;
    pub(super) const SET_FEATURE: u8 = 3;
    pub(super) const SET_ADDRESS: u8 = 5;
    pub(super) const GET_DESCRIPTOR: u8 = 6;
    pub(super) const GET_CONFIGURATION: u8 = 8;
    pub(super) const SET_CONFIGURATION: u8 = 9;
    pub(super) const GET_INTERFACE: u8 = 10;
    pub(super) const SET_INTERFACE: u8 = 11;
    pub(super) const STORE: u8 = 0x5b;
    pub(super) const SEND_BACK: u8 = 0x5c;
}

/// The most URBs that wait at an endpoint.
const URBS: usize = 64;
/// The most bytes that wait between the bulk endpoints.
const STREAM: usize = 4096;
/// The most bytes that a vendor request stores.
const MESSAGE: usize = 64;

/// The device.
#[pin_data]
pub(crate) struct Echo {
    #[pin]
    inner: SpinLockIrqSave<Inner>,
    #[pin]
    work: Work<Echo>,
}

struct Inner {
    configuration: u8,
    control: Endpoint,
    bulk_out: Endpoint,
    bulk_in: Endpoint,
    sink: Endpoint,
    source: Endpoint,
    stream: Buffer,
    message: Buffer,
}

impl_has_work! {
    impl HasWork<Self> for Echo { self.work }
}

impl WorkItem for Echo {
    type Pointer = Arc<Echo>;

    fn run(this: Arc<Echo>) {
        // In turn, so that none waits for ever while another is kept busy.
        while STEPS.iter().filter(|step| this.step(**step)).count() > 0 {}
    }
}

impl Echo {
    /// Sets all memory aside: there is none to be had where URBs are submitted.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let inner = Inner {
            configuration: 0,
            control: Endpoint::new()?,
            bulk_out: Endpoint::new()?,
            bulk_in: Endpoint::new()?,
            sink: Endpoint::new()?,
            source: Endpoint::new()?,
            stream: Buffer::new(STREAM)?,
            message: Buffer::new(MESSAGE)?,
        };
        Arc::pin_init(
            pin_init!(Self {
                inner <- new_spinlock_irqsave!(inner, "sample_hcd_echo"),
                work <- new_work!("sample_hcd_work"),
            }),
            GFP_KERNEL,
        )
    }

    /// Takes a URB in, or hands it back: `EINVAL` if there is no such endpoint, `ENOMEM` if too many
    /// wait there.
    pub(crate) fn enqueue<'a>(
        &self,
        urb: Submitted<'a>,
    ) -> Result<Accepted<'a>, (Error, Submitted<'a>)> {
        let mut inner = self.inner.lock();
        if !urb.has_buffer() || inner.endpoint_of(&urb).is_none() {
            return Err((EINVAL, urb));
        }
        let (urb, accepted) = urb.link(&inner)?;
        let Some(endpoint) = inner.endpoint_of(&urb) else {
            return urb.refuse(&inner, accepted, EINVAL);
        };
        match endpoint.urbs.push_within_capacity(urb) {
            Ok(()) => Ok(accepted),
            Err(PushError(urb)) => urb.refuse(&inner, accepted, ENOMEM),
        }
    }

    /// Gives a URB back early, if it was not just given back.
    pub(crate) fn dequeue(&self, hcd: &Controller, urb: &UrbRef<'_>, status: i32) -> Result {
        let mut inner = self.inner.lock();
        urb.check_unlink(hcd, &inner, status)?;
        if let Some(urb) = inner.remove(urb) {
            let urb = urb.unlink(&inner);
            drop(inner);
            urb.giveback(status);
        }
        Ok(())
    }

    /// Gives back a URB if there is one for which this step is all it takes.
    fn step(&self, step: Step) -> bool {
        let Some((mut urb, result)) = step(&mut self.inner.lock()) else {
            return false;
        };
        // Not under the lock, as it may be much.
        if result.is_ok() && address(&urb) == SOURCE {
            urb.fill(0);
        }
        let urb = urb.unlink(&self.inner.lock());
        urb.giveback(result.err().map_or(0, Error::to_errno));
        true
    }

    /// The port was reset.
    pub(crate) fn reset(&self) {
        self.inner.lock().configure(0);
    }
}

/// A URB that was dealt with, and how that went.
type Done = (Linked, Result);

/// What an endpoint can do at the moment, one URB at a time.
type Step = fn(&mut Inner) -> Option<Done>;

const STEPS: [Step; 5] = [
    Inner::control,
    Inner::take,
    Inner::give,
    |inner| inner.sink.pass(),
    |inner| inner.source.pass(),
];

/// The address of the endpoint that a bulk URB is for.
fn address(urb: &impl Lent) -> u8 {
    urb.endpoint() | if urb.is_in() { 0x80 } else { 0 }
}

impl Inner {
    fn endpoint_of(&mut self, urb: &impl Lent) -> Option<&mut Endpoint> {
        match urb.transfer_type() {
            TransferType::Control => Some(&mut self.control),
            TransferType::Bulk => self.endpoint_at(address(urb).into()).ok(),
            _ => None,
        }
    }

    /// The endpoint that a request is for (`wIndex`).
    fn endpoint_at(&mut self, address: u16) -> Result<&mut Endpoint> {
        match u8::try_from(address) {
            Ok(ECHO_OUT) => Ok(&mut self.bulk_out),
            Ok(ECHO_IN) => Ok(&mut self.bulk_in),
            Ok(SINK) => Ok(&mut self.sink),
            Ok(SOURCE) => Ok(&mut self.source),
            _ => Err(EPIPE),
        }
    }

    fn endpoints(&mut self) -> [&mut Endpoint; 5] {
        [
            &mut self.control,
            &mut self.bulk_out,
            &mut self.bulk_in,
            &mut self.sink,
            &mut self.source,
        ]
    }

    fn remove(&mut self, urb: &UrbRef<'_>) -> Option<Linked> {
        self.endpoints().into_iter().find_map(|endpoint| {
            let index = endpoint.urbs.iter().position(|one| urb.is(one))?;
            endpoint.remove(index)
        })
    }

    fn configure(&mut self, configuration: u8) {
        self.configuration = configuration;
        for endpoint in self.endpoints() {
            endpoint.halted = false;
        }
        self.stream.len = 0;
    }

    fn control(&mut self) -> Option<Done> {
        let mut urb = self.control.remove(0)?;
        let result = self
            .answer(&mut urb)
            .map(|n| urb.set_actual_length(n as u32));
        Some((urb, result))
    }

    /// Bulk OUT: takes what there is room for. The first URB is done when it was taken whole.
    fn take(&mut self) -> Option<Done> {
        let Inner {
            bulk_out, stream, ..
        } = self;
        let urb = bulk_out.urbs.first_mut()?;
        if bulk_out.halted {
            return Some((bulk_out.remove(0)?, Err(EPIPE)));
        }
        if stream.is_full() {
            return None;
        }
        bulk_out.done += stream.append(|room| urb.read(bulk_out.done, room)) as u32;
        urb.set_actual_length(bulk_out.done);
        if bulk_out.done < urb.length() && stream.is_full() {
            return None;
        }
        Some((bulk_out.remove(0)?, Ok(())))
    }

    /// Bulk IN: sends what there is, if there is any.
    fn give(&mut self) -> Option<Done> {
        let Inner {
            bulk_in, stream, ..
        } = self;
        let urb = bulk_in.urbs.first_mut()?;
        if bulk_in.halted {
            return Some((bulk_in.remove(0)?, Err(EPIPE)));
        }
        if stream.len == 0 {
            return None;
        }
        let n = urb.write(0, stream.bytes());
        stream.consume(n);
        urb.set_actual_length(n as u32);
        Some((bulk_in.remove(0)?, Ok(())))
    }

    /// Does a control request and returns how many bytes were transferred.
    ///
    /// # Errors
    ///
    /// `EPIPE`: the device does not know it, and stalls.
    fn answer(&mut self, urb: &mut Linked) -> Result<usize> {
        let [kind, request, v0, v1, i0, i1, ..] = urb.setup().ok_or(EPIPE)?;
        let value = u16::from_le_bytes([v0, v1]);
        let index = u16::from_le_bytes([i0, i1]);
        // The kind is the direction, standard or vendor, and the recipient.
        match (kind, request) {
            // Self-powered; nothing; halted. Endpoint 0 is not, as its stalls end with the request.
            (0x80, request::GET_STATUS) => Ok(urb.write(0, &[1, 0])),
            (0x81, request::GET_STATUS) if index == 0 => Ok(urb.write(0, &[0, 0])),
            (0x82, request::GET_STATUS) => {
                let halted = index & 0x7f != 0 && self.endpoint_at(index)?.halted;
                Ok(urb.write(0, &[halted.into(), 0]))
            }
            (0x80, request::GET_DESCRIPTOR) => match (v1, v0) {
                (1, 0) => Ok(urb.write(0, &DEVICE)),
                (2, 0) => Ok(urb.write(0, &CONFIGURATION)),
                (3, 0) => Ok(urb.write(0, &LANGUAGES)),
                (3, 1) => Ok(write_string(urb, MANUFACTURER)),
                (3, 2) => Ok(write_string(urb, PRODUCT)),
                (3, 3) => Ok(write_string(urb, SERIAL)),
                _ => Err(EPIPE),
            },
            // There is nobody else on the port, so the address does not matter.
            (0x00, request::SET_ADDRESS) => Ok(0),
            (0x80, request::GET_CONFIGURATION) => Ok(urb.write(0, &[self.configuration])),
            (0x00, request::SET_CONFIGURATION) if value <= 1 => {
                self.configure(v0);
                Ok(0)
            }
            // There is one interface, with one setting.
            (0x81, request::GET_INTERFACE) if index == 0 => Ok(urb.write(0, &[0])),
            (0x01, request::SET_INTERFACE) if (value, index) == (0, 0) => {
                self.configure(self.configuration);
                Ok(0)
            }
            // Of an endpoint, ENDPOINT_HALT.
            (0x02, request::CLEAR_FEATURE | request::SET_FEATURE) if value == 0 => {
                self.endpoint_at(index)?.halted = request == request::SET_FEATURE;
                Ok(0)
            }
            (0x40, request::STORE) if urb.length() as usize <= MESSAGE => {
                self.message.len = 0;
                Ok(self.message.append(|room| urb.read(0, room)))
            }
            (0xc0, request::SEND_BACK) => Ok(urb.write(0, self.message.bytes())),
            _ => Err(EPIPE),
        }
    }
}

/// USB 2.0, 9.6.7. Returns how much of it was asked for.
fn write_string(urb: &mut Linked, text: &str) -> usize {
    let len = 2 + 2 * text.encode_utf16().count();
    let mut n = urb.write(0, &[len as u8, 3]);
    for unit in text.encode_utf16() {
        n += urb.write(n as u32, &unit.to_le_bytes());
    }
    n
}

/// The transfers of an endpoint, in order.
struct Endpoint {
    urbs: KVec<Linked>,
    /// How many bytes of the first were transferred.
    done: u32,
    halted: bool,
}

impl Endpoint {
    fn new() -> Result<Self> {
        Ok(Self {
            urbs: KVec::with_capacity(URBS, GFP_KERNEL)?,
            done: 0,
            halted: false,
        })
    }

    /// Source and sink: whatever was asked for is done at once.
    fn pass(&mut self) -> Option<Done> {
        let mut urb = self.remove(0)?;
        if self.halted {
            return Some((urb, Err(EPIPE)));
        }
        urb.set_actual_length(urb.length());
        Some((urb, Ok(())))
    }

    fn remove(&mut self, index: usize) -> Option<Linked> {
        let urb = self.urbs.remove(index).ok()?;
        if index == 0 {
            self.done = 0;
        }
        Some(urb)
    }
}

/// Some bytes, of which the first `len` are in use.
struct Buffer {
    memory: KVec<u8>,
    len: usize,
}

impl Buffer {
    fn new(size: usize) -> Result<Self> {
        Ok(Self {
            memory: KVec::from_elem(0, size, GFP_KERNEL)?,
            len: 0,
        })
    }

    fn is_full(&self) -> bool {
        self.len == self.memory.len()
    }

    fn bytes(&self) -> &[u8] {
        self.memory.get(..self.len).unwrap_or(&[])
    }

    /// Lets `fill` write to the room that is left; it returns how many bytes it wrote.
    fn append(&mut self, fill: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let n = self.memory.get_mut(self.len..).map_or(0, fill);
        self.len += n;
        n
    }

    /// Forgets the first `n` bytes.
    fn consume(&mut self, n: usize) {
        let n = n.min(self.len);
        self.memory.copy_within(n..self.len, 0);
        self.len -= n;
    }
}
