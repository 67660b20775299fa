// SPDX-License-Identifier: GPL-2.0

//! A client, its driver and a hostile server.

use std::collections::VecDeque;

use usbip_host_tests::{client, IN, ISO, OUT};
use usbip_protocol::ledger::client::{AfterSend, Dequeued, RetSubmit, RetUnlink, TxItem};
use usbip_protocol::ledger::Token;
use usbip_protocol::wire::{self, Reply};

use crate::Input;

/// Move-only, and counted.
#[derive(Debug)]
struct Urb(usize);

/// Plays the calls that the input spells out; every URB must come back exactly once.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut ledger = client(4, input.word());
    let mut tokens: Vec<Token> = Vec::new();
    let mut back: Vec<u32> = Vec::new();
    let mut tx: VecDeque<(Token, Urb)> = VecDeque::new();
    let mut rx: VecDeque<(Token, Urb)> = VecDeque::new();
    let mut last = 0_u32;
    let mut now = 0;
    while !input.is_empty() {
        now += 1;
        match input.byte() % 8 {
            0 => {
                let id = back.len();
                if let Ok(enqueued) = ledger.enqueue(Urb(id), [IN, OUT, ISO][id % 3]) {
                    assert!(!tokens.contains(&enqueued.token));
                    tokens.push(enqueued.token);
                    back.push(0);
                }
            }
            1 => {
                if let Some(&token) = tokens.iter().rev().nth(usize::from(input.byte() % 6)) {
                    if let Dequeued::Local(urb) = ledger.dequeue(token) {
                        back[urb.0] += 1;
                    }
                }
            }
            2 => match ledger.next_tx(now) {
                Some(TxItem::Submit { token, seqnum, urb }) => {
                    assert_ne!(seqnum, 0);
                    last = seqnum;
                    tx.push_back((token, urb));
                }
                Some(TxItem::Unlink { seqnum, victim }) => {
                    assert!(seqnum != 0 && seqnum != victim);
                    last = seqnum;
                }
                None => (),
            },
            3 => {
                if let Some((token, urb)) = tx.pop_front() {
                    match ledger.sent(token, urb) {
                        AfterSend::Answered { urb, .. } | AfterSend::Stale(urb) => back[urb.0] += 1,
                        AfterSend::InFlight | AfterSend::UnlinkQueued { .. } => (),
                    }
                }
            }
            4 | 5 => {
                // Mostly near the last number; the commands and words of a real header.
                let mut header = Reply::Submit(wire::RetSubmit {
                    seqnum: last.wrapping_sub(u32::from(input.byte() % 12)),
                    status: i32::from(input.byte() as i8),
                    actual_length: i32::from(input.byte() as i8),
                    start_frame: 0,
                    number_of_packets: i32::from(input.byte() % 4),
                    error_count: 0,
                })
                .build();
                header[3] = 3 + input.byte() % 2;
                match Reply::parse(&header).expect("a known command") {
                    Reply::Submit(ret) => match ledger.ret_submit(ret.seqnum) {
                        RetSubmit::Receive {
                            token, urb, meta, ..
                        } => {
                            if let Ok(body) = ret.body(meta) {
                                assert!(body.data <= meta.length);
                            }
                            rx.push_back((token, urb));
                        }
                        RetSubmit::Sending { token, meta } => {
                            if ret.body(meta).is_ok_and(|body| body.is_empty()) {
                                assert!(ledger.stash_reply(token, ret));
                            }
                        }
                        RetSubmit::Drain(_) | RetSubmit::Violation(_) => (),
                    },
                    Reply::Unlink(ret) => {
                        if let RetUnlink::GiveBack { urb, status } =
                            ledger.ret_unlink(ret.seqnum, ret.status)
                        {
                            assert!(!status.is_ok());
                            back[urb.0] += 1;
                        }
                    }
                }
            }
            6 => {
                if let Some((token, urb)) = rx.pop_front() {
                    ledger.received(token);
                    back[urb.0] += 1;
                }
            }
            _ => {
                let choice = input.byte();
                if choice == 0 {
                    while let Some(urb) = ledger.drain() {
                        back[urb.0] += 1;
                    }
                    assert!(ledger.is_idle());
                } else if let Some((token, urb)) = if choice % 2 == 0 {
                    tx.pop_front()
                } else {
                    rx.pop_front()
                } {
                    if let Err(urb) = ledger.put_back(token, urb) {
                        back[urb.0] += 1;
                    }
                }
            }
        }
        assert!(ledger.in_flight() <= ledger.pending() && ledger.pending() <= 4);
        assert!(ledger.oldest_unlink_ms().is_none_or(|sent| sent <= now));
    }
    while let Some(urb) = ledger.drain() {
        back[urb.0] += 1;
    }
    for (_, urb) in tx.into_iter().chain(rx) {
        back[urb.0] += 1;
    }
    assert!(back.iter().all(|&times| times == 1), "{back:?}");
    assert_eq!(
        (ledger.pending(), ledger.in_flight(), ledger.is_idle()),
        (0, 0, true)
    );
}
