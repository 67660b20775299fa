// SPDX-License-Identifier: GPL-2.0

//! The server's ledger: transition by transition, and random calls against a naive model.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use usbip_host_tests::{server, Server};
use usbip_protocol::ledger::server::*;
use usbip_protocol::ledger::{BadStorage, Token};

/// What it takes to cancel a request. Move-only.
#[derive(Debug, PartialEq, Eq)]
struct Handle(u32);

/// A result. Move-only.
#[derive(Debug, PartialEq, Eq)]
struct Done(u32);

type Ledger = Server<Handle, Done>;

const CAPS: Caps = Caps {
    requests: 3,
    bytes: 1000,
};

fn ledger() -> Ledger {
    server(CAPS, 2)
}

fn pending(ledger: &mut Ledger, seqnum: u32) -> Token {
    let token = ledger.admit(seqnum, 100).unwrap();
    assert_eq!(ledger.start(token, Handle(seqnum)), Start::Started);
    token
}

fn send(ledger: &mut Ledger) -> (u32, TxKind<Done>) {
    let reply = ledger.next_reply().unwrap();
    assert!(ledger.sent(reply.token));
    (reply.seqnum, reply.kind)
}

fn failure(status: i32) -> Failure {
    Failure {
        status,
        iso_packets: 3,
    }
}

fn idle(ledger: &mut Ledger) {
    assert_eq!(
        (ledger.requests(), ledger.bytes(), ledger.is_idle()),
        (0, 0, true)
    );
    assert_eq!(ledger.next_reply(), None);
    assert_eq!(ledger.drain(), None);
}

#[test]
fn one_request() {
    let mut l = ledger();
    idle(&mut l);
    let token = pending(&mut l, 9);
    assert_eq!((l.requests(), l.bytes(), l.is_idle()), (1, 100, false));
    assert_eq!(l.next_reply(), None);
    assert_eq!(
        l.complete(token, Done(9)),
        Completed::Queued {
            wake: true,
            handle: Some(Handle(9))
        }
    );
    assert_eq!(l.complete(token, Done(9)), Completed::Stale(Done(9)));
    let reply = l.next_reply().unwrap();
    assert_eq!(
        reply,
        TxReply {
            token,
            seqnum: 9,
            kind: TxKind::Submit(Done(9))
        }
    );
    // Charged until it has been sent.
    assert_eq!((l.requests(), l.bytes(), l.is_idle()), (1, 100, false));
    assert!(l.sent(token));
    assert!(!l.sent(token));
    idle(&mut l);
}

#[test]
fn a_withdrawn_request_leaves_no_trace() {
    let mut l = ledger();
    let reserved = l.admit(1, 100).unwrap();
    let started = pending(&mut l, 2);
    assert_eq!(l.withdraw(reserved), Withdrawn::Forgotten(None));
    assert_eq!(l.withdraw(started), Withdrawn::Forgotten(Some(Handle(2))));
    assert_eq!(l.withdraw(started), Withdrawn::Stale);
    idle(&mut l);
    // Its number is free, and there is nothing to cancel.
    let again = l.admit(1, 100).unwrap();
    assert_eq!(l.unlink(7, 1), Ok(Unlink::Deferred(again)));
    assert_eq!(l.withdraw(again), Withdrawn::Stale);
    assert_eq!(l.start(again, Handle(1)), Start::Cancelled(Handle(1)));
}

#[test]
fn requests_that_fail_or_never_reach_the_device() {
    let mut l = ledger();
    let token = l.admit(1, 0).unwrap();
    assert_eq!(
        l.complete(token, Done(1)),
        Completed::Queued {
            wake: true,
            handle: None
        }
    );
    let token = l.admit(2, 0).unwrap();
    assert_eq!(
        l.fail(token, failure(-12)),
        Completed::Queued {
            wake: false,
            handle: None
        }
    );
    let token = pending(&mut l, 3);
    assert_eq!(
        l.fail(token, failure(-22)),
        Completed::Queued {
            wake: false,
            handle: Some(Handle(3))
        }
    );
    assert_eq!(l.refuse(4, failure(-90)), Ok(false));
    assert_eq!(send(&mut l), (1, TxKind::Submit(Done(1))));
    assert_eq!(send(&mut l), (2, TxKind::Refused(failure(-12))));
    assert_eq!(send(&mut l), (3, TxKind::Refused(failure(-22))));
    assert_eq!(send(&mut l), (4, TxKind::Refused(failure(-90))));
    idle(&mut l);
}

#[test]
fn caps() {
    let mut l = ledger();
    let first = l.admit(1, 900).unwrap();
    assert_eq!(l.admit(2, 101), Err(Refusal::Bytes));
    assert_eq!(l.admit(2, u32::MAX), Err(Refusal::Bytes));
    l.admit(2, 100).unwrap();
    assert_eq!(l.admit(3, 1), Err(Refusal::Bytes));
    l.admit(3, 0).unwrap();
    assert_eq!(l.admit(4, 0), Err(Refusal::Requests));
    assert_eq!((l.requests(), l.bytes()), (3, 1000));
    // Room again only after the reply has left.
    l.complete(first, Done(1));
    assert_eq!(l.admit(4, 0), Err(Refusal::Requests));
    let reply = l.next_reply().unwrap();
    assert_eq!(l.admit(4, 0), Err(Refusal::Requests));
    l.sent(reply.token);
    assert_eq!(l.bytes(), 100);
    assert_eq!(l.admit(4, 900).map(|_| ()), Ok(()));
}

#[test]
fn replies_beyond_the_requests_are_bounded_too() {
    let mut l = ledger();
    for seqnum in 1..=3 {
        pending(&mut l, seqnum);
    }
    assert_eq!(l.refuse(4, failure(-12)), Ok(true));
    assert!(l.has_room());
    assert_eq!(l.unlink(5, 77), Ok(Unlink::Answered { wake: false }));
    assert!(!l.has_room());
    assert_eq!(l.refuse(6, failure(-12)), Err(Overflow));
    assert_eq!(l.unlink(7, 77), Err(Overflow));
    // Cancelling needs no room.
    assert!(matches!(
        l.unlink(8, 2),
        Ok(Unlink::Cancel {
            handle: Handle(2),
            ..
        })
    ));
}

#[test]
fn duplicates() {
    let mut l = ledger();
    let token = pending(&mut l, 1);
    assert_eq!(l.admit(1, 0), Err(Refusal::Duplicate));
    l.complete(token, Done(1));
    assert_eq!(l.admit(1, 0), Err(Refusal::Duplicate));
    let reply = l.next_reply().unwrap();
    // From now on the client may have the reply.
    let again = l.admit(1, 0).unwrap();
    assert!(l.sent(reply.token));
    assert_eq!(l.admit(1, 0), Err(Refusal::Duplicate));
    assert!(matches!(l.unlink(2, 1), Ok(Unlink::Deferred(token)) if token == again));
    assert_eq!(l.admit(1, 0), Err(Refusal::Duplicate));
}

#[test]
fn unlink_of_a_pending_request_is_its_only_reply() {
    for completes_first in [false, true] {
        let mut l = ledger();
        let token = pending(&mut l, 1);
        assert_eq!(
            l.unlink(2, 1),
            Ok(Unlink::Cancel {
                token,
                handle: Handle(1)
            })
        );
        // The second one has nothing left to cancel.
        assert_eq!(l.unlink(3, 1), Ok(Unlink::Answered { wake: true }));
        assert_eq!(send(&mut l), (3, TxKind::Unlink(0)));
        if completes_first {
            let result = l.complete(token, Done(0));
            assert_eq!(
                result,
                Completed::Queued {
                    wake: true,
                    handle: None
                }
            );
            assert_eq!(send(&mut l), (2, TxKind::Unlinked(Done(0))));
        } else {
            assert_eq!(
                l.fail(token, failure(-104)),
                Completed::Queued {
                    wake: true,
                    handle: None
                }
            );
            assert_eq!(send(&mut l), (2, TxKind::Unlink(-104)));
        }
        idle(&mut l);
    }
}

#[test]
fn unlink_before_the_request_is_started() {
    let mut l = ledger();
    let token = l.admit(1, 10).unwrap();
    assert_eq!(l.unlink(2, 1), Ok(Unlink::Deferred(token)));
    assert_eq!(l.unlink(3, 1), Ok(Unlink::Answered { wake: true }));
    assert_eq!(l.start(token, Handle(1)), Start::Cancelled(Handle(1)));
    assert_eq!(
        l.fail(token, failure(-104)),
        Completed::Queued {
            wake: false,
            handle: None
        }
    );
    assert_eq!(send(&mut l), (3, TxKind::Unlink(0)));
    assert_eq!(send(&mut l), (2, TxKind::Unlink(-104)));
    idle(&mut l);
}

#[test]
fn the_answer_to_a_late_unlink_follows_the_reply() {
    let mut l = ledger();
    let token = pending(&mut l, 1);
    l.complete(token, Done(1));
    assert_eq!(l.unlink(2, 1), Ok(Unlink::Answered { wake: false }));
    assert_eq!(send(&mut l), (1, TxKind::Submit(Done(1))));
    assert_eq!(send(&mut l), (2, TxKind::Unlink(0)));
    assert_eq!(l.unlink(3, 1), Ok(Unlink::Answered { wake: true }));
    assert_eq!(send(&mut l), (3, TxKind::Unlink(0)));
    idle(&mut l);
}

#[test]
fn nothing_survives_teardown() {
    let mut l = server(
        Caps {
            requests: 8,
            bytes: 1000,
        },
        8,
    );
    let reserved = l.admit(1, 1).unwrap();
    let with_device = pending(&mut l, 2);
    let cancelling = pending(&mut l, 3);
    assert!(matches!(l.unlink(30, 3), Ok(Unlink::Cancel { .. })));
    let sending = pending(&mut l, 6);
    l.complete(sending, Done(6));
    assert!(l.next_reply().is_some());
    let done = pending(&mut l, 4);
    l.complete(done, Done(4));
    let unlinked = pending(&mut l, 5);
    l.unlink(50, 5).unwrap();
    l.complete(unlinked, Done(5));
    l.refuse(7, failure(-12)).unwrap();
    l.unlink(80, 8).unwrap();
    let rest: Vec<_> = std::iter::from_fn(|| l.drain()).collect();
    assert_eq!(
        rest,
        [
            Drained::Done(Done(4)),
            Drained::Done(Done(5)),
            Drained::Pending(Handle(2))
        ]
    );
    idle(&mut l);
    assert_eq!(l.start(reserved, Handle(1)), Start::Stale(Handle(1)));
    assert_eq!(l.complete(with_device, Done(2)), Completed::Stale(Done(2)));
    assert_eq!(l.fail(cancelling, failure(-104)), Completed::Stale(()));
    assert!(!l.sent(sending));
    // The same numbers may be used again.
    for seqnum in 1..=8 {
        pending(&mut l, seqnum);
    }
}

#[test]
fn storage_is_checked() {
    let make = |entries: usize, buckets: usize, requests: usize| {
        let entries: Vec<Entry<Handle, Done>> = (0..entries).map(|_| Entry::new()).collect();
        let caps = Caps { requests, bytes: 1 };
        ServerLedger::new(entries, vec![Bucket::new(); buckets], caps, 0).map(|_| ())
    };
    assert_eq!(make(0, 4, 0), Err(BadStorage));
    assert_eq!(make(4, 0, 4), Err(BadStorage));
    assert_eq!(make(4, 1, 4), Err(BadStorage));
    assert_eq!(make(4, 6, 4), Err(BadStorage));
    assert_eq!(make(4, 4, 5), Err(BadStorage));
    assert_eq!(make(4, 4, 4), Ok(()));
    assert_eq!(make(4, 2, 4), Ok(()));
    assert_eq!(
        (bucket_len(0), bucket_len(5), bucket_len(5120)),
        (Some(2), Some(8), Some(8192))
    );
    assert_eq!(bucket_len(usize::MAX), None);
}

#[derive(Clone, Copy, Debug)]
enum Call {
    /// Numbers are few, so that duplicates occur and buckets are shared.
    Admit(u32, u32),
    Refuse(u32),
    Start(usize),
    Complete(usize),
    Fail(usize),
    Withdraw(usize),
    Unlink(u32, u32),
    NextReply,
    Sent,
}

fn call() -> impl Strategy<Value = Call> {
    // Multiples of a large power of two collide in a table without a good hash.
    let number = || (0u32..8).prop_map(|n| (n << 29) | n);
    prop_oneof![
        6 => (number(), 0u32..500).prop_map(|(n, bytes)| Call::Admit(n, bytes)),
        1 => number().prop_map(Call::Refuse),
        5 => (0usize..6).prop_map(Call::Start),
        4 => (0usize..6).prop_map(Call::Complete),
        1 => (0usize..6).prop_map(Call::Fail),
        2 => (0usize..6).prop_map(Call::Withdraw),
        4 => (any::<u32>(), number()).prop_map(|(unlink, n)| Call::Unlink(unlink, n)),
        4 => Just(Call::NextReply),
        4 => Just(Call::Sent),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Reserved,
    Pending,
    Queued,
    Sending,
}

#[derive(Clone, Copy, Debug)]
struct Fact {
    seqnum: u32,
    bytes: u32,
    token: Token,
    place: Place,
    unlink: Option<u32>,
}

const MANY: Caps = Caps {
    requests: 5,
    bytes: 1500,
};
const EXTRA: usize = 3;

/// A ledger whose table is keyed with this secret and so small that entries share buckets.
fn keyed(secret: u64) -> Ledger {
    let entries = (0..MANY.requests + EXTRA).map(|_| Entry::new()).collect();
    ServerLedger::new(entries, vec![Bucket::new(); 4], MANY, secret).unwrap()
}

#[derive(Default)]
struct Model {
    /// Requests by number of their admission.
    facts: BTreeMap<u32, Fact>,
    next: u32,
    /// What to send: seqnum, reply, and which request it belongs to.
    queue: VecDeque<(u32, TxKind<Done>, Option<u32>)>,
    /// What the tx thread has taken.
    sending: VecDeque<(Token, Option<u32>)>,
}

impl Model {
    fn by_seqnum(&self, seqnum: u32) -> Option<u32> {
        let found = self
            .facts
            .iter()
            .find(|(_, f)| f.seqnum == seqnum && f.place != Place::Sending);
        found.map(|(&id, _)| id)
    }

    fn nth(&self, n: usize) -> Option<u32> {
        self.facts.keys().rev().nth(n).copied()
    }

    fn full(&self) -> bool {
        let mere = self.queue.iter().filter(|reply| reply.2.is_none()).count()
            + self
                .sending
                .iter()
                .filter(|reply| reply.1.is_none())
                .count();
        self.facts.len() + mere == MANY.requests + EXTRA
    }

    /// What a completion with `done` puts into the queue, and what the ledger then says.
    fn end(&mut self, id: u32, submit: TxKind<Done>, unlinked: TxKind<Done>) -> (bool, bool) {
        let fact = self.facts.get_mut(&id).unwrap();
        let handle = fact.place == Place::Pending && fact.unlink.is_none();
        fact.place = Place::Queued;
        let wake = self.queue.is_empty();
        self.queue.push_back(match fact.unlink {
            None => (fact.seqnum, submit, Some(id)),
            Some(unlink) => (unlink, unlinked, Some(id)),
        });
        (wake, handle)
    }
}

fn step(l: &mut Ledger, model: &mut Model, call: Call) {
    let wake = model.queue.is_empty();
    match call {
        Call::Admit(seqnum, bytes) => {
            let used: u64 = model.facts.values().map(|f| u64::from(f.bytes)).sum();
            let result = l.admit(seqnum, bytes);
            if model.by_seqnum(seqnum).is_some() {
                assert_eq!(result, Err(Refusal::Duplicate));
            } else if model.facts.len() == MANY.requests {
                assert_eq!(result, Err(Refusal::Requests));
            } else if used + u64::from(bytes) > MANY.bytes {
                assert_eq!(result, Err(Refusal::Bytes));
            } else if model.full() {
                assert_eq!(result, Err(Refusal::Requests));
            } else {
                let token = result.unwrap();
                let place = Place::Reserved;
                let fact = Fact {
                    seqnum,
                    bytes,
                    token,
                    place,
                    unlink: None,
                };
                model.facts.insert(model.next, fact);
                model.next += 1;
            }
        }
        Call::Refuse(seqnum) => {
            let full = model.full();
            assert_eq!(
                l.refuse(seqnum, failure(-12)),
                if full { Err(Overflow) } else { Ok(wake) }
            );
            if !full {
                model
                    .queue
                    .push_back((seqnum, TxKind::Refused(failure(-12)), None));
            }
        }
        Call::Start(n) => {
            let Some(id) = model.nth(n) else { return };
            let fact = model.facts.get_mut(&id).unwrap();
            let result = l.start(fact.token, Handle(id));
            match fact.place {
                Place::Reserved if fact.unlink.is_none() => assert_eq!(result, Start::Started),
                Place::Reserved => assert_eq!(result, Start::Cancelled(Handle(id))),
                _ => {
                    assert_eq!(result, Start::Stale(Handle(id)));
                    return;
                }
            }
            fact.place = Place::Pending;
        }
        Call::Complete(n) => {
            let Some(id) = model.nth(n) else { return };
            let fact = model.facts[&id];
            let result = l.complete(fact.token, Done(id));
            if matches!(fact.place, Place::Reserved | Place::Pending) {
                let (wake, handle) =
                    model.end(id, TxKind::Submit(Done(id)), TxKind::Unlinked(Done(id)));
                let handle = handle.then_some(Handle(id));
                assert_eq!(result, Completed::Queued { wake, handle });
            } else {
                assert_eq!(result, Completed::Stale(Done(id)));
            }
        }
        Call::Fail(n) => {
            let Some(id) = model.nth(n) else { return };
            let fact = model.facts[&id];
            let result = l.fail(fact.token, failure(-71));
            if matches!(fact.place, Place::Reserved | Place::Pending) {
                let (wake, handle) =
                    model.end(id, TxKind::Refused(failure(-71)), TxKind::Unlink(-71));
                let handle = handle.then_some(Handle(id));
                assert_eq!(result, Completed::Queued { wake, handle });
            } else {
                assert_eq!(result, Completed::Stale(()));
            }
        }
        Call::Withdraw(n) => {
            let Some(id) = model.nth(n) else { return };
            let fact = model.facts[&id];
            let result = l.withdraw(fact.token);
            let handle = match fact.place {
                Place::Reserved if fact.unlink.is_none() => None,
                Place::Pending if fact.unlink.is_none() => Some(Handle(id)),
                _ => {
                    assert_eq!(result, Withdrawn::Stale);
                    return;
                }
            };
            assert_eq!(result, Withdrawn::Forgotten(handle));
            model.facts.remove(&id);
        }
        Call::Unlink(unlink, victim) => {
            let full = model.full();
            let result = l.unlink(unlink, victim);
            let found = model.by_seqnum(victim);
            if let Some(fact) = found.and_then(|id| model.facts.get_mut(&id)) {
                if fact.unlink.is_none() && fact.place != Place::Queued {
                    let (token, id) = (fact.token, found.unwrap());
                    assert_eq!(
                        result,
                        Ok(match fact.place {
                            Place::Pending => Unlink::Cancel {
                                token,
                                handle: Handle(id)
                            },
                            _ => Unlink::Deferred(token),
                        })
                    );
                    fact.unlink = Some(unlink);
                    return;
                }
            }
            if full {
                assert_eq!(result, Err(Overflow));
            } else {
                assert_eq!(result, Ok(Unlink::Answered { wake }));
                model.queue.push_back((unlink, TxKind::Unlink(0), None));
            }
        }
        Call::NextReply => {
            let result = l.next_reply();
            let Some((seqnum, kind, id)) = model.queue.pop_front() else {
                assert_eq!(result, None);
                return;
            };
            let reply = result.unwrap();
            assert_eq!((reply.seqnum, &reply.kind), (seqnum, &kind));
            if let Some(fact) = id.and_then(|id| model.facts.get_mut(&id)) {
                assert_eq!(reply.token, fact.token);
                fact.place = Place::Sending;
            }
            model.sending.push_back((reply.token, id));
        }
        Call::Sent => {
            let Some((token, id)) = model.sending.pop_front() else {
                return;
            };
            assert!(l.sent(token));
            if let Some(id) = id {
                model.facts.remove(&id);
            }
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
        secret: u64,
        calls in prop::collection::vec(call(), 1..150),
    ) {
        let mut l = keyed(secret);
        let mut model = Model::default();
        for call in calls {
            step(&mut l, &mut model, call);
            let bytes: u64 = model.facts.values().map(|f| u64::from(f.bytes)).sum();
            prop_assert_eq!((l.requests(), l.bytes()), (model.facts.len(), bytes));
            let idle = model.facts.is_empty() && model.queue.is_empty() && model.sending.is_empty();
            prop_assert_eq!(l.is_idle(), idle);
            prop_assert_eq!(l.has_room(), !model.full());
        }
        let pending = |f: &&Fact| f.place == Place::Pending && f.unlink.is_none();
        let handles = model.facts.values().filter(pending);
        let results = model
            .queue
            .iter()
            .filter(|reply| matches!(reply.1, TxKind::Submit(_) | TxKind::Unlinked(_)));
        let due = handles.count() + results.count();
        prop_assert_eq!(std::iter::from_fn(|| l.drain()).count(), due);
        prop_assert!(l.is_idle());
        prop_assert_eq!((l.requests(), l.bytes()), (0, 0));
    }
}
