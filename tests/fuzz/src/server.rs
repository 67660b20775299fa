// SPDX-License-Identifier: GPL-2.0

//! A server and the stream of a hostile client.

use std::collections::VecDeque;

use usbip_host_tests::server;
use usbip_protocol::iso::{check_submitted, Packet};
use usbip_protocol::ledger::server::{
    Caps, Completed, Drained, Failure, Refusal, Start, TxKind, Unlink,
};
use usbip_protocol::ledger::Token;
use usbip_protocol::wire::Command;

use crate::Input;

const CAPS: Caps = Caps {
    requests: 6,
    bytes: 4096,
};

const FAILURE: Failure = Failure {
    status: -71,
    iso_packets: 0,
};

/// Move-only, and counted.
#[derive(Debug)]
struct Handle(usize);

/// Move-only, and counted.
#[derive(Debug)]
struct Done(usize);

/// Reads PDUs until the stream cannot be followed; a byte before each says what the device and the
/// tx thread do meanwhile.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut ledger = server(CAPS, 4);
    let mut device: VecDeque<(Token, usize)> = VecDeque::new();
    let mut sending: VecDeque<Token> = VecDeque::new();
    let (mut handles, mut results) = (Vec::new(), Vec::new());
    while !input.is_empty() {
        let meanwhile = input.byte();
        if meanwhile & 1 != 0 {
            let next = if meanwhile & 2 != 0 {
                device.pop_back()
            } else {
                device.pop_front()
            };
            if let Some((token, id)) = next {
                let handle: Option<Handle> = if meanwhile & 4 != 0 {
                    let Completed::Queued { handle, .. } = ledger.fail(token, FAILURE) else {
                        panic!("stale")
                    };
                    handle
                } else {
                    results.push(0);
                    let done = Done(results.len() - 1);
                    let Completed::Queued { handle, .. } = ledger.complete(token, done) else {
                        panic!("stale")
                    };
                    handle
                };
                if let Some(handle) = handle {
                    assert_eq!(handle.0, id);
                    handles[handle.0] += 1;
                }
            }
        }
        if meanwhile & 8 != 0 {
            if let Some(reply) = ledger.next_reply() {
                match reply.kind {
                    TxKind::Submit(done) | TxKind::Unlinked(done) => results[done.0] += 1,
                    TxKind::Refused(failure) => assert!(failure.status < 0),
                    TxKind::Unlink(status) => assert!(status <= 0),
                }
                sending.push_back(reply.token);
            }
        }
        if meanwhile & 16 != 0 {
            if let Some(token) = sending.pop_front() {
                assert!(ledger.sent(token));
            }
        }
        let Ok(command) = Command::parse(&input.bytes()) else {
            break;
        };
        match command {
            Command::Submit(cmd) => {
                // Half of the endpoints are isochronous.
                let Ok(body) = cmd.body(cmd.ep & 1 != 0) else {
                    break;
                };
                let descriptors: Vec<[u8; 16]> = (0..body.iso_packets.min(32))
                    .map(|_| input.bytes())
                    .collect();
                let _ = check_submitted(descriptors.iter().map(Packet::parse), cmd.length);
                match ledger.admit(cmd.seqnum, cmd.length) {
                    Ok(token) => {
                        handles.push(0);
                        let handle = Handle(handles.len() - 1);
                        assert!(matches!(ledger.start(token, handle), Start::Started));
                        device.push_back((token, handles.len() - 1));
                    }
                    Err(Refusal::Duplicate) => break,
                    Err(Refusal::Requests | Refusal::Bytes) => {
                        if ledger.refuse(cmd.seqnum, FAILURE).is_err() {
                            break;
                        }
                    }
                }
            }
            Command::Unlink(cmd) => match ledger.unlink(cmd.seqnum, cmd.victim) {
                Ok(Unlink::Cancel { token, handle }) => {
                    assert!(device.iter().any(|&(t, id)| t == token && id == handle.0));
                    handles[handle.0] += 1;
                }
                Ok(Unlink::Answered { .. }) => (),
                Ok(Unlink::Deferred(_)) => panic!("every request was started"),
                Err(_) => break,
            },
        }
        assert!(ledger.requests() <= CAPS.requests && ledger.bytes() <= CAPS.bytes);
    }
    while let Some(rest) = ledger.drain() {
        match rest {
            Drained::Pending(handle) => handles[handle.0] += 1,
            Drained::Done(done) => results[done.0] += 1,
        }
    }
    assert!(handles.iter().chain(&results).all(|&times| times == 1));
    assert_eq!(
        (ledger.requests(), ledger.bytes(), ledger.is_idle()),
        (0, 0, true)
    );
    for (token, id) in device {
        assert!(matches!(
            ledger.complete(token, Done(id)),
            Completed::Stale(_)
        ));
    }
}
