// SPDX-License-Identifier: GPL-2.0

//! What the host tests share.

#![forbid(unsafe_code)]

use usbip_protocol::ledger::client::{self, ClientLedger};
use usbip_protocol::ledger::server::{self, bucket_len, Bucket, Caps, ServerLedger};
use usbip_protocol::ledger::{ring_len, RingSlot};
use usbip_protocol::wire::{Direction, UrbMeta};

pub mod explore;
pub mod golden;
pub mod pcap;

/// A client ledger in heap memory.
pub type Client<T> = ClientLedger<T, Vec<client::Entry<T>>, Vec<RingSlot>>;

/// A server ledger in heap memory.
pub type Server<H, D> = ServerLedger<H, D, Vec<server::Entry<H, D>>, Vec<Bucket>>;

/// An empty client ledger whose next sequence number follows `last`.
pub fn client<T>(entries: usize, last: u32) -> Client<T> {
    let slots = (0..entries).map(|_| client::Entry::new()).collect();
    let ring = vec![RingSlot::new(); ring_len(entries).expect("a sane size")];
    ClientLedger::with_last_seqnum(slots, ring, last).expect("good storage")
}

/// An empty server ledger with room for `extra` replies beyond the requests.
pub fn server<H, D>(caps: Caps, extra: usize) -> Server<H, D> {
    let entries = caps.requests + extra;
    let slots = (0..entries).map(|_| server::Entry::new()).collect();
    let buckets = vec![Bucket::new(); bucket_len(entries).expect("a sane size")];
    ServerLedger::new(slots, buckets, caps, 0x9e37_79b9_7f4a_7c15).expect("good storage")
}

/// A bulk IN request of 64 bytes.
pub const IN: UrbMeta = UrbMeta {
    direction: Direction::In,
    iso_packets: 0,
    length: 64,
};
/// A bulk OUT request of 64 bytes.
pub const OUT: UrbMeta = UrbMeta {
    direction: Direction::Out,
    iso_packets: 0,
    length: 64,
};
/// An isochronous IN request of two packets.
pub const ISO: UrbMeta = UrbMeta {
    direction: Direction::In,
    iso_packets: 2,
    length: 64,
};

/// The bytes of a hexadecimal string; white space is ignored.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).expect("a hexadecimal digit"))
        .collect();
    assert!(digits.len() % 2 == 0, "half a byte");
    digits
        .chunks(2)
        .map(|pair| ((pair[0] << 4) | pair[1]) as u8)
        .collect()
}
