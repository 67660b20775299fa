// SPDX-License-Identifier: GPL-2.0

//! How a transfer of the host and a request of the device meet on an endpoint, in packets.
//!
//! C counterpart: `transfer()` of `vudc_transfer.c`. For every type but isochronous.
//!
//! Data goes in packets of the endpoint's size. A packet that is shorter, or empty, ends both the
//! transfer and the request, also where more was asked for; so does on the receiving side that
//! nothing more fits. A sender whose data ends with a full packet may want an empty one to follow.

use crate::status::errno;

/// What is left of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Half {
    /// Bytes to send, or room for them. A sender with none is about to send an empty packet.
    pub left: u32,
    /// Whether an empty packet is to follow data that ends with a full one: `URB_ZERO_PACKET`,
    /// `usb_request::zero`. Means nothing on the receiving side.
    pub zero: bool,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes that move.
    pub len: u32,
    /// The status with which the host's transfer ends, if it does.
    pub host: Option<i32>,
    /// The status with which the device's request ends, if it does.
    pub device: Option<i32>,
}

/// The next step of a transfer and a request that are both first on their endpoint.
///
/// `max_packet` is the size of a packet; a step moves whole packets up to `limit` bytes, but at
/// least one packet. A sender whose packet does not fit ends with 0, and the receiver with
/// `-EOVERFLOW`, as with real hardware that has no way to tell the sender.
pub fn step(host: Half, device: Half, to_host: bool, max_packet: u32, limit: u32) -> Step {
    let (from, to) = if to_host {
        (device, host)
    } else {
        (host, device)
    };
    let max_packet = max_packet.max(1);
    let is_whole = |len: u32| len != 0 && len.checked_rem(max_packet) == Some(0);
    let len = from.left.min(to.left);
    let (len, sender, receiver) = if len > limit.max(max_packet) {
        let limit = limit.max(max_packet);
        let rest = limit.checked_rem(max_packet).unwrap_or(0);
        (limit.saturating_sub(rest), None, None)
    } else if from.left > to.left {
        if is_whole(to.left) {
            (len, None, Some(0))
        } else {
            (len, Some(0), Some(-errno::EOVERFLOW))
        }
    } else if !is_whole(len) {
        (len, Some(0), Some(0))
    } else {
        let sender = if from.zero { None } else { Some(0) };
        let receiver = if to.left == len { Some(0) } else { None };
        (len, sender, receiver)
    };
    let (host, device) = if to_host {
        (receiver, sender)
    } else {
        (sender, receiver)
    };
    Step { len, host, device }
}
