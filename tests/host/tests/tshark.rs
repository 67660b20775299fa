// SPDX-License-Identifier: GPL-2.0

//! The golden vectors as Wireshark's dissector reads them, an implementation that is not ours.

use std::process::Command as Process;

use usbip_host_tests::golden::{device_bytes, urb_pdus, Meaning, UrbPdu};
use usbip_host_tests::hex;
use usbip_host_tests::pcap::{capture, From};
use usbip_protocol::wire::{Command, Reply};

/// One line per packet with payload: the requested fields, separated by commas.
///
/// A field that occurs several times in a packet is given as often; that the dissector shows a
/// header once more than it occurs is its own affair.
fn dissect(name: &str, messages: &[(From, Vec<u8>)], fields: &[&str]) -> Vec<Vec<String>> {
    let path = std::env::temp_dir().join(format!("usbip-{}-{name}.pcap", std::process::id()));
    std::fs::write(&path, capture(messages)).unwrap();
    let mut tshark = Process::new("tshark");
    tshark
        .arg("-r")
        .arg(&path)
        .args(["-d", "tcp.port==3240,usbip", "-Y", "tcp.len > 0"]);
    tshark.args(["-T", "fields", "-E", "separator=;", "-e", "_ws.malformed"]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    let output = tshark.output().expect("tshark runs");
    std::fs::remove_file(&path).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines: Vec<Vec<String>> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| line.split(';').map(str::to_owned).collect())
        .collect();
    assert_eq!(lines.len(), messages.len(), "{lines:?}");
    for line in &lines {
        assert_eq!(line[0], "", "malformed");
    }
    lines.into_iter().map(|line| line[1..].to_vec()).collect()
}

/// A conversation in which the URB phase has begun.
fn import() -> Vec<(From, Vec<u8>)> {
    let mut request = hex("0111 8003 00000000");
    request.extend(b"3-2");
    request.resize(40, 0);
    let reply = [hex("0111 0003 00000000"), device_bytes()].concat();
    vec![(From::Client, request), (From::Server, reply)]
}

#[test]
fn tshark_reads_import_and_device_list() {
    let fields = [
        "usbip.version",
        "usbip.operation",
        "usbip.busid",
        "usbip.system_path",
        "usbip.bus_num",
        "usbip.dev_num",
        "usbip.speed",
        "usbip.idVendor",
        "usbip.idProduct",
        "usbip.bcdDevice",
        "usbip.bDeviceClass",
        "usbip.bNumInterfaces",
    ];
    let path = "/sys/devices/pci0000:00/0000:00:14.0/usb3/3-2";
    let device = [
        "3-2",
        path,
        "0x00000003",
        "0x00000002",
        "3",
        "0x1234",
        "0x5678",
        "0x0201",
    ];
    let lines = dissect("import", &import(), &fields);
    assert_eq!(lines[0][..3], ["0x0111", "0x8003", "3-2"]);
    assert_eq!(lines[1][..2], ["0x0111", "0x0003"]);
    assert_eq!(lines[1][2..10], device);
    assert_eq!(lines[1][10..], ["0xff", "2"]);

    let list = [
        hex("0111 0005 00000000 00000001"),
        device_bytes(),
        hex("08065000 03010200"),
    ];
    let messages = [
        (From::Client, hex("0111 8005 00000000")),
        (From::Server, list.concat()),
    ];
    let lines = dissect("devlist", &messages, &fields);
    assert_eq!(lines[0][..2], ["0x0111", "0x8005"]);
    assert_eq!(lines[1][..2], ["0x0111", "0x0005"]);
    assert_eq!(lines[1][2..10], device);
    let fields = [
        "usbip.number_of_devices",
        "usbip.bInterfaceClass",
        "usbip.bInterfaceSubClass",
    ];
    let lines = dissect("interfaces", &messages, &fields);
    assert_eq!(lines[1], ["1", "0x08,0x03", "0x06,0x01"]);
}

#[test]
fn tshark_reads_the_urb_phase() {
    let pdus = urb_pdus();
    let mut messages = import();
    messages.extend(pdus.iter().map(|pdu| match pdu.meaning {
        Meaning::Command(_) => (From::Client, pdu.bytes()),
        Meaning::Reply(_) => (From::Server, pdu.bytes()),
    }));
    let fields = [
        "usbip.urb",
        "usbip.sequence_no",
        "usbip.devid",
        "usbip.endpoint_number.direction",
        "usbip.endpoint_number",
        "usbip.transfer_flags",
        "usbip.transfer_buffer_length",
        "usbip.iso.start_frame",
        "usbip.iso.num_of_packets",
        "usbip.interval",
        "usbip.status",
        "usbip.actual_length",
        "usbip.iso.error_count",
        "usbip.vic_frame",
    ];
    // Of a reply, Wireshark shows device, direction and endpoint of the request it belongs to.
    let request = |seqnum| {
        pdus.iter()
            .find_map(|pdu| match pdu.meaning {
                Meaning::Command(Command::Submit(cmd)) if cmd.seqnum == seqnum => {
                    Some([cmd.devid, cmd.direction as u32, cmd.ep])
                }
                Meaning::Command(Command::Unlink(cmd)) if cmd.seqnum == seqnum => {
                    Some([cmd.devid, 0, 0])
                }
                _ => None,
            })
            .unwrap()
            .map(|word| format!("{word:#010x}"))
    };
    // Three packets of the handshake and two of the import come first, and numbers start at 1.
    let frame = |seqnum| {
        let submits = |pdu: &UrbPdu| match pdu.meaning {
            Meaning::Command(Command::Submit(cmd)) => cmd.seqnum == seqnum,
            _ => false,
        };
        (pdus.iter().position(submits).unwrap() + 6).to_string()
    };
    let victim = |pdu: &UrbPdu| match pdu.meaning {
        Meaning::Command(Command::Unlink(cmd)) => Some(cmd.victim),
        _ => None,
    };
    let lines = dissect("urbs", &messages, &fields);
    for (pdu, line) in pdus.iter().zip(&lines[2..]) {
        let (command, seqnum, rest) = match pdu.meaning {
            Meaning::Command(Command::Submit(cmd)) => (
                1,
                cmd.seqnum,
                [
                    format!("{:#010x}", cmd.flags.wire()),
                    cmd.length.to_string(),
                    cmd.start_frame.to_string(),
                    (cmd.number_of_packets as u32).to_string(),
                    cmd.interval.to_string(),
                    String::new(),
                    String::new(),
                    String::new(),
                    String::new(),
                ],
            ),
            Meaning::Reply(Reply::Submit(ret)) => (
                3,
                ret.seqnum,
                [
                    String::new(),
                    String::new(),
                    ret.start_frame.to_string(),
                    (ret.number_of_packets as u32).to_string(),
                    String::new(),
                    ret.status.to_string(),
                    ret.actual_length.to_string(),
                    ret.error_count.to_string(),
                    String::new(),
                ],
            ),
            Meaning::Command(Command::Unlink(cmd)) => {
                let mut rest: [String; 9] = Default::default();
                rest[8] = frame(cmd.victim);
                (2, cmd.seqnum, rest)
            }
            Meaning::Reply(Reply::Unlink(ret)) => {
                let mut rest: [String; 9] = Default::default();
                rest[5] = ret.status.to_string();
                rest[8] = pdus.iter().find_map(victim).map(frame).unwrap();
                (4, ret.seqnum, rest)
            }
        };
        let mut expected = vec![format!("{command:#010x}"), seqnum.to_string()];
        expected.extend(request(seqnum));
        expected.extend(rest);
        let first: Vec<&str> = line
            .iter()
            .map(|field| field.split(',').next().unwrap_or_default())
            .collect();
        assert_eq!(first, expected, "{}", pdu.name);
    }
}
