// SPDX-License-Identifier: GPL-2.0

//! What the client's ledger answers.

use core::fmt;

use crate::ledger::Token;
use crate::status::Status;
use crate::wire::{self, UrbMeta};

/// No entry is free; the URB comes back.
#[derive(Debug, PartialEq, Eq)]
pub struct Full<T>(pub T);

/// A URB was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enqueued {
    /// Its name from now on.
    pub token: Token,
    /// The queue was empty: wake the tx thread.
    pub wake: bool,
}

/// The next thing to send.
#[derive(Debug, PartialEq, Eq)]
pub enum TxItem<T> {
    /// A CMD_SUBMIT. The URB belongs to the tx thread until [`super::ClientLedger::sent`] or
    /// [`super::ClientLedger::put_back`].
    Submit {
        /// To report with.
        token: Token,
        /// The number to send.
        seqnum: u32,
        /// The URB to send.
        urb: T,
    },
    /// A CMD_UNLINK. Counts as sent from now on.
    Unlink {
        /// The number to send.
        seqnum: u32,
        /// The number of the CMD_SUBMIT to cancel.
        victim: u32,
    },
}

/// What [`super::ClientLedger::next_tx`] would return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextTx {
    /// A CMD_SUBMIT for this kind of URB.
    Submit(UrbMeta),
    /// A CMD_UNLINK.
    Unlink,
}

/// What became of a URB that has been sent.
#[derive(Debug, PartialEq, Eq)]
pub enum AfterSend<T> {
    /// It waits for its reply.
    InFlight,
    /// It was dequeued meanwhile: its CMD_UNLINK is in the queue.
    UnlinkQueued {
        /// The queue was empty. (The tx thread reports, so it looks there anyway.)
        wake: bool,
    },
    /// The server was quicker. The URB is out of the ledger: complete it with this reply.
    Answered {
        /// The URB.
        urb: T,
        /// The reply, as given to [`super::ClientLedger::stash_reply`].
        reply: wire::RetSubmit,
        /// The URB was asked to be unlinked meanwhile.
        unlinking: bool,
    },
    /// The ledger was drained meanwhile: the URB is the caller's to complete.
    Stale(T),
}

/// What became of a request to unlink.
#[derive(Debug, PartialEq, Eq)]
pub enum Dequeued<T> {
    /// Nothing of it was sent. It is out of the ledger and the caller's to complete.
    Local(T),
    /// A thread has it. It comes back on its own: with its reply, or after a CMD_UNLINK that
    /// follows by itself, or at the latest by [`super::ClientLedger::drain`].
    Deferred,
    /// A CMD_UNLINK was queued.
    Unlinking {
        /// The queue was empty: wake the tx thread.
        wake: bool,
    },
    /// A CMD_UNLINK is queued or sent already.
    AlreadyPending,
    /// The URB has been completed.
    Gone,
}

/// Why a reply ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// RET_SUBMIT for a number that is not in use.
    UnknownSeqnum,
    /// RET_SUBMIT for the number of a CMD_UNLINK.
    UnlinkSeqnum,
    /// Second RET_SUBMIT for the same number.
    Duplicate,
    /// RET_UNLINK while the RET_SUBMIT of its victim is still being received.
    BeingReceived,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownSeqnum => "reply to an unknown seqnum",
            Self::UnlinkSeqnum => "submit reply to an unlink",
            Self::Duplicate => "second reply to a seqnum",
            Self::BeingReceived => "unlink reply during its victim's reply",
        })
    }
}

/// What to do with a RET_SUBMIT.
#[derive(Debug, PartialEq, Eq)]
pub enum RetSubmit<T> {
    /// The reply to this URB. It belongs to the rx thread, which receives the body and then
    /// calls [`super::ClientLedger::received`], or [`super::ClientLedger::put_back`] if that fails.
    Receive {
        /// To report with.
        token: Token,
        /// The URB.
        urb: T,
        /// What was submitted, for [`wire::RetSubmit::body`].
        meta: UrbMeta,
        /// It was asked to be unlinked, for [`Status::from_peer`].
        unlinking: bool,
    },
    /// The tx thread has not reported the URB as sent. That is no violation: on a fast path the
    /// reply is here before `sendmsg` has returned. If no body follows, hand the reply to
    /// [`super::ClientLedger::stash_reply`] and go on; else wait until the tx thread has reported,
    /// and ask again. A server that answers what it was not sent makes the caller wait no longer
    /// than the tx thread may take to send.
    Sending {
        /// For [`super::ClientLedger::stash_reply`].
        token: Token,
        /// What was submitted.
        meta: UrbMeta,
    },
    /// The URB was given back long ago: receive the body, and ignore it.
    Drain(UrbMeta),
    /// The connection is to end.
    Violation(Violation),
}

/// What to do with a RET_UNLINK.
#[derive(Debug, PartialEq, Eq)]
pub enum RetUnlink<T> {
    /// The URB is out of the ledger and the caller's to complete.
    GiveBack {
        /// The URB.
        urb: T,
        /// The status for its driver (usbcore shows the driver its own unlink code instead).
        status: Status,
    },
    /// The URB had been completed by its RET_SUBMIT before.
    AlreadyDone,
    /// No such CMD_UNLINK. Ignore it, as the C driver does.
    Unknown,
    /// The connection is to end.
    Violation(Violation),
}
