// SPDX-License-Identifier: GPL-2.0

//! The connection engine: a socket, a thread to receive and a thread to send.
//!
//! ```text
//!   local side                 Connection                        peer
//!   enqueue --> [Side's FIFO] --> tx thread --> Outbox --> socket --->
//!   complete <----- Side::receive <-- rx thread <-- Inbox <-- socket <---
//! ```
//!
//! What is small and simple does not wait for the rx thread: see [`crate::direct`].
//!
//! Life of a connection: [`Connection::new`], [`Connection::start`], then exactly once
//! [`Connection::kill`] takes effect, from wherever the first reason comes. A work item then shuts
//! the socket down, waits for both threads and calls [`Side::closed`]. Nothing in that waits for
//! the peer: a thread that sleeps in the socket is woken by the shutdown.

use crate::direct::Direct;
use crate::down::Down;
use crate::inbox::Inbox;
use crate::outbox::{Outbox, Sender};
use crate::patience::PROBES;
use crate::stats::Stats;
use crate::usbip_dbg;
use kernel::prelude::*;
use kernel::static_lock_class;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{Atomic, Full, Relaxed};
use kernel::sync::{Arc, Mutex};
use kernel::workqueue::{impl_has_work, Work, WorkItem};
use kernel_ext::kthread::{self, KThread};
use kernel_ext::net::socket::{How, Socket};
use kernel_ext::net::tap::Arrived;
use kernel_ext::sync::irqsave::SpinLockIrqSave;
use kernel_ext::sync::turn::Turn;
use kernel_ext::sync::wait::WaitQueue;
use kernel_ext::task::NoIoScope;
use kernel_ext::time::{self, Msecs};
use kernel_ext::workqueue::OwnedQueue;

pub use crate::patience::Patience;
pub use crate::side::{End, Side, MOST_DIRECT};

// Names of lock classes. lockdep wants the same pointer for all locks of a class, and a literal in
// generic code has another one in each module.
static WHY_NAME: &CStr = c"usbip_connection_why";
static THREADS_NAME: &CStr = c"usbip_connection_threads";
static WORK_NAME: &CStr = c"usbip_connection";

/// How often what was queued is sent behind PDUs that were taken in directly, before the tx thread is
/// woken up for what was queued meanwhile.
const SENDS: u32 = 2;

struct Threads {
    rx: KThread,
    tx: KThread,
}

/// A connection with a peer.
#[pin_data]
pub struct Connection<S: Side> {
    socket: ARef<Socket>,
    #[pin]
    side: S,
    stats: Arc<Stats>,
    queue: Arc<OwnedQueue>,
    patience: Patience,
    /// Not 0 when something was queued since somebody has last looked who sends.
    kicked: Atomic<u32>,
    /// Not 0 while PDUs are taken in directly: what is queued meanwhile is sent behind them.
    collecting: Atomic<u32>,
    /// What is being sent. Whoever has it may take from the queue.
    outbox: Turn<Outbox>,
    /// Not 0 once a reason to go down was given.
    dying: Atomic<u32>,
    #[pin]
    why: SpinLockIrqSave<Option<Down>>,
    /// Where the tx thread sleeps.
    #[pin]
    tx_wait: WaitQueue,
    /// Where the rx thread sleeps until the tx thread has let go of a URB.
    #[pin]
    sent_wait: WaitQueue,
    /// Where the rx thread sleeps until there is something that takes a thread to receive.
    #[pin]
    rx_wait: WaitQueue,
    /// Not 0 when there is.
    handed_over: Atomic<u32>,
    #[pin]
    threads: Mutex<Option<Threads>>,
    #[pin]
    work: Work<Self>,
}

impl_has_work! {
    impl{S: Side} HasWork<Self> for Connection<S> { self.work }
}

impl<S: Side> Connection<S> {
    /// Sets a connection up on a connected stream socket and configures the socket: no delay,
    /// keepalive, user timeout where it is TCP, allocations that never wait for I/O.
    ///
    /// Nothing is read or written before [`Self::start`]. `side` is initialised in place. `queue` is
    /// where it will be taken down; it has to be flushed before the module that implements `S` goes
    /// away. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(
        socket: ARef<Socket>,
        side: impl PinInit<S, Error>,
        stats: Arc<Stats>,
        queue: Arc<OwnedQueue>,
        patience: Patience,
    ) -> Result<Arc<Self>> {
        if socket.is_tcp() {
            socket.set_tcp_nodelay();
            socket.set_keepalive(patience.idle, patience.interval, PROBES);
            socket.set_user_timeout(patience.stall);
        }
        // A disk behind this connection may be what memory is freed to.
        socket.set_noio();
        socket.set_send_timeout(Some(patience.stall));
        Arc::pin_init(
            try_pin_init!(Self {
                socket,
                side <- side,
                stats,
                queue,
                patience,
                kicked: Atomic::new(0),
                collecting: Atomic::new(0),
                outbox: Turn::new(Outbox::new()?),
                dying: Atomic::new(0),
                why <- SpinLockIrqSave::new(None, WHY_NAME, static_lock_class!()),
                tx_wait <- WaitQueue::new(),
                sent_wait <- WaitQueue::new(),
                rx_wait <- WaitQueue::new(),
                handed_over: Atomic::new(0),
                threads <- Mutex::new(None, THREADS_NAME, static_lock_class!()),
                work <- Work::new(WORK_NAME, static_lock_class!()),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Starts both threads. Does nothing if the connection was told to go down before: then
    /// [`Side::closed`] is called, or has been already. May sleep.
    ///
    /// # Errors
    ///
    /// If a thread or a buffer could not be had. Then the connection has never run and
    /// [`Side::closed`] is not called.
    pub fn start(self: &Arc<Self>) -> Result {
        // The work that takes the connection down waits for this lock.
        let mut threads = self.threads.lock();
        if self.is_dying() {
            return Ok(());
        }
        let error = match self.spawn() {
            Ok(both) => {
                *threads = Some(both);
                return Ok(());
            }
            Err(error) => error,
        };
        let mut first = self.why.lock();
        if first.is_some() {
            return Ok(());
        }
        // Nobody's reason counts from now on.
        *first = Some(Down::Removed);
        self.dying.store(1, Relaxed);
        Err(error)
    }

    fn spawn(self: &Arc<Self>) -> Result<Threads> {
        let this = self.clone();
        let tx = KThread::spawn(S::TX_NAME, move || this.transmit_loop())?;
        let this = self.clone();
        match KThread::spawn(S::RX_NAME, move || this.receive_loop()) {
            Ok(rx) => Ok(Threads { rx, tx }),
            Err(error) => {
                tx.stop();
                Err(error)
            }
        }
    }

    /// The local side of it.
    pub fn side(&self) -> &S {
        &self.side
    }

    /// Its counters.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Its socket.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Sees to it that what was queued is sent: by the tx thread, or by whoever is taking in PDUs
    /// directly. Any context.
    #[inline]
    pub fn kick(&self) {
        // Full: either `collect` sees this, or this sees that nobody is collecting any more.
        if self.kicked.xchg(1, Full) == 0 && self.collecting.load(Relaxed) == 0 {
            self.tx_wait.wake_all();
        }
    }

    /// As [`Self::kick`], but sends here and now if that is possible: for what is likely to be alone, and
    /// so gains nothing from being sent together with others. Any context, with no lock held.
    pub fn kick_now(self: &Arc<Self>) {
        if self.kicked.xchg(1, Full) != 0 || self.collecting.load(Relaxed) != 0 {
            return;
        }
        self.socket.with_lock_now(|socket| self.send_now(socket));
        self.wake_sender_if_kicked();
    }

    /// Calls `take_in`, which takes in PDUs, and then sends what was queued meanwhile.
    pub(crate) fn collect(
        self: &Arc<Self>,
        socket: &mut Arrived<'_>,
        take_in: impl FnOnce(&mut Arrived<'_>),
    ) {
        self.collecting.store(1, Relaxed);
        take_in(socket);
        // A virtual controller queues replies while it looks for some.
        for _ in 0..SENDS {
            if self.kicked.load(Relaxed) == 0 || !self.send_now(socket) {
                break;
            }
        }
        self.collecting.xchg(0, Full);
        self.wake_sender_if_kicked();
    }

    /// Sends what is queued and small, unless somebody is sending. Returns whether that was all.
    fn send_now(self: &Arc<Self>, socket: &mut Arrived<'_>) -> bool {
        let Some(mut outbox) = self.outbox.take() else {
            return false;
        };
        // Full: what was queued before the kick is seen below.
        let is_all =
            self.kicked.xchg(0, Full) == 0 || self.gather_and_send_now(&mut outbox, socket);
        if !is_all {
            self.kicked.store(1, Relaxed);
        }
        is_all
    }

    /// What is left is the tx thread's. To be called when the outbox was taken and is free again, which
    /// has full ordering: either this sees a kick, or whoever kicks sees that nobody is sending.
    fn wake_sender_if_kicked(&self) {
        if self.kicked.load(Relaxed) != 0 {
            self.tx_wait.wake_all();
        }
    }

    /// Returns whether nothing is left to be sent.
    fn gather_and_send_now(
        self: &Arc<Self>,
        outbox: &mut Outbox,
        socket: &mut Arrived<'_>,
    ) -> bool {
        if !outbox.is_empty() || self.is_dying() {
            return false;
        }
        match self.side.transmit_direct(self, outbox) {
            Ok(is_all) => outbox.send_now(socket, &self.stats) && is_all,
            Err(why) => {
                self.kill(why);
                false
            }
        }
    }

    /// Whether the connection has a reason to go down. Any context.
    #[inline]
    pub fn is_dying(&self) -> bool {
        self.dying.load(Relaxed) != 0
    }

    /// Makes the connection go down, for the first reason that is given. Returns at once, whether
    /// this was the first. Any context.
    pub fn kill(self: &Arc<Self>, why: Down) -> bool {
        {
            let mut first = self.why.lock();
            if first.is_some() {
                return false;
            }
            *first = Some(why);
            self.dying.store(1, Relaxed);
            // With the lock held: who is told that there is a reason already can flush the queue, and
            // the connection is down. It fails only if the work is queued, and this is the only place.
            let _ = self.queue.enqueue(self.clone());
        }
        usbip_dbg!(Event, "connection goes down: {}\n", why);
        self.tx_wait.wake_all();
        self.sent_wait.wake_all();
        self.rx_wait.wake_all();
        true
    }

    /// Sleeps until `done` or until the connection goes down, but not for more than `timeout`;
    /// [`Self::wake_receiver`] makes it look. Returns whether it was one of the two.
    ///
    /// For the rx thread, which has to wait for the tx thread to let go of a URB.
    pub fn wait_for_sender(&self, timeout: Msecs, done: impl Fn() -> bool) -> bool {
        self.sent_wait
            .wait_until_timeout(timeout, || self.is_dying() || done())
    }

    /// See [`Self::wait_for_sender`]. Any context.
    pub fn wake_receiver(&self) {
        self.sent_wait.wake_all();
    }

    /// Makes the rx thread go on with what has arrived. Any context.
    pub(crate) fn hand_over(&self) {
        self.handed_over.store(1, Relaxed);
        self.rx_wait.wake_all();
    }

    /// Whether the rx thread has been told to go on, or to end.
    fn is_handed_over(&self) -> bool {
        self.handed_over.load(Relaxed) != 0 || self.is_dying() || kthread::should_stop()
    }

    /// Sends what is queued, once whoever is sending has come to the end. tx thread.
    fn transmit(self: &Arc<Self>) -> Result<(), Down> {
        let Some(mut outbox) = self.outbox.take() else {
            return Ok(());
        };
        // Full: what was queued before the kick is seen below.
        if self.kicked.xchg(0, Full) == 0 {
            return Ok(());
        }
        let mut sender = Sender {
            outbox: &mut outbox,
            socket: &self.socket,
            stats: &self.stats,
        };
        if !sender.outbox().is_empty() {
            sender.flush()?;
        }
        self.side.transmit(self, &mut sender)
    }

    fn transmit_loop(self: Arc<Self>) {
        let _noio = NoIoScope::new();
        let awake = || {
            self.kicked.load(Relaxed) != 0 && !self.outbox.is_taken()
                || self.is_dying()
                || kthread::should_stop()
        };
        loop {
            let deadline = self.side.deadline(self.stats.heard_ms());
            if deadline.is_some_and(|deadline| deadline <= time::now_ms()) {
                self.kill(Down::UnlinkUnanswered);
                break;
            }
            let alarm = self.side.alarm();
            let deadline_ns = deadline.map(|ms| ms.saturating_mul(1_000_000));
            match [deadline_ns, alarm].into_iter().flatten().min() {
                None => self.tx_wait.wait_until(awake),
                Some(until) => {
                    let is_awake = self.tx_wait.wait_until_ns(until, awake);
                    if !is_awake && alarm == Some(until) {
                        self.kicked.store(1, Relaxed);
                    }
                }
            }
            if self.is_dying() || kthread::should_stop() {
                break;
            }
            if let Err(why) = self.transmit() {
                self.kill(why);
                break;
            }
        }
    }

    fn receive_loop(self: Arc<Self>) {
        let _noio = NoIoScope::new();
        let inbox = Inbox::new(&self.socket, &self.stats, self.patience.stall);
        let (Ok(mut inbox), Ok(direct)) = (inbox, Direct::install(&self)) else {
            self.kill(Down::NoMemory);
            return;
        };
        if direct.is_some() {
            inbox.set_plain();
        }
        while !self.is_dying() && !kthread::should_stop() {
            if let Some(direct) = direct.as_ref().filter(|_| inbox.is_between_pdus()) {
                self.handed_over.store(0, Relaxed);
                if direct.arm() {
                    self.rx_wait.wait_until(|| self.is_handed_over());
                    direct.disarm(&mut inbox);
                    continue;
                }
            }
            let result = match inbox.header(|| self.side.awaits_reply()) {
                Ok(Some(header)) => self.side.receive(&self, &header, &mut inbox),
                Ok(None) => Err(Down::PeerClosed),
                Err(why) => Err(why),
            };
            if let Err(why) = result {
                self.kill(why);
                break;
            }
        }
    }
}

impl<S: Side> WorkItem for Connection<S> {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        // Wakes the threads if they sleep in the socket. What they still send or receive fails.
        this.socket.shutdown(How::Both);
        // Taken under the lock: `start` may just be about to store them.
        let threads = this.threads.lock().take();
        if let Some(threads) = threads {
            threads.rx.stop();
            threads.tx.stop();
        }
        let why = this.why.lock().unwrap_or(Down::Removed);
        this.side.closed(&End::new(why, &this.stats));
    }
}
