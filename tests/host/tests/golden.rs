// SPDX-License-Identifier: GPL-2.0

//! Every PDU against its bytes, both ways.

use usbip_host_tests::golden::{device_bytes, urb_pdus, Meaning};
use usbip_host_tests::hex;
use usbip_protocol::iso::Packet;
use usbip_protocol::op::{self, Device, ExportTail, Interface, Op, OpError, OpStatus, Text};
use usbip_protocol::wire::{Command, FrameError, HeaderBytes, Reply, UrbMeta};

#[test]
fn urb_phase_headers_are_built_to_the_byte() {
    for pdu in urb_pdus() {
        let built = match pdu.meaning {
            Meaning::Command(command) => command.build(),
            Meaning::Reply(reply) => reply.build(),
        };
        assert_eq!(built.to_vec(), hex(pdu.header), "{}", pdu.name);
    }
}

#[test]
fn urb_phase_headers_are_parsed() {
    for pdu in urb_pdus() {
        let bytes: HeaderBytes = hex(pdu.header).try_into().unwrap();
        match pdu.meaning {
            Meaning::Command(command) => {
                assert_eq!(Command::parse(&bytes), Ok(command), "{}", pdu.name);
                let other = u32::from_be_bytes(bytes[..4].try_into().unwrap());
                assert_eq!(Reply::parse(&bytes), Err(FrameError::Command(other)));
            }
            Meaning::Reply(reply) => {
                assert_eq!(Reply::parse(&bytes), Ok(reply), "{}", pdu.name);
                let other = u32::from_be_bytes(bytes[..4].try_into().unwrap());
                assert_eq!(Command::parse(&bytes), Err(FrameError::Command(other)));
            }
        }
    }
}

#[test]
fn bodies_have_the_length_the_header_implies() {
    let pdus = urb_pdus();
    let request = |seqnum| {
        pdus.iter()
            .find_map(|pdu| match pdu.meaning {
                Meaning::Command(Command::Submit(cmd)) if cmd.seqnum == seqnum => Some(UrbMeta {
                    direction: cmd.direction,
                    iso_packets: if pdu.iso {
                        cmd.number_of_packets as u32
                    } else {
                        0
                    },
                    length: cmd.length,
                }),
                _ => None,
            })
            .unwrap()
    };
    for pdu in &pdus {
        let expected = match pdu.meaning {
            Meaning::Command(Command::Submit(cmd)) => cmd.body(pdu.iso).unwrap().total(),
            Meaning::Reply(Reply::Submit(ret)) => ret.body(request(ret.seqnum)).unwrap().total(),
            _ => 0,
        };
        assert_eq!(pdu.body.len() as u64, expected, "{}", pdu.name);
    }
}

#[test]
fn replies_that_echo_the_request_are_accepted() {
    for pdu in urb_pdus() {
        if let Meaning::Reply(reply) = pdu.meaning {
            let mut bytes: HeaderBytes = hex(pdu.header).try_into().unwrap();
            bytes[8..20].copy_from_slice(&hex("00010002 00000001 0000000f"));
            assert_eq!(Reply::parse(&bytes), Ok(reply), "{}", pdu.name);
        }
    }
}

#[test]
fn frames_that_cannot_be_followed_are_refused() {
    let pdus = urb_pdus();
    let good: HeaderBytes = hex(pdus[0].header).try_into().unwrap();
    let with = |at: usize, word: u32| {
        let mut bytes = good;
        bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
        Command::parse(&bytes)
    };
    for command in [0, 3, 4, 5, 0x0111_8003, u32::MAX] {
        assert_eq!(with(0, command), Err(FrameError::Command(command)));
    }
    assert_eq!(with(12, 2), Err(FrameError::Direction(2)));
    assert_eq!(with(12, u32::MAX), Err(FrameError::Direction(u32::MAX)));
    assert_eq!(with(24, 0x8000_0000), Err(FrameError::Length(i32::MIN)));
    assert_eq!(with(24, u32::MAX), Err(FrameError::Length(-1)));
    let Ok(Command::Submit(longest)) = with(24, 0x7fff_ffff) else {
        panic!("refused")
    };
    assert_eq!(longest.length, 0x7fff_ffff);
    // An endpoint that does not exist is the request's failure, not the stream's.
    let Ok(Command::Submit(far)) = with(16, 16) else {
        panic!("refused")
    };
    assert_eq!(far.endpoint(), None);
    let Ok(Command::Submit(far)) = with(16, 0x0100_0001) else {
        panic!("refused")
    };
    assert_eq!(far.endpoint(), None);
    let Ok(Command::Submit(last)) = with(16, 15) else {
        panic!("refused")
    };
    assert_eq!(last.endpoint(), Some(15));
}

#[test]
fn iso_descriptor() {
    let bytes: [u8; 16] = hex("00000018 00000008 00000000 ffffffee")
        .try_into()
        .unwrap();
    let packet = Packet::submitted(24, 8);
    assert_eq!(packet.build(), bytes);
    assert_eq!(Packet::parse(&bytes), packet);
    assert_eq!(packet.status, -18);
}

fn device() -> Device {
    Device {
        path: Text::new(b"/sys/devices/pci0000:00/0000:00:14.0/usb3/3-2").unwrap(),
        busid: Text::new(b"3-2").unwrap(),
        busnum: 3,
        devnum: 2,
        speed: 3,
        vendor: 0x1234,
        product: 0x5678,
        bcd_device: 0x0201,
        class: [0xff, 1, 2],
        configuration: 1,
        num_configurations: 1,
        num_interfaces: 2,
    }
}

#[test]
fn op_headers() {
    assert_eq!(op::request(Op::DevList).to_vec(), hex("0111 8005 00000000"));
    assert_eq!(
        op::reply(Op::DevList, OpStatus::Ok).to_vec(),
        hex("0111 0005 00000000")
    );
    assert_eq!(
        op::reply(Op::Import, OpStatus::NoDev).to_vec(),
        hex("0111 0003 00000004")
    );
    assert_eq!(
        op::reply(Op::Export, OpStatus::Na).to_vec(),
        hex("0111 0006 00000001")
    );
    assert_eq!(
        op::reply(Op::Unexport, OpStatus::Ok).to_vec(),
        hex("0111 0007 00000000")
    );
    for (op, code) in [
        (Op::DevInfo, 2),
        (Op::Import, 3),
        (Op::CrypKey, 4),
        (Op::DevList, 5),
        (Op::Export, 6),
        (Op::Unexport, 7),
    ] {
        let bytes: [u8; 8] = [1, 0x11, 0x80, code, 0, 0, 0, 0];
        assert_eq!(op::request(op), bytes);
        assert_eq!(op::parse_request(&bytes), Ok(op));
        let bytes = [1, 0x11, 0, code, 0, 0, 0, 3];
        assert_eq!(op::parse_reply(&bytes, op), Ok(OpStatus::DevErr));
    }
}

#[test]
fn op_headers_that_are_refused() {
    let parse = |text| op::parse_request(&hex(text).try_into().unwrap());
    assert_eq!(parse("0110 8005 00000000"), Err(OpError::Version(0x110)));
    assert_eq!(parse("0111 0005 00000000"), Err(OpError::Code(5)));
    assert_eq!(parse("0111 8000 00000000"), Err(OpError::Code(0x8000)));
    assert_eq!(parse("0111 8001 00000000"), Err(OpError::Code(0x8001)));
    assert_eq!(parse("0111 8008 00000000"), Err(OpError::Code(0x8008)));
    assert_eq!(parse("0111 c005 00000000"), Err(OpError::Code(0xc005)));
    assert_eq!(parse("0111 8005 00000001"), Err(OpError::RequestStatus(1)));
    let parse = |text| op::parse_reply(&hex(text).try_into().unwrap(), Op::Import);
    assert_eq!(parse("0111 8003 00000000"), Err(OpError::Code(0x8003)));
    assert_eq!(parse("0111 0005 00000000"), Err(OpError::Code(5)));
    // A status without a name is still a failure.
    assert_eq!(parse("0111 0003 deadbeef"), Ok(OpStatus::Error));
}

#[test]
fn import_and_export() {
    let busid = Text::new(b"usbip-vudc.0").unwrap();
    let mut expected = hex("0111 8003 00000000");
    expected.extend(b"usbip-vudc.0");
    expected.resize(40, 0);
    assert_eq!(op::import_request(busid).to_vec(), expected);
    assert_eq!(op::parse_busid(&expected[8..].try_into().unwrap()), busid);
    assert_eq!(
        op::import_reply(&device()).to_vec(),
        [hex("0111 0003 00000000"), device_bytes()].concat()
    );
    assert_eq!(
        op::export_request(&device()).to_vec(),
        [hex("0111 8006 00000000"), device_bytes()].concat()
    );
    assert_eq!(
        op::unexport_request(&device()).to_vec(),
        [hex("0111 8007 00000000"), device_bytes()].concat()
    );
}

#[test]
fn both_forms_of_the_reply_to_export() {
    assert_eq!(
        op::reply_with_return_code(Op::Export, OpStatus::Ok, 0).to_vec(),
        hex("0111 0006 00000000 00000000")
    );
    assert_eq!(
        op::reply_with_return_code(Op::Unexport, OpStatus::Na, -1).to_vec(),
        hex("0111 0007 00000001 ffffffff")
    );
    assert_eq!(ExportTail::classify([0, 0, 0, 0]), ExportTail::ReturnCode);
    assert_eq!(ExportTail::classify([0, 0, 0, 1]), ExportTail::UrbPhase);
    assert_eq!(ExportTail::classify([0, 0, 0, 2]), ExportTail::UrbPhase);
}

#[test]
fn device_and_interface_records() {
    let bytes: [u8; 312] = device_bytes().try_into().unwrap();
    assert_eq!(device().build(), bytes);
    assert_eq!(Device::parse(&bytes), device());
    assert_eq!(device().devid(), Some(0x0003_0002));
    assert_eq!(
        Device {
            busnum: 0x10000,
            ..device()
        }
        .devid(),
        None
    );
    assert_eq!(
        Device {
            devnum: 0x10000,
            ..device()
        }
        .devid(),
        None
    );
    let interface = Interface { class: [8, 6, 80] };
    assert_eq!(interface.build(), [8, 6, 80, 0]);
    assert_eq!(Interface::parse(&[8, 6, 80, 0xff]), interface);
}

#[test]
fn text_fields() {
    assert_eq!(Text::<4>::new(b"abc").unwrap().as_bytes(), b"abc");
    assert_eq!(Text::<4>::new(b"").unwrap().as_bytes(), b"");
    assert_eq!(Text::<4>::new(b"abcd"), None);
    assert_eq!(Text::<4>::new(b"a\0"), None);
    // A peer that leaves out the NUL loses the last byte.
    assert_eq!(op::parse_busid(&[b'x'; 32]).as_bytes(), [b'x'; 31]);
    let mut junk = [b'x'; 32];
    junk[3] = 0;
    assert_eq!(op::parse_busid(&junk).as_bytes(), b"xxx");
    assert_eq!(format!("{:?}", Text::<4>::new(b"a\n").unwrap()), r#""a\n""#);
}
