// SPDX-License-Identifier: GPL-2.0

//! The controller's end of the protocol: takes the requests of a client and sends their replies.
//!
//! C counterparts: `vudc_rx.c`, `vudc_tx.c`.

use crate::bus::{index, Action, Key};
use crate::transfer::{Done, Stage, Transfer};
use crate::udc::Udc;
use kernel::rbtree::RBTreeNodeReservation;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::Arc;
use kernel_ext::mm::Context;
use kernel_ext::net::peer::Peer;
use kernel_ext::net::tap::Bytes;
use kernel_ext::prelude::*;
use kernel_ext::time;
use kernel_ext::usb::buffer::{Buffer, BufferPool};
use kernel_ext::usb::gadget::State;
use kernel_ext::usb::TransferType;
use usbip_core::connection::{Connection, End, Side};
use usbip_core::down::Down;
use usbip_core::inbox::Inbox;
use usbip_core::outbox::{Outbox, Sender};
use usbip_core::server::{self, Charge, Refused, Requests};
use usbip_protocol::flags::Flag;
use usbip_protocol::iso;
use usbip_protocol::ledger::server::Start;
use usbip_protocol::ledger::Token;
use usbip_protocol::limits::MAX_URB_BYTES;
use usbip_protocol::setup::Setup;
use usbip_protocol::status::errno;
use usbip_protocol::wire::{Body, CmdSubmit, Command, Direction, HEADER_LEN};

/// How long a request waits for a change of configuration or setting that is going on and decides
/// about its endpoint, in ms: a gadget driver that takes longer is not to keep a connection from ending.
const CHANGE_MS: u32 = 1000;

/// How many transfers may end before their replies are sent.
const BATCH: usize = 32;

/// The controller's side of a connection.
#[pin_data]
pub(crate) struct Server {
    udc: Arc<Udc>,
    /// Who is at the other end, for messages.
    peer: Peer,
    #[pin]
    requests: Requests<Key, Done>,
    /// Memory for transfers.
    pool: Arc<BufferPool>,
    /// Not 0 while the rx thread waits for a change of endpoints.
    waiting: Atomic<u32>,
}

impl Server {
    /// A server of a controller. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(udc: Arc<Udc>, peer: Peer) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            requests <- Requests::new(udc.data().shared().limits.caps),
            pool: BufferPool::new()?,
            waiting: Atomic::new(0),
            udc,
            peer,
        }? Error)
    }

    /// Takes in a CMD_SUBMIT with all that follows it.
    fn submit(
        &self,
        connection: &Arc<Connection<Self>>,
        cmd: &CmdSubmit,
        inbox: &mut Inbox<'_>,
    ) -> Result<(), Down> {
        let (index, kind, body) = match self.check(connection, cmd)? {
            Ok(accepted) => accepted,
            Err(refused) => {
                return self
                    .requests
                    .refuse(connection, cmd.seqnum, &refused, inbox);
            }
        };
        let Some(token) = self.requests.admit(connection, cmd, body, inbox)? else {
            return Ok(());
        };
        let packets = body.iso_packets;
        let gathers = server::gathers(body.data, kind, inbox);
        let length = if gathers { 0 } else { cmd.length };
        // All other memory that it takes, so that nothing fails once it is complete.
        let transfer = server::buffer(length, kind, &self.pool)
            .and_then(|buffer| self.allocate(token, cmd, kind, packets, buffer, Context::Process))
            .and_then(|transfer| Ok((transfer, RBTreeNodeReservation::new(GFP_KERNEL)?)));
        let Ok((mut transfer, node)) = transfer else {
            return self.requests.out_of_memory(connection, token, body, inbox);
        };
        if gathers {
            // A gadget's requests have buffers of their own, to which the data is copied.
            let Some(buffer) = server::gather(body.data, &self.pool, inbox)? else {
                self.requests.fail(connection, token, ENOMEM, packets);
                return Ok(());
            };
            transfer.buffer = buffer;
        } else if body.data > 0 {
            server::receive_data(&mut transfer.buffer, body.data, inbox)?;
        }
        let good = server::receive_packets(packets, inbox, |index, packet| {
            let end = packet.offset.checked_add(packet.length);
            if let Some(slot) = transfer.packets.get_mut(index as usize) {
                *slot = iso::Packet::submitted(packet.offset, packet.length);
            }
            end.is_some_and(|end| end <= cmd.length)
        })?;
        if !good {
            self.requests.fail(connection, token, EINVAL, packets);
            return Ok(());
        }
        self.add(connection, index, transfer, node);
        Ok(())
    }

    /// Takes in a CMD_SUBMIT with the data that follows it, if nothing is in the way. Atomic context.
    fn submit_direct(
        &self,
        connection: &Connection<Self>,
        cmd: &CmdSubmit,
        (index, kind): (usize, TransferType),
        data: Bytes<'_>,
    ) -> Option<()> {
        if kind == TransferType::Control && server::check_control(cmd).is_err() {
            return None;
        }
        let token = self.requests.admit_direct(connection, cmd)?;
        let place = Context::Atomic;
        let transfer = Buffer::pooled(cmd.length, &self.pool, place)
            .and_then(|buffer| self.allocate(token, cmd, kind, 0, buffer, place))
            .and_then(|transfer| Ok((transfer, RBTreeNodeReservation::new(place.flags())?)));
        let Ok((mut transfer, node)) = transfer else {
            self.requests.withdraw(connection, token);
            return None;
        };
        transfer.buffer.write_received(0, data);
        self.add(connection, index, transfer, node);
        Some(())
    }

    /// Adds a transfer that is complete to what its endpoint has to do. Any context.
    fn add(
        &self,
        connection: &Connection<Self>,
        index: usize,
        transfer: KBox<Transfer>,
        node: RBTreeNodeReservation<Key, KBox<Transfer>>,
    ) {
        let bus = &self.udc.data().bus;
        let key = bus.lock().next_key(index);
        let token = transfer.token;
        let node = node.into_node(key, transfer);
        if matches!(self.requests.start(token, key), Start::Started)
            && bus.lock().insert(node, index)
        {
            connection.kick();
        }
    }

    /// The endpoint of a request, if there is one at the moment. Any context.
    fn endpoint_direct(&self, cmd: &CmdSubmit) -> Option<(usize, TransferType)> {
        let index = index(cmd.endpoint()?, cmd.direction == Direction::In);
        let kind = self.udc.data().bus.lock().kind(index)?;
        Some((index, kind))
    }

    /// What a request is for, and what follows its header; or why it is not carried out.
    #[allow(clippy::type_complexity, reason = "used once")]
    fn check(
        &self,
        connection: &Connection<Self>,
        cmd: &CmdSubmit,
    ) -> Result<Result<(usize, TransferType, Body), Refused>, Down> {
        let refuse = |body, status| Refused::new(body, status).map(Err).map_err(Down::Body);
        let Some((index, kind)) = self.endpoint(connection, cmd) else {
            return Refused::no_endpoint(cmd).map(Err).map_err(Down::Body);
        };
        let body = cmd
            .body(kind == TransferType::Isochronous)
            .map_err(Down::Body)?;
        if cmd.length > MAX_URB_BYTES {
            return refuse(body, -errno::EMSGSIZE);
        }
        if kind == TransferType::Control {
            if let Err(status) = server::check_control(cmd) {
                return refuse(body, status);
            }
        }
        Ok(Ok((index, kind, body)))
    }

    /// The endpoint of a request, if there is one.
    fn endpoint(
        &self,
        connection: &Connection<Self>,
        cmd: &CmdSubmit,
    ) -> Option<(usize, TransferType)> {
        let found = self.endpoint_direct(cmd);
        if found.is_some() {
            return found;
        }
        // A client that does not wait for the reply to SET_CONFIGURATION.
        let bus = &self.udc.data().bus;
        self.waiting.store(1, Relaxed);
        connection.wait_for_sender(CHANGE_MS, || !bus.lock().is_changing());
        self.waiting.store(0, Relaxed);
        self.endpoint_direct(cmd)
    }

    fn allocate(
        &self,
        token: Token,
        cmd: &CmdSubmit,
        kind: TransferType,
        count: u32,
        buffer: Buffer,
        place: Context,
    ) -> Result<KBox<Transfer>> {
        let charge = Charge::new(
            server::weight(cmd, count),
            self.udc.data().shared().limits.total,
        )
        .ok_or(ENOMEM)?;
        let mut packets = KVVec::new();
        packets.extend_with(count as usize, iso::Packet::default(), place.flags())?;
        let is_in = cmd.direction == Direction::In;
        let may_end_empty = matches!(kind, TransferType::Bulk | TransferType::Interrupt);
        Ok(KBox::new(
            Transfer {
                token,
                is_in,
                length: cmd.length,
                actual: 0,
                status: 0,
                zero: !is_in && may_end_empty && cmd.flags.has(Flag::ZeroPacket),
                short_not_ok: cmd.flags.has(Flag::ShortNotOk) && kind != TransferType::Isochronous,
                setup: Setup(cmd.setup),
                stage: Stage::Setup,
                buffer,
                packets,
                packets_done: 0,
                start_ns: None,
                start_frame: cmd.start_frame,
                number_of_packets: cmd.number_of_packets,
                accepted_ns: time::now_ns(),
                _charge: charge,
            },
            place.flags(),
        )?)
    }

    /// Lets transfers and requests meet; returns whether there is more to do. `only_small`: leaves
    /// endpoint 0 and what takes several steps to the tx thread. Any context; nobody else may be sending.
    fn run(&self, connection: &Connection<Self>, only_small: bool) -> bool {
        let now = time::now_ns();
        let bus = &self.udc.data().bus;
        bus.lock().start_run(now);
        let mut ended = 0;
        let more = loop {
            if ended == BATCH || only_small && bus.lock().is_control_next() {
                break true;
            }
            let Some(action) = bus.lock().next_action(now) else {
                break false;
            };
            match action {
                Action::Again if only_small => break true,
                Action::Wait | Action::Again => {}
                Action::Setup(key, setup) => {
                    if self.udc.setup(&setup).is_err() {
                        let transfer = bus.lock().remove(key);
                        if let Some(mut transfer) = transfer {
                            transfer.end(-errno::EPIPE);
                            self.complete(connection, transfer);
                        }
                    }
                }
                Action::Addressed(on, transfer) => {
                    self.udc
                        .set_state(if on { State::Address } else { State::Default });
                    self.complete(connection, transfer);
                }
                Action::End { request, transfer } => {
                    ended += 1;
                    if let Some((request, status)) = request {
                        request.complete(status);
                    }
                    if let Some(transfer) = transfer {
                        self.complete(connection, transfer);
                    }
                }
            }
        };
        if self.waiting.load(Relaxed) != 0 {
            connection.wake_receiver();
        }
        more
    }

    fn complete(&self, connection: &Connection<Self>, transfer: KBox<Transfer>) {
        let token = transfer.token;
        self.requests.complete(connection, token, Done(transfer));
    }
}

impl Side for Server {
    const RX_NAME: &'static CStr = c"vudc_rx";
    const TX_NAME: &'static CStr = c"vudc_tx";
    type Seen = (CmdSubmit, (usize, TransferType));

    fn receive(
        &self,
        connection: &Arc<Connection<Self>>,
        header: &[u8; HEADER_LEN],
        inbox: &mut Inbox<'_>,
    ) -> Result<(), Down> {
        // There is one device at this connection, and `usbipd` says that it is 0-0: C does not look at
        // what a request names either.
        match Command::parse(header).map_err(Down::Frame)? {
            Command::Submit(cmd) => self.submit(connection, &cmd, inbox),
            Command::Unlink(cmd) => {
                if let Some((_, key)) = self.requests.unlink(connection, &cmd)? {
                    // If it is not there, it has just ended, and that is the reply.
                    let transfer = self.udc.data().bus.lock().remove(key);
                    if let Some(mut transfer) = transfer {
                        transfer.end(-errno::ECONNRESET);
                        self.complete(connection, transfer);
                    }
                }
                Ok(())
            }
        }
    }

    fn look_at(&self, header: &[u8; HEADER_LEN]) -> Option<(Self::Seen, usize)> {
        server::look_at(header, |cmd| {
            let found = self.endpoint_direct(cmd)?;
            Some((found, found.1))
        })
    }

    fn receive_direct(
        &self,
        connection: &Arc<Connection<Self>>,
        (cmd, endpoint): Self::Seen,
        body: Bytes<'_>,
    ) -> Result<bool, Down> {
        let taken = self.submit_direct(connection, &cmd, endpoint, body);
        Ok(taken.is_some())
    }

    fn transmit_direct(
        &self,
        connection: &Connection<Self>,
        outbox: &mut Outbox,
    ) -> Result<bool, Down> {
        let more = self.run(connection, true);
        let is_all = self.requests.transmit_direct(connection, outbox)?;
        // The thread has to know when to look at isochronous endpoints.
        Ok(is_all && !more && self.alarm().is_none())
    }

    fn transmit(&self, connection: &Connection<Self>, sender: &mut Sender<'_>) -> Result<(), Down> {
        loop {
            let more = self.run(connection, false);
            self.requests.transmit(connection, sender)?;
            if !more || connection.is_dying() {
                return Ok(());
            }
        }
    }

    fn alarm(&self) -> Option<u64> {
        self.udc.data().bus.lock().alarm()
    }

    fn closed(&self, end: &End<'_>) {
        let name = self.udc.data().name();
        usbip_core::log_client_gone!(name, self.peer, end);
        // Nobody looks at it any more.
        let (transfers, connection) = {
            let mut bus = self.udc.data().bus.lock();
            (bus.reset(), bus.connection.take())
        };
        drop(transfers);
        drop(connection);
        while self.requests.drain().is_some() {}
        self.udc.data().client_gone(&self.udc);
    }
}
