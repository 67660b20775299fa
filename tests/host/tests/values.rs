// SPDX-License-Identifier: GPL-2.0

//! Transfer flags, status codes, speeds, lengths.

use usbip_protocol::flags::{Flag, TransferFlags, TransferType};
use usbip_protocol::speed::{PortStatus, Speed};
use usbip_protocol::status::{Expect, Status};
use usbip_protocol::wire::{Body, BodyError, Direction, RetSubmit, UrbMeta};

/// The kernel's bits, deliberately not the wire's, so that a mapping that only copies is noticed.
fn local(flag: Flag) -> u32 {
    match flag {
        Flag::ShortNotOk => 1 << 20,
        Flag::IsoAsap => 1 << 3,
        Flag::ZeroPacket => 1 << 5,
        Flag::NoInterrupt => 1 << 31,
        Flag::DirIn => 1,
    }
}

#[test]
fn flags_have_the_values_of_the_uapi_header() {
    for (flag, bit) in [
        (Flag::ShortNotOk, 0x1),
        (Flag::IsoAsap, 0x2),
        (Flag::ZeroPacket, 0x40),
        (Flag::NoInterrupt, 0x80),
        (Flag::DirIn, 0x200),
    ] {
        assert_eq!(
            TransferFlags::from_local(local(flag), false, local).wire(),
            bit
        );
        assert_eq!(TransferFlags::from_wire(bit).to_local(local), local(flag));
        assert!(TransferFlags::from_wire(!bit).without(flag) == TransferFlags::from_wire(!bit));
        assert!(!TransferFlags::from_wire(!bit).has(flag));
        assert_eq!(TransferFlags::NONE.with(flag).wire(), bit);
    }
}

#[test]
fn a_client_sends_nothing_else() {
    let all = TransferFlags::from_local(u32::MAX, false, local);
    assert_eq!(all.wire(), 0x2c3);
    let scattered = TransferFlags::from_local(u32::MAX, true, local);
    assert_eq!(scattered.wire(), 0x402c3);
    assert!(scattered.wants_scatter_list());
    assert!(!all.wants_scatter_list());
    // Bits that only the local machine knows.
    let other = !Flag::ALL
        .into_iter()
        .fold(0, |bits, flag| bits | local(flag));
    assert_eq!(
        TransferFlags::from_local(other, false, local),
        TransferFlags::NONE
    );
}

#[test]
fn observed_flag_words() {
    use Flag::*;
    let word = |flags: &[Flag], sg| {
        TransferFlags::from_local(flags.iter().fold(0, |b, &f| b | local(f)), sg, local).wire()
    };
    assert_eq!(word(&[DirIn], false), 0x200);
    assert_eq!(word(&[], false), 0);
    assert_eq!(word(&[ZeroPacket], false), 0x40);
    assert_eq!(word(&[ShortNotOk, DirIn], false), 0x201);
    assert_eq!(word(&[DirIn], true), 0x40200);
    assert_eq!(word(&[], true), 0x40000);
    assert_eq!(word(&[IsoAsap], false), 2);
    assert_eq!(word(&[IsoAsap, DirIn], false), 0x202);
}

#[test]
fn a_server_keeps_what_usbcore_accepts() {
    use TransferType::*;
    let everything = TransferFlags::from_wire(u32::MAX);
    for (kind, is_out, kept) in [
        (Control, true, 0x80),
        (Control, false, 0x281),
        (Bulk, true, 0xc0),
        (Bulk, false, 0x281),
        (Interrupt, true, 0xc0),
        (Interrupt, false, 0x281),
        (Isochronous, true, 0x82),
        (Isochronous, false, 0x282),
    ] {
        assert_eq!(
            everything.for_endpoint(kind, is_out).wire(),
            kept,
            "{kind:?} out {is_out}"
        );
        let least = if is_out { 0 } else { 0x200 };
        assert_eq!(TransferFlags::NONE.for_endpoint(kind, is_out).wire(), least);
    }
}

#[test]
fn unknown_bits_vanish_towards_a_urb() {
    let all = Flag::ALL
        .into_iter()
        .fold(0, |bits, flag| bits | local(flag));
    assert_eq!(TransferFlags::from_wire(u32::MAX).to_local(local), all);
    assert_eq!(TransferFlags::from_wire(!0x2c3).to_local(local), 0);
}

#[test]
fn status_whitelist_is_exact() {
    let always = [0, -32, -71, -84, -75, -121, -70, -63, -62, -110, -19, -108];
    let cases = [
        (
            Expect::Urb {
                iso: false,
                unlinking: false,
            },
            &[][..],
        ),
        (
            Expect::Urb {
                iso: true,
                unlinking: false,
            },
            &[-18][..],
        ),
        (
            Expect::Urb {
                iso: false,
                unlinking: true,
            },
            &[-104, -2][..],
        ),
        (
            Expect::Urb {
                iso: true,
                unlinking: true,
            },
            &[-18, -104, -2][..],
        ),
        (Expect::Packet, &[-18][..]),
    ];
    for (expect, more) in cases {
        for raw in (-5000..5000).chain([i32::MIN, i32::MIN + 1, i32::MAX]) {
            let passes = always.contains(&raw) || more.contains(&raw);
            let shown = if passes { raw } else { -71 };
            assert_eq!(
                Status::from_peer(raw, expect).raw(),
                shown,
                "{raw} as {expect:?}"
            );
        }
    }
}

#[test]
fn speeds_and_port_states() {
    let speeds: Vec<_> = (0..7).map(|raw| Speed::from_raw(raw).unwrap()).collect();
    assert_eq!(
        speeds.iter().map(|s| s.raw()).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4, 5, 6]
    );
    assert_eq!(Speed::from_raw(7), None);
    assert_eq!(Speed::from_raw(u32::MAX), None);
    assert_eq!(speeds.iter().filter(|s| s.is_super()).count(), 2);
    assert!(!Speed::Unknown.is_attachable());
    assert!(speeds[1..].iter().all(|s| s.is_attachable()));
    for raw in 1..8 {
        assert_eq!(PortStatus::from_raw(raw).unwrap().raw(), raw);
    }
    assert_eq!(PortStatus::from_raw(0), None);
    assert_eq!(PortStatus::from_raw(8), None);
    assert_eq!(PortStatus::PortFree.raw(), 4);
    assert_eq!(PortStatus::PortUsed.raw(), 6);
}

fn ret(actual_length: i32, number_of_packets: i32) -> RetSubmit {
    RetSubmit {
        seqnum: 1,
        status: 0,
        actual_length,
        start_frame: 0,
        number_of_packets,
        error_count: 0,
    }
}

#[test]
fn the_body_of_a_reply_is_bounded_by_the_request() {
    let urb = |direction, iso_packets| UrbMeta {
        direction,
        iso_packets,
        length: 100,
    };
    let data = |data, iso_packets| Ok(Body { data, iso_packets });
    use Direction::{In, Out};
    assert_eq!(ret(0, 0).body(urb(In, 0)), Ok(Body::NONE));
    assert_eq!(ret(100, 0).body(urb(In, 0)), data(100, 0));
    assert_eq!(ret(100, 0).body(urb(Out, 0)), data(0, 0));
    for bad in [101, i32::MAX, -1, i32::MIN] {
        for direction in [In, Out] {
            for packets in [0, 4] {
                let ret = ret(bad, packets as i32);
                assert_eq!(
                    ret.body(urb(direction, packets)),
                    Err(BodyError::ActualLength(bad))
                );
            }
        }
    }
    for junk in [0, -1, 5, 1024, i32::MAX, i32::MIN] {
        assert_eq!(ret(7, junk).body(urb(In, 0)), data(7, 0));
    }
    assert_eq!(ret(7, 4).body(urb(In, 4)), data(7, 4));
    assert_eq!(ret(7, 4).body(urb(Out, 4)), data(0, 4));
    for bad in [0, -1, 3, 5, i32::MAX, i32::MIN] {
        assert_eq!(
            ret(7, bad).body(urb(In, 4)),
            Err(BodyError::PacketCount(bad))
        );
    }
    // Failed as a whole: no data, and no packets.
    let failed = |actual, packets| RetSubmit {
        status: -2,
        ..ret(actual, packets)
    };
    for direction in [In, Out] {
        let urb = urb(direction, 4);
        assert_eq!(failed(0, 0).body(urb), Ok(Body::NONE));
        assert_eq!(failed(0, 4).body(urb), data(0, 4));
        assert_eq!(ret(0, 0).body(urb), Err(BodyError::PacketCount(0)));
        assert_eq!(failed(1, 0).body(urb), Err(BodyError::PacketCount(0)));
        for bad in [-1, 1, 3, 5] {
            assert_eq!(failed(0, bad).body(urb), Err(BodyError::PacketCount(bad)));
        }
    }
    assert_eq!(
        Body {
            data: u32::MAX,
            iso_packets: u32::MAX
        }
        .total(),
        17 * 0xffff_ffff
    );
}

#[test]
fn the_packet_count_of_a_request_is_bounded() {
    use usbip_host_tests::golden::SUBMIT;
    use usbip_protocol::wire::CmdSubmit;
    let iso = |number_of_packets| {
        CmdSubmit {
            number_of_packets,
            ..SUBMIT
        }
        .body(true)
    };
    assert_eq!(iso(1).map(|b| b.iso_packets), Ok(1));
    assert_eq!(iso(1024).map(|b| b.iso_packets), Ok(1024));
    for bad in [0, -1, 1025, i32::MAX, i32::MIN] {
        assert_eq!(iso(bad), Err(BodyError::PacketCount(bad)));
        let other = CmdSubmit {
            number_of_packets: bad,
            ..SUBMIT
        }
        .body(false);
        assert_eq!(other, Ok(Body::NONE));
    }
}
