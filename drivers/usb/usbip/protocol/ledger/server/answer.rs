// SPDX-License-Identifier: GPL-2.0

//! What the server's ledger answers.

use core::fmt;

use crate::ledger::Token;

/// Why a request is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another request with this number has not been answered. No reply could tell the two apart:
    /// the connection is to end.
    Duplicate,
    /// Too many requests: refuse it with [`super::ServerLedger::refuse`], and go on.
    Requests,
    /// Too many bytes: likewise.
    Bytes,
}

/// There is no room for another reply: the client does not read them. The connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too many replies wait")
    }
}

/// Whether a request may start.
#[derive(Debug, PartialEq, Eq)]
pub enum Start<H> {
    /// Yes. The ledger keeps the handle.
    Started,
    /// No, it was unlinked meanwhile: complete it as cancelled without starting it.
    Cancelled(H),
    /// No, the connection is gone and so is the request.
    Stale(H),
}

/// What became of a request that is to be forgotten.
#[derive(Debug, PartialEq, Eq)]
pub enum Withdrawn<H> {
    /// It is; with what it was started with, to be dropped outside the lock.
    Forgotten(Option<H>),
    /// It was unlinked, has been completed, or the connection is gone.
    Stale,
}

/// A request was completed.
#[derive(Debug, PartialEq, Eq)]
pub enum Completed<H, D> {
    /// Its reply is in the queue.
    Queued {
        /// The queue was empty: wake the tx thread.
        wake: bool,
        /// What the ledger was lent, to be dropped outside the lock; none if it was handed out
        /// for cancelling.
        handle: Option<H>,
    },
    /// The connection is gone and so is the request.
    Stale(D),
}

/// What to do about a CMD_UNLINK.
#[derive(Debug, PartialEq, Eq)]
pub enum Unlink<H> {
    /// Cancel this request. Its completion is then the reply to the CMD_UNLINK, and there is none
    /// to the CMD_SUBMIT.
    Cancel {
        /// The request.
        token: Token,
        /// What it was started with.
        handle: H,
    },
    /// The request has not been started. [`super::ServerLedger::start`] will say that it is
    /// cancelled.
    Deferred(Token),
    /// There is nothing to cancel. The reply is in the queue, behind that of the victim.
    Answered {
        /// The queue was empty: wake the tx thread.
        wake: bool,
    },
}

/// How a request ends that was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Failure {
    /// A negative errno.
    pub status: i32,
    /// Number of packets of an isochronous request, zero for every other type. A client expects
    /// as many descriptors whatever the status says.
    pub iso_packets: u32,
}

/// The next reply to send, to be reported with [`super::ServerLedger::sent`].
#[derive(Debug, PartialEq, Eq)]
pub struct TxReply<D> {
    /// To report with.
    pub token: Token,
    /// Number to send: of the CMD_SUBMIT or of the CMD_UNLINK.
    pub seqnum: u32,
    /// What to send.
    pub kind: TxKind<D>,
}

/// Kinds of replies.
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(not(MODULE), derive(Clone, Hash))]
pub enum TxKind<D> {
    /// RET_SUBMIT with the result of the request.
    Submit(D),
    /// RET_SUBMIT with this status, for the request and for each of its packets; nothing
    /// transferred.
    Refused(Failure),
    /// RET_UNLINK with the status of the cancelled request; its data goes nowhere.
    Unlinked(D),
    /// RET_UNLINK with this status.
    Unlink(i32),
}

/// What a ledger still held.
#[derive(Debug, PartialEq, Eq)]
pub enum Drained<H, D> {
    /// A request that is with the device: cancel it.
    Pending(H),
    /// A result that nobody will read.
    Done(D),
}
