// SPDX-License-Identifier: GPL-2.0

//! The server's end of the protocol: takes the requests of a client and sends their replies.
//!
//! C counterpart: `stub_rx.c` and `stub_tx.c`. Which PDU may follow which is the business of the
//! ledger; here its answers are carried out.

use crate::flight::{Done, Flight};
use crate::request::{self, Verdict};
use crate::special::{Special, Specials};
use crate::stub::Stub;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;
use kernel_ext::mm::Context;
use kernel_ext::net::peer::Peer;
use kernel_ext::net::tap::Bytes;
use kernel_ext::prelude::*;
use kernel_ext::time;
use kernel_ext::usb::buffer::{Buffer, BufferPool};
use kernel_ext::usb::device::{Device, Endpoint};
use kernel_ext::usb::transfer::{Anchor, Canceller, Request, Transfer};
use usbip_core::connection::{Connection, End, Side};
use usbip_core::down::Down;
use usbip_core::inbox::Inbox;
use usbip_core::outbox::{Outbox, Sender};
use usbip_core::server::{self, Charge, Requests};
use usbip_protocol::ledger::server::{Drained, Start};
use usbip_protocol::ledger::Token;
use usbip_protocol::setup::Setup;
use usbip_protocol::wire::{CmdSubmit, Command, Direction, HEADER_LEN};

/// How long a request waits for a change of configuration or setting that is going on and decides
/// about its endpoint, in ms: longer than usbcore waits for a device (`USB_CTRL_SET_TIMEOUT`).
const CHANGE_MS: u32 = 6000;

/// The server's side of a connection.
#[pin_data]
pub(crate) struct Server {
    stub: Arc<Stub>,
    /// Who is at the other end, for messages.
    peer: Peer,
    /// The requests.
    #[pin]
    pub(crate) requests: Requests<Canceller, Done>,
    /// Their transfers.
    anchor: Pin<KBox<Anchor>>,
    /// Memory for them.
    pool: Arc<BufferPool>,
    /// Requests that usbcore has to carry out.
    specials: Arc<Specials>,
}

impl Server {
    /// A server of a device. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(stub: Arc<Stub>, peer: Peer) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            requests <- Requests::new(stub.shared().limits.caps),
            anchor: KBox::pin_init(Anchor::new(stub.device().clone()), GFP_KERNEL)?,
            pool: BufferPool::new()?,
            specials: Specials::new()?,
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
        let (request, body) =
            match request::check(cmd, self.endpoint(connection, cmd)).map_err(Down::Body)? {
                Verdict::Accept(request, body) => (request, body),
                Verdict::Refuse(refused) => {
                    return self
                        .requests
                        .refuse(connection, cmd.seqnum, &refused, inbox);
                }
            };
        let Some(token) = self.requests.admit(connection, cmd, body, inbox)? else {
            return Ok(());
        };
        let kind = request.endpoint.kind;
        let flight = self.flight(connection, cmd, &request, token);
        if server::gathers(body.data, kind, inbox) && self.device().takes_any_scatter_list() {
            let Ok(flight) = flight else {
                return self.requests.out_of_memory(connection, token, body, inbox);
            };
            let buffer = server::gather(body.data, &self.pool, inbox)?;
            let transfer = buffer
                .ok_or(ENOMEM)
                .and_then(|buffer| self.transfer(request, buffer, flight, Context::Process));
            match transfer {
                Ok(transfer) => self.dispatch(connection, token, transfer),
                // A bulk request has no packets.
                Err(error) => self.requests.fail(connection, token, error, 0),
            }
            return Ok(());
        }
        let transfer = flight.and_then(|flight| {
            let buffer = server::buffer(request.length, kind, &self.pool)?;
            self.transfer(request, buffer, flight, Context::Process)
        });
        let Ok(mut transfer) = transfer else {
            return self.requests.out_of_memory(connection, token, body, inbox);
        };
        if body.data > 0 {
            server::receive_data(transfer.buffer_mut(), body.data, inbox)?;
        }
        let packets = body.iso_packets;
        let good = server::receive_packets(packets, inbox, |index, packet| {
            let set = transfer.set_packet(index, packet.offset, packet.length);
            set.is_ok()
        })?;
        if !good {
            self.requests.fail(connection, token, EINVAL, packets);
            return Ok(());
        }
        self.dispatch(connection, token, transfer);
        Ok(())
    }

    /// What is to travel with a request that was accepted.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: all clients together have too much.
    fn flight(
        &self,
        connection: &Arc<Connection<Self>>,
        cmd: &CmdSubmit,
        request: &Request,
        token: Token,
    ) -> Result<Flight> {
        let weight = server::weight(cmd, request.packets);
        let charge = Charge::new(weight, self.stub.shared().limits.total).ok_or(ENOMEM)?;
        Ok(Flight {
            connection: connection.clone(),
            token,
            number_of_packets: cmd.number_of_packets,
            accepted_ns: time::now_ns(),
            _charge: charge,
        })
    }

    /// What a request that was accepted is to become.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn transfer(
        &self,
        request: Request,
        buffer: Buffer,
        flight: Flight,
        place: Context,
    ) -> Result<KBox<Transfer<Flight>>> {
        Transfer::new(self.device().clone(), request, buffer, flight, place)
    }

    /// The endpoint of a request that does not have to wait for anything that usbcore carries out.
    fn endpoint_direct(&self, cmd: &CmdSubmit) -> Option<Endpoint> {
        if cmd.devid != self.stub.devid() || self.specials.is_busy() {
            return None;
        }
        if cmd.ep == 0 && self.special(cmd.setup).is_some() {
            return None;
        }
        self.device()
            .endpoint(cmd.endpoint()?, cmd.direction == Direction::In)
    }

    /// What a control request is, if usbcore has to carry it out.
    fn special(&self, setup: [u8; 8]) -> Option<Special> {
        Special::parse(&Setup(setup), |number, is_in| {
            self.device().endpoint(number, is_in)
        })
    }

    /// Takes in a CMD_SUBMIT with the data that follows it, if nothing is in the way. Atomic context.
    fn submit_direct(
        &self,
        connection: &Arc<Connection<Self>>,
        cmd: &CmdSubmit,
        endpoint: Endpoint,
        data: Bytes<'_>,
    ) -> Option<()> {
        let Verdict::Accept(request, _) = request::check(cmd, Some(endpoint)).ok()? else {
            return None;
        };
        let token = self.requests.admit_direct(connection, cmd)?;
        let place = Context::Atomic;
        let transfer = self
            .flight(connection, cmd, &request, token)
            .and_then(|flight| {
                let buffer = Buffer::pooled(request.length, &self.pool, place)?;
                self.transfer(request, buffer, flight, place)
            });
        let Ok(mut transfer) = transfer else {
            self.requests.withdraw(connection, token);
            return None;
        };
        transfer.buffer_mut().write_received(0, data);
        match start(connection, transfer, place) {
            // The thread can wait for memory.
            Err((error, transfer)) if error == ENOMEM => {
                drop(transfer);
                self.requests.withdraw(connection, token);
                return None;
            }
            Err((error, transfer)) => fail(connection, error, transfer),
            Ok(()) => {}
        }
        Some(())
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
                let packets = request.packets;
                return self.requests.fail(connection, token, ENOENT, packets);
            }
            return launch(connection, transfer);
        }
        let special = self.special(request.setup);
        match self
            .specials
            .take(transfer, special, &self.stub.shared().specials)
        {
            Ok(Some(transfer)) => launch(connection, transfer),
            Ok(None) => {}
            // A control request has no packets.
            Err(error) => self.requests.fail(connection, token, error, 0),
        }
    }
}

impl Side for Server {
    const RX_NAME: &'static CStr = c"stub_rx";
    const TX_NAME: &'static CStr = c"stub_tx";
    type Seen = (CmdSubmit, Endpoint);

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
            Command::Unlink(cmd) => {
                if let Some((_, handle)) = self.requests.unlink(connection, &cmd)? {
                    handle.cancel();
                }
                Ok(())
            }
        }
    }

    fn look_at(&self, header: &[u8; HEADER_LEN]) -> Option<(Self::Seen, usize)> {
        server::look_at(header, |cmd| {
            let endpoint = self.endpoint_direct(cmd)?;
            Some((endpoint, endpoint.kind))
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
        self.requests.transmit_direct(connection, outbox)
    }

    fn transmit(&self, connection: &Connection<Self>, sender: &mut Sender<'_>) -> Result<(), Down> {
        self.requests.transmit(connection, sender)
    }

    fn closed(&self, end: &End<'_>) {
        let name = self.device().name();
        usbip_core::log_client_gone!(name, self.peer, end);
        self.specials.wait_idle();
        // All at once, before waiting for each.
        loop {
            match self.requests.drain() {
                Some(Drained::Pending(handle)) => handle.cancel(),
                Some(Drained::Done(done)) => drop(done),
                None => break,
            }
        }
        self.anchor.kill_all();
        self.stub.client_gone();
    }
}

/// Hands a transfer to the device. May sleep.
pub(crate) fn launch(connection: &Arc<Connection<Server>>, transfer: KBox<Transfer<Flight>>) {
    if let Err((error, transfer)) = start(connection, transfer, Context::Process) {
        fail(connection, error, transfer);
    }
}

/// Hands a transfer to the device, or gives it back with the error to answer the request with.
fn start(
    connection: &Arc<Connection<Server>>,
    transfer: KBox<Transfer<Flight>>,
    place: Context,
) -> Result<(), (Error, KBox<Transfer<Flight>>)> {
    let server = connection.side();
    let canceller = transfer.canceller();
    let token = transfer.context.token;
    if !matches!(server.requests.start(token, canceller), Start::Started) {
        return Err((ECONNRESET, transfer));
    }
    transfer
        .submit(server.anchor.as_ref(), place)
        .map_err(|(error, transfer)| {
            // It was cancelled in this moment.
            let error = if error == EPERM { ECONNRESET } else { error };
            (error, transfer)
        })
}

/// Answers the request of a transfer that the device was not given.
fn fail(connection: &Arc<Connection<Server>>, error: Error, transfer: KBox<Transfer<Flight>>) {
    let token = transfer.context.token;
    let packets = transfer.request().packets;
    drop(transfer);
    let requests = &connection.side().requests;
    requests.fail(connection, token, error, packets);
}
