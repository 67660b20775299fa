// SPDX-License-Identifier: GPL-2.0

//! Replies as they leave a server.
//!
//! C counterparts: `stub_tx.c` and `vudc_tx.c`.

use super::Outcome;
use crate::down::Down;
use crate::outbox::Sender;
use crate::stats::Stats;
use kernel_ext::time;
use usbip_protocol::iso::{Packet, DESCRIPTOR_LEN};
use usbip_protocol::ledger::server::{Failure, TxKind, TxReply};
use usbip_protocol::wire::{RetSubmit, RetUnlink, HEADER_LEN};

/// Up to how many bytes a payload is copied into the gathering buffer, so that it is sent together
/// with others.
pub(super) const SMALL: u32 = 4096;

/// The same of a reply that is sent alone: to copy so many bytes takes less than to send from one more
/// place.
pub(super) const ALONE: u32 = 512;

/// Gathers a reply; a payload of more than `small` bytes, at most [`SMALL`], is sent at once, with what
/// was gathered before.
pub(super) fn send<D: Outcome>(
    reply: &TxReply<D>,
    small: u32,
    sender: &mut Sender<'_>,
    stats: &Stats,
) -> Result<(), Down> {
    let seqnum = reply.seqnum;
    if sender.outbox().room() < HEADER_LEN + SMALL as usize {
        sender.flush()?;
    }
    let status = match &reply.kind {
        TxKind::Submit(done) => {
            let ret = done.ret(seqnum);
            result(&ret, done, small, sender)?;
            stats.round_trip(time::now_ns().saturating_sub(done.accepted_ns()));
            ret.status
        }
        TxKind::Refused(failed) => {
            failure(seqnum, *failed, sender)?;
            failed.status
        }
        TxKind::Unlinked(done) => return unlinked(seqnum, done.ret(seqnum).status, sender),
        TxKind::Unlink(status) => return unlinked(seqnum, *status, sender),
    };
    if status != 0 {
        Stats::count(&stats.errors);
    }
    Ok(())
}

fn unlinked(seqnum: u32, status: i32, sender: &mut Sender<'_>) -> Result<(), Down> {
    sender.outbox().push(&RetUnlink { seqnum, status }.build())
}

/// Gathers the RET_SUBMIT of a request that was not carried out, with a descriptor for each of its
/// packets: without them the client would take what comes next for descriptors, or give up.
fn failure(seqnum: u32, failure: Failure, sender: &mut Sender<'_>) -> Result<(), Down> {
    // CAST: At most `MAX_ISO_PACKETS`.
    let packets = failure.iso_packets as i32;
    let ret = RetSubmit {
        seqnum,
        status: failure.status,
        number_of_packets: packets,
        error_count: packets,
        ..RetSubmit::default()
    };
    sender.outbox().push(&ret.build())?;
    let packet = Packet {
        offset: 0,
        length: 0,
        actual_length: 0,
        status: failure.status,
    };
    for _ in 0..failure.iso_packets {
        descriptor(&packet, sender)?;
    }
    Ok(())
}

/// Gathers an isochronous descriptor.
fn descriptor(packet: &Packet, sender: &mut Sender<'_>) -> Result<(), Down> {
    if sender.outbox().room() < DESCRIPTOR_LEN {
        sender.flush()?;
    }
    sender.outbox().push(&packet.build())
}

/// Gathers or sends a RET_SUBMIT with what the device has sent.
fn result<D: Outcome>(
    ret: &RetSubmit,
    done: &D,
    small: u32,
    sender: &mut Sender<'_>,
) -> Result<(), Down> {
    sender.outbox().push(&ret.build())?;
    if done.iso_packets() > 0 {
        return packets(done, sender);
    }
    let actual = u32::try_from(ret.actual_length).unwrap_or(0);
    if !done.is_in() || actual == 0 {
        return Ok(());
    }
    if actual <= small {
        // There is room for that much; see `send`.
        return sender.outbox().push_with(actual as usize, |to| {
            done.buffer().read(0, to);
        });
    }
    match done.buffer().page_slices(0, actual) {
        // The pages are not written to again before nobody refers to them any more.
        Some(pages) => sender.flush_with_pages(pages),
        None => sender.flush_with(done.buffer().slices(0, actual), false),
    }
}

/// Sends what follows the header of an isochronous request: the data of its packets without the gaps
/// between them, then their descriptors.
fn packets<D: Outcome>(done: &D, sender: &mut Sender<'_>) -> Result<(), Down> {
    let packets = || (0..done.iso_packets()).map_while(|index| done.packet(index));
    if done.is_in() {
        let slices = packets().flat_map(|packet| {
            let end = packet.offset.saturating_add(packet.actual_length);
            done.buffer().slices(packet.offset, end)
        });
        sender.flush_with(slices, true)?;
    }
    for packet in packets() {
        descriptor(&packet, sender)?;
    }
    Ok(())
}
