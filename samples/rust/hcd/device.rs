// SPDX-License-Identifier: GPL-2.0

//! The device: an echo, sources and sinks.

use kernel::alloc::kvec::PushError;
use kernel::sync::Arc;
use kernel::time::{delay::fsleep, Delta};
use kernel::workqueue::{impl_has_work, new_work, Work, WorkItem};
use kernel_ext::new_spinlock_irqsave;
use kernel_ext::prelude::*;
use kernel_ext::sync::irqsave::SpinLockIrqSave;
use kernel_ext::time;
use kernel_ext::usb::hcd::Controller;
use kernel_ext::usb::urb::{Accepted, Lent, Linked, Submitted, UrbRef};
use kernel_ext::usb::TransferType;

mod descriptors;
use descriptors::{
    CONFIGURATION, DEVICE, ECHO_IN, ECHO_OUT, GADGET_ZERO, INT_SINK, INT_SOURCE, ISO_PACKET,
    ISO_SINK, ISO_SOURCE, LANGUAGES, MANUFACTURER, PRODUCT, QUALIFIER, SERIAL, SINK, SOURCE,
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

/// The bits of the number of a frame that drivers see, so that it is not negative.
const FRAME_NUMBERS: u64 = 0x7fff_ffff;
/// The most URBs that wait at an endpoint.
const URBS: usize = 64;
/// The most bytes that wait between the bulk endpoints.
const STREAM: usize = 4096;
/// The most bytes that a vendor request stores.
const MESSAGE: usize = 1024;
/// The endpoints that have a packet in each frame.
const PERIODIC: [u8; 4] = [ISO_SINK, ISO_SOURCE, INT_SINK, INT_SOURCE];

/// The device.
#[pin_data]
pub(crate) struct Echo {
    #[pin]
    inner: SpinLockIrqSave<Inner>,
    #[pin]
    work: Work<Echo>,
    #[pin]
    frames: Work<Echo, PERIODIC_SCHEDULE>,
}

/// Tells the work items apart.
pub(crate) const PERIODIC_SCHEDULE: u64 = 1;

struct Inner {
    device: &'static [u8],
    configuration: u8,
    setting: u8,
    control: Endpoint,
    bulk_out: Endpoint,
    bulk_in: Endpoint,
    sink: Endpoint,
    source: Endpoint,
    /// In the order of [`PERIODIC`].
    periodic: [Endpoint; PERIODIC.len()],
    stream: Buffer,
    message: Buffer,
}

impl_has_work! {
    impl HasWork<Self> for Echo { self.work }
    impl HasWork<Self, PERIODIC_SCHEDULE> for Echo { self.frames }
}

impl WorkItem for Echo {
    type Pointer = Arc<Echo>;

    fn run(this: Arc<Echo>) {
        // In turn, so that none waits for ever while another is kept busy.
        while STEPS.iter().filter(|step| this.step(**step)).count() > 0 {}
    }
}

impl WorkItem<PERIODIC_SCHEDULE> for Echo {
    type Pointer = Arc<Echo>;

    /// Looks what is due after each frame, until nothing waits any more.
    fn run(this: Arc<Echo>) {
        while this.is_streaming() {
            fsleep(Delta::from_millis(1));
            while this.step(|inner| inner.due(time::now_ms())) {}
        }
    }
}

impl Echo {
    /// Sets all memory aside: there is none to be had where URBs are submitted.
    pub(crate) fn new(is_gadget_zero: bool) -> Result<Arc<Self>> {
        let inner = Inner {
            device: if is_gadget_zero {
                &GADGET_ZERO
            } else {
                &DEVICE
            },
            configuration: 0,
            setting: 0,
            control: Endpoint::new()?,
            bulk_out: Endpoint::new()?,
            bulk_in: Endpoint::new()?,
            sink: Endpoint::new()?,
            source: Endpoint::new()?,
            periodic: [
                Endpoint::new()?,
                Endpoint::new()?,
                Endpoint::new()?,
                Endpoint::new()?,
            ],
            stream: Buffer::new(STREAM)?,
            message: Buffer::new(MESSAGE)?,
        };
        Arc::pin_init(
            pin_init!(Self {
                inner <- new_spinlock_irqsave!(inner, "sample_hcd_echo"),
                work <- new_work!("sample_hcd_work"),
                frames <- new_work!("sample_hcd_frames"),
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
            Ok(()) => {
                endpoint.schedule_last();
                Ok(accepted)
            }
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
        if result.is_ok() {
            match address(&urb) {
                SOURCE | INT_SOURCE => urb.fill(0),
                ISO_SINK | ISO_SOURCE => transfer_packets(&mut urb),
                _ => {}
            }
        }
        let urb = urb.unlink(&self.inner.lock());
        urb.giveback(result.err().map_or(0, Error::to_errno));
        true
    }

    /// Whether a periodic transfer waits for its frames.
    fn is_streaming(&self) -> bool {
        let inner = self.inner.lock();
        inner.periodic.iter().any(|one| !one.urbs.is_empty())
    }

    /// The port was reset.
    pub(crate) fn reset(&self) {
        self.inner.lock().configure(0, 0);
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

/// The address of the endpoint that a URB is for, if not endpoint 0.
fn address(urb: &impl Lent) -> u8 {
    urb.endpoint() | if urb.is_in() { 0x80 } else { 0 }
}

/// Whether a URB has frames of its own.
pub(crate) fn is_periodic(urb: &impl Lent) -> bool {
    matches!(
        urb.transfer_type(),
        TransferType::Isochronous | TransferType::Interrupt
    )
}

/// How many frames a periodic URB takes.
fn frames(urb: &impl Lent) -> u32 {
    urb.iso_packets().max(1)
}

/// Isochronous: all packets are as long as asked for. Those of the source repeat the number of their
/// frame.
fn transfer_packets(urb: &mut Linked) {
    let mut total = 0;
    for index in 0..urb.iso_packets() {
        let Some(packet) = urb.iso_packet(index) else {
            break;
        };
        if urb.is_in() {
            let data = [(urb.start_frame() as u32 + index) as u8; ISO_PACKET];
            let data = data.get(..packet.length as usize).unwrap_or(&data);
            urb.write(packet.offset, data);
        }
        urb.set_iso_result(index, packet.length, 0);
        total += packet.length;
    }
    urb.set_actual_length(total);
}

impl Inner {
    fn endpoint_of(&mut self, urb: &impl Lent) -> Option<&mut Endpoint> {
        match urb.transfer_type() {
            TransferType::Control => Some(&mut self.control),
            _ => self.endpoint_at(address(urb).into()).ok(),
        }
    }

    /// The endpoint that a request is for (`wIndex`).
    fn endpoint_at(&mut self, address: u16) -> Result<&mut Endpoint> {
        match u8::try_from(address) {
            Ok(ECHO_OUT) => Ok(&mut self.bulk_out),
            Ok(ECHO_IN) => Ok(&mut self.bulk_in),
            Ok(SINK) => Ok(&mut self.sink),
            Ok(SOURCE) => Ok(&mut self.source),
            Ok(address) if self.setting == 1 => {
                let at = PERIODIC.iter().position(|one| *one == address);
                self.periodic.get_mut(at.ok_or(EPIPE)?).ok_or(EPIPE)
            }
            _ => Err(EPIPE),
        }
    }

    fn endpoints(&mut self) -> [&mut Endpoint; 5 + PERIODIC.len()] {
        let [iso_sink, iso_source, int_sink, int_source] = &mut self.periodic;
        [
            &mut self.control,
            &mut self.bulk_out,
            &mut self.bulk_in,
            &mut self.sink,
            &mut self.source,
            iso_sink,
            iso_source,
            int_sink,
            int_source,
        ]
    }

    fn remove(&mut self, urb: &UrbRef<'_>) -> Option<Linked> {
        self.endpoints().into_iter().find_map(|endpoint| {
            let index = endpoint.urbs.iter().position(|one| urb.is(one))?;
            endpoint.remove(index)
        })
    }

    fn configure(&mut self, configuration: u8, setting: u8) {
        self.configuration = configuration;
        self.setting = setting;
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

    /// A periodic transfer whose frames are over.
    fn due(&mut self, now: u64) -> Option<Done> {
        self.periodic.iter_mut().find_map(|one| one.due(now))
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
                (1, 0) => Ok(urb.write(0, self.device)),
                (2, 0) => Ok(urb.write(0, &CONFIGURATION)),
                (3, 0) => Ok(urb.write(0, &LANGUAGES)),
                (3, 1) => Ok(write_string(urb, MANUFACTURER)),
                (3, 2) => Ok(write_string(urb, PRODUCT)),
                (3, 3) => Ok(write_string(urb, SERIAL)),
                (6, 0) => Ok(urb.write(0, &QUALIFIER)),
                _ => Err(EPIPE),
            },
            // There is nobody else on the port, so the address does not matter.
            (0x00, request::SET_ADDRESS) => Ok(0),
            (0x80, request::GET_CONFIGURATION) => Ok(urb.write(0, &[self.configuration])),
            (0x00, request::SET_CONFIGURATION) if value <= 1 => {
                self.configure(v0, 0);
                Ok(0)
            }
            // There is one interface, with two settings.
            (0x81, request::GET_INTERFACE) if index == 0 => Ok(urb.write(0, &[self.setting])),
            (0x01, request::SET_INTERFACE) if value <= 1 && index == 0 => {
                self.configure(self.configuration, v0);
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
    /// Periodic: the first frame behind those of all transfers.
    free: u64,
}

impl Endpoint {
    fn new() -> Result<Self> {
        Ok(Self {
            urbs: KVec::with_capacity(URBS, GFP_KERNEL)?,
            done: 0,
            halted: false,
            free: 0,
        })
    }

    /// Source and sink: whatever was asked for is done.
    fn pass(&mut self) -> Option<Done> {
        let mut urb = self.remove(0)?;
        if self.halted {
            return Some((urb, Err(EPIPE)));
        }
        urb.set_actual_length(urb.length());
        Some((urb, Ok(())))
    }

    /// If the URB that came last is periodic, it gets the frames behind those of the others.
    fn schedule_last(&mut self) {
        let is_first = self.urbs.len() == 1;
        let Some(urb) = self.urbs.last_mut().filter(|urb| is_periodic(*urb)) else {
            return;
        };
        let next = time::now_ms() + 1;
        let start = if is_first { next } else { next.max(self.free) };
        self.free = start + u64::from(frames(urb));
        urb.set_start_frame((start & FRAME_NUMBERS) as i32);
    }

    /// Periodic: the first URB, if its last frame is over.
    fn due(&mut self, now: u64) -> Option<Done> {
        let urb = self.urbs.first()?;
        let end = urb.start_frame() as u64 + u64::from(frames(urb));
        // The numbers begin anew some day.
        let is_over = now.wrapping_sub(end) & FRAME_NUMBERS <= FRAME_NUMBERS / 2;
        if is_over || self.halted {
            self.pass()
        } else {
            None
        }
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
