// SPDX-License-Identifier: GPL-2.0

//! Headers and records, whatever their bytes: what is parsed and built again is the same.

use proptest::prelude::*;
use usbip_protocol::flags::TransferFlags;
use usbip_protocol::limits::MAX_ISO_PACKETS;
use usbip_protocol::op::{self, Device, Interface, Op};
use usbip_protocol::wire::*;

fn bytes48() -> impl Strategy<Value = HeaderBytes> {
    // Random commands would rarely be valid ones.
    (
        prop::array::uniform32(any::<u8>()),
        prop::array::uniform16(any::<u8>()),
        0u32..6,
    )
        .prop_map(|(head, tail, command)| {
            let mut bytes = [0; HEADER_LEN];
            bytes[..32].copy_from_slice(&head);
            bytes[32..].copy_from_slice(&tail);
            bytes[..4].copy_from_slice(&command.to_be_bytes());
            bytes
        })
}

fn submit() -> impl Strategy<Value = CmdSubmit> {
    (
        any::<[u32; 4]>(),
        any::<bool>(),
        any::<[i32; 3]>(),
        any::<[u8; 8]>(),
        0..=i32::MAX as u32,
    )
        .prop_map(
            |(
                [seqnum, devid, ep, flags],
                input,
                [start_frame, packets, interval],
                setup,
                length,
            )| {
                CmdSubmit {
                    seqnum,
                    devid,
                    direction: if input { Direction::In } else { Direction::Out },
                    ep,
                    flags: TransferFlags::from_wire(flags),
                    length,
                    start_frame,
                    number_of_packets: packets,
                    interval,
                    setup,
                }
            },
        )
}

proptest! {
    #[test]
    fn commands_round_trip(cmd in submit(), unlink: [u32; 3]) {
        let command = Command::Submit(cmd);
        prop_assert_eq!(Command::parse(&command.build()), Ok(command));
        let [seqnum, devid, victim] = unlink;
        let command = Command::Unlink(CmdUnlink { seqnum, devid, victim });
        prop_assert_eq!(Command::parse(&command.build()), Ok(command));
    }

    #[test]
    fn replies_round_trip(seqnum: u32, words: [i32; 5]) {
        let [status, actual_length, start_frame, number_of_packets, error_count] = words;
        let reply = Reply::Submit(RetSubmit {
            seqnum, status, actual_length, start_frame, number_of_packets, error_count,
        });
        prop_assert_eq!(Reply::parse(&reply.build()), Ok(reply));
        let reply = Reply::Unlink(RetUnlink { seqnum, status });
        prop_assert_eq!(Reply::parse(&reply.build()), Ok(reply));
    }

    /// Exactly the four commands are accepted, each by one end.
    #[test]
    fn any_header_is_parsed_or_refused(bytes in bytes48()) {
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        match Command::parse(&bytes) {
            Ok(command) => {
                prop_assert!(matches!(word(0), 1 | 2));
                prop_assert_eq!(Command::parse(&command.build()), Ok(command));
                if let Command::Submit(cmd) = command {
                    prop_assert_eq!(cmd.build(), bytes);
                }
            }
            Err(FrameError::Command(other)) => prop_assert!(!matches!(other, 1 | 2)),
            Err(FrameError::Direction(other)) => prop_assert!(other == word(12) && other > 1),
            Err(FrameError::Length(other)) => prop_assert!(other == word(24) as i32 && other < 0),
        }
        match Reply::parse(&bytes) {
            Ok(reply) => {
                prop_assert!(matches!(word(0), 3 | 4));
                prop_assert_eq!(Reply::parse(&reply.build()), Ok(reply));
            }
            Err(error) => {
                prop_assert_eq!(error, FrameError::Command(word(0)));
                prop_assert!(!matches!(word(0), 3 | 4));
            }
        }
    }

    /// What a server reads behind a request, and the endpoints that it looks for.
    #[test]
    fn requests_say_what_follows(mut cmd in submit(), iso: bool, near: bool, count in -2i32..1030) {
        if near {
            cmd.number_of_packets = count;
            cmd.ep &= 0x1f;
        }
        let packets = u32::try_from(cmd.number_of_packets)
            .ok()
            .filter(|n| (1..=MAX_ISO_PACKETS).contains(n));
        let data = if cmd.direction == Direction::Out { cmd.length } else { 0 };
        let expected = match (iso, packets) {
            (false, _) => Ok((data, 0)),
            (true, Some(packets)) => Ok((data, packets)),
            (true, None) => Err(BodyError::PacketCount(cmd.number_of_packets)),
        };
        let body = cmd.body(iso);
        prop_assert_eq!(body.map(|body| (body.data, body.iso_packets)), expected);
        if let Ok(body) = body {
            prop_assert_eq!(body.total(), u64::from(data) + 16 * u64::from(body.iso_packets));
            prop_assert_eq!(body.is_empty(), body.total() == 0);
        }
        prop_assert_eq!(cmd.endpoint().map(u32::from), (cmd.ep <= 15).then_some(cmd.ep));
    }

    /// Whatever a reply says, no more is read than the request has room for.
    #[test]
    fn bodies_are_bounded(
        words: [i32; 5], input: bool, iso_packets in 0u32..5, length in 0u32..100, small: bool,
    ) {
        let [status, mut actual_length, start_frame, mut number_of_packets, error_count] = words;
        if small {
            actual_length %= 120;
            number_of_packets %= 6;
        }
        let direction = if input { Direction::In } else { Direction::Out };
        let urb = UrbMeta { direction, iso_packets, length };
        let ret = RetSubmit {
            seqnum: 1, status, actual_length, start_frame, number_of_packets, error_count,
        };
        if let Ok(body) = ret.body(urb) {
            prop_assert!(body.data <= length);
            prop_assert!(body.iso_packets == iso_packets || (body.is_empty() && status != 0));
            prop_assert!(input || body.data == 0);
        }
    }

    #[test]
    fn devices_round_trip(bytes in prop::collection::vec(any::<u8>(), op::DEVICE_LEN)) {
        let bytes: [u8; op::DEVICE_LEN] = bytes.try_into().unwrap();
        prop_assert_eq!(Device::parse(&bytes).build(), bytes);
    }

    #[test]
    fn interfaces_lose_their_padding(bytes: [u8; 4]) {
        let built = Interface::parse(&bytes).build();
        prop_assert_eq!(&built[..3], &bytes[..3]);
        prop_assert_eq!(built[3], 0);
    }

    #[test]
    fn op_headers_are_parsed_or_refused(bytes: [u8; 8]) {
        if let Ok(found) = op::parse_request(&bytes) {
            prop_assert_eq!(op::request(found), bytes);
        }
        if let Ok(status) = op::parse_reply(&bytes, Op::Import) {
            prop_assert_eq!(&op::reply(Op::Import, status)[..4], &bytes[..4]);
        }
    }
}
