// SPDX-License-Identifier: GPL-2.0

//! A boot-protocol keyboard whose keys are pressed by a script or through a handle.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use usbip_protocol::speed::Speed;

use crate::descriptor::{Descriptors, Endpoint, Setting, Transfer};
use crate::device::{Completion, Model, Outcome, Request, Setup};
use crate::session::Bell;

/// The interrupt endpoint.
pub const IN: u8 = 0x81;

/// Least time between two reports, as `bInterval` says it.
const INTERVAL: Duration = Duration::from_millis(10);

/// Report descriptor of a boot keyboard: HID 1.11, appendix B.1.
const REPORT: [u8; 63] = [
    0x05, 0x01, 0x09, 0x06, 0xa1, 0x01, 0x05, 0x07, 0x19, 0xe0, 0x29, 0xe7, 0x15, 0x00, 0x25, 0x01,
    0x75, 0x01, 0x95, 0x08, 0x81, 0x02, 0x95, 0x01, 0x75, 0x08, 0x81, 0x01, 0x95, 0x05, 0x75, 0x01,
    0x05, 0x08, 0x19, 0x01, 0x29, 0x05, 0x91, 0x02, 0x95, 0x01, 0x75, 0x03, 0x91, 0x01, 0x95, 0x06,
    0x75, 0x08, 0x15, 0x00, 0x25, 0x65, 0x05, 0x07, 0x19, 0x00, 0x29, 0x65, 0x81, 0x00, 0xc0,
];

type Report = [u8; 8];

/// Presses keys of a [`Keyboard`].
#[derive(Clone)]
pub struct Keys {
    reports: Arc<Mutex<VecDeque<Report>>>,
    bell: Bell,
}

impl Keys {
    /// Types text: each character is pressed and released. Characters without a key on a US
    /// keyboard are left out.
    pub fn type_text(&self, text: &str) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        for (modifiers, usage) in text.chars().filter_map(usage) {
            reports.push_back([modifiers, 0, usage, 0, 0, 0, 0, 0]);
            reports.push_back([0; 8]);
        }
        drop(reports);
        self.bell.ring(IN);
    }

    /// Reports that have not been fetched yet.
    pub fn waiting(&self) -> usize {
        self.reports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

/// Modifier bits and HID usage of a character.
fn usage(c: char) -> Option<(u8, u8)> {
    const SHIFT: u8 = 0x02;
    Some(match c {
        'a'..='z' => (0, c as u8 - b'a' + 4),
        'A'..='Z' => (SHIFT, c as u8 - b'A' + 4),
        '1'..='9' => (0, c as u8 - b'1' + 30),
        '0' => (0, 39),
        '\n' => (0, 40),
        '\t' => (0, 43),
        ' ' => (0, 44),
        '-' => (0, 45),
        '.' => (0, 55),
        '/' => (0, 56),
        _ => return None,
    })
}

/// See the module.
pub struct Keyboard {
    descriptors: Descriptors,
    keys: Keys,
    last: Report,
    leds: u8,
    idle: u8,
    boot: bool,
    not_before: Option<Instant>,
}

impl Keyboard {
    /// A keyboard of any speed, and its keys.
    pub fn new(speed: Speed, bell: Bell) -> (Self, Keys) {
        let keys = Keys {
            reports: Arc::default(),
            bell,
        };
        // 10 ms: in frames up to full speed, else 2^(n-1) microframes, the next below.
        let interval = if matches!(speed, Speed::Low | Speed::Full) {
            10
        } else {
            7
        };
        let [len, zero] = (REPORT.len() as u16).to_le_bytes();
        let descriptors = Descriptors::new(speed, 0x1209, 0x0003, "keyboard", "0").with(Setting {
            interface: 0,
            alternate: 0,
            class: [3, 1, 1],
            string: 0,
            extra: vec![9, 0x21, 0x11, 0x01, 0, 1, 0x22, len, zero],
            endpoints: vec![Endpoint::new(IN, Transfer::Interrupt, 8, interval)],
        });
        let keyboard = Self {
            descriptors,
            keys: keys.clone(),
            last: [0; 8],
            leds: 0,
            idle: 0,
            boot: false,
            not_before: None,
        };
        (keyboard, keys)
    }
}

impl Model for Keyboard {
    fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn control(&mut self, setup: &Setup, data: &[u8]) -> Option<Vec<u8>> {
        match (setup.kind, setup.request) {
            (0x81, 6) if setup.value == 0x2200 => Some(REPORT.to_vec()),
            (0x81, 6) if setup.value == 0x2100 => {
                self.descriptors.settings.first().map(|s| s.extra.clone())
            }
            (0xa1, 1) => Some(self.last.to_vec()),
            (0xa1, 2) => Some(vec![self.idle]),
            (0xa1, 3) => Some(vec![u8::from(!self.boot)]),
            (0x21, 9) => {
                self.leds = data.first().copied().unwrap_or(0);
                Some(Vec::new())
            }
            (0x21, 10) => {
                self.idle = (setup.value >> 8) as u8;
                Some(Vec::new())
            }
            (0x21, 11) => {
                self.boot = setup.value == 0;
                Some(Vec::new())
            }
            _ => None,
        }
    }

    fn transfer(&mut self, request: &mut Request) -> Outcome {
        let now = Instant::now();
        if let Some(when) = self.not_before.filter(|&when| when > now) {
            return Outcome::At(when);
        }
        let next = self
            .keys
            .reports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front();
        let Some(report) = next else {
            return Outcome::Wait;
        };
        self.last = report;
        self.not_before = Some(now + INTERVAL);
        let len = request.length().min(report.len());
        Outcome::Done(Completion::data(report[..len].to_vec()))
    }

    fn reset(&mut self) {
        (self.last, self.leds, self.idle, self.boot) = ([0; 8], 0, 0, false);
        self.not_before = None;
    }
}
