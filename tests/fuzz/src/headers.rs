// SPDX-License-Identifier: GPL-2.0

//! Headers of the URB phase: a request, and a reply to it.

use usbip_protocol::flags::{TransferFlags, TransferType};
use usbip_protocol::status::{Expect, Status};
use usbip_protocol::wire::{Command, HeaderBytes, Reply, UrbMeta};

use crate::Input;

/// Parses whatever comes, builds it again, and follows the lengths.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let iso = input.byte() & 1 != 0;
    let command: HeaderBytes = input.bytes();
    let reply: HeaderBytes = input.bytes();
    let mut urb = None;
    if let Ok(command) = Command::parse(&command) {
        assert_eq!(Command::parse(&command.build()), Ok(command));
        if let Command::Submit(cmd) = command {
            assert!(cmd.length <= i32::MAX as u32);
            assert!(cmd.endpoint().is_none_or(|ep| ep <= 15));
            check_flags(cmd.flags);
            if let Ok(body) = cmd.body(iso) {
                assert!(body.data == 0 || body.data == cmd.length);
                assert!(body.iso_packets <= 1024 && iso == (body.iso_packets != 0));
                urb = Some(UrbMeta {
                    direction: cmd.direction,
                    iso_packets: body.iso_packets,
                    length: cmd.length,
                });
            }
        }
    }
    if let Ok(reply) = Reply::parse(&reply) {
        assert_eq!(Reply::parse(&reply.build()), Ok(reply));
        if let (Reply::Submit(ret), Some(urb)) = (reply, urb) {
            if let Ok(body) = ret.body(urb) {
                assert!(body.data <= urb.length);
                assert!(
                    body.iso_packets == urb.iso_packets || (body.is_empty() && ret.status != 0)
                );
            }
            let status = Status::from_peer(
                ret.status,
                Expect::Urb {
                    iso,
                    unlinking: false,
                },
            );
            assert!((-121..=0).contains(&status.raw()));
            assert!(![-115, -104, -2].contains(&status.raw()));
        }
    }
}

fn check_flags(flags: TransferFlags) {
    for kind in [
        TransferType::Control,
        TransferType::Isochronous,
        TransferType::Bulk,
        TransferType::Interrupt,
    ] {
        for is_out in [false, true] {
            let kept = flags.for_endpoint(kind, is_out);
            assert_eq!(kept.wire() & !0x2c3, 0);
            assert_eq!(kept, kept.for_endpoint(kind, is_out));
        }
    }
}
