// SPDX-License-Identifier: GPL-2.0

//! The client's ledger against a naive model, over random calls.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use usbip_host_tests::{client, Client, IN, ISO, OUT};
use usbip_protocol::ledger::client::*;
use usbip_protocol::ledger::Token;
use usbip_protocol::limits::MAX_TOMBSTONES;
use usbip_protocol::wire::{self, UrbMeta};

const ENTRIES: usize = 5;

#[derive(Debug, PartialEq, Eq)]
struct Urb(usize);

#[derive(Clone, Copy, Debug)]
enum Call {
    Enqueue,
    NextTx,
    /// The URB that the tx thread has had for longest.
    Sent,
    TxFails,
    /// The n-th URB ever.
    Dequeue(usize),
    /// The n-th number handed out, counted from the last, or one that never was.
    RetSubmit(usize),
    Stash,
    Received,
    RxFails,
    RetUnlink(usize, i32),
    Drain,
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        6 => Just(Call::Enqueue),
        8 => Just(Call::NextTx),
        6 => Just(Call::Sent),
        1 => Just(Call::TxFails),
        5 => (0usize..9).prop_map(Call::Dequeue),
        6 => (0usize..9).prop_map(Call::RetSubmit),
        2 => Just(Call::Stash),
        6 => Just(Call::Received),
        1 => Just(Call::RxFails),
        4 => ((0usize..9), prop_oneof![Just(0), Just(-104), Just(-32)])
            .prop_map(|(n, status)| Call::RetUnlink(n, status)),
        1 => Just(Call::Drain),
    ]
}

/// Where a URB is, one flag per fact.
#[derive(Clone, Debug, Default)]
struct Fact {
    seqnum: Option<u32>,
    unlink: Option<u32>,
    unlink_ms: u64,
    with_tx: bool,
    with_rx: bool,
    unlink_wanted: bool,
    stashed: bool,
    parked: bool,
    back: bool,
}

/// What the ledger ought to do, at leisure.
struct Model {
    metas: Vec<UrbMeta>,
    tokens: Vec<Token>,
    facts: BTreeMap<usize, Fact>,
    queue: VecDeque<usize>,
    /// Given back, and the CMD_UNLINK not answered.
    answered: VecDeque<usize>,
    tombstones: VecDeque<(u32, UrbMeta, bool)>,
    last: u32,
}

impl Model {
    /// Numbers are allocated far too rarely here to meet one in use again.
    fn allocate(&mut self) -> u32 {
        self.last = self.last.checked_add(1).unwrap_or(1);
        self.last
    }

    fn by_seqnum(&self, seqnum: u32) -> Option<usize> {
        self.facts
            .iter()
            .find(|(_, f)| f.seqnum == Some(seqnum))
            .map(|(&id, _)| id)
    }

    fn by_unlink(&self, seqnum: u32) -> Option<usize> {
        self.facts
            .iter()
            .find(|(_, f)| f.unlink == Some(seqnum))
            .map(|(&id, _)| id)
    }

    fn bury(&mut self, seqnum: u32, meta: UrbMeta) {
        self.tombstones.push_back((seqnum, meta, true));
        if self.tombstones.len() > MAX_TOMBSTONES {
            self.tombstones.pop_front();
        }
    }

    fn check(&self, ledger: &Client<Urb>) {
        let pending = self.facts.values().filter(|f| !f.back).count();
        let in_flight = self
            .facts
            .values()
            .filter(|f| !f.back && f.seqnum.is_some())
            .count();
        let oldest = self
            .facts
            .values()
            .filter(|f| f.unlink.is_some() && !f.back)
            .map(|f| f.unlink_ms)
            .min();
        assert_eq!(ledger.pending(), pending);
        assert_eq!(ledger.in_flight(), in_flight);
        assert_eq!(ledger.oldest_unlink_ms(), oldest);
        assert_eq!(ledger.is_idle(), self.facts.is_empty());
    }
}

fn reply(seqnum: u32) -> wire::RetSubmit {
    wire::RetSubmit {
        seqnum,
        status: 0,
        actual_length: 0,
        start_frame: 0,
        number_of_packets: 0,
        error_count: 0,
    }
}

fn run(calls: &[Call], start: u32) {
    let mut ledger: Client<Urb> = client(ENTRIES, start);
    let mut model = Model {
        metas: Vec::new(),
        tokens: Vec::new(),
        facts: BTreeMap::new(),
        queue: VecDeque::new(),
        answered: VecDeque::new(),
        tombstones: VecDeque::new(),
        last: start,
    };
    let (mut tx, mut rx) = (VecDeque::new(), VecDeque::new());
    for (now, &call) in (100..).zip(calls) {
        step(&mut ledger, &mut model, &mut tx, &mut rx, call, now);
        model.check(&ledger);
    }
    // Teardown: what the threads have is theirs, the rest comes out, nothing twice.
    let drained: Vec<usize> = std::iter::from_fn(|| ledger.drain())
        .map(|urb| urb.0)
        .collect();
    let lent = |f: &Fact| f.with_tx || f.with_rx;
    let due = model
        .facts
        .iter()
        .filter(|(_, f)| !f.back && !lent(f))
        .map(|(&id, _)| id);
    assert_eq!(sorted(drained), due.collect::<Vec<_>>());
    for (id, token) in tx.into_iter().chain(rx) {
        assert_eq!(ledger.put_back(token, Urb(id)), Err(Urb(id)));
    }
    assert!(ledger.is_idle());
}

fn sorted(mut ids: Vec<usize>) -> Vec<usize> {
    ids.sort();
    ids
}

type Lent = VecDeque<(usize, Token)>;

fn step(
    ledger: &mut Client<Urb>,
    model: &mut Model,
    tx: &mut Lent,
    rx: &mut Lent,
    call: Call,
    now: u64,
) {
    // The n-th number from the last one; past the first one, a number not in use.
    let number = |n: usize, last: u32| last.wrapping_sub(n as u32).wrapping_add(1);
    match call {
        Call::Enqueue => {
            let id = model.metas.len();
            let meta = [IN, OUT, ISO][id % 3];
            let result = ledger.enqueue(Urb(id), meta);
            if model.facts.len() == ENTRIES {
                if let Some(oldest) = model.answered.pop_front() {
                    model.facts.remove(&oldest);
                }
            }
            if model.facts.len() == ENTRIES {
                assert_eq!(result, Err(Full(Urb(id))));
                return;
            }
            let Enqueued { token, wake } = result.unwrap();
            assert_eq!(wake, model.queue.is_empty());
            assert!(!model.tokens.contains(&token));
            model.metas.push(meta);
            model.tokens.push(token);
            model.facts.insert(id, Fact::default());
            model.queue.push_back(id);
        }
        Call::NextTx => {
            let peek = ledger.peek_tx();
            let item = ledger.next_tx(now);
            let Some(id) = model.queue.pop_front() else {
                assert_eq!((peek, item), (None, None));
                return;
            };
            let seqnum = model.allocate();
            let fact = model.facts.get_mut(&id).unwrap();
            match fact.seqnum {
                None => {
                    fact.seqnum = Some(seqnum);
                    fact.with_tx = true;
                    let token = model.tokens[id];
                    assert_eq!(peek, Some(NextTx::Submit(model.metas[id])));
                    assert_eq!(
                        item,
                        Some(TxItem::Submit {
                            token,
                            seqnum,
                            urb: Urb(id)
                        })
                    );
                    tx.push_back((id, token));
                }
                Some(victim) => {
                    fact.unlink = Some(seqnum);
                    fact.unlink_ms = now;
                    assert_eq!(peek, Some(NextTx::Unlink));
                    assert_eq!(item, Some(TxItem::Unlink { seqnum, victim }));
                }
            }
        }
        Call::Sent => {
            let Some((id, token)) = tx.pop_front() else {
                return;
            };
            let result = ledger.sent(token, Urb(id));
            let Some(fact) = model.facts.get_mut(&id) else {
                assert_eq!(result, AfterSend::Stale(Urb(id)));
                return;
            };
            fact.with_tx = false;
            if fact.stashed {
                let reply = reply(fact.seqnum.unwrap());
                let unlinking = fact.unlink_wanted;
                assert_eq!(
                    result,
                    AfterSend::Answered {
                        urb: Urb(id),
                        reply,
                        unlinking
                    }
                );
                model.facts.remove(&id);
            } else if fact.unlink_wanted {
                let wake = model.queue.is_empty();
                assert_eq!(result, AfterSend::UnlinkQueued { wake });
                model.queue.push_back(id);
            } else {
                assert_eq!(result, AfterSend::InFlight);
            }
        }
        Call::TxFails | Call::RxFails => {
            let lent = if matches!(call, Call::TxFails) {
                tx
            } else {
                rx
            };
            let Some((id, token)) = lent.pop_front() else {
                return;
            };
            let result = ledger.put_back(token, Urb(id));
            match model.facts.get_mut(&id) {
                Some(fact) => {
                    assert_eq!(result, Ok(()));
                    fact.with_tx = false;
                    fact.with_rx = false;
                    fact.parked = true;
                }
                None => assert_eq!(result, Err(Urb(id))),
            }
        }
        Call::Dequeue(n) => {
            let Some(&token) = model.tokens.iter().rev().nth(n) else {
                return;
            };
            let id = model.tokens.len() - 1 - n;
            let result = ledger.dequeue(token);
            let was_empty = model.queue.is_empty();
            let Some(fact) = model.facts.get_mut(&id).filter(|f| !f.back) else {
                assert_eq!(result, Dequeued::Gone);
                return;
            };
            if fact.seqnum.is_none() {
                assert_eq!(result, Dequeued::Local(Urb(id)));
                model.facts.remove(&id);
                model.queue.retain(|&other| other != id);
            } else if fact.with_tx {
                assert_eq!(result, Dequeued::Deferred);
                fact.unlink_wanted = true;
            } else if fact.with_rx || fact.parked {
                assert_eq!(result, Dequeued::Deferred);
            } else if fact.unlink_wanted {
                assert_eq!(result, Dequeued::AlreadyPending);
            } else {
                assert_eq!(result, Dequeued::Unlinking { wake: was_empty });
                fact.unlink_wanted = true;
                model.queue.push_back(id);
            }
        }
        Call::RetSubmit(n) => {
            let seqnum = number(n, model.last);
            let awaited = ledger.awaited(seqnum);
            let result = ledger.ret_submit(seqnum);
            let handed_out = match &result {
                RetSubmit::Receive { meta, .. } => Some(*meta),
                _ => None,
            };
            assert_eq!(awaited, handed_out);
            if let Some(found) = model.tombstones.iter_mut().find(|t| t.0 == seqnum && t.2) {
                found.2 = false;
                assert_eq!(result, RetSubmit::Drain(found.1));
            } else if model.by_unlink(seqnum).is_some() {
                assert_eq!(result, RetSubmit::Violation(Violation::UnlinkSeqnum));
            } else if let Some(id) = model.by_seqnum(seqnum) {
                let (token, meta) = (model.tokens[id], model.metas[id]);
                let fact = model.facts.get_mut(&id).unwrap();
                if fact.back || fact.parked || fact.with_rx || fact.stashed {
                    assert_eq!(result, RetSubmit::Violation(Violation::Duplicate));
                } else if fact.with_tx {
                    assert_eq!(result, RetSubmit::Sending { token, meta });
                } else {
                    let unlinking = fact.unlink_wanted;
                    let urb = Urb(id);
                    assert_eq!(
                        result,
                        RetSubmit::Receive {
                            token,
                            urb,
                            meta,
                            unlinking
                        }
                    );
                    fact.with_rx = true;
                    model.queue.retain(|&other| other != id);
                    rx.push_back((id, token));
                }
            } else {
                assert_eq!(result, RetSubmit::Violation(Violation::UnknownSeqnum));
            }
        }
        Call::Stash => {
            let Some(&(id, token)) = tx.front() else {
                return;
            };
            let seqnum = model.facts.get(&id).and_then(|f| f.seqnum);
            let result = ledger.stash_reply(token, reply(seqnum.unwrap_or(0)));
            let fact = model.facts.get_mut(&id);
            assert_eq!(result, fact.as_ref().is_some_and(|f| !f.stashed));
            if let Some(fact) = fact {
                fact.stashed = true;
            }
        }
        Call::Received => {
            let Some((id, token)) = rx.pop_front() else {
                return;
            };
            let result = ledger.received(token);
            let Some(fact) = model.facts.get_mut(&id) else {
                assert!(!result);
                return;
            };
            assert!(result);
            fact.with_rx = false;
            fact.back = true;
            if fact.unlink.is_none() {
                model.facts.remove(&id);
            } else {
                model.answered.push_back(id);
            }
        }
        Call::RetUnlink(n, status) => {
            let seqnum = number(n, model.last);
            let result = ledger.ret_unlink(seqnum, status);
            let Some(id) = model.by_unlink(seqnum) else {
                assert_eq!(result, RetUnlink::Unknown);
                return;
            };
            let fact = model.facts[&id].clone();
            if fact.with_rx {
                assert_eq!(result, RetUnlink::Violation(Violation::BeingReceived));
            } else if fact.parked {
                assert_eq!(result, RetUnlink::Unknown);
            } else if fact.back {
                assert_eq!(result, RetUnlink::AlreadyDone);
                model.answered.retain(|&other| other != id);
                model.facts.remove(&id);
            } else {
                let RetUnlink::GiveBack { urb, status: shown } = result else {
                    panic!("{result:?}")
                };
                assert_eq!(urb, Urb(id));
                assert_eq!(shown.raw(), if status == 0 { -104 } else { status });
                model.facts.remove(&id);
                if status == 0 {
                    model.bury(fact.seqnum.unwrap(), model.metas[id]);
                }
            }
        }
        Call::Drain => {
            let back = std::iter::from_fn(|| ledger.drain())
                .map(|urb| urb.0)
                .collect();
            let due: Vec<usize> = model
                .facts
                .iter()
                .filter(|(_, f)| !f.back && !f.with_tx && !f.with_rx)
                .map(|(&id, _)| id)
                .collect();
            assert_eq!(sorted(back), due);
            model.facts.clear();
            model.queue.clear();
            model.answered.clear();
            model.tombstones.clear();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(3000)
    })]
    #[test]
    fn every_call_does_what_the_model_says(
        calls in prop::collection::vec(call(), 1..150),
        start in prop_oneof![
            Just(0),
            Just(i32::MAX as u32 - 20),
            Just(u32::MAX - 20),
            any::<u32>(),
        ],
    ) {
        run(&calls, start);
    }
}
