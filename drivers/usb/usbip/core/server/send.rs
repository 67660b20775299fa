// SPDX-License-Identifier: GPL-2.0

//! Replies as they leave a server.
//!
//! C counterparts: `stub_tx.c` and `vudc_tx.c`.

use super::{Outcome, EASY};
use crate::down::Down;
use crate::outbox::{Message, Outbox};
use crate::stats::Stats;
use kernel_ext::time;
use usbip_protocol::iso::{Packet, DESCRIPTOR_LEN};
use usbip_protocol::ledger::server::{Failure, TxKind, TxReply};
use usbip_protocol::wire::{RetSubmit, RetUnlink, HEADER_LEN};

/// Up to how many bytes a payload is copied into the gathering buffer by whoever cannot keep replies
/// until they are sent.
const SMALL: u32 = 4096;

/// Up to so many bytes are copied in any case: that takes less than to send from one more place.
const COPIED: u32 = 1024;

/// Adds a reply to a message; what is large is sent at once, with what was added before. `is_alone`: no
/// other reply goes out with it. May sleep.
pub(super) fn send<'p, D: Outcome>(
    reply: &'p TxReply<D>,
    is_alone: bool,
    message: &mut Message<'_, '_, 'p>,
    stats: &Stats,
) -> Result<(), Down> {
    let long = match &reply.kind {
        TxKind::Submit(done) => {
            Some((done, payload(done))).filter(|(_, len)| len.is_none_or(|len| len > COPIED))
        }
        _ => None,
    };
    // How many bytes are added to the message from where they are: if they are in one piece, and not so
    // many that there is no room for them.
    let attached = long
        .filter(|(done, _)| !is_alone && done.buffer().is_linear())
        .and_then(|(_, len)| len.filter(|len| *len <= EASY))
        .unwrap_or(0);
    message.make_room(HEADER_LEN + COPIED as usize, attached as usize)?;
    let Some((done, _)) = long else {
        return match &reply.kind {
            TxKind::Refused(failed) => refused(reply.seqnum, *failed, message, stats),
            _ => gather(reply, message.outbox(), stats),
        };
    };
    let ret = done.ret(reply.seqnum);
    message.outbox().push(&ret.build())?;
    if attached > 0 {
        for slice in done.buffer().slices(0, attached) {
            message.push_payload(slice)?;
        }
    } else {
        large(&ret, done, message)?;
    }
    submitted(done, ret.status, stats);
    Ok(())
}

/// Room in the outbox for a reply with a small payload.
const ROOM: usize = HEADER_LEN + SMALL as usize;

/// Whether [`gather`] does for a reply, and there is room for it.
pub(super) fn fits<D: Outcome>(kind: &TxKind<D>, outbox: &Outbox) -> bool {
    let is_small = match kind {
        TxKind::Submit(done) => payload(done).is_some_and(|len| len <= SMALL),
        TxKind::Refused(failed) => failed.iso_packets == 0,
        TxKind::Unlinked(_) | TxKind::Unlink(_) => true,
    };
    is_small && outbox.room() >= ROOM
}

/// How many bytes follow the header of a RET_SUBMIT; `None` if it is isochronous.
fn payload<D: Outcome>(done: &D) -> Option<u32> {
    match (done.iso_packets(), done.is_in()) {
        (0, true) => Some(u32::try_from(done.ret(0).actual_length).unwrap_or(0)),
        (0, false) => Some(0),
        _ => None,
    }
}

/// Gathers a reply that [`fits`]. Any context.
pub(super) fn gather<D: Outcome>(
    reply: &TxReply<D>,
    outbox: &mut Outbox,
    stats: &Stats,
) -> Result<(), Down> {
    let seqnum = reply.seqnum;
    match &reply.kind {
        TxKind::Submit(done) => {
            let ret = done.ret(seqnum);
            outbox.push(&ret.build())?;
            let len = payload(done).unwrap_or(0) as usize;
            outbox.push_with(len, |to| {
                done.buffer().read(0, to);
            })?;
            submitted(done, ret.status, stats);
            Ok(())
        }
        TxKind::Refused(failed) => {
            outbox.push(&ret_of(seqnum, *failed).build())?;
            count_error(failed.status, stats);
            Ok(())
        }
        TxKind::Unlinked(done) => unlinked(seqnum, done.ret(seqnum).status, outbox),
        TxKind::Unlink(status) => unlinked(seqnum, *status, outbox),
    }
}

/// Counts a request that was carried out.
fn submitted<D: Outcome>(done: &D, status: i32, stats: &Stats) {
    stats.round_trip(time::now_ns().saturating_sub(done.accepted_ns()));
    count_error(status, stats);
}

fn count_error(status: i32, stats: &Stats) {
    if status != 0 {
        Stats::count(&stats.errors);
    }
}

fn unlinked(seqnum: u32, status: i32, outbox: &mut Outbox) -> Result<(), Down> {
    outbox.push(&RetUnlink { seqnum, status }.build())
}

/// The RET_SUBMIT of a request that was not carried out.
fn ret_of(seqnum: u32, failure: Failure) -> RetSubmit {
    // CAST: At most `MAX_ISO_PACKETS`.
    let packets = failure.iso_packets as i32;
    RetSubmit {
        seqnum,
        status: failure.status,
        number_of_packets: packets,
        error_count: packets,
        ..RetSubmit::default()
    }
}

/// Gathers the RET_SUBMIT of a request that was not carried out, with a descriptor for each of its
/// packets: without them the client would take what comes next for descriptors, or give up.
fn refused(
    seqnum: u32,
    failure: Failure,
    message: &mut Message<'_, '_, '_>,
    stats: &Stats,
) -> Result<(), Down> {
    message.outbox().push(&ret_of(seqnum, failure).build())?;
    let packet = Packet {
        offset: 0,
        length: 0,
        actual_length: 0,
        status: failure.status,
    };
    for _ in 0..failure.iso_packets {
        descriptor(&packet, message)?;
    }
    count_error(failure.status, stats);
    Ok(())
}

/// Gathers an isochronous descriptor.
fn descriptor(packet: &Packet, message: &mut Message<'_, '_, '_>) -> Result<(), Down> {
    message.make_room(DESCRIPTOR_LEN, 0)?;
    message.outbox().push(&packet.build())
}

/// Sends what follows the header of a RET_SUBMIT, which was gathered.
fn large<D: Outcome>(
    ret: &RetSubmit,
    done: &D,
    message: &mut Message<'_, '_, '_>,
) -> Result<(), Down> {
    if done.iso_packets() > 0 {
        return packets(done, message);
    }
    let actual = u32::try_from(ret.actual_length).unwrap_or(0);
    match done.buffer().page_slices(0, actual) {
        // The pages are not written to again before nobody refers to them any more.
        Some(pages) => message.flush_with_pages(pages),
        None => message.flush_with(done.buffer().slices(0, actual), false),
    }
}

/// Sends what follows the header of an isochronous request: the data of its packets without the gaps
/// between them, then their descriptors.
fn packets<D: Outcome>(done: &D, message: &mut Message<'_, '_, '_>) -> Result<(), Down> {
    let packets = || (0..done.iso_packets()).map_while(|index| done.packet(index));
    if done.is_in() {
        let slices = packets().flat_map(|packet| {
            let end = packet.offset.saturating_add(packet.actual_length);
            done.buffer().slices(packet.offset, end)
        });
        message.flush_with(slices, true)?;
    }
    for packet in packets() {
        descriptor(&packet, message)?;
    }
    Ok(())
}
