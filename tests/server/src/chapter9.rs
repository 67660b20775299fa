// SPDX-License-Identifier: GPL-2.0

//! The standard requests (USB 2.0 and 3.2, chapter 9), the same for every model.

use std::collections::{BTreeMap, BTreeSet};

use usbip_protocol::status::errno::EPIPE;

use crate::descriptor::Descriptors;
use crate::device::{Completion, Model, Setup};

/// Configuration, settings and halts of a device.
#[derive(Debug)]
pub struct Chapter9 {
    configuration: u8,
    settings: BTreeMap<u8, u8>,
    halted: BTreeSet<u8>,
    remote_wakeup: bool,
}

const RECIPIENT: u8 = 0x1f;
const TYPE: u8 = 0x60;
const DEVICE: u8 = 0;
const INTERFACE: u8 = 1;
const ENDPOINT: u8 = 2;

impl Chapter9 {
    /// Unconfigured.
    pub fn new(descriptors: &Descriptors) -> Self {
        Self {
            configuration: 0,
            settings: descriptors
                .settings
                .iter()
                .map(|setting| (setting.interface, 0))
                .collect(),
            halted: BTreeSet::new(),
            remote_wakeup: false,
        }
    }

    /// `bConfigurationValue` in use, or 0.
    pub fn configuration(&self) -> u8 {
        self.configuration
    }

    /// Whether an endpoint is halted.
    pub fn is_halted(&self, address: u8) -> bool {
        self.halted.contains(&address)
    }

    /// Halts an endpoint, as a device does that fails a command.
    pub fn halt(&mut self, address: u8) {
        self.halted.insert(address);
    }

    /// Answers a request on endpoint 0.
    pub fn control(&mut self, model: &mut dyn Model, setup: &Setup, data: &[u8]) -> Completion {
        let answer = if setup.kind & TYPE == 0 {
            self.standard(model, setup, data)
        } else {
            model.control(setup, data)
        };
        match answer {
            None => Completion::failed(EPIPE),
            Some(_) if setup.kind & 0x80 == 0 => Completion::taken(usize::from(setup.length)),
            Some(mut bytes) => {
                bytes.truncate(usize::from(setup.length));
                Completion::data(bytes)
            }
        }
    }

    fn standard(&mut self, model: &mut dyn Model, setup: &Setup, data: &[u8]) -> Option<Vec<u8>> {
        let recipient = setup.kind & RECIPIENT;
        let incoming = setup.kind & 0x80 != 0;
        match (setup.request, incoming, recipient) {
            (0, true, DEVICE) => Some(vec![u8::from(self.remote_wakeup) << 1, 0]),
            (0, true, INTERFACE) => Some(vec![0, 0]),
            (0, true, ENDPOINT) => {
                let address = setup.index as u8;
                if address & 0x0f != 0 {
                    model.descriptors().endpoint(address)?;
                }
                Some(vec![u8::from(self.is_halted(address)), 0])
            }
            (1 | 3, false, _) => self.feature(model, setup),
            (6, true, DEVICE) => descriptor(model.descriptors(), setup),
            (8, true, DEVICE) => Some(vec![self.configuration]),
            (9, false, DEVICE) => self.set_configuration(model, setup),
            (10, true, INTERFACE) => self
                .settings
                .get(&(setup.index as u8))
                .map(|&alt| vec![alt]),
            (11, false, INTERFACE) => self.set_interface(model, setup),
            // SET_SEL and SET_ISOCH_DELAY: timing that has no meaning here.
            (0x30 | 0x31, false, DEVICE) => Some(Vec::new()),
            _ => model.control(setup, data),
        }
    }

    fn feature(&mut self, model: &mut dyn Model, setup: &Setup) -> Option<Vec<u8>> {
        let set = setup.request == 3;
        match (setup.kind & RECIPIENT, setup.value) {
            (DEVICE, 1) => self.remote_wakeup = set,
            // U1_ENABLE, U2_ENABLE, LTM_ENABLE and FUNCTION_SUSPEND have nothing to act on.
            (DEVICE, 48..=50) | (INTERFACE, 0) if model.descriptors().speed.is_super() => {}
            (ENDPOINT, 0) => {
                let address = setup.index as u8;
                if address & 0x0f == 0 {
                    return Some(Vec::new());
                }
                model.descriptors().endpoint(address)?;
                if set {
                    self.halted.insert(address);
                } else {
                    self.halted.remove(&address);
                    model.clear_halt(address);
                }
            }
            _ => return None,
        }
        Some(Vec::new())
    }

    fn set_configuration(&mut self, model: &mut dyn Model, setup: &Setup) -> Option<Vec<u8>> {
        let value = u8::try_from(setup.value).ok().filter(|&value| value <= 1)?;
        self.configuration = value;
        self.halted.clear();
        for (&interface, alternate) in &mut self.settings {
            *alternate = 0;
            model.set_interface(interface, 0);
        }
        Some(Vec::new())
    }

    fn set_interface(&mut self, model: &mut dyn Model, setup: &Setup) -> Option<Vec<u8>> {
        let (interface, alternate) = (setup.index as u8, u8::try_from(setup.value).ok()?);
        let endpoints: Vec<u8> = model
            .descriptors()
            .setting(interface, alternate)?
            .endpoints
            .iter()
            .map(|endpoint| endpoint.address)
            .collect();
        self.settings.insert(interface, alternate);
        for address in endpoints {
            self.halted.remove(&address);
        }
        model.set_interface(interface, alternate);
        Some(Vec::new())
    }
}

fn descriptor(descriptors: &Descriptors, setup: &Setup) -> Option<Vec<u8>> {
    let [index, kind] = setup.value.to_le_bytes();
    match kind {
        1 => Some(descriptors.device()),
        2 if index == 0 => Some(descriptors.configuration()),
        3 => descriptors.string(index),
        6 => descriptors.qualifier(),
        7 if index == 0 => descriptors.other_speed(),
        0x0f => descriptors.bos(),
        _ => None,
    }
}
