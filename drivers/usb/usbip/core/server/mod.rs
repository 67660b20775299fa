// SPDX-License-Identifier: GPL-2.0

//! What both servers (host, vudc) do with the requests of a client: from the ledger that accepts
//! them to the reply that is sent.
//!
//! C counterparts: what `stub_rx.c`, `stub_tx.c`, `vudc_rx.c` and `vudc_tx.c` have in common. Which
//! PDU may follow which is the business of [`ServerLedger`]; here its answers are carried out.

use crate::connection::{Connection, Side};
use crate::down::Down;
use crate::inbox::Inbox;
use crate::outbox::{Outbox, Sender};
use crate::stats::Stats;
use crate::usbip_dbg;
use kernel::static_lock_class;
use kernel::sync::atomic::{Atomic, Full, Relaxed};
use kernel::sync::Arc;
use kernel_ext::mm::Context;
use kernel_ext::prelude::*;
use kernel_ext::random;
use kernel_ext::sync::irqsave::SpinLockIrqSave;
use kernel_ext::sync::turn::Turn;
use kernel_ext::usb::buffer::{Buffer, BufferPool, Gather};
use kernel_ext::usb::TransferType;
use usbip_protocol::iso::{Packet, DESCRIPTOR_LEN};
use usbip_protocol::ledger::server::{
    bucket_len, Bucket, Caps, Completed, Drained, Entry, Failure, Overflow, Refusal, ServerLedger,
    Start, TxReply, Unlink, Withdrawn,
};
use usbip_protocol::ledger::Token;
use usbip_protocol::limits::{MAX_DRAIN_BYTES, MAX_EXTRA_REPLIES, MAX_ISO_PACKETS};
use usbip_protocol::setup::Setup;
use usbip_protocol::status::errno;
use usbip_protocol::wire::{
    Body, BodyError, CmdSubmit, CmdUnlink, Command, Direction, RetSubmit, HEADER_LEN,
};

mod client;
mod limits;
mod send;

pub use client::{Client, NoClient, MOST_LOGGED};
pub use limits::{Charge, Limits};

/// How many replies are taken from the queue at a time.
const BATCH: usize = 32;

/// How long the rx thread waits for room for a reply, in ms: time for the tx thread to be scheduled, in
/// case it was not. A client that leaves thousands of replies unread has no claim to more.
const NO_ROOM_MS: u32 = 2_000;

/// The result of a request that was carried out.
pub trait Outcome: Send + Unpin + 'static {
    /// The header of its RET_SUBMIT.
    fn ret(&self, seqnum: u32) -> RetSubmit;

    /// Whether the data went to the host.
    fn is_in(&self) -> bool;

    /// The data.
    fn buffer(&self) -> &Buffer;

    /// How many packets an isochronous request has, 0 for every other type.
    fn iso_packets(&self) -> u32;

    /// One of them.
    fn packet(&self, index: u32) -> Option<Packet>;

    /// When the request was accepted, as [`kernel_ext::time::now_ns`].
    fn accepted_ns(&self) -> u64;
}

/// A request that is not carried out.
pub struct Refused {
    /// What follows its header and is not read.
    pub body: Body,
    /// The answer, a negative errno.
    pub status: i32,
}

impl Refused {
    /// Answers a request with `status`, and goes on behind its body.
    ///
    /// # Errors
    ///
    /// The body is too much to be thrown away.
    pub fn new(body: Body, status: i32) -> Result<Self, BodyError> {
        if body.total() > MAX_DRAIN_BYTES.into() {
            return Err(BodyError::TooLong(body.total()));
        }
        Ok(Self { body, status })
    }

    /// Answers a request for an endpoint that there is not.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn no_endpoint(cmd: &CmdSubmit) -> Result<Self, BodyError> {
        // Isochronous or not? Nobody but an isochronous client has packets.
        let is_iso =
            u32::try_from(cmd.number_of_packets).is_ok_and(|n| (1..=MAX_ISO_PACKETS).contains(&n));
        Self::new(cmd.body(is_iso)?, -errno::ENOENT)
    }

    /// What the answer says.
    fn failure(&self) -> Failure {
        Failure {
            status: self.status,
            iso_packets: self.body.iso_packets,
        }
    }
}

type Ledger<H, D> = ServerLedger<H, D, KVVec<Entry<H, D>>, KVVec<Bucket>>;

/// The name of the lock class of all ledgers, for a lock that is made in generic code.
static LEDGER_NAME: &CStr = c"usbip_server_ledger";

/// The requests of one client: `H` is what it takes to cancel one.
#[pin_data]
pub struct Requests<H: Send + Unpin, D: Outcome> {
    #[pin]
    ledger: SpinLockIrqSave<Ledger<H, D>>,
    /// Not 0 while the rx thread waits for room for a reply.
    short: Atomic<u32>,
    /// Where the tx thread keeps replies until they are sent, at most [`BATCH`]: not on its stack, which
    /// TCP needs, and with a peer on the same machine the other end as well.
    batch: Turn<KVec<TxReply<D>>>,
}

impl<H: Send + Unpin, D: Outcome> Requests<H, D> {
    /// No requests, with room for as many as `caps` allows. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(caps: Caps) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            ledger <- SpinLockIrqSave::new(new_ledger(caps)?, LEDGER_NAME, static_lock_class!()),
            short: Atomic::new(0),
            batch: Turn::new(KVec::with_capacity(BATCH, GFP_KERNEL)?),
        }? Error)
    }

    /// Accepts a request without isochronous packets, before memory is allocated for it, unless it is one
    /// to be refused. Any context.
    pub fn admit_direct<S: Side>(
        &self,
        connection: &Connection<S>,
        cmd: &CmdSubmit,
    ) -> Option<Token> {
        let mut ledger = self.ledger.lock();
        let token = ledger.admit(cmd.seqnum, weight(cmd, 0)).ok()?;
        count(&ledger, connection.stats());
        Stats::count(&connection.stats().urbs);
        Some(token)
    }

    /// Undoes [`Self::admit_direct`], and [`Self::start`]: the request has not gone to the device. Any
    /// context.
    pub fn withdraw<S: Side>(&self, connection: &Connection<S>, token: Token) {
        let withdrawn = {
            let mut ledger = self.ledger.lock();
            let withdrawn = ledger.withdraw(token);
            count(&ledger, connection.stats());
            withdrawn
        };
        if let Withdrawn::Forgotten(handle) = withdrawn {
            connection.stats().urbs.add(-1, Relaxed);
            drop(handle);
        }
    }

    /// Accepts a request whose body is `body`, before memory is allocated for it. If there are too
    /// many it is refused, and `None` returned. rx thread.
    ///
    /// # Errors
    ///
    /// The connection is to end.
    pub fn admit<S: Side>(
        &self,
        connection: &Arc<Connection<S>>,
        cmd: &CmdSubmit,
        body: Body,
        inbox: &mut Inbox<'_>,
    ) -> Result<Option<Token>, Down> {
        let admitted = {
            let mut ledger = self.ledger.lock();
            let admitted = ledger.admit(cmd.seqnum, weight(cmd, body.iso_packets));
            count(&ledger, connection.stats());
            admitted
        };
        match admitted {
            Ok(token) => {
                Stats::count(&connection.stats().urbs);
                Ok(Some(token))
            }
            Err(Refusal::Requests | Refusal::Bytes) => {
                let refused = Refused {
                    body,
                    status: -errno::ENOMEM,
                };
                self.refuse(connection, cmd.seqnum, &refused, inbox)?;
                Ok(None)
            }
            Err(Refusal::Duplicate) => Err(Down::Protocol("two requests with the same number")),
        }
    }

    /// Answers a request that is not carried out. rx thread.
    ///
    /// # Errors
    ///
    /// The connection is to end.
    pub fn refuse<S: Side>(
        &self,
        connection: &Arc<Connection<S>>,
        seqnum: u32,
        refused: &Refused,
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

    /// Announces that an accepted request goes to the device: call this first, then start it. Any
    /// context.
    pub fn start(&self, token: Token, handle: H) -> Start<H> {
        self.ledger.lock().start(token, handle)
    }

    /// Queues the result of a request, and wakes the tx thread. Any context.
    pub fn complete<S: Side>(&self, connection: &Connection<S>, token: Token, done: D) {
        let outcome = self.ledger.lock().complete(token, done);
        if let Completed::Queued { wake: true, .. } = outcome {
            connection.kick();
        }
    }

    /// As [`Self::complete`], but if no other request waits the reply is sent here and now, where that is
    /// possible. Any context, with no lock held.
    pub fn complete_now<S: Side>(&self, connection: &Arc<Connection<S>>, token: Token, done: D) {
        let (outcome, is_only) = {
            let mut ledger = self.ledger.lock();
            (ledger.complete(token, done), ledger.requests() == 1)
        };
        match outcome {
            Completed::Queued { wake: true, .. } if is_only => connection.kick_now(),
            Completed::Queued { wake: true, .. } => connection.kick(),
            _ => {}
        }
    }

    /// Queues an error as the result of a request that was accepted, of so many packets if it is
    /// isochronous. Any context.
    pub fn fail<S: Side>(
        &self,
        connection: &Connection<S>,
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
        let outcome = self.ledger.lock().fail(token, failure);
        if let Completed::Queued { wake: true, .. } = outcome {
            connection.kick();
        }
    }

    /// Answers a request that was accepted for which there is no memory, and goes on behind its body. rx
    /// thread.
    ///
    /// # Errors
    ///
    /// The connection is to end.
    pub fn out_of_memory<S: Side>(
        &self,
        connection: &Connection<S>,
        token: Token,
        body: Body,
        inbox: &mut Inbox<'_>,
    ) -> Result<(), Down> {
        skip(inbox, body)?;
        self.fail(connection, token, ENOMEM, body.iso_packets);
        Ok(())
    }

    /// Takes in a CMD_UNLINK. Returns the request to cancel, if there is one: the reply comes with
    /// its end. rx thread.
    ///
    /// # Errors
    ///
    /// The connection is to end.
    pub fn unlink<S: Side>(
        &self,
        connection: &Connection<S>,
        cmd: &CmdUnlink,
    ) -> Result<Option<(Token, H)>, Down> {
        Stats::count(&connection.stats().unlinks);
        let outcome = self.with_room(connection, |ledger| ledger.unlink(cmd.seqnum, cmd.victim))?;
        Ok(match outcome {
            Unlink::Cancel { token, handle } => Some((token, handle)),
            Unlink::Answered { wake: true } => {
                connection.kick();
                None
            }
            Unlink::Deferred(_) | Unlink::Answered { wake: false } => None,
        })
    }

    /// Gathers replies that [fit](send::fits), as long as there is room. Returns whether none is
    /// left. Any context; nobody else may be sending.
    ///
    /// # Errors
    ///
    /// The connection is to end.
    pub fn transmit_direct<S: Side>(
        &self,
        connection: &Connection<S>,
        outbox: &mut Outbox,
    ) -> Result<bool, Down> {
        let stats = connection.stats();
        loop {
            let reply = {
                let mut ledger = self.ledger.lock();
                match ledger.peek_reply() {
                    None => return Ok(true),
                    Some(kind) if !send::fits(kind, outbox) => return Ok(false),
                    Some(_) => ledger.next_reply(),
                }
            };
            let Some(reply) = reply else {
                return Ok(true);
            };
            let gathered = send::gather(&reply, outbox, stats);
            let token = reply.token;
            // The buffer first, then the room for another.
            drop(reply);
            let mut ledger = self.ledger.lock();
            ledger.sent(token);
            count(&ledger, stats);
            drop(ledger);
            gathered?;
        }
    }

    /// Sends all replies that wait. tx thread.
    ///
    /// # Errors
    ///
    /// The connection is to end.
    pub fn transmit<S: Side>(
        &self,
        connection: &Connection<S>,
        sender: &mut Sender<'_>,
    ) -> Result<(), Down> {
        let Some(mut replies) = self.batch.take() else {
            return Ok(());
        };
        loop {
            self.next_replies(&mut replies);
            if replies.is_empty() {
                return Ok(());
            }
            let stats = connection.stats();
            let is_alone = replies.len() == 1;
            let mut message = sender.message();
            let mut result = Ok(());
            for reply in &*replies {
                result = result.and_then(|()| send::send(reply, is_alone, &mut message, stats));
            }
            result = result.and_then(|()| message.flush(false));
            // Also if sending failed: the connection ends then.
            for reply in replies.drain_all() {
                let token = reply.token;
                // The buffer first, then the room for another.
                drop(reply);
                let mut ledger = self.ledger.lock();
                ledger.sent(token);
                count(&ledger, stats);
            }
            result?;
            // Full: the entries are free for the receiver to find.
            if self.short.xchg(0, Full) != 0 {
                connection.wake_receiver();
            }
        }
    }

    /// Takes out what is left when the connection is down, one by one. Any context.
    pub fn drain(&self) -> Option<Drained<H, D>> {
        self.ledger.lock().drain()
    }

    /// Does what takes room for another reply. If there is none, the tx thread has [`NO_ROOM_MS`] to
    /// send some.
    fn with_room<S: Side, R>(
        &self,
        connection: &Connection<S>,
        mut what: impl FnMut(&mut Ledger<H, D>) -> Result<R, Overflow>,
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

    /// Takes replies from the queue, as many as there is room for.
    fn next_replies(&self, replies: &mut KVec<TxReply<D>>) {
        let mut ledger = self.ledger.lock();
        while replies.len() < replies.capacity() {
            let Some(reply) = ledger.next_reply() else {
                break;
            };
            // There is room.
            let _ = replies.push_within_capacity(reply);
        }
    }
}

fn new_ledger<H, D>(caps: Caps) -> Result<Ledger<H, D>> {
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
fn count<H, D>(ledger: &Ledger<H, D>, stats: &Stats) {
    let requests = i64::try_from(ledger.requests()).unwrap_or(i64::MAX);
    stats.in_flight.store(requests, Relaxed);
}

/// Up to this size a buffer in one piece is as easily had as pages, in bytes.
const EASY: u32 = 16 * 1024;

/// A buffer for a request. It is not cleared. May sleep.
///
/// # Errors
///
/// `ENOMEM`.
pub fn buffer(length: u32, kind: TransferType, pool: &Arc<BufferPool>) -> Result<Buffer> {
    if length > EASY && kind == TransferType::Bulk {
        return Buffer::pages(length, pool);
    }
    Buffer::pooled(length, pool, Context::Process)
}

/// What a server's [`Side::look_at`] has to say of a header. `find` looks up an endpoint and its type, if
/// there is nothing that a request for it would have to wait for. [`Side::receive_direct`] gets both.
///
/// It is for requests with a buffer that is easily had, and without isochronous packets; and for none to
/// cancel another, because that may take long for a transfer that went out in pieces. Any context.
pub fn look_at<E>(
    header: &[u8; HEADER_LEN],
    find: impl FnOnce(&CmdSubmit) -> Option<(E, TransferType)>,
) -> Option<((CmdSubmit, E), usize)> {
    let Ok(Command::Submit(cmd)) = Command::parse(header) else {
        return None;
    };
    let (endpoint, kind) = find(&cmd)?;
    if cmd.length > EASY || kind == TransferType::Isochronous {
        return None;
    }
    let body = cmd.body(false).ok()?;
    // CAST: At most `EASY`.
    Some(((cmd, endpoint), body.data as usize))
}

/// What a request takes of the limits, in bytes: its buffer and what is kept of its packets.
pub fn weight(cmd: &CmdSubmit, iso_packets: u32) -> u32 {
    // CAST: 16.
    let packets = iso_packets.saturating_mul(DESCRIPTOR_LEN as u32);
    cmd.length.saturating_add(packets)
}

/// Checks a control request against its setup packet.
///
/// # Errors
///
/// The status to refuse it with.
pub fn check_control(cmd: &CmdSubmit) -> Result<(), i32> {
    let setup = Setup(cmd.setup);
    if u32::from(setup.length()) != cmd.length {
        // What usb_submit_urb() says.
        return Err(EBADR.to_errno());
    }
    if cmd.length > 0 && setup.is_in() != (cmd.direction == Direction::In) {
        return Err(-errno::EINVAL);
    }
    Ok(())
}

/// Throws away what follows a header. rx thread.
///
/// # Errors
///
/// The connection is to end.
pub fn skip(inbox: &mut Inbox<'_>, body: Body) -> Result<(), Down> {
    inbox.skip(usize::try_from(body.total()).map_err(|_| Down::NoMemory)?)
}

/// Receives the data of an OUT request. rx thread.
///
/// # Errors
///
/// The connection is to end.
pub fn receive_data(buffer: &mut Buffer, data: u32, inbox: &mut Inbox<'_>) -> Result<(), Down> {
    let buffered = inbox.buffered();
    let here = buffered.len().min(data as usize);
    buffer.write(0, buffered.get(..here).unwrap_or(&[]));
    inbox.consume(here);
    // CAST: At most `data`.
    let here = here as u32;
    if here < data {
        inbox.fill(buffer.slices_mut(here, data))?;
    }
    Ok(())
}

/// Whether the data of a request can be [gathered](gather): it is much, for a bulk endpoint, and can stay
/// where it has arrived. rx thread.
pub fn gathers(data: u32, kind: TransferType, inbox: &Inbox<'_>) -> bool {
    data > EASY && kind == TransferType::Bulk && inbox.is_plain()
}

/// Receives the data of an OUT request where it has arrived, as far as that is possible. Returns `None`
/// if there was not enough memory; the data is gone then. rx thread.
///
/// # Errors
///
/// The connection is to end.
pub fn gather(
    data: u32,
    pool: &Arc<BufferPool>,
    inbox: &mut Inbox<'_>,
) -> Result<Option<Buffer>, Down> {
    let mut gather = Gather::new(pool);
    let is_complete = inbox.gather(data as usize, &mut gather)?;
    Ok(is_complete.then(|| gather.finish()))
}

/// Receives isochronous descriptors; `take` gets the index and the packet, and says whether it is
/// acceptable. Returns whether all were. rx thread.
///
/// # Errors
///
/// The connection is to end.
pub fn receive_packets(
    count: u32,
    inbox: &mut Inbox<'_>,
    mut take: impl FnMut(u32, Packet) -> bool,
) -> Result<bool, Down> {
    let mut good = true;
    for index in 0..count {
        inbox.ensure(DESCRIPTOR_LEN)?;
        let packet = inbox
            .buffered()
            .first_chunk::<DESCRIPTOR_LEN>()
            .map(Packet::parse)
            .ok_or(Down::Truncated)?;
        inbox.consume(DESCRIPTOR_LEN);
        good &= take(index, packet);
    }
    Ok(good)
}
