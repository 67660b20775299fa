// SPDX-License-Identifier: GPL-2.0

//! Isochronous compaction, expansion and the checks of a reply.

use std::ops::Range;

use proptest::prelude::*;
use usbip_protocol::iso::*;
use usbip_protocol::limits::MAX_ISO_PACKETS;

fn packet(offset: u32, length: u32, actual_length: u32) -> Packet {
    Packet {
        offset,
        length,
        actual_length,
        status: 0,
    }
}

fn moves(
    packets: &[Packet],
    total: u32,
    buffer: u32,
    in_place: bool,
) -> Vec<Result<Move, IsoError>> {
    expand(packets.iter().copied(), total, buffer, in_place).collect()
}

fn step(from: u32, to: u32, len: u32) -> Result<Move, IsoError> {
    Ok(Move { from, to, len })
}

#[test]
fn short_packets_go_back_to_their_offsets() {
    let packets = [
        packet(0, 8, 8),
        packet(8, 8, 0),
        packet(16, 8, 4),
        packet(24, 8, 8),
    ];
    assert_eq!(
        moves(&packets, 20, 32, true),
        [step(12, 24, 8), step(8, 16, 4)]
    );
    let ranges: Result<Vec<Range<u32>>, _> = compact(packets, 32).collect();
    assert_eq!(ranges, Ok(vec![0..8, 8..8, 16..20, 24..32]));
}

#[test]
fn the_first_packet_may_start_anywhere() {
    let packets = [packet(4, 8, 2), packet(12, 8, 8)];
    assert_eq!(
        moves(&packets, 10, 20, true),
        [step(2, 12, 8), step(0, 4, 2)]
    );
}

#[test]
fn full_packets_stay_where_they_are() {
    let packets = [packet(0, 8, 8), packet(8, 8, 8)];
    assert_eq!(moves(&packets, 16, 16, true), []);
    // From elsewhere they must be copied all the same.
    assert_eq!(
        moves(&packets, 16, 16, false),
        [step(8, 8, 8), step(0, 0, 8)]
    );
}

#[test]
fn expansion_never_leaves_the_buffer() {
    assert_eq!(
        moves(&[packet(25, 8, 8)], 8, 32, false),
        [Err(IsoError::Bounds)]
    );
    assert_eq!(
        moves(&[packet(u32::MAX, 8, 8)], 8, u32::MAX, false),
        [Err(IsoError::Bounds)]
    );
    assert_eq!(
        moves(&[packet(0, 8, 9)], 9, 32, false),
        [Err(IsoError::ActualLength)]
    );
    // More data claimed than there is; nothing after the error.
    let packets = [packet(0, 8, 8), packet(8, 8, 8)];
    assert_eq!(moves(&packets, 7, 32, false), [Err(IsoError::Sum)]);
}

#[test]
fn expansion_in_place_refuses_to_lose_data() {
    // The second packet belongs below the first one's data.
    let packets = [packet(8, 8, 8), packet(0, 8, 8)];
    assert_eq!(moves(&packets, 16, 16, true), [Err(IsoError::Overlap)]);
    assert_eq!(
        moves(&packets, 16, 16, false),
        [step(8, 0, 8), step(0, 8, 8)]
    );
}

#[test]
fn compaction_never_leaves_the_buffer() {
    let ranges = |packets: &[Packet]| -> Vec<_> { compact(packets.to_vec(), 16).collect() };
    assert_eq!(
        ranges(&[packet(0, 8, 8), packet(9, 8, 8), packet(0, 8, 8)]),
        [Ok(0..8), Err(IsoError::Bounds)]
    );
    assert_eq!(ranges(&[packet(0, 8, 9)]), [Err(IsoError::ActualLength)]);
    assert_eq!(
        ranges(&[packet(u32::MAX, u32::MAX, u32::MAX)]),
        [Err(IsoError::Bounds)]
    );
}

#[test]
fn submitted_packets_are_checked() {
    let ok = |packets: &[Packet]| check_submitted(packets.iter().copied(), 64);
    assert_eq!(ok(&[]), Err(IsoError::Count));
    assert_eq!(ok(&[packet(0, 64, u32::MAX)]), Ok(()));
    assert_eq!(ok(&[packet(64, 0, 0)]), Ok(()));
    assert_eq!(ok(&[packet(65, 0, 0)]), Err(IsoError::Bounds));
    assert_eq!(ok(&[packet(0, 65, 0)]), Err(IsoError::Bounds));
    assert_eq!(ok(&[packet(u32::MAX, 1, 0)]), Err(IsoError::Bounds));
    assert_eq!(ok(&[packet(32, 8, 0), packet(0, 40, 0)]), Ok(()));
    let most = vec![packet(0, 1, 0); MAX_ISO_PACKETS as usize];
    assert_eq!(ok(&most), Ok(()));
    assert_eq!(
        ok(&[most, vec![packet(0, 1, 0)]].concat()),
        Err(IsoError::Count)
    );
}

#[test]
fn a_reply_is_checked_against_the_request() {
    let mut check = ReplyCheck::new();
    let mut take = |submitted, actual_length, status| {
        let reply = Packet {
            offset: 77,
            length: 99,
            actual_length,
            status,
        };
        check
            .packet(submitted, &reply)
            .map(|(actual, status)| (actual, status.raw()))
    };
    assert_eq!(take(8, 8, 0), Ok((8, 0)));
    assert_eq!(take(8, 0, -18), Ok((0, -18)));
    assert_eq!(take(8, 4, -12345), Ok((4, -71)));
    assert_eq!(take(8, 9, 0), Err(IsoError::ActualLength));
    assert_eq!(check.finish(12), Ok(2));
    assert_eq!(check.finish(13), Err(IsoError::Sum));
    assert_eq!(check.finish(11), Err(IsoError::Sum));
}

#[test]
fn the_sum_of_a_reply_cannot_wrap() {
    let mut check = ReplyCheck::new();
    let huge = packet(0, 0, u32::MAX);
    assert!(check.packet(u32::MAX, &huge).is_ok());
    assert_eq!(check.packet(u32::MAX, &packet(0, 0, 1)), Err(IsoError::Sum));
}

/// Ascending packets that don't overlap, with gaps, and the size of their buffer.
fn layout() -> impl Strategy<Value = (Vec<Packet>, u32)> {
    (
        prop::collection::vec((0u32..9, 0u32..33, 0u32..34), 1..40),
        0u32..9,
    )
        .prop_map(|(list, tail)| {
            let mut offset = 0;
            let packets = list
                .into_iter()
                .map(|(gap, length, part)| {
                    offset += gap;
                    let packet = packet(offset, length, part.min(length));
                    offset += length;
                    packet
                })
                .collect();
            (packets, offset + tail)
        })
}

proptest! {
    #[test]
    fn descriptors_round_trip(bytes: [u8; 16]) {
        prop_assert_eq!(Packet::parse(&bytes).build(), bytes);
    }

    /// What a server compacts, a client puts back, byte for byte.
    #[test]
    fn compaction_and_expansion_are_inverse((packets, size) in layout(), in_place: bool) {
        let device: Vec<u8> = (0..size).map(|i| (i % 251) as u8 + 1).collect();
        let mut wire = Vec::new();
        for range in compact(packets.iter().copied(), size) {
            let range = range.unwrap();
            wire.extend(&device[range.start as usize..range.end as usize]);
        }
        let mut buffer = vec![0; size as usize];
        if in_place {
            buffer[..wire.len()].copy_from_slice(&wire);
        }
        for step in expand(packets.iter().copied(), wire.len() as u32, size, in_place) {
            let Move { from, to, len } = step.unwrap();
            let from = from as usize..(from + len) as usize;
            if in_place {
                buffer.copy_within(from, to as usize);
            } else {
                buffer[to as usize..(to + len) as usize].copy_from_slice(&wire[from]);
            }
        }
        for p in &packets {
            let range = p.offset as usize..(p.offset + p.actual_length) as usize;
            prop_assert_eq!(&buffer[range.clone()], &device[range]);
        }
    }

    /// Whatever the packets say, every range lies within its buffer.
    #[test]
    fn hostile_packets_stay_in_bounds(
        raw in prop::collection::vec(any::<[u8; 16]>(), 0..20),
        small in prop::collection::vec((0u32..40, 0u32..40, 0u32..40), 0..20),
        total in 0u32..100,
        buffer in 0u32..50,
        in_place: bool,
    ) {
        let mut packets: Vec<Packet> = raw.iter().map(Packet::parse).collect();
        packets.extend(small.into_iter().map(|(o, l, a)| packet(o, l, a)));
        for step in expand(packets.iter().copied(), total, buffer, in_place).flatten() {
            prop_assert!(u64::from(step.from) + u64::from(step.len) <= u64::from(total));
            prop_assert!(u64::from(step.to) + u64::from(step.len) <= u64::from(buffer));
        }
        for range in compact(packets, buffer).flatten() {
            prop_assert!(range.start <= range.end && range.end <= buffer);
        }
    }
}
