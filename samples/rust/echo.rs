// SPDX-License-Identifier: GPL-2.0

//! Sample of a kernel thread that serves a socket handed in through sysfs.
//!
//! Write the number of a connected stream socket to `/sys/devices/platform/sample_echo/sockfd`, and
//! the module sends back what it receives on it, until the peer closes or the module goes. One
//! connection at a time; `status` shows whether there is one, and how much was echoed so far.

#![deny(unsafe_code)]

use core::fmt::Write;
use kernel::new_mutex;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{Arc, ArcBorrow, Mutex};
use kernel_ext::kthread::{self, KThread};
use kernel_ext::net::socket::{How, IoSlice, IoSliceMut, Received, Socket, Type};
use kernel_ext::platform;
use kernel_ext::prelude::*;
use kernel_ext::sysfs::{Attribute, Files, Page};

module! {
    type: Sample,
    name: "sample_echo_rs",
    authors: ["The rusbip authors"],
    description: "Echo over a socket, a sample of threads, sockets and sysfs in Rust",
    license: "GPL",
}

kernel_ext::module_version!();

static BUFFER: Atomic<u32> = Atomic::new(4096);
kernel_ext::param_uint!(buffer, BUFFER, 0o644, "size of the buffer in bytes");

/// The driver goes first, and with it what it does with the device.
struct Sample {
    _driver: platform::Registration<Driver>,
    _device: platform::PlatformDevice,
}

impl kernel::Module for Sample {
    fn init(module: &'static ThisModule) -> Result<Self> {
        Ok(Sample {
            _driver: platform::Registration::new(module, ())?,
            _device: platform::PlatformDevice::register(NAME, -1)?,
        })
    }
}

/// The name of both the device and its driver.
const NAME: &CStr = c"sample_echo";

struct Driver;

/// What belongs to the device. The files go first: their callbacks use the rest.
struct Bound {
    _files: Files<Echo>,
    echo: Arc<Echo>,
}

impl platform::Driver for Driver {
    const NAME: &'static CStr = NAME;
    type Context = ();
    type Data = KBox<Bound>;

    fn probe(dev: &platform::Device, _context: &()) -> Result<KBox<Bound>> {
        let echo = Arc::pin_init(Echo::new(), GFP_KERNEL)?;
        let files = Files::create(
            dev.as_ref(),
            echo.clone(),
            [
                Attribute::write_only(c"sockfd", Echo::store_sockfd),
                Attribute::read_only(c"status", Echo::show_status),
            ],
        )?;
        Ok(KBox::new(
            Bound {
                _files: files,
                echo,
            },
            GFP_KERNEL,
        )?)
    }

    fn suspend(_dev: &platform::Device, bound: &Bound) -> Result {
        if bound.echo.is_busy() {
            return Err(EBUSY);
        }
        Ok(())
    }
}

#[pin_data]
struct Echo {
    #[pin]
    session: Mutex<Option<Session>>,
    count: Arc<Count>,
}

struct Count {
    bytes: Atomic<usize>,
    /// 1 while a connection is served.
    busy: Atomic<u32>,
}

/// A connection and the thread that serves it. Dropping it ends both.
struct Session {
    socket: ARef<Socket>,
    _thread: KThread,
}

impl Drop for Session {
    fn drop(&mut self) {
        // Wakes the thread, which is waited for when the fields are dropped.
        self.socket.shutdown(How::Both);
    }
}

impl Echo {
    fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            session <- new_mutex!(None),
            count: Arc::new(
                Count {
                    bytes: Atomic::new(0),
                    busy: Atomic::new(0),
                },
                GFP_KERNEL,
            )?,
        })
    }

    fn is_busy(&self) -> bool {
        self.count.busy.load(Relaxed) != 0
    }

    fn show_status(&self, _index: u32, page: &mut Page<'_>) -> Result {
        let state = if self.is_busy() { "busy" } else { "idle" };
        Ok(writeln!(
            page,
            "{state} {}",
            self.count.bytes.load(Relaxed)
        )?)
    }

    fn store_sockfd(&self, _index: u32, text: &[u8]) -> Result {
        let fd = core::str::from_utf8(text)?
            .trim()
            .parse()
            .map_err(|_| EINVAL)?;
        let socket = Socket::from_fd(fd)?;
        if socket.kind() != Type::Stream {
            return Err(EPROTOTYPE);
        }
        if !socket.is_connected() {
            return Err(ENOTCONN);
        }
        let mut session = self.session.lock();
        if self.is_busy() {
            return Err(EBUSY);
        }
        // The thread of the last session is at its end, if there was one.
        *session = None;

        let len = BUFFER.load(Relaxed).clamp(1, 1 << 20) as usize;
        let buf = KVVec::from_elem(0, len, GFP_KERNEL)?;
        self.count.busy.store(1, Relaxed);
        let (peer, count) = (socket.clone(), self.count.clone());
        // Asked now: a connection that was reset does not know any more.
        let name = socket.peer();
        let thread = KThread::spawn(c"sample_echo", move || {
            if let Err(error) = serve(&peer, buf, count.as_arc_borrow()) {
                pr_info!("{name}: error {}\n", error.to_errno());
            }
            peer.shutdown(How::Both);
            count.busy.store(0, Relaxed);
        })
        .inspect_err(|_| self.count.busy.store(0, Relaxed))?;
        *session = Some(Session {
            socket,
            _thread: thread,
        });
        Ok(())
    }
}

/// Sends back what comes, until there is nothing more.
fn serve(socket: &Socket, mut buf: KVVec<u8>, count: ArcBorrow<'_, Count>) -> Result {
    while !kthread::should_stop() {
        let Received::Data(n) = socket.recv(&mut [IoSliceMut::new(&mut buf)], false)? else {
            break;
        };
        let bytes = buf.get(..n).ok_or(EINVAL)?;
        let mut iov: &mut [_] = &mut [IoSlice::new(bytes)];
        while !iov.is_empty() {
            let sent = socket.send(iov, false)?;
            IoSlice::advance(&mut iov, sent);
            count.bytes.add(sent, Relaxed);
        }
    }
    Ok(())
}
