// SPDX-License-Identifier: GPL-2.0

//! The endpoints of a controller: where the transfers of the client and the requests of the gadget
//! driver meet.
//!
//! C counterpart: `v_timer()` of `vudc_transfer.c`, which looks at everything at each tick of a timer.
//! Here an endpoint is looked at when something has happened to it, by the tx thread; isochronous
//! endpoints also when an interval has passed.

use crate::control::{self, Verdict};
use crate::server::Server;
use crate::sysfs::DESCRIPTOR;
use crate::transfer::{Stage, Transfer};
use crate::udc::Vudc;
use core::cmp::min;
use kernel::rbtree::{RBTree, RBTreeNode};
use kernel::sync::Arc;
use kernel_ext::prelude::*;
use kernel_ext::usb::gadget::{EndpointConfig, Halt, Request, RequestId, RequestQueue, Speed};
use kernel_ext::usb::TransferType;
use usbip_core::connection::Connection;
use usbip_protocol::setup::Setup;
use usbip_protocol::status::errno;
use usbip_protocol::transaction::{step, Half};

/// How many endpoints a controller has: 15 out, 15 in, and endpoint 0.
pub(crate) const ENDPOINTS: usize = 31;

/// How many bytes are copied with the lock held.
const CHUNK: u32 = 64 * 1024;

/// How often isochronous endpoints are served, in ns: the frame of full speed.
const FRAME_NS: u64 = 1_000_000;

/// By how much an isochronous endpoint may be behind its time, in ns: a few frames.
const LATE_NS: u64 = 16 * FRAME_NS;

/// Names a transfer that waits: its endpoint, and its place in the order of all.
pub(crate) type Key = u64;

/// Where the endpoint is in a [`Key`].
const ENDPOINT_SHIFT: u32 = 56;

/// The index of an endpoint in the list of all: out and in by turns, behind endpoint 0.
pub(crate) fn index(number: u8, is_in: bool) -> usize {
    match number {
        0 => 0,
        number => usize::from(number) * 2 - usize::from(!is_in),
    }
}

/// An endpoint.
struct Endpoint {
    /// What it is enabled with, if it is; `None` for endpoint 0.
    config: Option<EndpointConfig>,
    requests: RequestQueue<Vudc>,
    halt: Halt,
    /// Of an isochronous endpoint: when the interval behind the last transfer begins.
    next_ns: u64,
}

/// What is to be done after a step, without the lock.
pub(crate) enum Action {
    /// Nothing: it waits for the other side, or for time to pass.
    Wait,
    /// There is more to do.
    Again,
    /// The gadget driver is asked.
    Setup(Key, [u8; 8]),
    /// The device has got an address, or lost it, and this transfer has ended.
    Addressed(bool, KBox<Transfer>),
    /// Something has come to its end.
    End {
        /// A request, and its status.
        request: Option<(Request<Vudc>, i32)>,
        /// A transfer.
        transfer: Option<KBox<Transfer>>,
    },
}

/// All endpoints and what waits there.
pub(crate) struct Bus {
    endpoints: [Endpoint; ENDPOINTS],
    transfers: RBTree<Key, KBox<Transfer>>,
    /// The place of the next transfer.
    counter: u64,
    /// The endpoints to look at, a bit for each.
    dirty: u32,
    /// The endpoint that comes next, so that a busy one does not keep others from their turn.
    turn: u32,
    /// The endpoints that are isochronous.
    isochronous: u32,
    /// When to look at one of those, if it is not dirty.
    alarm: Option<u64>,
    /// Whether the tx thread is looking.
    is_running: bool,
    /// Whose thread that is.
    pub(crate) connection: Option<Arc<Connection<Server>>>,
    /// How fast the device is.
    speed: Speed,
    /// What GET_STATUS shows.
    status: u16,
    /// What the gadget driver has answered when it was asked for its device descriptor.
    pub(crate) descriptor: Option<[u8; DESCRIPTOR]>,
    /// Whether it has been asked and has not answered yet.
    pub(crate) is_asked: bool,
}

impl Bus {
    /// No gadget.
    pub(crate) fn new() -> Self {
        Self {
            endpoints: core::array::from_fn(|_| Endpoint {
                config: None,
                requests: RequestQueue::new(),
                halt: Halt::Clear,
                next_ns: 0,
            }),
            transfers: RBTree::new(),
            counter: 0,
            dirty: 0,
            turn: 0,
            isochronous: 0,
            alarm: None,
            is_running: false,
            connection: None,
            speed: Speed::High,
            status: 0,
            descriptor: None,
            is_asked: false,
        }
    }

    /// A gadget appears.
    pub(crate) fn set_speed(&mut self, speed: Speed) {
        self.speed = speed;
        // What the gadget driver has said of its power is not the last host's.
        self.status &= 1;
    }

    /// Bit 0 of what GET_STATUS shows.
    pub(crate) fn set_self_powered(&mut self, on: bool) {
        self.status = self.status & !1 | u16::from(on);
    }

    /// A client comes or has gone: nothing of the last one is left.
    pub(crate) fn reset(&mut self) -> RBTree<Key, KBox<Transfer>> {
        self.dirty = 0;
        self.alarm = None;
        self.is_running = false;
        self.status &= 1;
        for endpoint in &mut self.endpoints {
            endpoint.next_ns = 0;
            endpoint.halt = Halt::Clear;
        }
        core::mem::replace(&mut self.transfers, RBTree::new())
    }

    /// The type of an endpoint, if it is enabled.
    pub(crate) fn kind(&self, index: usize) -> Option<TransferType> {
        if index == 0 {
            return Some(TransferType::Control);
        }
        Some(self.endpoints.get(index)?.config?.kind)
    }

    /// Whether a request is going on that may change which endpoints there are.
    pub(crate) fn is_changing(&self) -> bool {
        self.transfers
            .iter()
            .take_while(|(key, _)| *key >> ENDPOINT_SHIFT == 0)
            .any(|(_, transfer)| control::changes_endpoints(&transfer.setup))
    }

    /// Enables an endpoint.
    pub(crate) fn enable(&mut self, index: usize, config: EndpointConfig) -> Result {
        let endpoint = self.endpoints.get_mut(index).ok_or(EINVAL)?;
        if endpoint.config.is_some() {
            return Err(EINVAL);
        }
        endpoint.config = Some(config);
        endpoint.halt = Halt::Clear;
        endpoint.next_ns = 0;
        if config.kind == TransferType::Isochronous {
            self.isochronous |= 1 << index;
        }
        Ok(())
    }

    /// Disables an endpoint. Returns its requests.
    pub(crate) fn disable(&mut self, index: usize) -> RequestQueue<Vudc> {
        self.isochronous &= !(1 << index);
        self.dirty |= 1 << index;
        let Some(endpoint) = self.endpoints.get_mut(index) else {
            return RequestQueue::new();
        };
        endpoint.config = None;
        endpoint.halt = Halt::Clear;
        core::mem::take(&mut endpoint.requests)
    }

    /// Takes out all requests of an endpoint.
    pub(crate) fn take_requests(&mut self, index: usize) -> RequestQueue<Vudc> {
        self.endpoints
            .get_mut(index)
            .map(|endpoint| core::mem::take(&mut endpoint.requests))
            .unwrap_or_default()
    }

    /// Takes out the first request of an endpoint.
    pub(crate) fn pop_request(&mut self, index: usize) -> Option<Request<Vudc>> {
        self.endpoints.get_mut(index)?.requests.pop()
    }

    /// Adds a request. Returns whether the tx thread has something to do; or the request, if the
    /// endpoint has been disabled in this moment, or nobody waits for it on endpoint 0: the host has
    /// given up what it answers.
    pub(crate) fn queue(
        &mut self,
        index: usize,
        request: Request<Vudc>,
    ) -> Result<bool, Request<Vudc>> {
        let waits = self.first(index).is_some();
        let is_answer = index == 0 && (waits || self.is_asked);
        match self.endpoints.get_mut(index) {
            Some(endpoint) if is_answer || endpoint.config.is_some() => {
                endpoint.requests.push(request);
            }
            _ => return Err(request),
        }
        // An isochronous endpoint waits for its time.
        Ok(waits && self.isochronous & (1 << index) == 0 && self.touch(index))
    }

    /// Takes a request out.
    pub(crate) fn dequeue(&mut self, index: usize, id: RequestId) -> Option<Request<Vudc>> {
        let request = self.endpoints.get_mut(index)?.requests.remove(id)?;
        if index == 0 {
            self.is_asked = false;
        }
        Some(request)
    }

    /// Makes an endpoint stall, or not. Returns whether the tx thread has something to do.
    ///
    /// # Errors
    ///
    /// `EAGAIN`: it has something to send. `EINVAL`: it is isochronous.
    pub(crate) fn set_halt(&mut self, index: usize, halt: Halt) -> Result<bool> {
        let endpoint = self.endpoints.get_mut(index).ok_or(EINVAL)?;
        if let Some(config) = endpoint.config {
            if config.kind == TransferType::Isochronous {
                return Err(EINVAL);
            }
            let is_in = config.address & 0x80 != 0;
            if halt != Halt::Clear && is_in && !endpoint.requests.is_empty() {
                return Err(EAGAIN);
            }
        }
        if index == 0 && self.is_asked {
            // It does not want to tell its device descriptor.
            self.is_asked = false;
            return Ok(false);
        }
        endpoint.halt = halt;
        Ok(self.touch(index))
    }

    /// Adds a transfer. Returns whether the tx thread has something to do.
    pub(crate) fn insert(&mut self, node: RBTreeNode<Key, KBox<Transfer>>, index: usize) -> bool {
        self.transfers.insert(node);
        self.touch(index)
    }

    /// The key of the next transfer on an endpoint.
    pub(crate) fn next_key(&mut self, index: usize) -> Key {
        self.counter += 1;
        first_key(index) | self.counter
    }

    /// Takes a transfer out.
    pub(crate) fn remove(&mut self, key: Key) -> Option<KBox<Transfer>> {
        let transfer = self.transfers.remove(&key)?;
        if let (Some(start), Some(endpoint)) = (
            transfer.start_ns,
            self.endpoints.get_mut((key >> ENDPOINT_SHIFT) as usize),
        ) {
            // The intervals that it does not need any more are free.
            let left = transfer.packets.len().saturating_sub(transfer.packets_done);
            if left > 0 {
                endpoint.next_ns = start;
            }
        }
        Some(transfer)
    }

    /// An endpoint is to be looked at. Returns whether the tx thread has to be told.
    fn touch(&mut self, index: usize) -> bool {
        self.dirty |= 1 << index;
        !self.is_running
    }

    /// The key of the first transfer of an endpoint.
    fn first(&self, index: usize) -> Option<Key> {
        let cursor = self.transfers.cursor_lower_bound(&first_key(index))?;
        let key = *cursor.current().0;
        (key >> ENDPOINT_SHIFT == index as u64).then_some(key)
    }

    /// When to look at isochronous endpoints.
    pub(crate) fn alarm(&self) -> Option<u64> {
        self.alarm
    }

    /// Begins to look at all endpoints that need it.
    pub(crate) fn start_run(&mut self, now: u64) {
        self.is_running = true;
        if self.alarm.is_some_and(|alarm| alarm <= now) {
            self.alarm = None;
            self.dirty |= self.isochronous;
        }
    }

    /// Whether endpoint 0 is one to look at.
    pub(crate) fn is_control_next(&self) -> bool {
        self.dirty & 1 != 0
    }

    /// Does the next thing that is to be done. `None`: there is nothing left.
    pub(crate) fn next_action(&mut self, now: u64) -> Option<Action> {
        if self.dirty == 0 {
            self.is_running = false;
            return None;
        }
        let bit = (self.dirty.rotate_right(self.turn).trailing_zeros() + self.turn) % u32::BITS;
        self.turn = (bit + 1) % u32::BITS;
        let index = bit as usize;
        let action = self.look(index, now);
        if matches!(action, Action::Wait) {
            self.dirty &= !(1 << index);
        }
        Some(action)
    }

    fn look(&mut self, index: usize, now: u64) -> Action {
        let Some(key) = self.first(index) else {
            return Action::Wait;
        };
        if index == 0 {
            return self.look_at_control(key);
        }
        let Some(endpoint) = self.endpoints.get_mut(index) else {
            return Action::Wait;
        };
        let Some(config) = endpoint.config else {
            // What a host controller says of a device that does not answer.
            return self.end(key, -errno::EPROTO);
        };
        if endpoint.halt != Halt::Clear {
            return self.end(key, -errno::EPIPE);
        }
        let is_isochronous = config.kind == TransferType::Isochronous;
        let has_packets = |transfer: &KBox<Transfer>| !transfer.packets.is_empty();
        if self.transfers.get(&key).map(has_packets) != Some(is_isochronous) {
            // It was for what had this address before.
            return self.end(key, -errno::EPROTO);
        }
        if is_isochronous {
            return self.look_at_isochronous(index, key, &config, now);
        }
        self.meet(index, key, config.max_packet.into())
    }

    /// Ends a transfer.
    fn end(&mut self, key: Key, status: i32) -> Action {
        let transfer = self.remove(key).map(|mut transfer| {
            transfer.end(status);
            transfer
        });
        Action::End {
            request: None,
            transfer,
        }
    }

    fn look_at_control(&mut self, key: Key) -> Action {
        let Some(transfer) = self.transfers.get_mut(&key) else {
            return Action::Wait;
        };
        let setup = transfer.setup;
        if transfer.stage == Stage::Data {
            if self.take_stall() {
                return self.end(key, -errno::EPIPE);
            }
            let max_packet = if self.speed >= Speed::Super { 512 } else { 64 };
            return self.meet(0, key, max_packet);
        }
        // Whatever was queued for the request before this one comes too late.
        if let Some(request) = self.pop_request(0) {
            return Action::End {
                request: Some((request, -errno::ECONNRESET)),
                transfer: None,
            };
        }
        if let Some(transfer) = self.transfers.get_mut(&key) {
            transfer.stage = Stage::Data;
        }
        self.take_stall();
        match control::carry_out(&setup, self) {
            Verdict::Gadget => Action::Setup(key, setup.0),
            Verdict::Stall => self.end(key, -errno::EPIPE),
            Verdict::Done => self.end(key, 0),
            Verdict::Addressed(on) => match self.remove(key) {
                Some(transfer) => Action::Addressed(on, transfer),
                None => Action::Again,
            },
            Verdict::Data(data) => {
                if let Some(transfer) = self.transfers.get_mut(&key) {
                    let len = min(transfer.length, 2);
                    transfer
                        .buffer
                        .write(0, data.get(..len as usize).unwrap_or(&[]));
                    transfer.actual = len;
                }
                self.end(key, 0)
            }
        }
    }

    /// Whether the gadget driver has refused the control request that is going on.
    fn take_stall(&mut self) -> bool {
        let halt = self.endpoints.first_mut().map(|ep0| &mut ep0.halt);
        halt.is_some_and(|halt| core::mem::replace(halt, Halt::Clear) != Halt::Clear)
    }

    /// Moves data between the first transfer and the first request.
    fn meet(&mut self, index: usize, key: Key, max_packet: u32) -> Action {
        let Some(endpoint) = self.endpoints.get_mut(index) else {
            return Action::Wait;
        };
        let Some(transfer) = self.transfers.get_mut(&key) else {
            return Action::Wait;
        };
        let Some(request) = endpoint.requests.first_mut() else {
            return Action::Wait;
        };
        let host = Half {
            left: transfer.length.saturating_sub(transfer.actual),
            zero: transfer.zero,
        };
        let device = Half {
            left: request.len().saturating_sub(request.actual()),
            zero: request.zero(),
        };
        let done = step(host, device, transfer.is_in, max_packet, CHUNK);
        let at = transfer.actual;
        if transfer.is_in {
            request.send(&mut transfer.buffer, at, done.len);
        } else {
            request.receive(&transfer.buffer, at, done.len);
        }
        transfer.actual = at.saturating_add(done.len);
        if done.host.is_none() && done.device.is_none() {
            return Action::Again;
        }
        let request = match done.device {
            Some(status) => endpoint.requests.pop().map(|request| (request, status)),
            None => None,
        };
        let transfer = done.host.and_then(|status| {
            let mut transfer = self.transfers.remove(&key)?;
            transfer.end(status);
            Some(transfer)
        });
        Action::End { request, transfer }
    }

    /// Serves the packets whose interval has passed, one at a time. What the gadget driver has not
    /// provided in time is not sent, and where it has no room data is lost: there is no handshake.
    fn look_at_isochronous(
        &mut self,
        index: usize,
        key: Key,
        config: &EndpointConfig,
        now: u64,
    ) -> Action {
        let interval = interval_ns(config, self.speed);
        let Some(endpoint) = self.endpoints.get_mut(index) else {
            return Action::Wait;
        };
        let Some(transfer) = self.transfers.get_mut(&key) else {
            return Action::Wait;
        };
        let transfer: &mut Transfer = transfer;
        let count = transfer.packets.len() as u64;
        let start = match transfer.start_ns {
            Some(start) => start,
            None => {
                // Behind the one before it, also if this thread is late, but not for long: what a
                // client did not take for a while need not be made up for.
                let behind = endpoint.next_ns.max(transfer.accepted_ns);
                let start = behind.max(now.saturating_sub(LATE_NS));
                endpoint.next_ns = start.saturating_add(interval.saturating_mul(count));
                // CAST: A frame number has 11 bits.
                transfer.start_frame = (start / FRAME_NS & 0x7ff) as i32;
                start
            }
        };
        transfer.start_ns = Some(start);
        let end_of = |packets: u64| start.saturating_add(interval.saturating_mul(packets));
        let done = transfer.packets_done as u64;
        let Some(packet) = transfer.packets.get_mut(transfer.packets_done) else {
            return self.end(key, 0);
        };
        if end_of(done + 1) > now {
            // All packets of a frame at once, if they are shorter than that.
            let together = (FRAME_NS / interval).max(1);
            let alarm = end_of(min(done + together, count));
            self.alarm = Some(self.alarm.map_or(alarm, |other| min(other, alarm)));
            return Action::Wait;
        }
        let mut request = endpoint.requests.pop();
        let room = request.as_ref().map_or(0, |request| request.len());
        let mut request_status = 0;
        (packet.actual_length, packet.status) = (0, 0);
        match &mut request {
            Some(request) if transfer.is_in => {
                let len = min(room, packet.length);
                request.send(&mut transfer.buffer, packet.offset, len);
                packet.actual_length = len;
                if room > packet.length {
                    packet.status = -errno::EOVERFLOW;
                }
            }
            Some(request) => {
                let len = min(room, packet.length);
                request.receive(&transfer.buffer, packet.offset, len);
                packet.actual_length = packet.length;
                if packet.length > room {
                    request_status = -errno::EOVERFLOW;
                }
            }
            None if transfer.is_in => {}
            None => packet.actual_length = packet.length,
        }
        transfer.actual = transfer.actual.saturating_add(packet.actual_length);
        transfer.packets_done += 1;
        match request {
            Some(request) => Action::End {
                request: Some((request, request_status)),
                transfer: None,
            },
            None => Action::Again,
        }
    }
}

/// What control requests ask about and change.
impl Bus {
    /// The bits that GET_STATUS shows, and others that only requests of OTG set.
    pub(crate) fn status(&mut self) -> &mut u16 {
        &mut self.status
    }

    /// Whether and how an endpoint stalls; `None` if there is no such endpoint. `address` is as in
    /// `wIndex`.
    pub(crate) fn halt(&mut self, address: u16) -> Option<&mut Halt> {
        let [address, _] = address.to_le_bytes();
        let index = index(address & 0x0f, address & 0x80 != 0);
        // What waits there may be refused from now on.
        self.dirty |= 1 << index;
        let endpoint = self.endpoints.get_mut(index)?;
        (index == 0 || endpoint.config.is_some()).then_some(&mut endpoint.halt)
    }

    /// How fast the device is.
    pub(crate) fn speed(&self) -> Speed {
        self.speed
    }
}

fn first_key(index: usize) -> Key {
    (index as u64) << ENDPOINT_SHIFT
}

/// The interval of an isochronous endpoint in ns (USB 2.0 table 9-13).
fn interval_ns(config: &EndpointConfig, speed: Speed) -> u64 {
    let unit = if speed == Speed::Full {
        FRAME_NS
    } else {
        FRAME_NS / 8
    };
    unit << (config.interval.clamp(1, 16) - 1)
}

/// A setup packet that asks for the device descriptor.
pub(crate) const GET_DEVICE_DESCRIPTOR: Setup = Setup([0x80, 6, 0, 1, 0, 0, DESCRIPTOR as u8, 0]);
