// SPDX-License-Identifier: GPL-2.0

//! What the rx thread calls.

use core::mem;
use core::ops::DerefMut;

use super::super::ring::{RingSlot, Slot};
use super::super::Token;
use super::entry::State;
use super::{ClientLedger, Entry, RetSubmit, RetUnlink, Violation};
use crate::status::{Expect, Status};
use crate::wire::{self, UrbMeta};

impl<T, E, R> ClientLedger<T, E, R>
where
    E: DerefMut<Target = [Entry<T>]>,
    R: DerefMut<Target = [RingSlot]>,
{
    /// What a RET_SUBMIT answers, if [`Self::ret_submit`] would hand the URB out.
    pub fn awaited(&mut self, seqnum: u32) -> Option<UrbMeta> {
        let Slot::Submit(index) = self.ring.get(seqnum) else {
            return None;
        };
        let entry = self.entries.get(index as usize)?;
        match entry.state {
            State::Sent(_) | State::UnlinkQueued(_) | State::UnlinkSent(_) => Some(entry.meta),
            _ => None,
        }
    }

    /// Finds what a RET_SUBMIT answers.
    pub fn ret_submit(&mut self, seqnum: u32) -> RetSubmit<T> {
        let index = match self.ring.get(seqnum) {
            Slot::Submit(index) => index,
            Slot::Unlink(_) => return RetSubmit::Violation(Violation::UnlinkSeqnum),
            Slot::Free => return RetSubmit::Violation(Violation::UnknownSeqnum),
            Slot::Tombstone {
                direction,
                iso_packets,
                length,
            } => {
                self.ring.release(seqnum);
                let iso_packets = u32::from(iso_packets);
                return RetSubmit::Drain(UrbMeta {
                    direction,
                    iso_packets,
                    length,
                });
            }
        };
        let Some(entry) = self.entries.get_mut(index as usize) else {
            return RetSubmit::Violation(Violation::UnknownSeqnum);
        };
        let token = Token {
            index,
            generation: entry.generation,
        };
        let meta = entry.meta;
        match mem::replace(&mut entry.state, State::Free) {
            State::Sent(urb) => {
                entry.state = State::Receiving { unlink_sent: false };
                RetSubmit::Receive {
                    token,
                    urb,
                    meta,
                    unlinking: false,
                }
            }
            State::UnlinkQueued(urb) => {
                // There is nothing left to cancel.
                entry.state = State::Receiving { unlink_sent: false };
                self.queue.remove(&mut self.entries, index);
                self.others.push_back(&mut self.entries, index);
                RetSubmit::Receive {
                    token,
                    urb,
                    meta,
                    unlinking: true,
                }
            }
            State::UnlinkSent(urb) => {
                entry.state = State::Receiving { unlink_sent: true };
                RetSubmit::Receive {
                    token,
                    urb,
                    meta,
                    unlinking: true,
                }
            }
            other => {
                let answer = match other {
                    State::Sending { early: None, .. } => RetSubmit::Sending { token, meta },
                    _ => RetSubmit::Violation(Violation::Duplicate),
                };
                entry.state = other;
                answer
            }
        }
    }

    /// Keeps the reply to a URB that is still being sent until [`Self::sent`] hands it out.
    /// Returns false if the URB is not being sent any more: ask [`Self::ret_submit`] again.
    ///
    /// Only for replies without a body, checked by [`wire::RetSubmit::body`].
    #[must_use]
    pub fn stash_reply(&mut self, token: Token, reply: wire::RetSubmit) -> bool {
        match self.live(token).map(|entry| &mut entry.state) {
            Some(State::Sending {
                early: early @ None,
                ..
            }) => {
                *early = Some(reply);
                true
            }
            _ => false,
        }
    }

    /// Reports that the reply to `token` has been received: the rx thread completes the URB.
    /// Returns false if the ledger was drained meanwhile, which makes no difference to that.
    pub fn received(&mut self, token: Token) -> bool {
        let Some(entry) = self.live(token) else {
            return false;
        };
        match entry.state {
            State::Receiving { unlink_sent: false } => {
                self.others.remove(&mut self.entries, token.index);
                self.finish(token.index);
                true
            }
            State::Receiving { unlink_sent: true } => {
                entry.state = State::AwaitingRetUnlink;
                self.unlinks.remove(&mut self.entries, token.index);
                self.answered.push_back(&mut self.entries, token.index);
                self.pending = self.pending.saturating_sub(1);
                self.in_flight = self.in_flight.saturating_sub(1);
                true
            }
            _ => false,
        }
    }

    /// Finds what a RET_UNLINK answers. `status` is as received.
    pub fn ret_unlink(&mut self, seqnum: u32, status: i32) -> RetUnlink<T> {
        let Slot::Unlink(index) = self.ring.get(seqnum) else {
            return RetUnlink::Unknown;
        };
        let Some(entry) = self.entries.get_mut(index as usize) else {
            return RetUnlink::Unknown;
        };
        match mem::replace(&mut entry.state, State::Free) {
            State::UnlinkSent(urb) => {
                let (victim, meta) = (entry.seqnum, entry.meta);
                self.unlinks.remove(&mut self.entries, index);
                self.finish(index);
                let status = if status == 0 {
                    // The server says that it has answered, or is about to. Don't wait for that,
                    // but know the answer when it comes.
                    self.ring.bury(victim, meta);
                    Status::CONNRESET
                } else {
                    let iso = meta.iso_packets != 0;
                    Status::from_peer(
                        status,
                        Expect::Urb {
                            iso,
                            unlinking: true,
                        },
                    )
                };
                RetUnlink::GiveBack { urb, status }
            }
            State::AwaitingRetUnlink => {
                self.answered.remove(&mut self.entries, index);
                self.release(index);
                RetUnlink::AlreadyDone
            }
            other => {
                let answer = match other {
                    State::Receiving { .. } => RetUnlink::Violation(Violation::BeingReceived),
                    _ => RetUnlink::Unknown,
                };
                entry.state = other;
                answer
            }
        }
    }
}
