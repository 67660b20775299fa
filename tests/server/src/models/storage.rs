// SPDX-License-Identifier: GPL-2.0

//! Mass storage, bulk-only transport (BOT 1.0), around a SCSI disk.

use usbip_protocol::speed::Speed;
use usbip_protocol::status::errno::EPIPE;

use super::scsi::{Action, Disk};
use crate::descriptor::{Descriptors, Endpoint, Setting};
use crate::device::{Completion, Model, Outcome, Request, Setup};

const IN: u8 = 0x81;
const OUT: u8 = 0x02;

const CBW_LEN: usize = 31;
const CBW_SIGNATURE: [u8; 4] = *b"USBC";
const CSW_SIGNATURE: [u8; 4] = *b"USBS";

const PASSED: u8 = 0;
const FAILED: u8 = 1;
const PHASE_ERROR: u8 = 2;

enum Phase {
    Command,
    /// Data to the host, from `sent` on.
    Send {
        data: Vec<u8>,
        sent: usize,
    },
    /// `wanted` bytes from the host, to be stored at `at`.
    Receive {
        at: u64,
        data: Vec<u8>,
        wanted: usize,
    },
    /// The host sends data nobody wants.
    Drain {
        left: usize,
    },
    Status,
    /// After an invalid command block only a reset helps.
    Dead,
}

/// See the module.
pub struct Storage {
    descriptors: Descriptors,
    disk: Disk,
    phase: Phase,
    tag: [u8; 4],
    expected: usize,
    moved: usize,
    status: u8,
}

impl Storage {
    /// A disk of full speed or faster. `serial` tells disks apart.
    pub fn new(speed: Speed, disk: Disk, serial: &str) -> Self {
        let descriptors = Descriptors::new(speed, 0x1209, 0x0004, "disk", serial).with(Setting {
            interface: 0,
            alternate: 0,
            class: [8, 6, 0x50],
            string: 0,
            extra: Vec::new(),
            endpoints: vec![Endpoint::bulk(IN, speed), Endpoint::bulk(OUT, speed)],
        });
        Self {
            descriptors,
            disk,
            phase: Phase::Command,
            tag: [0; 4],
            expected: 0,
            moved: 0,
            status: PASSED,
        }
    }

    fn command(&mut self, cbw: &[u8]) -> Completion {
        let valid = cbw.len() == CBW_LEN && cbw[..4] == CBW_SIGNATURE && cbw[13] & 0xf0 == 0;
        let length = cbw.get(14).map_or(0, |&len| usize::from(len));
        if !valid || !(1..=16).contains(&length) {
            self.phase = Phase::Dead;
            return Completion::failed(EPIPE);
        }
        self.tag.copy_from_slice(&cbw[4..8]);
        self.expected = u32::from_le_bytes([cbw[8], cbw[9], cbw[10], cbw[11]]) as usize;
        let incoming = cbw[12] & 0x80 != 0;
        let action = self.disk.command(&cbw[15..15 + length]);
        (self.moved, self.status) = (0, PASSED);
        self.phase = match action {
            Some(Action::Send(data)) if incoming && self.expected > 0 => {
                // A host that wants less than the device has: cases 7 and 8 of BOT 6.7.
                if data.len() > self.expected {
                    self.status = PHASE_ERROR;
                }
                Phase::Send { data, sent: 0 }
            }
            Some(Action::Receive { at, len }) if !incoming && len as usize == self.expected => {
                Phase::Receive {
                    at,
                    data: Vec::new(),
                    wanted: self.expected,
                }
            }
            Some(Action::Done) if self.expected == 0 => Phase::Status,
            refused => {
                self.status = match refused {
                    None => FAILED,
                    Some(Action::Done) => PASSED,
                    Some(_) => PHASE_ERROR,
                };
                match (self.expected, incoming) {
                    (0, _) => Phase::Status,
                    (_, true) => Phase::Send {
                        data: Vec::new(),
                        sent: 0,
                    },
                    (left, false) => Phase::Drain { left },
                }
            }
        };
        Completion::taken(CBW_LEN)
    }

    fn outgoing(&mut self, data: &[u8]) -> Completion {
        match &mut self.phase {
            Phase::Command => return self.command(data),
            Phase::Receive {
                at,
                data: stored,
                wanted,
            } => {
                stored.extend_from_slice(data);
                self.moved = stored.len().min(*wanted);
                if stored.len() >= *wanted {
                    if !self.disk.store(*at, &stored[..*wanted]) {
                        self.status = FAILED;
                    }
                    self.phase = Phase::Status;
                }
            }
            Phase::Drain { left } => {
                *left = left.saturating_sub(data.len());
                if *left == 0 {
                    self.phase = Phase::Status;
                }
            }
            _ => {
                self.phase = Phase::Dead;
                return Completion::failed(EPIPE);
            }
        }
        Completion::taken(data.len())
    }

    fn incoming(&mut self, length: usize) -> Option<Completion> {
        match &mut self.phase {
            Phase::Send { data, sent } => {
                let len = length.min(data.len() - *sent).min(self.expected - *sent);
                let part = data[*sent..*sent + len].to_vec();
                *sent += len;
                self.moved = *sent;
                // A short packet, or everything the host asked for, ends the data.
                if *sent >= self.expected || len < length {
                    self.phase = Phase::Status;
                }
                Some(Completion::data(part))
            }
            Phase::Status => {
                let mut csw = CSW_SIGNATURE.to_vec();
                csw.extend(self.tag);
                csw.extend(((self.expected - self.moved) as u32).to_le_bytes());
                csw.push(self.status);
                csw.truncate(length);
                self.phase = Phase::Command;
                Some(Completion::data(csw))
            }
            Phase::Dead => Some(Completion::failed(EPIPE)),
            Phase::Command | Phase::Receive { .. } | Phase::Drain { .. } => None,
        }
    }
}

impl Model for Storage {
    fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn control(&mut self, setup: &Setup, _: &[u8]) -> Option<Vec<u8>> {
        match (setup.kind, setup.request) {
            (0xa1, 0xfe) => Some(vec![0]),
            (0x21, 0xff) => {
                self.reset();
                Some(Vec::new())
            }
            _ => None,
        }
    }

    fn transfer(&mut self, request: &mut Request) -> Outcome {
        if request.address() == OUT {
            let data = std::mem::take(&mut request.data);
            return Outcome::Done(self.outgoing(&data));
        }
        match self.incoming(request.length()) {
            Some(done) => Outcome::Done(done),
            None => Outcome::Wait,
        }
    }

    fn wakes(&self, address: u8) -> Option<u8> {
        (address == OUT).then_some(IN)
    }

    fn reset(&mut self) {
        self.phase = Phase::Command;
    }
}
