// SPDX-License-Identifier: GPL-2.0

//! The standard requests that a device controller answers itself (USB 2.0 section 9.4); all others
//! are the gadget driver's.
//!
//! C counterpart: `handle_control_request()` of `vudc_transfer.c`.

use crate::bus::Bus;
use kernel_ext::usb::gadget::{Halt, Speed};
use usbip_protocol::setup::Setup;

/// What becomes of a control request.
pub(crate) enum Verdict {
    /// It is done.
    Done,
    /// It is done, and this is the data.
    Data([u8; 2]),
    /// It is refused.
    Stall,
    /// SET_ADDRESS was.
    Addressed(bool),
    /// The gadget driver decides.
    Gadget,
}

const TO_DEVICE: u8 = 0x00;
const TO_INTERFACE: u8 = 0x01;
const TO_ENDPOINT: u8 = 0x02;
const FROM_DEVICE: u8 = 0x80;
const FROM_INTERFACE: u8 = 0x81;
const FROM_ENDPOINT: u8 = 0x82;

const GET_STATUS: u8 = 0;
const CLEAR_FEATURE: u8 = 1;
const SET_FEATURE: u8 = 3;
const SET_ADDRESS: u8 = 5;
const SET_CONFIGURATION: u8 = 9;
const SET_INTERFACE: u8 = 11;

// Selectors of features of a device: USB 2.0 table 9-6, On-The-Go 1.3 table 6-4, USB 3.2 table 9-7.
const REMOTE_WAKEUP: u16 = 1;
const B_HNP_ENABLE: u16 = 3;
const A_ALT_HNP_SUPPORT: u16 = 5;
const U1_ENABLE: u16 = 48;
const LTM_ENABLE: u16 = 50;

/// The bit of [`Bus::status`] for U1; U2 and LTM follow (USB 3.2 figure 9-4).
const U1_BIT: u16 = 2;

/// Whether a request changes which endpoints there are.
pub(crate) fn changes_endpoints(setup: &Setup) -> bool {
    matches!(
        setup.request(),
        (TO_DEVICE, SET_CONFIGURATION) | (TO_INTERFACE, SET_INTERFACE)
    )
}

/// Carries a request out, if the controller does.
pub(crate) fn carry_out(setup: &Setup, device: &mut Bus) -> Verdict {
    let (kind, request) = setup.request();
    match (kind, request) {
        (TO_DEVICE, SET_ADDRESS) => Verdict::Addressed(setup.value() != 0),
        (TO_DEVICE, SET_FEATURE | CLEAR_FEATURE) => {
            device_feature(setup.value(), request == SET_FEATURE, device)
        }
        (TO_ENDPOINT, SET_FEATURE) => match device.halt(setup.index()) {
            // Endpoint 0 stalls single requests, it is never halted.
            Some(halt) if setup.index() & 0x0f != 0 => {
                *halt = Halt::Halted;
                Verdict::Done
            }
            _ => Verdict::Stall,
        },
        (TO_ENDPOINT, CLEAR_FEATURE) => match device.halt(setup.index()) {
            Some(halt) => {
                if *halt == Halt::Halted {
                    *halt = Halt::Clear;
                }
                Verdict::Done
            }
            None => Verdict::Stall,
        },
        (FROM_DEVICE, GET_STATUS) => {
            let [low, _] = device.status().to_le_bytes();
            Verdict::Data([low, 0])
        }
        (FROM_INTERFACE, GET_STATUS) => Verdict::Data([0, 0]),
        (FROM_ENDPOINT, GET_STATUS) => match device.halt(setup.index()) {
            Some(halt) => Verdict::Data([(*halt != Halt::Clear).into(), 0]),
            None => Verdict::Stall,
        },
        _ => Verdict::Gadget,
    }
}

fn device_feature(feature: u16, on: bool, device: &mut Bus) -> Verdict {
    let is_super = device.speed() >= Speed::Super;
    let bit = match feature {
        REMOTE_WAKEUP => REMOTE_WAKEUP,
        B_HNP_ENABLE..=A_ALT_HNP_SUPPORT if on && !is_super => feature,
        U1_ENABLE..=LTM_ENABLE if is_super => feature - U1_ENABLE + U1_BIT,
        _ => return Verdict::Stall,
    };
    let status = device.status();
    if on {
        *status |= 1 << bit;
    } else {
        *status &= !(1 << bit);
    }
    Verdict::Done
}
