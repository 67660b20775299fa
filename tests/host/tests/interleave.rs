// SPDX-License-Identifier: GPL-2.0

//! Client and server ledgers against each other, in every order of events.
//!
//! The threads of both ends are cut into the steps between which the other end, the driver or the
//! device can act. Headers travel as bytes.

use std::collections::VecDeque;

use usbip_host_tests::explore::{explore, Visited, World};
use usbip_host_tests::{client, golden, server, Client, Server, IN, OUT};
use usbip_protocol::ledger::client::{AfterSend, Dequeued, RetSubmit, RetUnlink, TxItem};
use usbip_protocol::ledger::server::{Caps, Completed, Start, TxKind, Unlink};
use usbip_protocol::ledger::Token;
use usbip_protocol::wire::{self, CmdSubmit, CmdUnlink, Command, Direction, HeaderBytes, Reply};

/// Most URBs in a world.
const MOST: usize = 4;

/// URB number. The ledger treats it as move-only; here it has to be cloned with the world.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Urb(usize);

/// The result of a request at the server.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Done {
    id: usize,
    status: i32,
}

#[derive(Clone, Hash)]
struct Tx {
    token: Token,
    seqnum: u32,
    urb: Urb,
    written: bool,
}

#[derive(Clone, Hash)]
struct Net {
    urbs: usize,
    /// The URBs that their driver may unlink.
    unlinks: usize,
    client: Client<Urb>,
    server: Server<usize, Done>,
    commands: VecDeque<HeaderBytes>,
    replies: VecDeque<HeaderBytes>,
    // The driver.
    tokens: [Option<Token>; MOST],
    asked: [bool; MOST],
    back: [u32; MOST],
    // What the threads are at.
    tx: Option<Tx>,
    rx: Option<(Token, Urb)>,
    /// What the device is at: requests, and whether they are being cancelled.
    device: [Option<(Token, bool)>; MOST],
    // What has been on the wire.
    submitted: [Option<u32>; MOST],
    answered: [bool; MOST],
    /// The CMD_UNLINKs: number and victim.
    unlinked: [Option<u32>; MOST],
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Enqueue(usize),
    Dequeue(usize),
    /// The tx thread of the client takes a PDU from the queue; a CMD_UNLINK is sent at once.
    TxTake,
    TxWrite,
    TxReport,
    ServerRx,
    DeviceDone(usize, i32),
    ServerTx,
    /// The rx thread of the client takes a reply.
    ClientRx,
    /// It has received the body.
    RxDone,
}

fn direction(id: usize) -> Direction {
    if id % 2 == 0 {
        Direction::In
    } else {
        Direction::Out
    }
}

impl Net {
    fn new(urbs: usize, unlinks: usize, entries: usize, last: u32) -> Self {
        Self {
            urbs,
            unlinks,
            client: client(entries, last),
            server: server(
                Caps {
                    requests: urbs,
                    bytes: 1000,
                },
                urbs,
            ),
            commands: VecDeque::new(),
            replies: VecDeque::new(),
            tokens: [None; MOST],
            asked: [false; MOST],
            back: [0; MOST],
            tx: None,
            rx: None,
            device: [None; MOST],
            submitted: [None; MOST],
            answered: [false; MOST],
            unlinked: [None; MOST],
        }
    }

    fn give_back(&mut self, urb: Urb) {
        self.back[urb.0] += 1;
        assert_eq!(self.back[urb.0], 1, "URB {} came back twice", urb.0);
    }

    fn command(&mut self, command: Command) {
        self.commands.push_back(command.build());
    }

    fn dequeue(&mut self, id: usize) {
        self.asked[id] = true;
        match self.client.dequeue(self.tokens[id].unwrap()) {
            Dequeued::Local(urb) => {
                assert_eq!(urb, Urb(id));
                assert_eq!(self.submitted[id], None);
                self.give_back(urb);
            }
            Dequeued::Deferred | Dequeued::Unlinking { .. } => assert_eq!(self.back[id], 0),
            Dequeued::Gone => assert_eq!(self.back[id], 1),
            Dequeued::AlreadyPending => panic!("unlinked once"),
        }
    }

    fn tx_take(&mut self) -> bool {
        match self.client.next_tx(0) {
            Some(TxItem::Submit { token, seqnum, urb }) => {
                self.tx = Some(Tx {
                    token,
                    seqnum,
                    urb,
                    written: false,
                });
            }
            Some(TxItem::Unlink { seqnum, victim }) => {
                let id = self.submitted.iter().position(|&s| s == Some(victim));
                self.unlinked[id.expect("no CMD_UNLINK before its CMD_SUBMIT")] = Some(seqnum);
                self.command(Command::Unlink(CmdUnlink {
                    seqnum,
                    devid: 1,
                    victim,
                }));
            }
            None => return false,
        }
        true
    }

    fn tx_write(&mut self) -> bool {
        let Some(tx) = self.tx.as_mut().filter(|tx| !tx.written) else {
            return false;
        };
        tx.written = true;
        let (id, seqnum) = (tx.urb.0, tx.seqnum);
        assert_eq!(self.submitted[id], None, "submitted twice");
        self.submitted[id] = Some(seqnum);
        self.command(Command::Submit(CmdSubmit {
            seqnum,
            direction: direction(id),
            setup: [id as u8, 0, 0, 0, 0, 0, 0, 0],
            ..golden::SUBMIT
        }));
        true
    }

    fn tx_report(&mut self) -> bool {
        if !self.tx.as_ref().is_some_and(|tx| tx.written) {
            return false;
        }
        let tx = self.tx.take().unwrap();
        match self.client.sent(tx.token, tx.urb) {
            AfterSend::InFlight | AfterSend::UnlinkQueued { .. } => (),
            AfterSend::Answered { urb, reply, .. } => {
                assert_eq!(reply.seqnum, tx.seqnum);
                self.give_back(urb);
            }
            AfterSend::Stale(urb) => panic!("{urb:?} stale"),
        }
        true
    }

    fn server_rx(&mut self) -> bool {
        let Some(bytes) = self.commands.pop_front() else {
            return false;
        };
        match Command::parse(&bytes).unwrap() {
            Command::Submit(cmd) => {
                let id = usize::from(cmd.setup[0]);
                let token = self.server.admit(cmd.seqnum, cmd.length).unwrap();
                assert_eq!(self.server.start(token, id), Start::Started);
                self.device[id] = Some((token, false));
            }
            Command::Unlink(cmd) => match self.server.unlink(cmd.seqnum, cmd.victim).unwrap() {
                Unlink::Cancel { token, handle } => {
                    assert_eq!(self.device[handle], Some((token, false)));
                    self.device[handle] = Some((token, true));
                }
                Unlink::Answered { .. } => (),
                Unlink::Deferred(_) => panic!("every request was started"),
            },
        }
        true
    }

    fn device_done(&mut self, id: usize, status: i32) -> bool {
        let Some((token, cancelled)) = self.device[id] else {
            return false;
        };
        if status != 0 && !cancelled {
            return false;
        }
        self.device[id] = None;
        match self.server.complete(token, Done { id, status }) {
            Completed::Queued { handle, .. } => assert_eq!(handle, (!cancelled).then_some(id)),
            Completed::Stale(done) => panic!("{done:?} stale"),
        }
        true
    }

    fn server_tx(&mut self) -> bool {
        let Some(reply) = self.server.next_reply() else {
            return false;
        };
        assert!(self.server.sent(reply.token));
        let seqnum = reply.seqnum;
        let reply = match reply.kind {
            TxKind::Submit(done) => {
                assert_eq!(self.submitted[done.id], Some(seqnum));
                assert!(!self.answered[done.id], "answered twice");
                self.answered[done.id] = true;
                Reply::Submit(ret(seqnum, done.status))
            }
            TxKind::Unlinked(done) => {
                assert_eq!(self.unlinked[done.id], Some(seqnum));
                assert!(!self.answered[done.id], "answered twice");
                self.answered[done.id] = true;
                Reply::Unlink(wire::RetUnlink {
                    seqnum,
                    status: done.status,
                })
            }
            TxKind::Unlink(status) => {
                let id = self
                    .unlinked
                    .iter()
                    .position(|&s| s == Some(seqnum))
                    .unwrap();
                assert!(self.answered[id], "RET_UNLINK(0) before its RET_SUBMIT");
                Reply::Unlink(wire::RetUnlink { seqnum, status })
            }
            TxKind::Refused(_) => panic!("nothing was refused"),
        };
        self.replies.push_back(reply.build());
        true
    }

    fn client_rx(&mut self) -> bool {
        if self.rx.is_some() {
            return false;
        }
        let Some(bytes) = self.replies.pop_front() else {
            return false;
        };
        match Reply::parse(&bytes).unwrap() {
            Reply::Submit(ret) => match self.client.ret_submit(ret.seqnum) {
                RetSubmit::Receive {
                    token,
                    urb,
                    meta,
                    unlinking,
                } => {
                    assert_eq!(meta.direction, direction(urb.0));
                    assert_eq!(unlinking, self.asked[urb.0]);
                    self.rx = Some((token, urb));
                }
                RetSubmit::Sending { token, meta } => {
                    if meta.direction == Direction::In {
                        // A body may follow: wait for the tx thread.
                        return false;
                    }
                    assert!(self.client.stash_reply(token, ret));
                }
                other => panic!("an honest reply is {other:?}"),
            },
            Reply::Unlink(ret) => match self.client.ret_unlink(ret.seqnum, ret.status) {
                RetUnlink::GiveBack { urb, .. } => self.give_back(urb),
                // Unknown: the URB was answered, and its entry was needed since.
                RetUnlink::AlreadyDone | RetUnlink::Unknown => (),
                other => panic!("an honest reply is {other:?}"),
            },
        }
        true
    }

    fn rx_done(&mut self) -> bool {
        let Some((token, urb)) = self.rx.take() else {
            return false;
        };
        assert!(self.client.received(token));
        self.give_back(urb);
        true
    }

    /// The connection is lost now. `late`: the threads report only after the ledger was drained.
    fn lose(mut self, late: bool) {
        let lent = self
            .tx
            .take()
            .map(|tx| (tx.token, tx.urb))
            .into_iter()
            .chain(self.rx.take());
        let mut lent: Vec<_> = lent.collect();
        if !late {
            for (token, urb) in lent.drain(..) {
                assert_eq!(self.client.put_back(token, urb), Ok(()));
            }
        }
        while let Some(urb) = self.client.drain() {
            self.give_back(urb);
        }
        for (token, urb) in lent {
            match self.client.sent(token, urb) {
                AfterSend::Stale(urb) => self.give_back(urb),
                other => panic!("{other:?}"),
            }
        }
        assert!(self.client.is_idle());
        assert_eq!((self.client.pending(), self.client.in_flight()), (0, 0));
        for id in 0..self.urbs {
            assert_eq!(
                self.back[id],
                u32::from(self.tokens[id].is_some()),
                "URB {id}"
            );
        }
        while self.server.drain().is_some() {}
        assert!(self.server.is_idle());
        assert_eq!((self.server.requests(), self.server.bytes()), (0, 0));
        for id in 0..self.urbs {
            if let Some((token, _)) = self.device[id] {
                let done = Done { id, status: -108 };
                assert_eq!(
                    self.server.complete(token, done.clone()),
                    Completed::Stale(done)
                );
            }
        }
    }
}

fn ret(seqnum: u32, status: i32) -> wire::RetSubmit {
    wire::RetSubmit {
        seqnum,
        status,
        actual_length: 0,
        start_frame: 0,
        number_of_packets: 0,
        error_count: 0,
    }
}

impl World for Net {
    type Step = Step;

    fn steps(&self) -> Vec<Step> {
        use Step::*;
        let mut steps = vec![
            TxTake, TxWrite, TxReport, ServerRx, ServerTx, ClientRx, RxDone,
        ];
        if self.tx.is_some() {
            steps.retain(|step| !matches!(step, TxTake));
        }
        // URBs differ in nothing but their number: enqueue them in order.
        steps.extend(
            self.tokens[..self.urbs]
                .iter()
                .position(Option::is_none)
                .map(Enqueue),
        );
        for id in 0..self.urbs {
            if id < self.unlinks && self.tokens[id].is_some() && !self.asked[id] {
                steps.push(Dequeue(id));
            }
            if self.device[id].is_some() {
                steps.extend([DeviceDone(id, 0), DeviceDone(id, -104)]);
            }
        }
        steps
    }

    fn take(&mut self, step: Step) -> bool {
        match step {
            Step::Enqueue(id) => {
                let meta = match direction(id) {
                    Direction::In => IN,
                    Direction::Out => OUT,
                };
                match self.client.enqueue(Urb(id), meta) {
                    Ok(enqueued) => self.tokens[id] = Some(enqueued.token),
                    Err(_) => return false,
                }
            }
            Step::Dequeue(id) => self.dequeue(id),
            Step::TxTake => return self.tx_take(),
            Step::TxWrite => return self.tx_write(),
            Step::TxReport => return self.tx_report(),
            Step::ServerRx => return self.server_rx(),
            Step::DeviceDone(id, status) => return self.device_done(id, status),
            Step::ServerTx => return self.server_tx(),
            Step::ClientRx => return self.client_rx(),
            Step::RxDone => return self.rx_done(),
        }
        true
    }

    fn check(&self) {
        let out = |id: &usize| self.tokens[*id].is_some() && self.back[*id] == 0;
        assert_eq!(self.client.pending(), (0..self.urbs).filter(out).count());
        self.clone().lose(false);
        self.clone().lose(true);
    }

    fn check_end(&self) {
        assert_eq!(
            self.back[..self.urbs],
            vec![1; self.urbs],
            "every URB is back"
        );
        assert!(self.client.is_idle());
        assert!(self.server.is_idle());
        assert!(self.commands.is_empty() && self.replies.is_empty());
    }
}

fn visit(urbs: usize, unlinks: usize, entries: usize, last: u32) -> Visited {
    let visited = explore(Net::new(urbs, unlinks, entries, last));
    println!("{urbs} URBs, {unlinks} unlinked, {entries} entries: {visited:?}");
    visited
}

#[test]
fn two_urbs_both_unlinked() {
    assert!(visit(2, 2, 2, 0).states > 1_000);
}

#[test]
fn two_urbs_through_one_entry() {
    assert!(visit(2, 2, 1, 0).states > 300);
}

#[test]
fn two_urbs_around_the_wrap() {
    let here = visit(2, 2, 2, u32::MAX - 2).states;
    assert_eq!(here, visit(2, 2, 2, 0).states);
}

#[test]
fn three_urbs_all_unlinked() {
    assert!(visit(3, 3, 3, 0).states > 10_000);
}

#[test]
fn three_urbs_through_two_entries() {
    assert!(visit(3, 3, 2, 0).states > 10_000);
}

#[test]
fn four_urbs_one_unlinked() {
    assert!(visit(4, 1, 4, 0).states > 10_000);
}
