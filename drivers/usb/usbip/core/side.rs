// SPDX-License-Identifier: GPL-2.0

//! What a connection asks of the local side: the client, or one of the servers.

use crate::connection::Connection;
use crate::down::Down;
use crate::inbox::Inbox;
use crate::outbox::{Outbox, Sender};
use crate::stats::Stats;
use kernel::fmt;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel_ext::net::tap::Bytes;

/// The most bytes behind a header that [`Side::receive_direct`] is given: a page, which is what a file
/// system asks a disk for, and more than any other request that is in a hurry.
pub const MOST_DIRECT: usize = 4096;

/// One end of the protocol: what to do with PDUs.
pub trait Side: Send + Sync + Sized + 'static {
    /// The name of the receiving thread.
    const RX_NAME: &'static CStr;
    /// The name of the sending thread.
    const TX_NAME: &'static CStr;
    /// What [`Self::look_at`] finds in a header.
    type Seen: Send;

    /// Handles a PDU whose header was just read, including what follows the header.
    ///
    /// rx thread, may sleep.
    ///
    /// # Errors
    ///
    /// The reason for which the connection is to end.
    fn receive(
        &self,
        connection: &Arc<Connection<Self>>,
        header: &[u8; 48],
        inbox: &mut Inbox<'_>,
    ) -> Result<(), Down>;

    /// Looks at a header: whether [`Self::receive_direct`] is likely to take in the PDU, and how many
    /// bytes follow; if it is not, or if that is more than [`MOST_DIRECT`], it is left to
    /// [`Self::receive`]. Changes nothing.
    ///
    /// Atomic context.
    fn look_at(&self, header: &[u8; 48]) -> Option<(Self::Seen, usize)>;

    /// Whether so much is under way that PDUs are better taken in together than at once, if they come one
    /// by one. Atomic context.
    fn is_busy(&self) -> bool {
        false
    }

    /// Handles a whole PDU, if it can be done in atomic context: returns whether it was. If not,
    /// nothing has happened, and [`Self::receive`] is called for the same PDU. `seen` is what was found
    /// in its header a moment ago, `body` as many bytes as follow that.
    ///
    /// Atomic context, never at the same time as [`Self::receive`].
    ///
    /// # Errors
    ///
    /// The reason for which the connection is to end.
    fn receive_direct(
        &self,
        connection: &Arc<Connection<Self>>,
        seen: Self::Seen,
        body: Bytes<'_>,
    ) -> Result<bool, Down>;

    /// Gathers of what is queued what is small, as long as there is room. Returns whether nothing is
    /// left to do for [`Self::transmit`].
    ///
    /// Atomic context, never at the same time as [`Self::transmit`].
    ///
    /// # Errors
    ///
    /// The reason for which the connection is to end.
    fn transmit_direct(
        &self,
        connection: &Connection<Self>,
        outbox: &mut Outbox,
    ) -> Result<bool, Down> {
        let _ = (connection, outbox);
        Ok(false)
    }

    /// Sends everything that is queued at the moment.
    ///
    /// tx thread, may sleep. Called after every [`Connection::kick`].
    ///
    /// # Errors
    ///
    /// The reason for which the connection is to end.
    fn transmit(&self, connection: &Connection<Self>, sender: &mut Sender<'_>) -> Result<(), Down>;

    /// Whether the peer owes a reply, in which case a receive timeout of the socket counts.
    ///
    /// A client owes none: it may be silent for as long as it likes, and that it is still there is
    /// what keepalive finds out.
    fn awaits_reply(&self) -> bool {
        false
    }

    /// The time, as [`kernel_ext::time::now_ms`], by which the peer has to answer something that it may not
    /// leave unanswered, if the last that it sent came at `heard`; `None` if there is no such thing.
    fn deadline(&self, heard: u64) -> Option<u64> {
        let _ = heard;
        None
    }

    /// The time, as [`kernel_ext::time::now_ns`], at which [`Self::transmit`] is to be called even if nobody has
    /// called [`Connection::kick`]; `None` if only that counts, which is what most sides want.
    ///
    /// tx thread.
    fn alarm(&self) -> Option<u64> {
        None
    }

    /// The connection is down: both threads have ended and nothing was or will be sent or
    /// received any more. Called exactly once if the connection was started. May sleep.
    fn closed(&self, end: &End<'_>);
}

/// The end of a connection, as it is told to its [`Side`] and shown in the log.
pub struct End<'a> {
    /// Why it has ended.
    pub why: Down,
    stats: &'a Stats,
}

impl<'a> End<'a> {
    pub(crate) fn new(why: Down, stats: &'a Stats) -> Self {
        Self { why, stats }
    }
}

impl fmt::Display for End<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_fmt(fmt!("{} ({})", self.why, self.stats))
    }
}
