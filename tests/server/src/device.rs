// SPDX-License-Identifier: GPL-2.0

//! What a device model is, and a device as the session drives it.

use std::sync::Arc;
use std::time::Instant;

use usbip_protocol::iso::Packet;
use usbip_protocol::wire::{CmdSubmit, Direction};

use crate::chapter9::Chapter9;
use crate::descriptor::{Descriptors, Transfer};

/// A control request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// `bmRequestType`.
    pub kind: u8,
    /// `bRequest`.
    pub request: u8,
    /// `wValue`.
    pub value: u16,
    /// `wIndex`.
    pub index: u16,
    /// `wLength`.
    pub length: u16,
}

impl From<[u8; 8]> for Setup {
    fn from(raw: [u8; 8]) -> Self {
        let [kind, request, v0, v1, i0, i1, l0, l1] = raw;
        Self {
            kind,
            request,
            value: u16::from_le_bytes([v0, v1]),
            index: u16::from_le_bytes([i0, i1]),
            length: u16::from_le_bytes([l0, l1]),
        }
    }
}

/// A request as it came from the client.
#[derive(Clone, Debug)]
pub struct Request {
    /// The header.
    pub header: CmdSubmit,
    /// OUT data.
    pub data: Vec<u8>,
    /// Isochronous packets.
    pub packets: Vec<Packet>,
    /// When a model that keeps time will finish it; starts as [`None`].
    pub due: Option<Instant>,
}

impl Request {
    /// The endpoint's address, with the direction bit.
    pub fn address(&self) -> u8 {
        let number = self.header.ep as u8 & 0x0f;
        match self.header.direction {
            Direction::In => number | 0x80,
            Direction::Out => number,
        }
    }

    /// `transfer_buffer_length` as a size.
    pub fn length(&self) -> usize {
        self.header.length as usize
    }
}

/// IN data of a reply.
#[derive(Clone, Debug, Default)]
pub enum Payload {
    /// None.
    #[default]
    None,
    /// Bytes of the model's own, which are never copied.
    Static(&'static [u8]),
    /// The first bytes of shared memory.
    Shared(Arc<[u8]>, usize),
    /// Bytes made for this reply.
    Owned(Vec<u8>),
}

impl Payload {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Static(bytes) => bytes,
            Self::Shared(bytes, len) => &bytes[..*len],
            Self::Owned(bytes) => bytes,
        }
    }
}

/// The end of a request.
#[derive(Clone, Debug, Default)]
pub struct Completion {
    /// Zero or a negative errno.
    pub status: i32,
    /// Bytes transferred.
    pub actual: u32,
    /// IN data; as long as `actual`.
    pub payload: Payload,
    /// Isochronous packets with their results; as many as submitted.
    pub packets: Vec<Packet>,
    /// Frame in which an isochronous transfer started.
    pub start_frame: i32,
}

impl Completion {
    /// An OUT request of which everything was taken.
    pub fn taken(bytes: usize) -> Self {
        Self {
            actual: bytes as u32,
            ..Self::default()
        }
    }

    /// IN data.
    pub fn data(bytes: Vec<u8>) -> Self {
        Self {
            actual: bytes.len() as u32,
            payload: Payload::Owned(bytes),
            ..Self::default()
        }
    }

    /// A failure without data.
    pub fn failed(errno: i32) -> Self {
        Self {
            status: -errno,
            ..Self::default()
        }
    }
}

/// What an endpoint makes of a request.
#[derive(Debug)]
pub enum Outcome {
    /// It is finished.
    Done(Completion),
    /// Not yet: ask again after [`crate::session::Kick::kick`] was called for the endpoint.
    Wait,
    /// Not yet: ask again at this time.
    At(Instant),
}

/// A device. All methods are called with the session's lock held and must not block.
pub trait Model: Send {
    /// What the device says about itself.
    fn descriptors(&self) -> &Descriptors;

    /// A class or vendor request, or a standard one that chapter 9 leaves to the class (HID
    /// report descriptors). IN: the data, to be cut to `setup.length`. [`None`] stalls.
    fn control(&mut self, setup: &Setup, data: &[u8]) -> Option<Vec<u8>> {
        let _ = (setup, data);
        None
    }

    /// The first request of an endpoint other than 0. The requests of an endpoint are finished in
    /// order; a model that returned something else than `Done` is asked again with the same one.
    fn transfer(&mut self, request: &mut Request) -> Outcome;

    /// An interface now has this setting (also called for 0 at SET_CONFIGURATION).
    fn set_interface(&mut self, interface: u8, alternate: u8) {
        let _ = (interface, alternate);
    }

    /// A halt was cleared.
    fn clear_halt(&mut self, address: u8) {
        let _ = address;
    }

    /// The connection is new or gone: forget what was under way.
    fn reset(&mut self) {}

    /// Another endpoint whose waiting requests may go on after a transfer of this one.
    fn wakes(&self, address: u8) -> Option<u8> {
        let _ = address;
        None
    }

    /// IN data that any request for the endpoint gets at once, without asking the model: the
    /// short cut for benchmarks. Requests may ask for less.
    fn instant_in(&self, address: u8) -> Option<&'static [u8]> {
        let _ = address;
        None
    }

    /// Whether OUT data for the endpoint is of no interest: the session discards it unseen.
    fn instant_out(&self, address: u8) -> bool {
        let _ = address;
        false
    }
}

/// A model with the state that chapter 9 prescribes.
pub struct Device {
    /// The model.
    pub model: Box<dyn Model>,
    /// Configuration, settings, halts.
    pub state: Chapter9,
}

impl Device {
    /// A device that has just been plugged in.
    pub fn new(model: Box<dyn Model>) -> Self {
        let state = Chapter9::new(model.descriptors());
        Self { model, state }
    }

    /// Back to the state after plugging in.
    pub fn reset(&mut self) {
        self.state = Chapter9::new(self.model.descriptors());
        self.model.reset();
    }

    /// Whether an endpoint is isochronous; false for those that do not exist.
    pub fn is_iso(&self, address: u8) -> bool {
        self.model
            .descriptors()
            .endpoint(address)
            .is_some_and(|endpoint| endpoint.transfer == Transfer::Isochronous)
    }
}
