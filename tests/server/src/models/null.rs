// SPDX-License-Identifier: GPL-2.0

//! A device that does nothing as fast as possible: every bulk transfer of any length finishes at
//! once. For measuring a client, and the transport, rather than a device.

use usbip_protocol::speed::Speed;

use crate::descriptor::{Descriptors, Endpoint, Setting};
use crate::device::{Completion, Model, Outcome, Request};

/// Most bytes one IN request gets.
pub const MAX_IN: usize = 16 << 20;

static ZEROS: [u8; MAX_IN] = [0; MAX_IN];

/// See the module.
pub struct Null {
    descriptors: Descriptors,
}

/// Bulk IN.
pub const IN: u8 = 0x81;
/// Bulk OUT.
pub const OUT: u8 = 0x02;

impl Null {
    /// A null device of full speed or faster.
    pub fn new(speed: Speed) -> Self {
        let descriptors = Descriptors::new(speed, 0x1209, 0x0002, "null", "0").with(Setting {
            interface: 0,
            alternate: 0,
            class: [0xff, 0, 0],
            string: 0,
            extra: Vec::new(),
            endpoints: vec![Endpoint::bulk(IN, speed), Endpoint::bulk(OUT, speed)],
        });
        Self { descriptors }
    }
}

impl Model for Null {
    fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn transfer(&mut self, request: &mut Request) -> Outcome {
        // Both endpoints are served by the session; this is for completeness.
        Outcome::Done(if request.address() & 0x80 == 0 {
            Completion::taken(request.length())
        } else {
            Completion::data(vec![0; request.length().min(MAX_IN)])
        })
    }

    fn instant_in(&self, address: u8) -> Option<&'static [u8]> {
        (address == IN).then_some(&ZEROS)
    }

    fn instant_out(&self, address: u8) -> bool {
        address == OUT
    }
}
