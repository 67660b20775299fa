// SPDX-License-Identifier: GPL-2.0

//! The client that has a device, from the socket that userspace hands in.

use crate::connection::{Connection, Patience, Side};
use crate::socket::{self, Unfit};
use crate::stats::Stats;
use kernel::alloc::AllocError;
use kernel::debugfs::{Dir, File};
use kernel::fmt;
use kernel::sync::Arc;
use kernel_ext::net::peer::Peer;
use kernel_ext::prelude::*;
use kernel_ext::workqueue::OwnedQueue;

/// Why a client does not get a device.
pub enum NoClient {
    /// The descriptor cannot carry a connection.
    Socket(i32, Unfit),
    /// A thread could not be had.
    Threads,
    /// There is no memory.
    Memory(Error),
}

impl NoClient {
    /// What the writer of `usbip_sockfd` gets.
    pub fn error(&self) -> Error {
        match self {
            NoClient::Socket(_, Unfit::Plain) => EACCES,
            NoClient::Socket(..) | NoClient::Threads => EINVAL,
            NoClient::Memory(error) => *error,
        }
    }
}

impl From<Error> for NoClient {
    fn from(error: Error) -> Self {
        NoClient::Memory(error)
    }
}

impl From<AllocError> for NoClient {
    fn from(error: AllocError) -> Self {
        NoClient::Memory(error.into())
    }
}

impl fmt::Display for NoClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoClient::Socket(fd, unfit) => f.write_fmt(fmt!("descriptor {} {}", fd, unfit)),
            NoClient::Threads => f.write_str("no memory for threads"),
            NoClient::Memory(_) => f.write_str("no memory for a connection"),
        }
    }
}

/// How many clients may come, and how many go, within
/// [`Ratelimit::INTERVAL_MS`](kernel_ext::ratelimit::Ratelimit::INTERVAL_MS) before it is not logged any
/// more. Who has a device for a moment only, over and over, is to be seen in the log, but not to fill it.
pub const MOST_LOGGED: u32 = 100;

/// Prints a line about a client with the given macro of the `pr_*!` family, at most [`MOST_LOGGED`] of
/// each in an interval.
#[doc(hidden)]
#[macro_export]
macro_rules! log_of_client {
    ($print:path, $($arg:tt)+) => {
        ::kernel_ext::pr_ratelimited!(burst $crate::server::MOST_LOGGED, $print, $($arg)+)
    };
}

/// Logs that a client has come, in the name of the module that calls it.
#[macro_export]
macro_rules! log_client {
    ($name:expr, $peer:expr) => {
        $crate::log_of_client!(::kernel::pr_info, "{}: in use by {}\n", $name, $peer)
    };
}

/// Logs that a client has gone, in the name of the module that calls it. `$end`: a
/// [`connection::End`](crate::connection::End).
#[macro_export]
macro_rules! log_client_gone {
    ($name:expr, $peer:expr, $end:expr) => {
        if $end.why.is_orderly() {
            $crate::log_of_client!(::kernel::pr_info, "{}: {} left: {}\n", $name, $peer, $end);
        } else {
            $crate::log_of_client!(
                ::kernel::pr_warn,
                "{}: {} lost the device: {}\n",
                $name,
                $peer,
                $end
            );
        }
    };
}

/// The client that has a device.
pub struct Client<S: Side> {
    /// Its connection.
    pub connection: Arc<Connection<S>>,
    /// Who it is.
    pub peer: Peer,
    /// Shows its statistics.
    _statistics: Pin<KBox<File<Arc<Stats>>>>,
}

impl<S: Side> Client<S> {
    /// Sets a connection up on a socket of the calling process, for the device `name`; `side` makes
    /// our end of it. It has to be [started](Self::start). Process context, may sleep.
    ///
    /// # Errors
    ///
    /// See [`NoClient`].
    pub fn new<I: PinInit<S, Error>>(
        name: &CStr,
        fd: i32,
        statistics: &Dir,
        events: &Arc<OwnedQueue>,
        patience: Patience,
        side: impl FnOnce(Peer) -> I,
    ) -> Result<Self, NoClient> {
        let socket = socket::find(fd).map_err(|unfit| NoClient::Socket(fd, unfit))?;
        let peer = socket.peer();
        let stats = Arc::new(Stats::new(), GFP_KERNEL)?;
        let file = KBox::pin_init(
            statistics
                .read_callback_file(name, stats.clone(), &|stats: &Arc<Stats>, f| stats.show(f)),
            GFP_KERNEL,
        )?;
        let connection = Connection::new(socket, side(peer), stats, events.clone(), patience)?;
        Ok(Self {
            connection,
            peer,
            _statistics: file,
        })
    }

    /// Starts it. From now on it may end at any time. May sleep.
    ///
    /// # Errors
    ///
    /// [`NoClient::Threads`]; then it has never run.
    pub fn start(&self) -> Result<(), NoClient> {
        self.connection.start().map_err(|_| NoClient::Threads)
    }
}
