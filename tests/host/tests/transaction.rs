// SPDX-License-Identifier: GPL-2.0

//! Transfers and requests that meet, against a model that moves one packet at a time.

use proptest::prelude::*;
use usbip_protocol::status::errno::EOVERFLOW;
use usbip_protocol::transaction::{step, Half, Step};

fn half(left: u32, zero: bool) -> Half {
    Half { left, zero }
}

/// Packet by packet, until one of the two ends: bytes, status of the sender, of the receiver.
fn model(mut from: Half, mut to: Half, max_packet: u32) -> (u32, Option<i32>, Option<i32>) {
    let mut moved = 0;
    loop {
        let packet = from.left.min(max_packet);
        if packet > to.left {
            return (moved + to.left, Some(0), Some(-EOVERFLOW));
        }
        moved += packet;
        from.left -= packet;
        to.left -= packet;
        if packet < max_packet {
            return (moved, Some(0), Some(0));
        }
        let sender = (from.left == 0 && !from.zero).then_some(0);
        let receiver = (to.left == 0).then_some(0);
        if sender.is_some() || receiver.is_some() {
            return (moved, sender, receiver);
        }
    }
}

/// The same in steps.
fn steps(
    mut host: Half,
    mut device: Half,
    to_host: bool,
    max_packet: u32,
    limit: u32,
) -> (u32, Option<i32>, Option<i32>) {
    let mut moved = 0;
    loop {
        let Step {
            len,
            host: host_ends,
            device: device_ends,
        } = step(host, device, to_host, max_packet, limit);
        assert!(len <= host.left.min(device.left));
        assert!(len <= limit.max(max_packet));
        moved += len;
        host.left -= len;
        device.left -= len;
        if host_ends.is_some() || device_ends.is_some() {
            return if to_host {
                (moved, device_ends, host_ends)
            } else {
                (moved, host_ends, device_ends)
            };
        }
        // Something has to happen, and the packets have to stay in step.
        assert!(len > 0 && len % max_packet == 0 || from_is_empty(host, device, to_host));
    }
}

fn from_is_empty(host: Half, device: Half, to_host: bool) -> bool {
    (if to_host { device } else { host }).left == 0
}

proptest! {
    #[test]
    fn steps_are_packets(
        from in 0u32..5000,
        to in 0u32..5000,
        zero: bool,
        to_host: bool,
        max_packet in prop::sample::select(vec![1u32, 8, 64, 512, 1000, 1024]),
        limit in 0u32..6000,
    ) {
        let (host, device) = if to_host {
            (half(to, false), half(from, zero))
        } else {
            (half(from, zero), half(to, false))
        };
        prop_assert_eq!(
            steps(host, device, to_host, max_packet, limit),
            model(half(from, zero), half(to, false), max_packet)
        );
    }

    #[test]
    fn nothing_a_peer_or_driver_says_breaks_it(
        host: u32, host_zero: bool, device: u32, device_zero: bool, to_host: bool,
        max_packet: u32, limit: u32,
    ) {
        let done = step(
            half(host, host_zero), half(device, device_zero), to_host, max_packet, limit,
        );
        prop_assert!(done.len <= host.min(device));
    }
}

#[test]
fn a_short_packet_ends_both() {
    let done = step(half(1024, false), half(100, false), true, 512, 4096);
    assert_eq!(
        done,
        Step {
            len: 100,
            host: Some(0),
            device: Some(0)
        }
    );
    let done = step(half(100, false), half(1024, false), false, 512, 4096);
    assert_eq!(
        done,
        Step {
            len: 100,
            host: Some(0),
            device: Some(0)
        }
    );
}

#[test]
fn full_packets_end_who_has_nothing_left() {
    let done = step(half(1024, false), half(512, false), true, 512, 4096);
    assert_eq!(
        done,
        Step {
            len: 512,
            host: None,
            device: Some(0)
        }
    );
    let done = step(half(512, false), half(1024, false), true, 512, 4096);
    assert_eq!(
        done,
        Step {
            len: 512,
            host: Some(0),
            device: None
        }
    );
    let done = step(half(512, false), half(512, false), true, 512, 4096);
    assert_eq!(
        done,
        Step {
            len: 512,
            host: Some(0),
            device: Some(0)
        }
    );
}

#[test]
fn an_empty_packet_follows_where_it_is_wanted() {
    let done = step(half(1024, false), half(512, true), true, 512, 4096);
    assert_eq!(
        done,
        Step {
            len: 512,
            host: None,
            device: None
        }
    );
    let done = step(half(512, false), half(0, true), true, 512, 4096);
    assert_eq!(
        done,
        Step {
            len: 0,
            host: Some(0),
            device: Some(0)
        }
    );
    // It is the next transfer's if this one is full.
    let done = step(half(512, false), half(512, true), true, 512, 4096);
    assert_eq!(
        done,
        Step {
            len: 512,
            host: Some(0),
            device: None
        }
    );
    let done = step(half(512, true), half(2048, false), false, 512, 4096);
    assert_eq!(
        done,
        Step {
            len: 512,
            host: None,
            device: None
        }
    );
}

#[test]
fn a_packet_that_does_not_fit_is_an_overflow_of_the_receiver() {
    let done = step(half(100, false), half(512, false), true, 512, 4096);
    assert_eq!(
        done,
        Step {
            len: 100,
            host: Some(-EOVERFLOW),
            device: Some(0)
        }
    );
    let done = step(half(512, false), half(100, false), false, 512, 4096);
    assert_eq!(
        done,
        Step {
            len: 100,
            host: Some(0),
            device: Some(-EOVERFLOW)
        }
    );
    let done = step(half(0, false), half(1, false), true, 512, 4096);
    assert_eq!(
        done,
        Step {
            len: 0,
            host: Some(-EOVERFLOW),
            device: Some(0)
        }
    );
}
