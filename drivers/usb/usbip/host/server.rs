// SPDX-License-Identifier: GPL-2.0

//! The server's end of the protocol: takes the requests of a client and sends their replies.
//!
//! C counterpart: `stub_rx.c` and `stub_tx.c`. Which PDU may follow which is the business of the
//! ledger; here its answers are carried out.

use crate::flight::{self, Charge, Done, Flight};
use crate::request::{self, Refused, Setup, Verdict};
use crate::special::{Special, Specials};
use crate::stub::Stub;
use crate::Limits;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{Atomic, Full, Relaxed};
use kernel::sync::Arc;
use kernel_ext::net::peer::Peer;
use kernel_ext::new_spinlock_irqsave;
use kernel_ext::prelude::*;
use kernel_ext::random;
use kernel_ext::sync::irqsave::SpinLockIrqSave;
use kernel_ext::time;
use kernel_ext::usb::buffer::PagePool;
use kernel_ext::usb::device::{Device, Endpoint};
use kernel_ext::usb::transfer::{Anchor, Canceller, Transfer};
use usbip_core::connection::{Connection, Side};
use usbip_core::down::Down;
use usbip_core::inbox::Inbox;
use usbip_core::outbox::Sender;
use usbip_core::stats::Stats;
use usbip_core::usbip_dbg;
use usbip_protocol::iso::{self, DESCRIPTOR_LEN};
use usbip_protocol::ledger::server::{
    bucket_len, Bucket, Caps, Completed, Drained, Entry, Failure, Overflow, Refusal, ServerLedger,
    Start, TxKind, TxReply, Unlink,
};
use usbip_protocol::ledger::Token;
use usbip_protocol::limits::MAX_EXTRA_REPLIES;
use usbip_protocol::status::errno;
use usbip_protocol::wire::{
    Body, CmdSubmit, CmdUnlink, Command, Direction, RetSubmit, RetUnlink, HEADER_LEN,
};

/// Up to how many bytes a payload is copied into the gathering buffer, so that it is sent together
/// with others.
const SMALL: u32 = 4096;

/// How many replies are taken from the queue at a time.
const BATCH: usize = 32;

/// How long a request waits for a change of configuration or setting that is going on and decides
/// about its endpoint, in ms: longer than usbcore waits for a device (`USB_CTRL_SET_TIMEOUT`).
const CHANGE_MS: u32 = 6000;

/// How long the rx thread waits for room for a reply, in ms: time for the tx thread to be scheduled, in
/// case it was not. A client that leaves thousands of replies unread has no claim to more.
const NO_ROOM_MS: u32 = 2_000;

type Ledger = ServerLedger<Canceller, Done, KVVec<Entry<Canceller, Done>>, KVVec<Bucket>>;
type Reply = TxReply<Done>;

/// The server's side of a connection.
#[pin_data]
pub(crate) struct Server {
    stub: Arc<Stub>,
    /// Who is at the other end, for messages.
    peer: Peer,
    /// The requests.
    #[pin]
    pub(crate) ledger: SpinLockIrqSave<Ledger>,
    /// Their transfers.
    anchor: Pin<KBox<Anchor>>,
    /// Memory for them.
    pool: Arc<PagePool>,
    /// Requests that usbcore has to carry out.
    specials: Arc<Specials>,
    /// Not 0 while the rx thread waits for room for a reply.
    short: Atomic<u32>,
}

impl Server {
    /// A server of a device. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(stub: Arc<Stub>, peer: Peer) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            ledger <- new_spinlock_irqsave!(
                new_ledger(stub.shared().limits.caps)?,
                "usbip_host_ledger"
            ),
            anchor: KBox::pin_init(Anchor::new(stub.device().clone()), GFP_KERNEL)?,
            pool: PagePool::new()?,
            specials: Specials::new()?,
            short: Atomic::new(0),
            stub,
            peer,
        }? Error)
    }

    /// The device.
    pub(crate) fn device(&self) -> &ARef<Device> {
        self.stub.device()
    }

    /// Takes in a CMD_SUBMIT with all that follows it.
    fn submit(
        &self,
        connection: &Arc<Connection<Self>>,
        cmd: &CmdSubmit,
        inbox: &mut Inbox<'_>,
    ) -> Result<(), Down> {
        let (request, body) = match request::check(cmd, self.endpoint(connection, cmd))
            .map_err(Down::Body)?
        {
            Verdict::Accept(request, body) => (request, body),
            Verdict::Refuse(refused) => return self.refuse(connection, cmd.seqnum, refused, inbox),
        };
        let busy = Refused {
            body,
            status: -errno::ENOMEM,
        };
        let admitted = {
            let mut ledger = self.ledger.lock();
            let admitted = ledger.admit(cmd.seqnum, cmd.length);
            count_requests(&ledger, connection.stats());
            admitted
        };
        let token = match admitted {
            Ok(token) => token,
            Err(Refusal::Requests | Refusal::Bytes) => {
                return self.refuse(connection, cmd.seqnum, busy, inbox);
            }
            Err(Refusal::Duplicate) => {
                return Err(Down::Protocol("two requests with the same number"));
            }
        };
        Stats::count(&connection.stats().urbs);
        let transfer = Charge::new(cmd.length, self.limits().total)
            .ok_or(ENOMEM)
            .and_then(|charge| {
                let flight = Flight {
                    connection: connection.clone(),
                    token,
                    number_of_packets: cmd.number_of_packets,
                    accepted_ns: time::now_ns(),
                    _charge: charge,
                };
                let buffer = flight::buffer(&request, &self.pool)?;
                Transfer::new(self.device().clone(), request, buffer, flight)
            });
        let Ok(mut transfer) = transfer else {
            skip(inbox, body)?;
            fail(connection, token, ENOMEM, body.iso_packets);
            return Ok(());
        };
        if body.data > 0 {
            receive_data(&mut transfer, body.data, inbox)?;
        }
        if !receive_packets(&mut transfer, body.iso_packets, inbox)? {
            fail(connection, token, EINVAL, body.iso_packets);
            return Ok(());
        }
        self.dispatch(connection, token, transfer);
        Ok(())
    }

    /// The endpoint of a request, if there is one.
    fn endpoint(&self, connection: &Connection<Self>, cmd: &CmdSubmit) -> Option<Endpoint> {
        let number = cmd.endpoint()?;
        let find = || {
            self.device()
                .endpoint(number, cmd.direction == Direction::In)
        };
        let found = find();
        if found.is_some() || !self.specials.is_busy() {
            return found;
        }
        // A client that does not wait for the reply to SET_CONFIGURATION.
        self.wait_for_change(connection);
        find()
    }

    /// Gives what usbcore carries out [`CHANGE_MS`] to come to its end.
    fn wait_for_change(&self, connection: &Connection<Self>) {
        self.specials
            .wait_idle_timeout(CHANGE_MS, || connection.is_dying());
    }

    /// Whether an endpoint keeps its type for now: usbcore warns about a URB for one that is becoming
    /// something else in this moment. Waits for what goes on; where the address means the same in
    /// every setting, there is nothing to wait for.
    fn is_settled(&self, connection: &Connection<Self>, endpoint: Endpoint) -> bool {
        if !self.specials.is_busy() || !self.device().has_other_type(endpoint) {
            return true;
        }
        // Only this thread makes it busy again.
        self.wait_for_change(connection);
        !self.specials.is_busy()
    }

    /// Starts a request that is complete.
    fn dispatch(
        &self,
        connection: &Arc<Connection<Self>>,
        token: Token,
        transfer: KBox<Transfer<Flight>>,
    ) {
        let request = transfer.request();
        if request.endpoint.number != 0 {
            if !self.is_settled(connection, request.endpoint) {
                return fail(connection, token, ENOENT, request.packets);
            }
            return launch(connection, transfer);
        }
        let special = Special::parse(&Setup(request.setup), |number, is_in| {
            self.device().endpoint(number, is_in)
        });
        match self
            .specials
            .take(transfer, special, &self.stub.shared().specials)
        {
            Ok(Some(transfer)) => launch(connection, transfer),
            Ok(None) => {}
            // A control request has no packets.
            Err(error) => fail(connection, token, error, 0),
        }
    }

    /// Answers a request that is not carried out.
    fn refuse(
        &self,
        connection: &Arc<Connection<Self>>,
        seqnum: u32,
        refused: Refused,
        inbox: &mut Inbox<'_>,
    ) -> Result<(), Down> {
        usbip_dbg!(Rx, "request {} refused: {}\n", seqnum, refused.status);
        skip(inbox, refused.body)?;
        let wake = self.with_room(connection, |ledger| {
            ledger.refuse(seqnum, refused.failure())
        })?;
        if wake {
            connection.kick();
        }
        Ok(())
    }

    /// Takes in a CMD_UNLINK.
    fn unlink(&self, connection: &Arc<Connection<Self>>, cmd: &CmdUnlink) -> Result<(), Down> {
        Stats::count(&connection.stats().unlinks);
        let outcome = self.with_room(connection, |ledger| ledger.unlink(cmd.seqnum, cmd.victim))?;
        match outcome {
            // The reply comes with the end of the transfer.
            Unlink::Cancel { handle, .. } => handle.cancel(),
            Unlink::Deferred(_) => {}
            Unlink::Answered { wake: true } => connection.kick(),
            Unlink::Answered { wake: false } => {}
        }
        Ok(())
    }

    /// Does what takes room for another reply. If there is none, the tx thread has [`NO_ROOM_MS`] to
    /// send some.
    fn with_room<R>(
        &self,
        connection: &Connection<Self>,
        mut what: impl FnMut(&mut Ledger) -> Result<R, Overflow>,
    ) -> Result<R, Down> {
        loop {
            if let Ok(done) = what(&mut self.ledger.lock()) {
                return Ok(done);
            }
            self.short.xchg(1, Full);
            if !connection.wait_for_sender(NO_ROOM_MS, || self.ledger.lock().has_room()) {
                return Err(Down::NotReading);
            }
            if connection.is_dying() {
                return Err(Down::Removed);
            }
        }
    }

    fn limits(&self) -> &Limits {
        &self.stub.shared().limits
    }

    /// Takes up to [`BATCH`] replies from the queue; returns how many.
    fn next_replies(&self, replies: &mut [Option<Reply>; BATCH]) -> usize {
        let mut ledger = self.ledger.lock();
        let mut count = 0;
        for slot in replies.iter_mut() {
            *slot = ledger.next_reply();
            if slot.is_none() {
                break;
            }
            count += 1;
        }
        count
    }
}

impl Side for Server {
    const RX_NAME: &'static CStr = c"stub_rx";
    const TX_NAME: &'static CStr = c"stub_tx";

    fn receive(
        &self,
        connection: &Arc<Connection<Self>>,
        header: &[u8; HEADER_LEN],
        inbox: &mut Inbox<'_>,
    ) -> Result<(), Down> {
        let command = Command::parse(header).map_err(Down::Frame)?;
        let devid = match &command {
            Command::Submit(cmd) => cmd.devid,
            Command::Unlink(cmd) => cmd.devid,
        };
        if devid != self.stub.devid() {
            return Err(Down::Protocol("request for another device"));
        }
        match command {
            Command::Submit(cmd) => self.submit(connection, &cmd, inbox),
            Command::Unlink(cmd) => self.unlink(connection, &cmd),
        }
    }

    fn transmit(&self, connection: &Connection<Self>, sender: &mut Sender<'_>) -> Result<(), Down> {
        let mut replies = [const { None }; BATCH];
        while self.next_replies(&mut replies) > 0 {
            let stats = connection.stats();
            let mut result = Ok(());
            for reply in replies.iter().flatten() {
                result = result.and_then(|()| send(reply, sender, stats));
            }
            result = result.and_then(|()| sender.flush());
            // Also if sending failed: the connection ends then.
            for reply in &mut replies {
                let Some(reply) = reply.take() else { continue };
                let token = reply.token;
                // The buffer first, then the room for another.
                drop(reply);
                let mut ledger = self.ledger.lock();
                ledger.sent(token);
                count_requests(&ledger, stats);
            }
            result?;
            // Full: the entries are free for the receiver to find.
            if self.short.xchg(0, Full) != 0 {
                connection.wake_receiver();
            }
        }
        Ok(())
    }

    fn awaits_reply(&self) -> bool {
        // A client may be silent for as long as it likes; that it is still there is what keepalive
        // finds out.
        false
    }

    fn deadline(&self) -> Option<u64> {
        None
    }

    fn closed(&self, why: Down) {
        let name = self.device().name();
        if why.is_orderly() {
            pr_info!("{}: {} left: {}\n", name, self.peer, why);
        } else {
            pr_warn!("{}: {} lost the device: {}\n", name, self.peer, why);
        }
        self.specials.wait_idle();
        // All at once, before waiting for each.
        loop {
            let drained = self.ledger.lock().drain();
            match drained {
                Some(Drained::Pending(handle)) => handle.cancel(),
                Some(Drained::Done(done)) => drop(done),
                None => break,
            }
        }
        self.anchor.kill_all();
        self.stub.client_gone();
    }
}

/// Hands a transfer to the device.
pub(crate) fn launch(connection: &Arc<Connection<Server>>, transfer: KBox<Transfer<Flight>>) {
    let server = connection.side();
    let token = transfer.context.token;
    let packets = transfer.request().packets;
    let canceller = transfer.canceller();
    let start = server.ledger.lock().start(token, canceller);
    if !matches!(start, Start::Started) {
        return fail(connection, token, ECONNRESET, packets);
    }
    if let Err((error, transfer)) = transfer.submit(server.anchor.as_ref()) {
        drop(transfer);
        // It was cancelled in this moment.
        let error = if error == EPERM { ECONNRESET } else { error };
        fail(connection, token, error, packets);
    }
}

/// Queues the result of a request.
pub(crate) fn complete(connection: &Arc<Connection<Server>>, token: Token, done: Done) {
    let outcome = connection.side().ledger.lock().complete(token, done);
    if let Completed::Queued { wake: true, .. } = outcome {
        connection.kick();
    }
}

/// Queues an error as the result of a request that was accepted, of so many packets if it is
/// isochronous.
pub(crate) fn fail(
    connection: &Arc<Connection<Server>>,
    token: Token,
    error: Error,
    iso_packets: u32,
) {
    let status = error.to_errno();
    usbip_dbg!(Rx, "a request failed: {}\n", status);
    let failure = Failure {
        status,
        iso_packets,
    };
    let outcome = connection.side().ledger.lock().fail(token, failure);
    if let Completed::Queued { wake: true, .. } = outcome {
        connection.kick();
    }
}

fn new_ledger(caps: Caps) -> Result<Ledger> {
    let count = caps.requests + MAX_EXTRA_REPLIES;
    let mut entries = KVVec::with_capacity(count, GFP_KERNEL)?;
    for _ in 0..count {
        entries.push(Entry::new(), GFP_KERNEL)?;
    }
    let mut buckets = KVVec::new();
    buckets.extend_with(bucket_len(count).ok_or(EINVAL)?, Bucket::new(), GFP_KERNEL)?;
    ServerLedger::new(entries, buckets, caps, random::get_u64()).map_err(|_| EINVAL)
}

/// Shows how many requests there are.
fn count_requests(ledger: &Ledger, stats: &Stats) {
    let requests = i64::try_from(ledger.requests()).unwrap_or(i64::MAX);
    stats.in_flight.store(requests, Relaxed);
}

/// Throws away what follows a header.
fn skip(inbox: &mut Inbox<'_>, body: Body) -> Result<(), Down> {
    inbox.skip(usize::try_from(body.total()).map_err(|_| Down::NoMemory)?)
}

/// Receives the data of an OUT request.
fn receive_data(
    transfer: &mut Transfer<Flight>,
    data: u32,
    inbox: &mut Inbox<'_>,
) -> Result<(), Down> {
    let buffered = inbox.buffered();
    let here = buffered.len().min(data as usize);
    transfer
        .buffer_mut()
        .write(0, buffered.get(..here).unwrap_or(&[]));
    inbox.consume(here);
    // CAST: At most `data`.
    let here = here as u32;
    if here < data {
        inbox.fill(transfer.buffer_mut().slices_mut(here, data))?;
    }
    Ok(())
}

/// Receives isochronous descriptors; returns whether all packets lie within the buffer.
fn receive_packets(
    transfer: &mut Transfer<Flight>,
    count: u32,
    inbox: &mut Inbox<'_>,
) -> Result<bool, Down> {
    let mut good = true;
    for index in 0..count {
        inbox.ensure(DESCRIPTOR_LEN)?;
        let packet = inbox
            .buffered()
            .first_chunk::<DESCRIPTOR_LEN>()
            .map(iso::Packet::parse)
            .ok_or(Down::Truncated)?;
        inbox.consume(DESCRIPTOR_LEN);
        good &= transfer
            .set_packet(index, packet.offset, packet.length)
            .is_ok();
    }
    Ok(good)
}

/// Gathers a reply; a large payload is sent at once, with what was gathered before.
fn send(reply: &Reply, sender: &mut Sender<'_>, stats: &Stats) -> Result<(), Down> {
    let seqnum = reply.seqnum;
    if sender.outbox().room() < HEADER_LEN + SMALL as usize {
        sender.flush()?;
    }
    let status = match &reply.kind {
        TxKind::Submit(done) => {
            send_result(seqnum, done, sender)?;
            let since = time::now_ns().saturating_sub(done.transfer().context.accepted_ns);
            stats.round_trip(since);
            done.status()
        }
        TxKind::Refused(failure) => {
            send_failure(seqnum, *failure, sender)?;
            failure.status
        }
        TxKind::Unlinked(done) => {
            let status = done.status();
            sender
                .outbox()
                .push(&RetUnlink { seqnum, status }.build())?;
            return Ok(());
        }
        TxKind::Unlink(status) => {
            let status = *status;
            sender
                .outbox()
                .push(&RetUnlink { seqnum, status }.build())?;
            return Ok(());
        }
    };
    if status != 0 {
        Stats::count(&stats.errors);
    }
    Ok(())
}

/// Gathers the RET_SUBMIT of a request that was not carried out, with a descriptor for each of its
/// packets: without them the client would take what comes next for descriptors, or give up.
fn send_failure(seqnum: u32, failure: Failure, sender: &mut Sender<'_>) -> Result<(), Down> {
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
    let descriptor = iso::Packet {
        offset: 0,
        length: 0,
        actual_length: 0,
        status: failure.status,
    };
    for _ in 0..failure.iso_packets {
        push_descriptor(&descriptor, sender)?;
    }
    Ok(())
}

/// Gathers an isochronous descriptor.
fn push_descriptor(descriptor: &iso::Packet, sender: &mut Sender<'_>) -> Result<(), Down> {
    if sender.outbox().room() < DESCRIPTOR_LEN {
        sender.flush()?;
    }
    sender.outbox().push(&descriptor.build())
}

/// Gathers or sends a RET_SUBMIT with what the device has sent.
fn send_result(seqnum: u32, done: &Done, sender: &mut Sender<'_>) -> Result<(), Down> {
    let transfer = done.transfer();
    if transfer.request().packets > 0 {
        return send_iso(seqnum, transfer, sender);
    }
    let actual = match done {
        Done::Transfer(transfer) => transfer.actual_length(),
        Done::Special(_) => 0,
    };
    let ret = RetSubmit {
        seqnum,
        status: done.status(),
        // CAST: At most `MAX_URB_BYTES`.
        actual_length: actual as i32,
        start_frame: transfer.request().start_frame,
        number_of_packets: transfer.context.number_of_packets,
        error_count: 0,
    };
    sender.outbox().push(&ret.build())?;
    if !transfer.request().endpoint.is_in || actual == 0 {
        return Ok(());
    }
    if actual <= SMALL {
        // There is room for that much; see `send`.
        return sender.outbox().push_with(actual as usize, |to| {
            transfer.buffer().read(0, to);
        });
    }
    match transfer.buffer().page_slices(0, actual) {
        // The pages are not written to again before nobody refers to them any more.
        Some(pages) => sender.flush_with_pages(pages),
        None => sender.flush_with(transfer.buffer().slices(0, actual), false),
    }
}

/// Sends the RET_SUBMIT of an isochronous request: the data of its packets without the gaps between
/// them, then their descriptors.
fn send_iso(seqnum: u32, transfer: &Transfer<Flight>, sender: &mut Sender<'_>) -> Result<(), Down> {
    let request = transfer.request();
    let packets = || (0..request.packets).map_while(|index| transfer.packet(index));
    let actual: u32 = packets()
        .map(|packet| packet.actual_length)
        .fold(0, u32::saturating_add);
    let ret = RetSubmit {
        seqnum,
        status: transfer.status(),
        // Packets that overlap may add up to more than the buffer has; the client will say so.
        actual_length: i32::try_from(actual).unwrap_or(i32::MAX),
        start_frame: transfer.start_frame(),
        number_of_packets: transfer.context.number_of_packets,
        error_count: transfer.error_count(),
    };
    sender.outbox().push(&ret.build())?;
    if request.endpoint.is_in {
        let slices = packets().flat_map(|packet| {
            let end = packet.offset.saturating_add(packet.actual_length);
            transfer.buffer().slices(packet.offset, end)
        });
        sender.flush_with(slices, true)?;
    }
    for packet in packets() {
        let descriptor = iso::Packet {
            offset: packet.offset,
            length: packet.length,
            actual_length: packet.actual_length,
            status: packet.status,
        };
        push_descriptor(&descriptor, sender)?;
    }
    Ok(())
}
