// SPDX-License-Identifier: GPL-2.0

//! Inputs to start from: the golden vectors, and conversations that make sense.

use usbip_host_tests::golden::{device_bytes, urb_pdus, Meaning};
use usbip_host_tests::hex;
use usbip_protocol::iso::Packet;

/// The seeds of a target.
///
/// # Panics
///
/// If there is no such target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "headers" => headers(),
        "op" => op(),
        "iso" => iso(),
        "client" => client(),
        "server" => server(),
        other => panic!("no target {other}"),
    }
}

fn headers() -> Vec<Vec<u8>> {
    let pdus = urb_pdus();
    let of = |command| {
        let pdus = pdus
            .iter()
            .filter(move |pdu| matches!(pdu.meaning, Meaning::Command(_)) == command);
        pdus.map(|pdu| (pdu.iso, hex(pdu.header)))
            .collect::<Vec<_>>()
    };
    let mut seeds = Vec::new();
    for (iso, command) in of(true) {
        for (_, reply) in of(false) {
            seeds.push([&[u8::from(iso)][..], &command, &reply].concat());
        }
    }
    seeds
}

fn op() -> Vec<Vec<u8>> {
    let mut import = hex("0111 8003 00000000");
    import.extend(b"3-2");
    import.resize(40, 0);
    let device = device_bytes();
    let list = [
        hex("0111 0005 00000000 00000001"),
        device.clone(),
        hex("08065000 03010200"),
    ];
    vec![
        import,
        list.concat(),
        [hex("0111 8006 00000000"), device.clone()].concat(),
        [hex("0111 8007 00000000"), device.clone()].concat(),
        [hex("0111 0003 00000000"), device].concat(),
        hex("0111 8005 00000000"),
    ]
}

fn iso() -> Vec<Vec<u8>> {
    let layout = |packets: &[(u32, u32, u32)]| {
        let total: u32 = packets.iter().map(|packet| packet.2).sum();
        let size = packets
            .iter()
            .map(|packet| packet.0 + packet.1)
            .max()
            .unwrap_or(0);
        let mut seed = [size.to_be_bytes(), total.to_be_bytes()].concat();
        for &(offset, length, actual_length) in packets {
            seed.extend(
                Packet {
                    offset,
                    length,
                    actual_length,
                    status: 0,
                }
                .build(),
            );
            seed.push(0);
        }
        seed
    };
    vec![
        layout(&[]),
        layout(&[(0, 8, 8)]),
        layout(&[(0, 8, 8), (8, 8, 0), (16, 8, 4), (24, 8, 8)]),
        layout(&[(8, 8, 3), (0, 8, 8)]),
        layout(&[(0, 1024, 1000), (1500, 1024, 7), (2600, 500, 500)]),
    ]
}

fn client() -> Vec<Vec<u8>> {
    const ENQUEUE: &[u8] = &[0];
    const DEQUEUE: &[u8] = &[1, 0];
    const NEXT: &[u8] = &[2];
    const SENT: &[u8] = &[3];
    const RECEIVED: &[u8] = &[6];
    const TX_FAILS: &[u8] = &[7, 2];
    const RX_FAILS: &[u8] = &[7, 1];
    const DRAIN: &[u8] = &[7, 0];
    // Number back from the last, status, length, packets, command.
    const RET_SUBMIT: &[u8] = &[4, 0, 0, 0, 0, 0];
    const RET_SUBMIT_BEFORE: &[u8] = &[4, 1, 0, 0, 0, 0];
    const RET_UNLINK: &[u8] = &[4, 0, 152, 0, 0, 1];
    const RET_UNLINK_0: &[u8] = &[4, 0, 0, 0, 0, 1];
    let submit = [ENQUEUE, NEXT, SENT].concat();
    let unlink = [&submit[..], DEQUEUE, NEXT].concat();
    [
        [&submit[..], RET_SUBMIT, RECEIVED].concat(),
        [&unlink[..], RET_UNLINK].concat(),
        [&unlink[..], RET_UNLINK_0, RET_SUBMIT_BEFORE].concat(),
        [&unlink[..], RET_SUBMIT_BEFORE, RECEIVED, RET_UNLINK_0].concat(),
        [&unlink[..], RET_SUBMIT_BEFORE, RX_FAILS, DRAIN].concat(),
        [
            ENQUEUE, ENQUEUE, NEXT, NEXT, SENT, DEQUEUE, SENT, NEXT, RET_SUBMIT, DRAIN,
        ]
        .concat(),
        [
            ENQUEUE, ENQUEUE, NEXT, NEXT, RET_SUBMIT, DEQUEUE, SENT, SENT,
        ]
        .concat(),
        [ENQUEUE, NEXT, TX_FAILS, ENQUEUE, DEQUEUE, DRAIN].concat(),
        [
            ENQUEUE, DEQUEUE, ENQUEUE, ENQUEUE, ENQUEUE, ENQUEUE, NEXT, DRAIN, SENT,
        ]
        .concat(),
    ]
    .into_iter()
    .flat_map(|calls| [0, u32::MAX - 2].map(|last: u32| [&last.to_be_bytes()[..], &calls].concat()))
    .collect()
}

fn server() -> Vec<Vec<u8>> {
    let pdu = |command: u32, seqnum: u32, victim_or_flags: u32, length: u32| {
        let words = [
            command,
            seqnum,
            1,
            0,
            0,
            victim_or_flags,
            length,
            0,
            0,
            0,
            0,
            0,
        ];
        words.map(u32::to_be_bytes).concat()
    };
    let play = |steps: &[(u8, Vec<u8>)]| {
        steps
            .iter()
            .flat_map(|(meanwhile, pdu)| [&[*meanwhile][..], pdu].concat())
            .collect()
    };
    let submit = |seqnum| pdu(1, seqnum, 0, 1000);
    let unlink = |seqnum, victim| pdu(2, seqnum, victim, 0);
    let mut seeds = vec![
        play(&[
            (0, submit(1)),
            (9, unlink(2, 1)),
            (24, unlink(3, 1)),
            (24, submit(4)),
        ]),
        play(&[
            (0, submit(1)),
            (0, unlink(2, 1)),
            (9, unlink(3, 1)),
            (29, submit(1)),
        ]),
        play(&[(0, submit(1)), (0, submit(2)), (0, submit(1))]),
        play(&(1..9).map(|seqnum| (0, submit(seqnum))).collect::<Vec<_>>()),
        play(
            &(1..9)
                .map(|seqnum| (31, submit(seqnum)))
                .collect::<Vec<_>>(),
        ),
        play(
            &(1..12)
                .map(|seqnum| (0, unlink(seqnum, 99)))
                .collect::<Vec<_>>(),
        ),
    ];
    let commands = urb_pdus()
        .into_iter()
        .filter(|pdu| matches!(pdu.meaning, Meaning::Command(_)));
    seeds.extend(commands.map(|pdu| [vec![0], pdu.bytes()].concat()));
    seeds
}
