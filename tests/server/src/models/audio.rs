// SPDX-License-Identifier: GPL-2.0

//! A USB Audio Class 1 headset: 48 kHz, 16 bit, stereo playback and capture, isochronous.
//!
//! Capture plays a counter: sample n (left and right alike) is `n mod 65536`, so that a lost or
//! repeated packet shows. What is played is recorded and can be fetched by the test.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use usbip_protocol::speed::Speed;
use usbip_protocol::status::errno::EOVERFLOW;

use crate::descriptor::{Descriptors, Endpoint, Setting, Transfer};
use crate::device::{Completion, Model, Outcome, Payload, Request, Setup};

/// Samples per second and channel.
pub const RATE: u32 = 48_000;
/// Bytes of one sample of both channels.
pub const FRAME: usize = 4;

const OUT: u8 = 0x01;
const IN: u8 = 0x82;

/// Most that is recorded: a minute and a half.
const MAX_RECORDING: usize = 16 << 20;

/// What has been played since the device was plugged in.
#[derive(Clone, Default)]
pub struct Recording(Arc<Mutex<Vec<u8>>>);

impl Recording {
    /// The bytes, as the host sent them.
    pub fn bytes(&self) -> Vec<u8> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn push(&self, data: &[u8]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_RECORDING - all.len();
        all.extend_from_slice(&data[..data.len().min(room)]);
    }
}

/// See the module.
pub struct Audio {
    descriptors: Descriptors,
    recording: Recording,
    next: [Option<Instant>; 2],
    sample: u16,
    volume: [i16; 2],
    mute: [u8; 2],
    /// Samples per packet, when the interval is one frame or microframe.
    per_packet: usize,
}

impl Audio {
    /// A headset, and what it will have played.
    pub fn new(speed: Speed) -> (Self, Recording) {
        // One packet per millisecond at every speed: bInterval 1 in frames, 4 in microframes.
        let interval = if speed == Speed::Full || speed == Speed::Wireless {
            1
        } else {
            4
        };
        let per_packet = (RATE / 1000) as usize;
        let packet = (per_packet * FRAME) as u16;
        let mut descriptors =
            Descriptors::new(speed, 0x1209, 0x0005, "headset", "0").with(control_interface());
        for (interface, address, terminal) in [(1, OUT, 1), (2, IN, 6)] {
            descriptors = descriptors
                .with(streaming(interface, 0, terminal, None))
                .with(streaming(
                    interface,
                    1,
                    terminal,
                    Some(stream_endpoint(address, packet, interval)),
                ));
        }
        let recording = Recording::default();
        let audio = Self {
            descriptors,
            recording: recording.clone(),
            next: [None; 2],
            sample: 0,
            volume: [0; 2],
            mute: [0; 2],
            per_packet,
        };
        (audio, recording)
    }

    fn span(&self, request: &Request) -> Duration {
        // The interval is in (micro)frames; packets are one millisecond apart by our descriptor.
        Duration::from_millis(request.packets.len() as u64)
    }

    fn due(&mut self, request: &mut Request) -> Instant {
        if let Some(due) = request.due {
            return due;
        }
        let now = Instant::now();
        let span = self.span(request);
        let slot = &mut self.next[usize::from(request.address() >> 7)];
        // A stream that paused starts again now; one that runs follows its last packet.
        let start = slot.filter(|&last| last + span > now).unwrap_or(now);
        let due = start + span;
        *slot = Some(due);
        *request.due.insert(due)
    }

    fn capture(&mut self, length: usize) -> Vec<u8> {
        let frames = (length / FRAME).min(self.per_packet);
        let mut data = Vec::with_capacity(frames * FRAME);
        for _ in 0..frames {
            let [low, high] = self.sample.to_le_bytes();
            data.extend([low, high, low, high]);
            self.sample = self.sample.wrapping_add(1);
        }
        data
    }
}

fn control_interface() -> Setting {
    // Playback: USB streaming (1) -> volume (2) -> speaker (3). Capture: microphone (4) ->
    // volume (5) -> USB streaming (6).
    let mut extra = vec![10, 0x24, 1, 0x00, 0x01, 0, 0, 2, 1, 2];
    extra.extend([12, 0x24, 2, 1, 0x01, 0x01, 0, 2, 0x03, 0x00, 0, 0]);
    extra.extend([10, 0x24, 6, 2, 1, 1, 0x03, 0, 0, 0]);
    extra.extend([9, 0x24, 3, 3, 0x02, 0x04, 0, 2, 0]);
    extra.extend([12, 0x24, 2, 4, 0x02, 0x04, 0, 2, 0x03, 0x00, 0, 0]);
    extra.extend([10, 0x24, 6, 5, 4, 1, 0x03, 0, 0, 0]);
    extra.extend([9, 0x24, 3, 6, 0x01, 0x01, 0, 5, 0]);
    let total = (extra.len() as u16).to_le_bytes();
    extra[5..7].copy_from_slice(&total);
    Setting {
        interface: 0,
        alternate: 0,
        class: [1, 1, 0],
        string: 0,
        extra,
        endpoints: Vec::new(),
    }
}

fn streaming(interface: u8, alternate: u8, terminal: u8, endpoint: Option<Endpoint>) -> Setting {
    let mut extra = Vec::new();
    if endpoint.is_some() {
        extra.extend([7, 0x24, 1, terminal, 1, 0x01, 0x00]);
        extra.extend([11, 0x24, 2, 1, 2, 2, 16, 1]);
        extra.extend(&RATE.to_le_bytes()[..3]);
    }
    Setting {
        interface,
        alternate,
        class: [1, 2, 0],
        string: 0,
        extra,
        endpoints: endpoint.into_iter().collect(),
    }
}

fn stream_endpoint(address: u8, packet: u16, interval: u8) -> Endpoint {
    let mut endpoint = Endpoint::new(address, Transfer::Isochronous, packet, interval);
    // Synchronous: the device follows the bus, no feedback endpoint is needed.
    endpoint.attributes = 0x0c;
    endpoint.extra = vec![0, 0];
    endpoint.trailer = vec![7, 0x25, 1, 0, 0, 0, 0];
    endpoint
}

impl Model for Audio {
    fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn control(&mut self, setup: &Setup, data: &[u8]) -> Option<Vec<u8>> {
        let unit = match setup.index >> 8 {
            2 => 0,
            5 => 1,
            _ => return None,
        };
        match (setup.kind, setup.request, setup.value >> 8) {
            (0x21, 0x01, 1) => self.mute[unit] = *data.first()?,
            (0xa1, 0x81, 1) => return Some(vec![self.mute[unit]]),
            (0x21, 0x01, 2) => {
                self.volume[unit] = i16::from_le_bytes([*data.first()?, *data.get(1)?]);
            }
            // CUR, MIN -40 dB, MAX 0 dB, RES 1 dB, in 1/256 dB.
            (0xa1, 0x81, 2) => return Some(self.volume[unit].to_le_bytes().to_vec()),
            (0xa1, 0x82, 2) => return Some((-40i16 * 256).to_le_bytes().to_vec()),
            (0xa1, 0x83, 2) => return Some(0i16.to_le_bytes().to_vec()),
            (0xa1, 0x84, 2) => return Some(256i16.to_le_bytes().to_vec()),
            _ => return None,
        }
        Some(Vec::new())
    }

    fn transfer(&mut self, request: &mut Request) -> Outcome {
        let due = self.due(request);
        if due > Instant::now() {
            return Outcome::At(due);
        }
        let mut done = Completion {
            packets: std::mem::take(&mut request.packets),
            ..Completion::default()
        };
        let mut data = Vec::new();
        for packet in &mut done.packets {
            let len = packet.length as usize;
            packet.status = 0;
            packet.actual_length = packet.length;
            if request.address() == IN {
                let part = self.capture(len);
                packet.actual_length = part.len() as u32;
                data.extend(part);
            } else {
                let start = packet.offset as usize;
                match request.data.get(start..start + len) {
                    Some(part) => self.recording.push(part),
                    None => (packet.actual_length, packet.status) = (0, -EOVERFLOW),
                }
            }
            done.actual += packet.actual_length;
        }
        done.payload = Payload::Owned(data);
        Outcome::Done(done)
    }

    fn set_interface(&mut self, interface: u8, alternate: u8) {
        match (interface, alternate) {
            (1, _) => self.next[0] = None,
            (2, _) => (self.next[1], self.sample) = (None, 0),
            _ => {}
        }
    }

    fn reset(&mut self) {
        (self.next, self.sample) = ([None; 2], 0);
        self.recording.clear();
    }
}
