// SPDX-License-Identifier: GPL-2.0

//! What the device says about itself.

/// Addresses of endpoints.
pub(super) const ECHO_OUT: u8 = 0x01;
pub(super) const ECHO_IN: u8 = 0x81;
pub(super) const SINK: u8 = 0x02;
pub(super) const SOURCE: u8 = 0x82;

/// USB 2.0, 9.6.1: version 2.0, vendor specific, 64 bytes a packet on endpoint 0. The ids are for
/// tests (pid.codes). Version 1.0, strings 1 to 3, one configuration.
pub(super) const DEVICE: [u8; 18] = [
    18, 1, 0x00, 0x02, 0xff, 0, 0, 64, 0x09, 0x12, 0x01, 0x00, 0x00, 0x01, 1, 2, 3, 1,
];

/// USB 2.0, 9.6.3, 9.6.5 and 9.6.6: one interface, self-powered, with bulk endpoints of 512 bytes
/// a packet.
pub(super) const CONFIGURATION: [u8; 46] = [
    9, 2, 46, 0, 1, 1, 0, 0xc0, 0, // configuration 1
    9, 4, 0, 0, 4, 0xff, 0, 0, 0, // interface 0
    7, 5, ECHO_OUT, 2, 0x00, 0x02, 0, 7, 5, ECHO_IN, 2, 0x00, 0x02, 0, 7, 5, SINK, 2, 0x00, 0x02,
    0, 7, 5, SOURCE, 2, 0x00, 0x02, 0,
];

/// US English.
pub(super) const LANGUAGES: [u8; 4] = [4, 3, 0x09, 0x04];
pub(super) const MANUFACTURER: &str = "rusbip";
pub(super) const PRODUCT: &str = "Echo";
pub(super) const SERIAL: &str = "0001";
