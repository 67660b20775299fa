// SPDX-License-Identifier: GPL-2.0

//! The client's ledger, transition by transition.

use usbip_host_tests::{client, Client, IN, ISO, OUT};
use usbip_protocol::ledger::client::*;
use usbip_protocol::ledger::{ring_len, BadStorage, RingSlot, Token};
use usbip_protocol::limits::MAX_TOMBSTONES;
use usbip_protocol::status::Status;
use usbip_protocol::wire::{self, UrbMeta};

/// Move-only, like a URB.
#[derive(Debug, PartialEq, Eq)]
struct Urb(u32);

fn enqueue(ledger: &mut Client<Urb>, id: u32, meta: UrbMeta) -> Token {
    ledger.enqueue(Urb(id), meta).unwrap().token
}

/// Takes the next submit from the queue and leaves it with the tx thread.
fn take(ledger: &mut Client<Urb>) -> (Token, u32, Urb) {
    match ledger.next_tx(0) {
        Some(TxItem::Submit { token, seqnum, urb }) => (token, seqnum, urb),
        other => panic!("{other:?}"),
    }
}

/// A URB that waits for its reply.
fn submit(ledger: &mut Client<Urb>, id: u32, meta: UrbMeta) -> (Token, u32) {
    let token = enqueue(ledger, id, meta);
    let (sent, seqnum, urb) = take(ledger);
    assert_eq!((sent, &urb), (token, &Urb(id)));
    assert_eq!(ledger.sent(token, urb), AfterSend::InFlight);
    (token, seqnum)
}

/// A URB whose CMD_UNLINK has been sent; its two numbers.
fn submit_and_unlink(ledger: &mut Client<Urb>, id: u32, meta: UrbMeta, now: u64) -> (u32, u32) {
    let (token, seqnum) = submit(ledger, id, meta);
    assert_eq!(ledger.dequeue(token), Dequeued::Unlinking { wake: true });
    match ledger.next_tx(now) {
        Some(TxItem::Unlink {
            seqnum: unlink,
            victim,
        }) if victim == seqnum => (seqnum, unlink),
        other => panic!("{other:?}"),
    }
}

fn reply(seqnum: u32) -> wire::RetSubmit {
    wire::RetSubmit {
        seqnum,
        status: 0,
        actual_length: 64,
        start_frame: 0,
        number_of_packets: 0,
        error_count: 0,
    }
}

fn idle(ledger: &mut Client<Urb>) {
    assert_eq!(
        (ledger.pending(), ledger.in_flight(), ledger.is_idle()),
        (0, 0, true)
    );
    assert_eq!(ledger.oldest_unlink_ms(), None);
    assert_eq!(ledger.peek_tx(), None);
    assert_eq!(ledger.next_tx(0), None);
}

#[test]
fn one_urb_there_and_back() {
    let mut l = client(2, 0);
    idle(&mut l);
    let Enqueued { token, wake } = l.enqueue(Urb(7), IN).unwrap();
    assert!(wake);
    assert_eq!((l.pending(), l.in_flight(), l.is_idle()), (1, 0, false));
    assert_eq!(l.peek_tx(), Some(NextTx::Submit(IN)));
    assert_eq!(
        l.next_tx(5),
        Some(TxItem::Submit {
            token,
            seqnum: 1,
            urb: Urb(7)
        })
    );
    assert_eq!((l.pending(), l.in_flight()), (1, 1));
    assert_eq!(l.sent(token, Urb(7)), AfterSend::InFlight);
    assert_eq!(
        l.ret_submit(1),
        RetSubmit::Receive {
            token,
            urb: Urb(7),
            meta: IN,
            unlinking: false
        }
    );
    assert_eq!((l.pending(), l.in_flight(), l.is_idle()), (1, 1, false));
    assert!(l.received(token));
    idle(&mut l);
    assert!(!l.received(token));
    assert_eq!(l.dequeue(token), Dequeued::Gone);
    assert_eq!(
        l.ret_submit(1),
        RetSubmit::Violation(Violation::UnknownSeqnum)
    );
}

#[test]
fn the_tx_thread_is_woken_once() {
    let mut l = client(3, 0);
    assert!(l.enqueue(Urb(0), IN).unwrap().wake);
    assert!(!l.enqueue(Urb(1), IN).unwrap().wake);
    take(&mut l);
    assert!(!l.enqueue(Urb(2), IN).unwrap().wake);
    take(&mut l);
    take(&mut l);
    assert_eq!(l.enqueue(Urb(3), IN), Err(Full(Urb(3))));
}

#[test]
fn a_full_ledger_recovers() {
    let mut l = client(1, 0);
    let token = enqueue(&mut l, 0, IN);
    assert_eq!(l.enqueue(Urb(1), IN), Err(Full(Urb(1))));
    assert_eq!(l.dequeue(token), Dequeued::Local(Urb(0)));
    let next = enqueue(&mut l, 2, IN);
    assert_ne!(next, token);
    assert_eq!(l.dequeue(token), Dequeued::Gone);
    assert_eq!(l.dequeue(next), Dequeued::Local(Urb(2)));
    idle(&mut l);
}

#[test]
fn dequeue_before_sending_sends_nothing() {
    let mut l = client(3, 0);
    let tokens: Vec<_> = (0..3).map(|id| enqueue(&mut l, id, IN)).collect();
    assert_eq!(l.dequeue(tokens[1]), Dequeued::Local(Urb(1)));
    assert_eq!(take(&mut l).2, Urb(0));
    assert_eq!(take(&mut l).2, Urb(2));
    assert_eq!(l.next_tx(0), None);
}

#[test]
fn dequeue_while_sending_unlinks_after_it() {
    let mut l = client(2, 0);
    let token = enqueue(&mut l, 0, OUT);
    let (_, seqnum, urb) = take(&mut l);
    assert_eq!(l.dequeue(token), Dequeued::Deferred);
    assert_eq!(l.dequeue(token), Dequeued::Deferred);
    assert_eq!(l.peek_tx(), None);
    assert_eq!(l.sent(token, urb), AfterSend::UnlinkQueued { wake: true });
    assert_eq!(l.dequeue(token), Dequeued::AlreadyPending);
    assert_eq!(l.peek_tx(), Some(NextTx::Unlink));
    assert_eq!(l.oldest_unlink_ms(), None);
    assert_eq!(
        l.next_tx(77),
        Some(TxItem::Unlink {
            seqnum: seqnum + 1,
            victim: seqnum
        })
    );
    assert_eq!(l.oldest_unlink_ms(), Some(77));
    assert_eq!(l.dequeue(token), Dequeued::AlreadyPending);
}

#[test]
fn an_unlink_keeps_its_place_in_the_queue() {
    let mut l = client(3, 0);
    let (first, seqnum) = submit(&mut l, 0, IN);
    enqueue(&mut l, 1, IN);
    assert_eq!(l.dequeue(first), Dequeued::Unlinking { wake: false });
    enqueue(&mut l, 2, IN);
    assert_eq!(take(&mut l).2, Urb(1));
    assert_eq!(
        l.next_tx(0),
        Some(TxItem::Unlink {
            seqnum: 3,
            victim: seqnum
        })
    );
    assert_eq!(take(&mut l).2, Urb(2));
}

#[test]
fn cancelled_by_the_server() {
    for raw in [-104, -32, -2, 1, -115] {
        let mut l = client(1, 0);
        let (seqnum, unlink) = submit_and_unlink(&mut l, 0, IN, 1);
        let status = match raw {
            1 | -115 => Status::PROTO.raw(),
            other => other,
        };
        match l.ret_unlink(unlink, raw) {
            RetUnlink::GiveBack {
                urb: Urb(0),
                status: shown,
            } => assert_eq!(shown.raw(), status),
            other => panic!("{other:?}"),
        }
        idle(&mut l);
        // No tombstone: there must be no RET_SUBMIT.
        assert_eq!(
            l.ret_submit(seqnum),
            RetSubmit::Violation(Violation::UnknownSeqnum)
        );
        assert_eq!(l.ret_unlink(unlink, raw), RetUnlink::Unknown);
    }
}

#[test]
fn finished_before_the_unlink_arrived() {
    let mut l = client(1, 0);
    let (seqnum, unlink) = submit_and_unlink(&mut l, 0, IN, 9);
    let RetSubmit::Receive {
        token,
        urb: Urb(0),
        unlinking: true,
        ..
    } = l.ret_submit(seqnum)
    else {
        panic!()
    };
    assert_eq!(l.dequeue(token), Dequeued::Deferred);
    assert_eq!(
        l.ret_unlink(unlink, 0),
        RetUnlink::Violation(Violation::BeingReceived)
    );
    assert_eq!(l.oldest_unlink_ms(), Some(9));
    assert!(l.received(token));
    assert_eq!((l.pending(), l.in_flight(), l.is_idle()), (0, 0, false));
    assert_eq!(l.dequeue(token), Dequeued::Gone);
    // Nothing waits for that answer any more.
    assert_eq!(l.oldest_unlink_ms(), None);
    assert_eq!(
        l.ret_submit(seqnum),
        RetSubmit::Violation(Violation::Duplicate)
    );
    assert_eq!(l.ret_unlink(unlink, 0), RetUnlink::AlreadyDone);
    idle(&mut l);
    assert_eq!(l.ret_unlink(unlink, 0), RetUnlink::Unknown);
}

/// Some servers answer the request only.
#[test]
fn unlinks_that_are_never_answered_use_nothing_up() {
    let mut l = client(1, 0);
    let mut before = None;
    for id in 0..3 {
        let (seqnum, unlink) = submit_and_unlink(&mut l, id, IN, 9);
        let RetSubmit::Receive { token, .. } = l.ret_submit(seqnum) else {
            panic!("a reply is due")
        };
        assert!(l.received(token));
        assert_eq!((l.pending(), l.in_flight(), l.is_idle()), (0, 0, false));
        // The slot went to the next request, and a late answer changes nothing.
        if let Some(late) = before.replace(unlink) {
            assert_eq!(l.ret_unlink(late, 0), RetUnlink::Unknown);
        }
    }
    assert_eq!(l.drain(), None);
    idle(&mut l);
}

#[test]
fn a_reply_makes_an_unsent_unlink_moot() {
    let mut l = client(2, 0);
    let (token, seqnum) = submit(&mut l, 0, IN);
    assert_eq!(l.dequeue(token), Dequeued::Unlinking { wake: true });
    let RetSubmit::Receive {
        unlinking: true, ..
    } = l.ret_submit(seqnum)
    else {
        panic!()
    };
    assert_eq!(l.next_tx(0), None);
    assert!(l.received(token));
    idle(&mut l);
}

#[test]
fn ret_unlink_0_for_a_pending_urb_leaves_a_tombstone() {
    for meta in [IN, OUT, ISO] {
        let mut l = client(1, 0);
        let (seqnum, unlink) = submit_and_unlink(&mut l, 0, meta, 1);
        assert_eq!(
            l.ret_unlink(unlink, 0),
            RetUnlink::GiveBack {
                urb: Urb(0),
                status: Status::CONNRESET
            }
        );
        idle(&mut l);
        assert_eq!(l.ret_unlink(unlink, 0), RetUnlink::Unknown);
        assert_eq!(l.ret_submit(seqnum), RetSubmit::Drain(meta));
        assert_eq!(
            l.ret_submit(seqnum),
            RetSubmit::Violation(Violation::UnknownSeqnum)
        );
    }
}

#[test]
fn the_oldest_tombstone_goes_first() {
    let mut l = client(1, 0);
    let numbers: Vec<u32> = (0..=MAX_TOMBSTONES as u32)
        .map(|id| {
            let (seqnum, unlink) = submit_and_unlink(&mut l, id, IN, 1);
            assert!(matches!(
                l.ret_unlink(unlink, 0),
                RetUnlink::GiveBack { .. }
            ));
            seqnum
        })
        .collect();
    assert_eq!(
        l.ret_submit(numbers[0]),
        RetSubmit::Violation(Violation::UnknownSeqnum)
    );
    for &seqnum in &numbers[1..] {
        assert_eq!(l.ret_submit(seqnum), RetSubmit::Drain(IN));
    }
}

#[test]
fn replies_that_make_no_sense() {
    let mut l = client(2, 0);
    let (seqnum, unlink) = submit_and_unlink(&mut l, 0, IN, 1);
    assert_eq!(
        l.ret_submit(unlink),
        RetSubmit::Violation(Violation::UnlinkSeqnum)
    );
    for unknown in [0, 3, 1025, u32::MAX, seqnum + 0x8000_0000] {
        assert_eq!(
            l.ret_submit(unknown),
            RetSubmit::Violation(Violation::UnknownSeqnum)
        );
        assert_eq!(l.ret_unlink(unknown, 0), RetUnlink::Unknown);
    }
    assert_eq!(l.ret_unlink(seqnum, 0), RetUnlink::Unknown);
    // None of it did any harm.
    assert!(matches!(l.ret_submit(seqnum), RetSubmit::Receive { .. }));
    assert_eq!(
        l.ret_submit(seqnum),
        RetSubmit::Violation(Violation::Duplicate)
    );
}

#[test]
fn a_reply_that_is_quicker_than_the_tx_thread() {
    let mut l = client(2, 0);
    let token = enqueue(&mut l, 0, OUT);
    let (_, seqnum, urb) = take(&mut l);
    assert_eq!(
        l.ret_submit(seqnum),
        RetSubmit::Sending { token, meta: OUT }
    );
    // Either wait and ask again, ...
    assert_eq!(l.sent(token, urb), AfterSend::InFlight);
    assert!(!l.stash_reply(token, reply(seqnum)));
    assert!(matches!(l.ret_submit(seqnum), RetSubmit::Receive { .. }));
    assert!(l.received(token));

    // ... or leave the reply to the tx thread.
    for unlink in [false, true] {
        let token = enqueue(&mut l, 1, OUT);
        let (_, seqnum, urb) = take(&mut l);
        assert!(l.stash_reply(token, reply(seqnum)));
        assert!(!l.stash_reply(token, reply(seqnum)));
        assert_eq!(
            l.ret_submit(seqnum),
            RetSubmit::Violation(Violation::Duplicate)
        );
        if unlink {
            assert_eq!(l.dequeue(token), Dequeued::Deferred);
        }
        assert_eq!(
            l.sent(token, urb),
            AfterSend::Answered {
                urb: Urb(1),
                reply: reply(seqnum),
                unlinking: unlink
            }
        );
        idle(&mut l);
    }
}

#[test]
fn sequence_numbers_wrap() {
    for last in [0, i32::MAX as u32 - 2, u32::MAX - 2, u32::MAX] {
        let mut l = client(4, last);
        let mut expected = last;
        for id in 0..10 {
            let (seqnum, unlink) = submit_and_unlink(&mut l, id, IN, 1);
            for number in [seqnum, unlink] {
                expected = match expected {
                    u32::MAX => 1,
                    other => other + 1,
                };
                assert_eq!(number, expected);
            }
            assert_eq!(
                l.ret_unlink(unlink, -104),
                RetUnlink::GiveBack {
                    urb: Urb(id),
                    status: Status::CONNRESET
                }
            );
        }
        idle(&mut l);
    }
}

#[test]
fn numbers_in_use_are_skipped() {
    let mut l = client(4, 0);
    // Occupies slots 1 (submit), 2 (unlink) and a tombstone at 3.
    let (seqnum, unlink) = submit_and_unlink(&mut l, 0, IN, 1);
    let (buried, other) = submit_and_unlink(&mut l, 1, IN, 1);
    assert!(matches!(l.ret_unlink(other, 0), RetUnlink::GiveBack { .. }));
    assert_eq!((seqnum, unlink, buried, other), (1, 2, 3, 4));
    // The table of four entries: twice 2 * 4 + 256, rounded up.
    let len = ring_len(4).unwrap() as u32;
    assert_eq!(len, 1024);
    let mut last = other;
    for id in 2..3000 {
        let (token, number) = submit(&mut l, id, IN);
        let mut next = last + 1;
        while [1, 2, 3].contains(&(next % len)) {
            next += 1;
        }
        assert_eq!(number, next);
        last = number;
        assert!(matches!(l.ret_submit(number), RetSubmit::Receive { .. }));
        assert!(l.received(token));
    }
    assert_eq!(l.ret_submit(buried), RetSubmit::Drain(IN));
    assert_eq!(
        l.ret_unlink(unlink, -104),
        RetUnlink::GiveBack {
            urb: Urb(0),
            status: Status::CONNRESET
        }
    );
}

#[test]
fn the_oldest_unlink_is_known() {
    let mut l = client(3, 0);
    let (_, first) = submit_and_unlink(&mut l, 0, IN, 10);
    let (second, second_unlink) = submit_and_unlink(&mut l, 1, IN, 20);
    let (_, third) = submit_and_unlink(&mut l, 2, IN, 30);
    assert_eq!(l.oldest_unlink_ms(), Some(10));
    l.ret_unlink(first, -104);
    assert_eq!(l.oldest_unlink_ms(), Some(20));
    // A RET_SUBMIT counts once all of it is there.
    let RetSubmit::Receive { token, .. } = l.ret_submit(second) else {
        panic!()
    };
    assert_eq!(l.oldest_unlink_ms(), Some(20));
    l.received(token);
    assert_eq!(l.oldest_unlink_ms(), Some(30));
    l.ret_unlink(third, -104);
    assert_eq!(l.oldest_unlink_ms(), None);
    l.ret_unlink(second_unlink, 0);
    assert_eq!(l.oldest_unlink_ms(), None);
}

#[test]
fn teardown_returns_every_urb_once() {
    let mut l = client(10, 0);
    // One in each state.
    submit_and_unlink(&mut l, 0, IN, 1);
    let (done, _) = submit_and_unlink(&mut l, 1, IN, 1);
    let RetSubmit::Receive { token, .. } = l.ret_submit(done) else {
        panic!()
    };
    l.received(token);
    submit(&mut l, 2, IN);
    let (broken, number) = submit(&mut l, 3, IN);
    let RetSubmit::Receive { urb, .. } = l.ret_submit(number) else {
        panic!()
    };
    assert_eq!(l.put_back(broken, urb), Ok(()));
    let (receiving, number) = submit(&mut l, 4, IN);
    let RetSubmit::Receive {
        urb: still_receiving,
        ..
    } = l.ret_submit(number)
    else {
        panic!()
    };
    let sending = enqueue(&mut l, 5, OUT);
    let (_, _, still_sending) = take(&mut l);
    let failed = enqueue(&mut l, 6, OUT);
    let (_, _, urb) = take(&mut l);
    assert_eq!(l.put_back(failed, urb), Ok(()));
    assert_eq!(l.dequeue(failed), Dequeued::Deferred);
    let (unlink_queued, _) = submit(&mut l, 7, IN);
    assert_eq!(l.dequeue(unlink_queued), Dequeued::Unlinking { wake: true });
    enqueue(&mut l, 8, IN);
    assert_eq!((l.pending(), l.in_flight()), (8, 7));

    let mut back: Vec<u32> = std::iter::from_fn(|| l.drain()).map(|urb| urb.0).collect();
    back.sort();
    assert_eq!(back, [0, 2, 3, 6, 7, 8]);
    idle(&mut l);
    // The two that threads still have are theirs now.
    assert_eq!(l.sent(sending, still_sending), AfterSend::Stale(Urb(5)));
    assert_eq!(l.put_back(sending, Urb(5)), Err(Urb(5)));
    assert_eq!(l.put_back(receiving, still_receiving), Err(Urb(4)));
    assert!(!l.received(receiving));
    assert!(!l.stash_reply(sending, reply(1)));
    // And the ledger can be used again.
    for id in 0..10 {
        enqueue(&mut l, id, IN);
    }
}

#[test]
fn teardown_forgets_tombstones() {
    let mut l = client(2, 0);
    let (seqnum, unlink) = submit_and_unlink(&mut l, 0, IN, 1);
    assert!(matches!(
        l.ret_unlink(unlink, 0),
        RetUnlink::GiveBack { .. }
    ));
    assert_eq!(l.drain(), None);
    assert_eq!(
        l.ret_submit(seqnum),
        RetSubmit::Violation(Violation::UnknownSeqnum)
    );
}

#[test]
fn storage_is_checked() {
    let entries = |n| (0..n).map(|_| Entry::<Urb>::new()).collect::<Vec<_>>();
    let ring = |n| vec![RingSlot::new(); n];
    let make = |e, r| ClientLedger::new(entries(e), ring(r)).map(|_| ());
    assert_eq!(make(0, 1024), Err(BadStorage));
    assert_eq!(make(1, 0), Err(BadStorage));
    assert_eq!(make(1, 512), Err(BadStorage));
    assert_eq!(make(1, 1025), Err(BadStorage));
    assert_eq!(make(1, 1024), Ok(()));
    assert_eq!(make(1, 2048), Ok(()));
    assert_eq!(ring_len(usize::MAX), None);
    assert_eq!(ring_len(usize::MAX / 4), None);
    assert_eq!(ring_len(4096), Some(32768));
}

#[test]
fn tokens_survive_as_a_number() {
    let mut l = client(3, 0);
    enqueue(&mut l, 0, IN);
    let token = enqueue(&mut l, 1, IN);
    let raw = token.into_raw();
    assert_eq!(raw.get(), 0x1_0000_0001);
    assert_eq!(Token::from_raw(raw.get()), Some(token));
    assert_eq!(Token::from_raw(0), None);
    assert_eq!(Token::from_raw(0xffff_ffff), None);
    let other = Token::from_raw(0x1_0000_0003).unwrap();
    assert_eq!(l.dequeue(other), Dequeued::Gone);
    let unused = Token::from_raw(0x1_0000_0002).unwrap();
    assert_eq!(l.dequeue(unused), Dequeued::Gone);
}
