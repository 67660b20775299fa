// SPDX-License-Identifier: GPL-2.0

//! What the kernel's gadget zero is to `usbtest`: bulk source and sink, isochronous source and sink
//! in alternate setting 1, and the vendor requests 0x5b and 0x5c that write and read back a buffer.
//!
//! Data is all zeros (pattern 0) or counts modulo 63 in each packet (pattern 1), as the module
//! parameter `pattern` of usbtest expects.

use std::time::{Duration, Instant};

use usbip_protocol::speed::Speed;
use usbip_protocol::status::errno::EOVERFLOW;

use crate::descriptor::{Descriptors, Endpoint, Setting, Transfer};
use crate::device::{Completion, Model, Outcome, Payload, Request, Setup};

/// Largest vendor buffer: `USB_COMP_EP0_BUFSIZ` of the kernel's composite framework.
const CONTROL_BUFFER: usize = 4096;

/// What bulk data looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Zeros.
    Zeros,
    /// Each packet counts from 0 on, modulo 63.
    Mod63,
}

/// See the module.
pub struct GadgetZero {
    descriptors: Descriptors,
    pattern: Pattern,
    buffer: Vec<u8>,
    next: [Option<Instant>; 2],
    mismatches: u64,
}

const BULK_IN: u8 = 0x81;
const BULK_OUT: u8 = 0x01;
const ISO_IN: u8 = 0x82;
const ISO_OUT: u8 = 0x02;
const INT_IN: u8 = 0x83;
const INT_OUT: u8 = 0x03;

impl GadgetZero {
    /// A source and sink of full speed or faster.
    pub fn new(speed: Speed, pattern: Pattern) -> Self {
        let iso = if speed == Speed::Full { 256 } else { 1024 };
        let interval = if speed == Speed::Full { 1 } else { 4 };
        let bulk = || {
            vec![
                Endpoint::bulk(BULK_IN, speed),
                Endpoint::bulk(BULK_OUT, speed),
            ]
        };
        let interrupt =
            || [INT_IN, INT_OUT].map(|at| Endpoint::new(at, Transfer::Interrupt, 64, interval));
        let setting = |alternate, endpoints| Setting {
            interface: 0,
            alternate,
            class: [0xff, 0, 0],
            string: 4,
            extra: Vec::new(),
            endpoints,
        };
        let mut full = bulk();
        full.extend(
            [ISO_IN, ISO_OUT].map(|at| Endpoint::new(at, Transfer::Isochronous, iso, interval)),
        );
        // usbtest takes the first endpoint of each kind, so interrupt ones get a setting.
        let mut with_interrupt = bulk();
        with_interrupt.extend(interrupt());
        let mut descriptors = Descriptors::new(
            speed,
            0x0525,
            0xa4a0,
            "source and sink",
            "0123456789.0123456789",
        )
        .with(setting(0, bulk()))
        .with(setting(1, full))
        .with(setting(2, with_interrupt));
        descriptors.class = [0xff, 0, 0];
        descriptors.strings.push("source and sink data".into());
        Self {
            descriptors,
            pattern,
            buffer: Vec::new(),
            next: [None; 2],
            mismatches: 0,
        }
    }

    /// OUT bytes that did not follow the pattern.
    pub fn mismatches(&self) -> u64 {
        self.mismatches
    }

    fn byte(&self, at: usize, packet: usize) -> u8 {
        match self.pattern {
            Pattern::Zeros => 0,
            Pattern::Mod63 => (at % packet % 63) as u8,
        }
    }

    fn source(&self, len: usize, packet: usize) -> Vec<u8> {
        match self.pattern {
            Pattern::Zeros => vec![0; len],
            Pattern::Mod63 => (0..len).map(|at| self.byte(at, packet)).collect(),
        }
    }

    fn check(&mut self, data: &[u8], packet: usize) {
        let wrong = data
            .iter()
            .enumerate()
            .filter(|&(at, &byte)| byte != self.byte(at, packet))
            .count();
        self.mismatches += wrong as u64;
    }

    /// The time at which the packets of a request have gone over the imagined bus.
    fn pace(&mut self, request: &Request) -> Instant {
        let micros = if self.descriptors.speed == Speed::Full {
            1000
        } else {
            125
        };
        let interval = request.header.interval.max(1).unsigned_abs();
        let packets = request.packets.len() as u32;
        let span = Duration::from_micros(u64::from(micros * interval) * u64::from(packets));
        let now = Instant::now();
        let slot = &mut self.next[usize::from(request.address() >> 7)];
        let end = slot.map_or(now, |last| last.max(now)) + span;
        *slot = Some(end);
        end
    }

    fn isochronous(&mut self, request: &mut Request) -> Outcome {
        let due = match request.due {
            Some(due) => due,
            None => *request.due.insert(self.pace(request)),
        };
        if due > Instant::now() {
            return Outcome::At(due);
        }
        let mut done = Completion {
            packets: std::mem::take(&mut request.packets),
            ..Completion::default()
        };
        let mut data = Vec::new();
        for packet in &mut done.packets {
            packet.actual_length = packet.length;
            packet.status = 0;
            done.actual += packet.length;
            let len = packet.length as usize;
            if request.address() == ISO_IN {
                data.extend(self.source(len, len.max(1)));
            } else {
                let start = packet.offset as usize;
                match request.data.get(start..start + len) {
                    Some(part) => self.check(part, len.max(1)),
                    None => packet.status = -EOVERFLOW,
                }
            }
        }
        done.payload = Payload::Owned(data);
        Outcome::Done(done)
    }
}

impl Model for GadgetZero {
    fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn control(&mut self, setup: &Setup, data: &[u8]) -> Option<Vec<u8>> {
        let plain = setup.value == 0 && setup.index == 0;
        match (setup.kind, setup.request) {
            (0x40, 0x5b) if plain && data.len() <= CONTROL_BUFFER => {
                self.buffer = data.to_vec();
                Some(Vec::new())
            }
            (0xc0, 0x5c) if plain => {
                let len = usize::from(setup.length);
                if len > CONTROL_BUFFER {
                    return None;
                }
                self.buffer.resize(len.max(self.buffer.len()), 0);
                Some(self.buffer[..len].to_vec())
            }
            _ => None,
        }
    }

    fn transfer(&mut self, request: &mut Request) -> Outcome {
        let address = request.address();
        if matches!(address, ISO_IN | ISO_OUT) {
            return self.isochronous(request);
        }
        let packet = self
            .descriptors
            .endpoint(address)
            .map_or(64, |endpoint| usize::from(endpoint.packet));
        Outcome::Done(if address & 0x80 != 0 {
            Completion::data(self.source(request.length(), packet))
        } else {
            self.check(&request.data, packet);
            Completion::taken(request.length())
        })
    }

    fn set_interface(&mut self, _: u8, _: u8) {
        self.next = [None; 2];
    }

    fn reset(&mut self) {
        self.buffer.clear();
        self.next = [None; 2];
    }
}
