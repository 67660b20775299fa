// SPDX-License-Identifier: GPL-2.0

//! The client's end of the protocol: sends the URBs of a port and takes their replies.
//!
//! C counterpart: `vhci_tx.c` and `vhci_rx.c`. Which PDU may follow which is the business of the
//! ledger; here its answers are carried out.

use crate::hub::Poll;
use crate::port::{direction, Ledger, Link, Pending, Port};
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use kernel_ext::net::peer::Peer;
use kernel_ext::net::tap::Bytes;
use kernel_ext::prelude::*;
use kernel_ext::time;
use kernel_ext::usb::urb::{Finished, Flags, Lent, Linked};
use usbip_core::connection::{Connection, End, Side, MOST_DIRECT};
use usbip_core::down::Down;
use usbip_core::inbox::Inbox;
use usbip_core::outbox::{Outbox, Sender};
use usbip_core::stats::Stats;
use usbip_core::usbip_dbg;
use usbip_protocol::flags::{Flag, TransferFlags};
use usbip_protocol::iso::{DescriptorBytes, Packet, ReplyCheck, DESCRIPTOR_LEN};
use usbip_protocol::ledger::client::{AfterSend, NextTx, RetSubmit, RetUnlink, TxItem};
use usbip_protocol::ledger::Token;
use usbip_protocol::limits::{UNLINK_ANSWER_MS, UNLINK_LIMIT_MS};
use usbip_protocol::status::{Expect, Status};
use usbip_protocol::wire::{
    self, Body, CmdSubmit, CmdUnlink, Direction, Reply, UrbMeta, HEADER_LEN,
};

/// Up to how many bytes a payload is copied into the gathering buffer, so that its URB is sent
/// together with others and never has to wait for the socket; a larger one is handed to the socket
/// where it lies. Also up to how many received bytes are copied under the port's lock.
// CAST: 4096.
const SMALL: u32 = MOST_DIRECT as u32;

/// With so many URBs at the server it pays to wait for more than one reply; see [`Side::is_busy`].
const BUSY: usize = 8;

/// How long after the reply to a request the tx thread may take to say that the request was sent,
/// in ms: what is left of it after the peer has read its last byte is to be scheduled.
const SENT_MS: u32 = 5000;

/// The client's side of a connection.
pub(crate) struct Client {
    port: Arc<Port>,
    /// Who is at the other end, for messages.
    peer: Peer,
    poll: Poll,
    /// Counts URBs that the tx thread has let go of; see [`Connection::wait_for_sender`].
    let_go: Atomic<u32>,
}

/// What the tx thread found to do.
enum Work {
    /// Nothing (more) than what was gathered.
    Gathered,
    /// What was gathered, and then something else than small requests.
    Other,
    /// What was gathered, and then the payload of this URB.
    Direct(Token, Pending),
}

impl Client {
    /// A client for a port. `poll` makes usbcore look at the port's hub.
    pub(crate) fn new(port: Arc<Port>, peer: Peer, poll: Poll) -> Self {
        Self {
            port,
            peer,
            poll,
            let_go: Atomic::new(0),
        }
    }

    /// Runs `f` on the ledger, if the session is still there.
    fn with_ledger<R>(&self, f: impl FnOnce(&mut Ledger) -> R) -> Option<R> {
        match &mut self.port.inner.lock().link {
            Link::Up(session) => Some(f(&mut session.ledger)),
            _ => None,
        }
    }

    /// Gathers what is queued until there is no room left or a large payload is met; `only_small`: or
    /// anything else that the tx thread has to do. Any context.
    fn gather(&self, outbox: &mut Outbox, stats: &Stats, only_small: bool) -> Result<Work, Down> {
        let now_ns = time::now_ns();
        let now_ms = time::now_ms();
        let mut inner = self.port.inner.lock();
        let Link::Up(session) = &mut inner.link else {
            return Ok(Work::Gathered);
        };
        while let Some(next) = session.ledger.peek_tx() {
            let need = match next {
                NextTx::Submit(meta) => HEADER_LEN + gathered_body(&meta),
                NextTx::Unlink => HEADER_LEN,
            };
            if only_small && (outbox.room() < need || !is_small(&next)) {
                return Ok(Work::Other);
            }
            if outbox.room() < need {
                break;
            }
            match session.ledger.next_tx(now_ms) {
                Some(TxItem::Submit {
                    token,
                    seqnum,
                    urb: mut pending,
                }) => {
                    pending.sent_ns = now_ns;
                    Stats::count(&stats.urbs);
                    Stats::count(&stats.in_flight);
                    match push_submit(outbox, &pending.urb, seqnum, session.devid) {
                        Ok(Pushed::Whole) => {}
                        Ok(Pushed::Header) => return Ok(Work::Direct(token, pending)),
                        Err(why) => {
                            // Dropped here it would be given back with the lock held.
                            let _ = session.ledger.put_back(token, pending);
                            return Err(why);
                        }
                    }
                    // Nothing of the URB is needed for sending any more, and no reply to it can
                    // have come while the lock is held.
                    let _ = session.ledger.sent(token, pending);
                }
                Some(TxItem::Unlink { seqnum, victim }) => {
                    Stats::count(&stats.unlinks);
                    let devid = session.devid;
                    outbox.push(
                        &CmdUnlink {
                            seqnum,
                            devid,
                            victim,
                        }
                        .build(),
                    )?;
                }
                None => break,
            }
        }
        Ok(Work::Gathered)
    }

    /// The tx thread has let go of a URB.
    fn after_send(&self, connection: &Connection<Self>, token: Token, pending: Pending) {
        let outcome = {
            let mut inner = self.port.inner.lock();
            let outcome = match &mut inner.link {
                Link::Up(session) => session.ledger.sent(token, pending),
                _ => AfterSend::Stale(pending),
            };
            match outcome {
                // A queued unlink is found by the next round of the tx thread, which is us.
                AfterSend::InFlight | AfterSend::UnlinkQueued { .. } => None,
                AfterSend::Answered {
                    urb: pending,
                    reply,
                    unlinking,
                } => Some(self.finish(pending, &inner, connection, |urb| {
                    take_result(urb, &reply, unlinking)
                })),
                AfterSend::Stale(pending) => {
                    Some(self.finish(pending, &inner, connection, |_| ESHUTDOWN.to_errno()))
                }
            }
        };
        self.let_go.add(1, Relaxed);
        connection.wake_receiver();
        give_back(outcome);
    }

    /// Takes the result of a URB from `result` and the URB off its endpoint.
    fn finish(
        &self,
        mut pending: Pending,
        guard: &impl kernel_ext::sync::irqsave::IrqsOff,
        connection: &Connection<Self>,
        result: impl FnOnce(&mut Linked) -> i32,
    ) -> (Finished, i32) {
        let status = result(&mut pending.urb);
        let stats = connection.stats();
        stats.in_flight.add(-1, Relaxed);
        if status != 0 {
            Stats::count(&stats.errors);
        }
        (pending.urb.unlink(guard), status)
    }

    /// Takes in a reply all of which is in `here`, under one hold of the lock: the common case.
    /// Returns how long its body is, or `None` if it is not one of those. Any context.
    ///
    /// # Errors
    ///
    /// The connection is to end.
    fn ret_submit_small(
        &self,
        connection: &Connection<Self>,
        ret: &wire::RetSubmit,
        here: Bytes<'_>,
    ) -> Result<Option<usize>, Down> {
        let mut inner = self.port.inner.lock();
        let Link::Up(session) = &mut inner.link else {
            return Err(Down::Removed);
        };
        let meta = session.ledger.awaited(ret.seqnum);
        let Some(len) = meta.and_then(|meta| small_body(ret, meta)) else {
            return Ok(None);
        };
        if here.len() < len {
            return Ok(None);
        }
        let RetSubmit::Receive {
            token,
            urb: mut pending,
            unlinking,
            ..
        } = session.ledger.ret_submit(ret.seqnum)
        else {
            // `awaited` has said that it does.
            return Ok(None);
        };
        session.ledger.received(token);
        let round_trip = time::now_ns().saturating_sub(pending.sent_ns);
        connection.stats().round_trip(round_trip);
        pending.urb.write_received(0, here.first(len));
        let done = self.finish(pending, &inner, connection, |urb| {
            take_result(urb, ret, unlinking)
        });
        drop(inner);
        give_back(Some(done));
        Ok(Some(len))
    }

    fn ret_submit(
        &self,
        connection: &Connection<Self>,
        ret: &wire::RetSubmit,
        inbox: &mut Inbox<'_>,
    ) -> Result<(), Down> {
        if let Some(len) = self.ret_submit_small(connection, ret, Bytes::Here(inbox.buffered()))? {
            inbox.consume(len);
            return Ok(());
        }
        loop {
            let seen = self.let_go.load(Relaxed);
            let mut inner = self.port.inner.lock();
            let Link::Up(session) = &mut inner.link else {
                return Err(Down::Removed);
            };
            match session.ledger.ret_submit(ret.seqnum) {
                RetSubmit::Receive {
                    token,
                    urb: pending,
                    meta,
                    unlinking,
                } => {
                    let sent_ns = pending.sent_ns;
                    connection
                        .stats()
                        .round_trip(time::now_ns().saturating_sub(sent_ns));
                    let body = match ret.body(meta) {
                        Ok(body) => body,
                        Err(error) => {
                            session.ledger.received(token);
                            let done =
                                self.finish(pending, &inner, connection, |_| EPROTO.to_errno());
                            drop(inner);
                            give_back(Some(done));
                            return Err(Down::Body(error));
                        }
                    };
                    drop(inner);
                    return self
                        .receive_body(connection, ret, inbox, token, pending, body, unlinking);
                }
                RetSubmit::Sending { .. } => {
                    drop(inner);
                    // A server that has read the whole request answers while the tx thread is just
                    // about to say that it was sent. One that has not read it is not to be waited
                    // for: the socket may never take the rest.
                    if !connection.wait_for_sender(SENT_MS, || self.let_go.load(Relaxed) != seen) {
                        return Err(Down::Protocol("reply to a request that was not sent yet"));
                    }
                    if connection.is_dying() {
                        return Err(Down::Removed);
                    }
                }
                RetSubmit::Drain(meta) => {
                    drop(inner);
                    let body = ret.body(meta).map_err(Down::Body)?;
                    let total = usize::try_from(body.total()).map_err(|_| Down::NoMemory)?;
                    return inbox.skip(total);
                }
                RetSubmit::Violation(violation) => {
                    usbip_dbg!(Rx, "unexpected reply to seqnum {}\n", ret.seqnum);
                    return Err(Down::Reply(violation));
                }
            }
        }
    }

    /// Receives what follows a header without holding the lock: the URB is ours meanwhile.
    #[expect(
        clippy::too_many_arguments,
        reason = "the pieces of RetSubmit::Receive"
    )]
    fn receive_body(
        &self,
        connection: &Connection<Self>,
        ret: &wire::RetSubmit,
        inbox: &mut Inbox<'_>,
        token: Token,
        mut pending: Pending,
        body: Body,
        unlinking: bool,
    ) -> Result<(), Down> {
        let received = if body.iso_packets == 0 {
            receive_data(&mut pending.urb, body.data, inbox)
                .map(|()| take_result(&mut pending.urb, ret, unlinking))
        } else {
            receive_iso(&mut pending.urb, ret, body, inbox, unlinking)
        };
        // A URB whose reply could not be received must not look like a success.
        let (status, result) = match received {
            Ok(status) => (status, Ok(())),
            Err(why) => {
                pending.urb.set_actual_length(0);
                (EPROTO.to_errno(), Err(why))
            }
        };
        let done = {
            let mut inner = self.port.inner.lock();
            if let Link::Up(session) = &mut inner.link {
                session.ledger.received(token);
            }
            self.finish(pending, &inner, connection, |_| status)
        };
        give_back(Some(done));
        result
    }

    fn ret_unlink(&self, connection: &Connection<Self>, ret: &wire::RetUnlink) -> Result<(), Down> {
        let done = {
            let mut inner = self.port.inner.lock();
            let Link::Up(session) = &mut inner.link else {
                return Err(Down::Removed);
            };
            match session.ledger.ret_unlink(ret.seqnum, ret.status) {
                RetUnlink::GiveBack {
                    urb: pending,
                    status,
                } => self.finish(pending, &inner, connection, |_| status.raw()),
                RetUnlink::AlreadyDone | RetUnlink::Unknown => return Ok(()),
                RetUnlink::Violation(violation) => {
                    usbip_dbg!(Rx, "unexpected unlink reply, seqnum {}\n", ret.seqnum);
                    return Err(Down::Reply(violation));
                }
            }
        };
        give_back(Some(done));
        Ok(())
    }
}

impl Side for Client {
    const RX_NAME: &'static CStr = c"vhci_rx";
    const TX_NAME: &'static CStr = c"vhci_tx";
    type Seen = Reply;

    fn receive(
        &self,
        connection: &Arc<Connection<Self>>,
        header: &[u8; HEADER_LEN],
        inbox: &mut Inbox<'_>,
    ) -> Result<(), Down> {
        match Reply::parse(header).map_err(Down::Frame)? {
            Reply::Submit(ret) => self.ret_submit(connection, &ret, inbox),
            Reply::Unlink(ret) => self.ret_unlink(connection, &ret),
        }
    }

    fn look_at(&self, header: &[u8; HEADER_LEN]) -> Option<(Reply, usize)> {
        let reply = Reply::parse(header).ok()?;
        let len = match &reply {
            Reply::Submit(ret) => {
                let meta = self.with_ledger(|ledger| ledger.awaited(ret.seqnum));
                small_body(ret, meta.flatten()?)?
            }
            Reply::Unlink(_) => 0,
        };
        Some((reply, len))
    }

    fn is_busy(&self) -> bool {
        self.with_ledger(|ledger| ledger.in_flight() >= BUSY)
            .unwrap_or(false)
    }

    fn receive_direct(
        &self,
        connection: &Arc<Connection<Self>>,
        reply: Reply,
        body: Bytes<'_>,
    ) -> Result<bool, Down> {
        match reply {
            Reply::Submit(ret) => self
                .ret_submit_small(connection, &ret, body)
                .map(|taken| taken.is_some()),
            Reply::Unlink(ret) => self.ret_unlink(connection, &ret).map(|()| true),
        }
    }

    fn transmit_direct(
        &self,
        connection: &Connection<Self>,
        outbox: &mut Outbox,
    ) -> Result<bool, Down> {
        let work = self.gather(outbox, connection.stats(), true)?;
        Ok(matches!(work, Work::Gathered))
    }

    fn transmit(&self, connection: &Connection<Self>, sender: &mut Sender<'_>) -> Result<(), Down> {
        loop {
            match self.gather(sender.outbox(), connection.stats(), false)? {
                Work::Gathered | Work::Other if sender.outbox().is_empty() => return Ok(()),
                Work::Gathered | Work::Other => sender.flush()?,
                Work::Direct(token, pending) => {
                    let urb = &pending.urb;
                    let iso = urb.iso_packets() > 0;
                    let mut result = sender.flush_with(urb.pieces(0, urb.length()), iso);
                    if iso && result.is_ok() {
                        result = push_descriptors(sender.outbox(), urb);
                    }
                    // Even if sending failed: the socket has let go of the buffer. The connection
                    // ends then, and the URB comes back with the others.
                    self.after_send(connection, token, pending);
                    result?;
                }
            }
        }
    }

    fn awaits_reply(&self) -> bool {
        self.with_ledger(|ledger| ledger.in_flight() > 0)
            .unwrap_or(false)
    }

    fn deadline(&self, heard: u64) -> Option<u64> {
        let since = self
            .with_ledger(|ledger| ledger.oldest_unlink_ms())
            .flatten()?;
        // The answer comes behind all replies that the server has queued, and a slow link may take
        // long for those.
        let silent = since.max(heard).saturating_add(UNLINK_ANSWER_MS);
        Some(silent.min(since.saturating_add(UNLINK_LIMIT_MS)))
    }

    fn closed(&self, end: &End<'_>) {
        if end.why.is_orderly() {
            pr_info!("port {} ({}): {}\n", self.port.number, self.peer, end);
        } else {
            pr_warn!("port {} ({}): {}\n", self.port.number, self.peer, end);
        }
        self.port.unplug(self);
        self.poll.poll();
    }
}

/// Completes a URB; no lock is held.
fn give_back(done: Option<(Finished, i32)>) {
    if let Some((urb, status)) = done {
        urb.giveback(status);
    }
}

/// Bytes of a CMD_SUBMIT's body that go through the gathering buffer.
fn gathered_body(meta: &UrbMeta) -> usize {
    if meta.direction == Direction::Out && meta.length > SMALL {
        // The payload is sent from where it lies, the descriptors are gathered behind it.
        return 0;
    }
    let data = match meta.direction {
        Direction::Out => meta.length as usize,
        Direction::In => 0,
    };
    data + meta.iso_packets as usize * DESCRIPTOR_LEN
}

/// Whether what is to be sent goes through the gathering buffer as a whole, and nobody has to look after
/// it: the tx thread sees to it that an unlink is answered.
fn is_small(next: &NextTx) -> bool {
    match next {
        NextTx::Submit(meta) => meta.direction == Direction::In || meta.length <= SMALL,
        NextTx::Unlink => false,
    }
}

/// What was gathered of a CMD_SUBMIT.
enum Pushed {
    Whole,
    /// All but the data and what follows it.
    Header,
}

/// Gathers a CMD_SUBMIT, without its data if that is a large payload.
fn push_submit(outbox: &mut Outbox, urb: &Linked, seqnum: u32, devid: u32) -> Result<Pushed, Down> {
    outbox.push(&cmd_submit(urb, seqnum, devid).build())?;
    if !urb.is_in() {
        if urb.length() > SMALL {
            return Ok(Pushed::Header);
        }
        outbox.push_with(urb.length() as usize, |to| {
            let read = urb.read(0, to);
            // Not what an earlier message left there.
            to.get_mut(read..).unwrap_or(&mut []).fill(0);
        })?;
    }
    push_descriptors(outbox, urb)?;
    Ok(Pushed::Whole)
}

fn cmd_submit(urb: &Linked, seqnum: u32, devid: u32) -> CmdSubmit {
    let iso = urb.iso_packets();
    CmdSubmit {
        seqnum,
        devid,
        direction: direction(urb),
        ep: urb.endpoint().into(),
        flags: transfer_flags(urb),
        length: urb.length(),
        start_frame: urb.start_frame(),
        number_of_packets: i32::try_from(iso).unwrap_or(0),
        interval: urb.interval(),
        setup: urb.setup().unwrap_or_default(),
    }
}

fn transfer_flags(urb: &Linked) -> TransferFlags {
    let local = urb.flags();
    let bit = |flag| match flag {
        Flag::ShortNotOk => Flags::SHORT_NOT_OK,
        Flag::IsoAsap => Flags::ISO_ASAP,
        Flag::ZeroPacket => Flags::ZERO_PACKET,
        Flag::NoInterrupt => Flags::NO_INTERRUPT,
        Flag::DirIn => Flags::DIR_IN,
    };
    TransferFlags::from_local(local.bits(), urb.is_sg(), |flag| bit(flag).bits())
}

/// Gathers the isochronous descriptors of a request.
fn push_descriptors(outbox: &mut Outbox, urb: &Linked) -> Result<(), Down> {
    for index in 0..urb.iso_packets() {
        if let Some(packet) = urb.iso_packet(index) {
            outbox.push(&Packet::submitted(packet.offset, packet.length).build())?;
        }
    }
    Ok(())
}

/// How long the body of a reply is, if it is a payload of at most [`SMALL`] bytes or nothing.
fn small_body(ret: &wire::RetSubmit, meta: UrbMeta) -> Option<usize> {
    let body = ret.body(meta).ok()?;
    (meta.iso_packets == 0 && body.data <= SMALL).then_some(body.data as usize)
}

/// Puts what the header of a reply says into the URB; returns the status.
fn take_result(urb: &mut Linked, ret: &wire::RetSubmit, unlinking: bool) -> i32 {
    let iso = urb.iso_packets() > 0;
    let status = Status::from_peer(ret.status, Expect::Urb { iso, unlinking }).raw();
    urb.set_actual_length(u32::try_from(ret.actual_length).unwrap_or(0));
    if iso {
        urb.set_start_frame(ret.start_frame);
        if ret.number_of_packets == 0 {
            // Failed as a whole, without a word about its packets.
            let packets = urb.iso_packets();
            for index in 0..packets {
                urb.set_iso_result(index, 0, status);
            }
            urb.set_error_count(packets);
        }
    }
    status
}

/// Receives a payload into the buffer of its URB.
fn receive_data(urb: &mut Linked, data: u32, inbox: &mut Inbox<'_>) -> Result<(), Down> {
    let buffered = inbox.buffered();
    let here = buffered.len().min(data as usize);
    urb.write(0, buffered.get(..here).unwrap_or(&[]));
    inbox.consume(here);
    // CAST: At most `data`.
    let here = here as u32;
    if here < data {
        inbox.fill(urb.pieces_mut(here, data))?;
    }
    Ok(())
}

/// Receives the body of an isochronous reply. The packets of an IN transfer travel without gaps,
/// and their lengths follow behind them, so the whole body is buffered first.
fn receive_iso(
    urb: &mut Linked,
    ret: &wire::RetSubmit,
    body: Body,
    inbox: &mut Inbox<'_>,
    unlinking: bool,
) -> Result<i32, Down> {
    let total = usize::try_from(body.total()).map_err(|_| Down::NoMemory)?;
    if !inbox.reserve(total) {
        inbox.skip(total)?;
        urb.set_actual_length(0);
        return Ok(EPROTO.to_errno());
    }
    inbox.ensure(total)?;
    let (mut data, descriptors) = inbox
        .buffered()
        .get(..total)
        .and_then(|bytes| bytes.split_at_checked(body.data as usize))
        .ok_or(Down::NoMemory)?;
    let mut check = ReplyCheck::new();
    for (index, bytes) in (0..).zip(descriptors.chunks_exact(DESCRIPTOR_LEN)) {
        let (Some(asked), Ok(bytes)) = (urb.iso_packet(index), <&DescriptorBytes>::try_from(bytes))
        else {
            break;
        };
        let (actual, status) = check
            .packet(asked.length, &Packet::parse(bytes))
            .map_err(|_| Down::Protocol("isochronous packet longer than asked for"))?;
        if body.data > 0 {
            let (packet, rest) = data
                .split_at_checked(actual as usize)
                .ok_or(Down::Protocol("isochronous packets longer than the data"))?;
            urb.write(asked.offset, packet);
            data = rest;
        }
        urb.set_iso_result(index, actual, status.raw());
    }
    // CAST: Checked by `RetSubmit::body`.
    let errors = check
        .finish(ret.actual_length as u32)
        .map_err(|_| Down::Protocol("isochronous packets do not add up"))?;
    urb.set_error_count(errors);
    inbox.consume(total);
    Ok(take_result(urb, ret, unlinking))
}
