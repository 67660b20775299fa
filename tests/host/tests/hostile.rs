// SPDX-License-Identifier: GPL-2.0

//! The client's ledger against a server that may answer anything at any time, in every order of
//! events: every URB comes back exactly once, no buffer is given back while it is being sent or
//! received, and what is not a reply to something outstanding ends the connection.

use usbip_host_tests::explore::{explore, World};
use usbip_host_tests::{client, Client, IN, OUT};
use usbip_protocol::ledger::client::{AfterSend, Dequeued, RetSubmit, RetUnlink, TxItem};
use usbip_protocol::ledger::Token;
use usbip_protocol::wire::{self, Direction, UrbMeta};

const MOST: usize = 3;

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Urb(usize);

#[derive(Clone, Hash)]
struct Net {
    urbs: usize,
    client: Client<Urb>,
    tokens: [Option<Token>; MOST],
    asked: [bool; MOST],
    back: [u32; MOST],
    tx: Option<(Token, Urb)>,
    rx: Option<(Token, Urb)>,
    /// Numbers sent so far: the URB, and whether it was its CMD_UNLINK.
    sent: Vec<(usize, bool)>,
    /// The connection has ended.
    dead: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Enqueue(usize),
    Dequeue(usize),
    TxTake,
    TxReport,
    TxFails,
    RetSubmit(u32),
    RetUnlink(u32, i32),
    RxDone,
    RxFails,
}

fn meta(id: usize) -> UrbMeta {
    [IN, OUT][id % 2]
}

impl Net {
    fn give_back(&mut self, urb: Urb) {
        self.back[urb.0] += 1;
        assert_eq!(self.back[urb.0], 1, "URB {} came back twice", urb.0);
        let lent = self
            .tx
            .iter()
            .chain(&self.rx)
            .any(|(_, other)| *other == urb);
        assert!(!lent, "URB {} is still in use", urb.0);
    }

    fn ret_submit(&mut self, seqnum: u32) -> bool {
        let owner = (seqnum as usize)
            .checked_sub(1)
            .and_then(|at| self.sent.get(at))
            .copied();
        match self.client.ret_submit(seqnum) {
            RetSubmit::Receive {
                token,
                urb,
                meta: said,
                ..
            } => {
                assert_eq!(owner, Some((urb.0, false)));
                assert_eq!(said, meta(urb.0));
                self.rx = Some((token, urb));
            }
            RetSubmit::Sending { token, meta } => {
                if meta.direction == Direction::In {
                    return false;
                }
                let reply = wire::RetSubmit {
                    seqnum,
                    status: 0,
                    actual_length: 0,
                    start_frame: 0,
                    number_of_packets: 0,
                    error_count: 0,
                };
                assert!(self.client.stash_reply(token, reply));
            }
            RetSubmit::Drain(said) => {
                let (id, unlink) = owner.unwrap();
                assert!(!unlink && self.back[id] == 1 && self.asked[id]);
                assert_eq!(said, meta(id));
            }
            RetSubmit::Violation(_) => self.dead = true,
        }
        true
    }

    fn ret_unlink(&mut self, seqnum: u32, status: i32) -> bool {
        let owner = (seqnum as usize)
            .checked_sub(1)
            .and_then(|at| self.sent.get(at))
            .copied();
        match self.client.ret_unlink(seqnum, status) {
            RetUnlink::GiveBack { urb, .. } => {
                assert_eq!(owner, Some((urb.0, true)));
                self.give_back(urb);
            }
            RetUnlink::AlreadyDone => {
                let (id, unlink) = owner.unwrap();
                assert!(unlink && self.back[id] == 1);
            }
            // Changes nothing.
            RetUnlink::Unknown => return false,
            RetUnlink::Violation(_) => self.dead = true,
        }
        true
    }

    fn lose(mut self, late: bool) {
        let mut lent: Vec<_> = self.tx.take().into_iter().chain(self.rx.take()).collect();
        if !late {
            for (token, urb) in lent.drain(..) {
                assert_eq!(self.client.put_back(token, urb), Ok(()));
            }
        }
        while let Some(urb) = self.client.drain() {
            self.give_back(urb);
        }
        for (token, urb) in lent {
            match self.client.put_back(token, urb) {
                Ok(()) => panic!("the ledger was drained"),
                Err(urb) => self.give_back(urb),
            }
        }
        for id in 0..self.urbs {
            assert_eq!(
                self.back[id],
                u32::from(self.tokens[id].is_some()),
                "URB {id}"
            );
        }
        assert!(self.client.is_idle());
    }
}

impl World for Net {
    type Step = Step;

    fn steps(&self) -> Vec<Step> {
        use Step::*;
        if self.dead {
            return Vec::new();
        }
        let mut steps: Vec<Step> = self.tokens[..self.urbs]
            .iter()
            .position(Option::is_none)
            .map(Enqueue)
            .into_iter()
            .collect();
        for id in 0..self.urbs {
            if self.tokens[id].is_some() && !self.asked[id] {
                steps.push(Dequeue(id));
            }
        }
        match self.tx {
            Some(_) => steps.extend([TxReport, TxFails]),
            None => steps.push(TxTake),
        }
        match self.rx {
            Some(_) => steps.extend([RxDone, RxFails]),
            None => {
                // Everything sent so far, and a number that was not.
                for seqnum in 1..=self.sent.len() as u32 + 1 {
                    steps.extend([
                        RetSubmit(seqnum),
                        RetUnlink(seqnum, 0),
                        RetUnlink(seqnum, -104),
                    ]);
                }
            }
        }
        steps
    }

    fn take(&mut self, step: Step) -> bool {
        match step {
            Step::Enqueue(id) => match self.client.enqueue(Urb(id), meta(id)) {
                Ok(enqueued) => self.tokens[id] = Some(enqueued.token),
                Err(_) => return false,
            },
            Step::Dequeue(id) => {
                self.asked[id] = true;
                match self.client.dequeue(self.tokens[id].unwrap()) {
                    Dequeued::Local(urb) => self.give_back(urb),
                    Dequeued::Gone => assert_eq!(self.back[id], 1),
                    _ => assert_eq!(self.back[id], 0),
                }
            }
            Step::TxTake => match self.client.next_tx(0) {
                Some(TxItem::Submit { token, seqnum, urb }) => {
                    assert_eq!(seqnum as usize, self.sent.len() + 1);
                    self.sent.push((urb.0, false));
                    self.tx = Some((token, urb));
                }
                Some(TxItem::Unlink { seqnum, victim }) => {
                    assert_eq!(seqnum as usize, self.sent.len() + 1);
                    let (id, unlink) = self.sent[victim as usize - 1];
                    assert!(!unlink && self.asked[id] && self.back[id] == 0);
                    self.sent.push((id, true));
                }
                None => return false,
            },
            Step::TxReport => {
                let (token, urb) = self.tx.take().unwrap();
                match self.client.sent(token, urb) {
                    AfterSend::Answered { urb, .. } => self.give_back(urb),
                    AfterSend::Stale(urb) => panic!("{urb:?} stale"),
                    AfterSend::InFlight | AfterSend::UnlinkQueued { .. } => (),
                }
            }
            Step::TxFails | Step::RxFails => {
                let lent = match step {
                    Step::TxFails => self.tx.take(),
                    _ => self.rx.take(),
                };
                let (token, urb) = lent.unwrap();
                assert_eq!(self.client.put_back(token, urb), Ok(()));
                self.dead = true;
            }
            Step::RetSubmit(seqnum) => return self.ret_submit(seqnum),
            Step::RetUnlink(seqnum, status) => return self.ret_unlink(seqnum, status),
            Step::RxDone => {
                let (token, urb) = self.rx.take().unwrap();
                assert!(self.client.received(token));
                self.give_back(urb);
            }
        }
        true
    }

    fn check(&self) {
        self.clone().lose(false);
        self.clone().lose(true);
    }

    fn check_end(&self) {
        // The server may always say something wrong, so only the end of the connection ends it.
        assert!(self.dead);
    }
}

fn visit(urbs: usize, entries: usize) -> usize {
    let visited = explore(Net {
        urbs,
        client: client(entries, 0),
        tokens: [None; MOST],
        asked: [false; MOST],
        back: [0; MOST],
        tx: None,
        rx: None,
        sent: Vec::new(),
        dead: false,
    });
    println!("{urbs} URBs, {entries} entries: {visited:?}");
    visited.states
}

#[test]
fn two_urbs() {
    assert!(visit(2, 2) > 500);
}

#[test]
fn two_urbs_through_one_entry() {
    assert!(visit(2, 1) > 200);
}

#[test]
fn three_urbs_through_two_entries() {
    assert!(visit(3, 2) > 10_000);
}

#[test]
fn three_urbs() {
    assert!(visit(3, 3) > 10_000);
}
