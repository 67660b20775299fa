// SPDX-License-Identifier: GPL-2.0

//! Isochronous packets of a request, and the reply to it.

use usbip_protocol::iso::{check_submitted, compact, expand, Packet, ReplyCheck};

use crate::Input;

/// Bytes of the transfer buffer, at most.
const BUFFER: u32 = 4096;

/// Compacts and expands for real, so that a range outside its buffer panics.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let size = input.word() % (BUFFER + 1);
    let total = input.word() % (BUFFER + 1);
    let mut packets = Vec::new();
    let mut check = ReplyCheck::new();
    while !input.is_empty() && packets.len() < 32 {
        let mut packet = Packet::parse(&input.bytes());
        assert_eq!(Packet::parse(&packet.build()), packet);
        if input.byte() & 1 != 0 {
            // Closer to what makes sense than 32 random bits.
            packet.offset %= 64;
            packet.length %= 64;
            packet.actual_length %= 80;
        }
        if let Ok((actual, status)) = check.packet(packet.length, &packet) {
            assert!(actual <= packet.length && status.raw() <= 0);
        }
        packets.push(packet);
    }
    let valid = check_submitted(packets.iter().copied(), size).is_ok();
    let honest = check.finish(total).is_ok();

    let device = vec![1_u8; size as usize];
    let mut wire: Vec<u8> = Vec::new();
    let mut compacted = true;
    for range in compact(packets.iter().copied(), size) {
        match range {
            Ok(range) => wire.extend(&device[range.start as usize..range.end as usize]),
            Err(_) => compacted = false,
        }
    }
    let claimed: u64 = packets
        .iter()
        .map(|packet| u64::from(packet.actual_length))
        .sum();
    assert!(wire.len() as u64 <= claimed && (!compacted || wire.len() as u64 == claimed));
    let sums = packets
        .iter()
        .all(|packet| packet.actual_length <= packet.length);
    assert!(compacted || !valid || !sums);

    let source = vec![2_u8; total as usize];
    let mut buffer = vec![0_u8; size as usize];
    let mut expanded = true;
    for step in expand(packets.iter().copied(), total, size, false) {
        match step {
            Ok(step) => {
                let to = step.to as usize..(step.to + step.len) as usize;
                let from = step.from as usize..(step.from + step.len) as usize;
                buffer[to].copy_from_slice(&source[from]);
            }
            Err(_) => expanded = false,
        }
    }
    assert!(expanded || !valid || !sums || !honest);
    for step in expand(packets.iter().copied(), total.min(size), size, true).flatten() {
        let from = step.from as usize..(step.from + step.len) as usize;
        buffer.copy_within(from, step.to as usize);
    }
}
