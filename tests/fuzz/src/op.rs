// SPDX-License-Identifier: GPL-2.0

//! The op phase.

use usbip_protocol::op::{self, Device, Interface, Op};

use crate::Input;

/// Reads one PDU of each kind.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let header = input.bytes();
    if let Ok(found) = op::parse_request(&header) {
        assert_eq!(op::request(found), header);
        match found {
            Op::Import => {
                let busid = op::parse_busid(&input.bytes());
                assert!(busid.as_bytes().len() < 32 && !busid.as_bytes().contains(&0));
                assert_eq!(op::import_request(busid)[..8], header);
            }
            Op::Export | Op::Unexport => {
                let device = Device::parse(&input.bytes());
                let built = match found {
                    Op::Export => op::export_request(&device),
                    _ => op::unexport_request(&device),
                };
                assert_eq!(built[..8], header);
                assert_eq!(built[8..], device.build());
            }
            _ => (),
        }
    } else if op::parse_reply(&header, Op::DevList).is_ok() {
        // As many as the input holds: what a reader may trust is the stream, not the number.
        let count = input.word();
        for _ in 0..count {
            if input.is_empty() {
                break;
            }
            let device = Device::parse(&input.bytes());
            assert_eq!(Device::parse(&device.build()), device);
            assert!(device.path.as_bytes().len() < 256);
            let _ = (device.devid(), format!("{device:?}"));
            for _ in 0..device.num_interfaces {
                let interface = Interface::parse(&input.bytes());
                assert_eq!(Interface::parse(&interface.build()), interface);
            }
        }
    }
}
