// SPDX-License-Identifier: GPL-2.0

//! What the device says about itself.

/// Addresses of endpoints.
pub(super) const ECHO_OUT: u8 = 0x01;
pub(super) const ECHO_IN: u8 = 0x81;
pub(super) const SINK: u8 = 0x02;
pub(super) const SOURCE: u8 = 0x82;
pub(super) const ISO_SINK: u8 = 0x03;
pub(super) const ISO_SOURCE: u8 = 0x83;
pub(super) const INT_SINK: u8 = 0x04;
pub(super) const INT_SOURCE: u8 = 0x84;

/// The most bytes of an isochronous packet.
pub(super) const ISO_PACKET: usize = 256;

/// USB 2.0, 9.6.1: version 2.0, vendor specific, 64 bytes a packet on endpoint 0. The ids are for
/// tests (pid.codes). Version 1.0, strings 1 to 3, one configuration.
pub(super) const DEVICE: [u8; 18] = [
    18, 1, 0x00, 0x02, 0xff, 0, 0, 64, 0x09, 0x12, 0x01, 0x00, 0x00, 0x01, 1, 2, 3, 1,
];

/// The same with the ids of Gadget Zero, by which `usbtest` knows what it can test.
pub(super) const GADGET_ZERO: [u8; 18] = [
    18, 1, 0x00, 0x02, 0xff, 0, 0, 64, 0x25, 0x05, 0xa0, 0xa4, 0x00, 0x01, 1, 2, 3, 1,
];

/// USB 2.0, 9.6.2: at the other speed it has no configuration.
pub(super) const QUALIFIER: [u8; 10] = [10, 6, 0x00, 0x02, 0xff, 0, 0, 64, 0, 0];

/// USB 2.0, 9.6.3, 9.6.5 and 9.6.6: one interface, self-powered, with bulk endpoints of 512 bytes
/// a packet. Setting 1 has periodic ones as well, with a packet every 8 microframes. `usbtest` uses
/// the first two bulk endpoints.
pub(super) const CONFIGURATION: [u8; 111] = [
    9, 2, 111, 0, 1, 1, 0, 0xc0, 0, // configuration 1
    9, 4, 0, 0, 4, 0xff, 0, 0, 0, // interface 0, setting 0
    7, 5, SINK, 2, 0x00, 0x02, 0, 7, 5, SOURCE, 2, 0x00, 0x02, 0, // bulk
    7, 5, ECHO_OUT, 2, 0x00, 0x02, 0, 7, 5, ECHO_IN, 2, 0x00, 0x02, 0, // bulk
    9, 4, 0, 1, 8, 0xff, 0, 0, 0, // interface 0, setting 1
    7, 5, SINK, 2, 0x00, 0x02, 0, 7, 5, SOURCE, 2, 0x00, 0x02, 0, // bulk
    7, 5, ECHO_OUT, 2, 0x00, 0x02, 0, 7, 5, ECHO_IN, 2, 0x00, 0x02, 0, // bulk
    7, 5, ISO_SINK, 1, 0x00, 0x01, 4, 7, 5, ISO_SOURCE, 1, 0x00, 0x01, 4, // isochronous
    7, 5, INT_SINK, 3, 0x40, 0x00, 4, 7, 5, INT_SOURCE, 3, 0x40, 0x00, 4, // interrupt
];

/// US English.
pub(super) const LANGUAGES: [u8; 4] = [4, 3, 0x09, 0x04];
pub(super) const MANUFACTURER: &str = "rusbip";
pub(super) const PRODUCT: &str = "Echo";
pub(super) const SERIAL: &str = "0001";
