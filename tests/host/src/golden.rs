// SPDX-License-Identifier: GPL-2.0

//! Byte vectors of every PDU, written down from the protocol description and from captures of the
//! C driver, never produced by the code under test.

use usbip_protocol::flags::TransferFlags;
use usbip_protocol::wire::{CmdSubmit, CmdUnlink, Command, Direction, Reply, RetSubmit, RetUnlink};

use crate::hex;

/// A PDU of the URB phase.
pub struct UrbPdu {
    /// What it shows.
    pub name: &'static str,
    /// The 48 bytes of its header.
    pub header: &'static str,
    /// What follows.
    pub body: Vec<u8>,
    /// What the header means.
    pub meaning: Meaning,
    /// Whether the endpoint is isochronous.
    pub iso: bool,
}

/// Either direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Meaning {
    /// Client to server.
    Command(Command),
    /// Server to client.
    Reply(Reply),
}

impl UrbPdu {
    /// Header and body.
    pub fn bytes(&self) -> Vec<u8> {
        [hex(self.header), self.body.clone()].concat()
    }
}

/// A typical CMD_SUBMIT, to be varied.
pub const SUBMIT: CmdSubmit = CmdSubmit {
    seqnum: 1,
    devid: 0x10002,
    direction: Direction::In,
    ep: 0,
    flags: TransferFlags::from_wire(0x200),
    length: 64,
    start_frame: 0,
    number_of_packets: 0,
    interval: 0,
    setup: [0x80, 0x06, 0x00, 0x01, 0x00, 0x00, 0x40, 0x00],
};

fn command(name: &'static str, header: &'static str, meaning: Command) -> UrbPdu {
    UrbPdu {
        name,
        header,
        body: Vec::new(),
        meaning: Meaning::Command(meaning),
        iso: false,
    }
}

fn reply(name: &'static str, header: &'static str, meaning: Reply) -> UrbPdu {
    UrbPdu {
        name,
        header,
        body: Vec::new(),
        meaning: Meaning::Reply(meaning),
        iso: false,
    }
}

fn iso_descriptors(actual: [u32; 4], status: [u32; 4]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for i in 0..4 {
        for word in [8 * i as u32, 8, actual[i], status[i]] {
            bytes.extend(word.to_be_bytes());
        }
    }
    bytes
}

/// The commands and their replies.
pub fn urb_pdus() -> Vec<UrbPdu> {
    let none = [0; 8];
    vec![
        command(
            "capture: the first PDU of a high-speed attach, GET_DESCRIPTOR(device) of 64 bytes",
            "00000001 00000001 00010002 00000001 00000000 00000200 00000040 00000000 \
             00000000 00000000 80060001 00004000",
            Command::Submit(SUBMIT),
        ),
        command(
            "capture: SET_CONFIGURATION(1)",
            "00000001 00000005 00010002 00000000 00000000 00000000 00000000 00000000 \
             00000000 00000000 00090100 00000000",
            Command::Submit(CmdSubmit {
                seqnum: 5,
                direction: Direction::Out,
                flags: TransferFlags::NONE,
                length: 0,
                setup: [0, 9, 1, 0, 0, 0, 0, 0],
                ..SUBMIT
            }),
        ),
        UrbPdu {
            body: b"0123456789abc".to_vec(),
            ..command(
                "bulk OUT with ZERO_PACKET",
                "00000001 00000006 00010002 00000000 00000002 00000040 0000000d 00000000 \
                 00000000 00000000 00000000 00000000",
                Command::Submit(CmdSubmit {
                    seqnum: 6,
                    direction: Direction::Out,
                    ep: 2,
                    flags: TransferFlags::from_wire(0x40),
                    length: 13,
                    setup: none,
                    ..SUBMIT
                }),
            )
        },
        command(
            "bulk IN into a scatter list",
            "00000001 00000007 00010002 00000001 00000001 00040200 00005000 00000000 \
             00000000 00000000 00000000 00000000",
            Command::Submit(CmdSubmit {
                seqnum: 7,
                ep: 1,
                flags: TransferFlags::from_wire(0x40200),
                length: 20480,
                setup: none,
                ..SUBMIT
            }),
        ),
        command(
            "interrupt IN as the protocol document wants it: number of packets -1",
            "00000001 00000008 00010002 00000001 0000000f 00000201 00000008 00000000 \
             ffffffff 00000008 00000000 00000000",
            Command::Submit(CmdSubmit {
                seqnum: 8,
                ep: 15,
                flags: TransferFlags::from_wire(0x201),
                length: 8,
                number_of_packets: -1,
                interval: 8,
                setup: none,
                ..SUBMIT
            }),
        ),
        UrbPdu {
            body: [vec![0x5a; 32], iso_descriptors([0; 4], [0xffff_ffee; 4])].concat(),
            iso: true,
            ..command(
                "capture: isochronous OUT, four packets of eight bytes, ISO_ASAP",
                "00000001 00000009 00010002 00000000 00000003 00000002 00000020 00000000 \
                 00000004 00000001 00000000 00000000",
                Command::Submit(CmdSubmit {
                    seqnum: 9,
                    direction: Direction::Out,
                    ep: 3,
                    flags: TransferFlags::from_wire(2),
                    length: 32,
                    number_of_packets: 4,
                    interval: 1,
                    setup: none,
                    ..SUBMIT
                }),
            )
        },
        UrbPdu {
            body: iso_descriptors([0; 4], [0xffff_ffee; 4]),
            iso: true,
            ..command(
                "isochronous IN with a start frame, far devid and high seqnum",
                "00000001 fffffffe ffffffff 00000001 00000004 00000202 00000020 000003e8 \
                 00000004 00000001 00000000 00000000",
                Command::Submit(CmdSubmit {
                    seqnum: 0xffff_fffe,
                    devid: 0xffff_ffff,
                    ep: 4,
                    flags: TransferFlags::from_wire(0x202),
                    length: 32,
                    start_frame: 1000,
                    number_of_packets: 4,
                    interval: 1,
                    setup: none,
                    ..SUBMIT
                }),
            )
        },
        command(
            "CMD_UNLINK",
            "00000002 0000000b 00010002 00000000 00000000 00000008 00000000 00000000 \
             00000000 00000000 00000000 00000000",
            Command::Unlink(CmdUnlink {
                seqnum: 11,
                devid: 0x10002,
                victim: 8,
            }),
        ),
        UrbPdu {
            body: hex("12010002000000403412785601020102 0301"),
            ..reply(
                "RET_SUBMIT with 18 bytes of IN data",
                "00000003 00000001 00000000 00000000 00000000 00000000 00000012 00000000 \
                 00000000 00000000 00000000 00000000",
                Reply::Submit(RetSubmit {
                    seqnum: 1,
                    status: 0,
                    actual_length: 18,
                    start_frame: 0,
                    number_of_packets: 0,
                    error_count: 0,
                }),
            )
        },
        reply(
            "RET_SUBMIT of an OUT transfer: the length counts bytes that don't follow",
            "00000003 00000006 00000000 00000000 00000000 00000000 0000000d 00000000 \
             00000000 00000000 00000000 00000000",
            Reply::Submit(RetSubmit {
                seqnum: 6,
                status: 0,
                actual_length: 13,
                start_frame: 0,
                number_of_packets: 0,
                error_count: 0,
            }),
        ),
        reply(
            "RET_SUBMIT of a stalled interrupt transfer, number of packets echoed",
            "00000003 00000008 00000000 00000000 00000000 ffffffe0 00000000 00000000 \
             ffffffff 00000000 00000000 00000000",
            Reply::Submit(RetSubmit {
                seqnum: 8,
                status: -32,
                actual_length: 0,
                start_frame: 0,
                number_of_packets: -1,
                error_count: 0,
            }),
        ),
        UrbPdu {
            body: [
                vec![0xa5; 20],
                iso_descriptors([8, 0, 4, 8], [0, 0xffff_ffb9, 0, 0]),
            ]
            .concat(),
            iso: true,
            ..reply(
                "RET_SUBMIT of an isochronous IN transfer, compacted, one packet failed",
                "00000003 fffffffe 00000000 00000000 00000000 00000000 00000014 000003e9 \
                 00000004 00000001 00000000 00000000",
                Reply::Submit(RetSubmit {
                    seqnum: 0xffff_fffe,
                    status: 0,
                    actual_length: 20,
                    start_frame: 1001,
                    number_of_packets: 4,
                    error_count: 1,
                }),
            )
        },
        reply(
            "RET_UNLINK of a cancelled request",
            "00000004 0000000b 00000000 00000000 00000000 ffffff98 00000000 00000000 \
             00000000 00000000 00000000 00000000",
            Reply::Unlink(RetUnlink {
                seqnum: 11,
                status: -104,
            }),
        ),
        reply(
            "RET_UNLINK of a finished request",
            "00000004 0000000b 00000000 00000000 00000000 00000000 00000000 00000000 \
             00000000 00000000 00000000 00000000",
            Reply::Unlink(RetUnlink {
                seqnum: 11,
                status: 0,
            }),
        ),
    ]
}

/// The 312 bytes of the record of a device, by field.
pub fn device_bytes() -> Vec<u8> {
    let mut bytes = b"/sys/devices/pci0000:00/0000:00:14.0/usb3/3-2".to_vec();
    bytes.resize(256, 0);
    bytes.extend(b"3-2");
    bytes.resize(288, 0);
    bytes.extend(hex(
        "00000003 00000002 00000003 1234 5678 0201 ff 01 02 01 01 02",
    ));
    assert_eq!(bytes.len(), 312);
    bytes
}
