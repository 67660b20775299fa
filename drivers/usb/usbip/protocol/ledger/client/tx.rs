// SPDX-License-Identifier: GPL-2.0

//! What the tx thread calls.

use core::mem;
use core::ops::DerefMut;

use super::super::ring::{RingSlot, Slot};
use super::super::Token;
use super::entry::State;
use super::{AfterSend, ClientLedger, Entry, NextTx, TxItem};

impl<T, E, R> ClientLedger<T, E, R>
where
    E: DerefMut<Target = [Entry<T>]>,
    R: DerefMut<Target = [RingSlot]>,
{
    /// What [`Self::next_tx`] would return, for a caller that collects a batch of bounded size.
    pub fn peek_tx(&self) -> Option<NextTx> {
        let entry = self.entries.get(self.queue.front()? as usize)?;
        Some(match entry.state {
            State::UnlinkQueued(_) => NextTx::Unlink,
            _ => NextTx::Submit(entry.meta),
        })
    }

    /// Takes the next PDU to send from the queue. `now_ms` is any clock that does not go
    /// backwards; see [`Self::oldest_unlink_ms`].
    pub fn next_tx(&mut self, now_ms: u64) -> Option<TxItem<T>> {
        let index = self.queue.front()?;
        let entry = self.entries.get_mut(index as usize)?;
        let token = Token {
            index,
            generation: entry.generation,
        };
        match mem::replace(&mut entry.state, State::Free) {
            State::Queued(urb) => {
                let Some(seqnum) = self.ring.allocate(Slot::Submit(index)) else {
                    entry.state = State::Queued(urb);
                    return None;
                };
                entry.seqnum = seqnum;
                entry.state = State::Sending {
                    unlink_wanted: false,
                    early: None,
                };
                self.queue.remove(&mut self.entries, index);
                self.others.push_back(&mut self.entries, index);
                self.in_flight = self.in_flight.saturating_add(1);
                Some(TxItem::Submit { token, seqnum, urb })
            }
            State::UnlinkQueued(urb) => {
                let Some(seqnum) = self.ring.allocate(Slot::Unlink(index)) else {
                    entry.state = State::UnlinkQueued(urb);
                    return None;
                };
                entry.unlink_seqnum = seqnum;
                entry.unlink_ms = now_ms;
                entry.state = State::UnlinkSent(urb);
                let victim = entry.seqnum;
                self.queue.remove(&mut self.entries, index);
                self.unlinks.push_back(&mut self.entries, index);
                Some(TxItem::Unlink { seqnum, victim })
            }
            // Nothing else is in the queue.
            other => {
                entry.state = other;
                None
            }
        }
    }

    /// Reports that the CMD_SUBMIT of `token` has been sent and nothing reads the URB's buffer
    /// any more. A URB without data to send may be reported as soon as its header is built: its
    /// reply then never has to wait.
    pub fn sent(&mut self, token: Token, urb: T) -> AfterSend<T> {
        let Some(entry) = self.live(token) else {
            return AfterSend::Stale(urb);
        };
        match entry.state {
            State::Sending {
                unlink_wanted,
                early: Some(reply),
            } => {
                self.others.remove(&mut self.entries, token.index);
                self.finish(token.index);
                AfterSend::Answered {
                    urb,
                    reply,
                    unlinking: unlink_wanted,
                }
            }
            State::Sending {
                unlink_wanted: true,
                early: None,
            } => {
                entry.state = State::UnlinkQueued(urb);
                self.others.remove(&mut self.entries, token.index);
                let wake = self.queue.push_back(&mut self.entries, token.index);
                AfterSend::UnlinkQueued { wake }
            }
            State::Sending {
                unlink_wanted: false,
                early: None,
            } => {
                entry.state = State::Sent(urb);
                AfterSend::InFlight
            }
            _ => AfterSend::Stale(urb),
        }
    }
}
