// SPDX-License-Identifier: GPL-2.0

//! An exported device.
//!
//! C counterpart: `struct stub_device` and `stub_dev.c`.
//!
//! ```text
//!   bind                fd                      the connection is down
//!   -----> Available(1) --> Used(2) ------------------------------------> reset --> Available
//!                                                                              `--> Error(3)
//! ```
//!
//! The state stays "used" until the device was reset, so nobody gets a device that another client
//! has left in the middle of something.

use crate::server::Server;
use crate::{patience, sysfs, Shared};
use kernel::new_mutex;
use kernel::sync::aref::ARef;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::{Arc, Mutex};
use kernel::time::delay::fsleep;
use kernel::time::Delta;
use kernel_ext::prelude::*;
use kernel_ext::sync::wait::WaitQueue;
use kernel_ext::sysfs::Files;
use kernel_ext::time;
use kernel_ext::usb::device::{Device, Locked};
use kernel_ext::usb::driver::Bound;
use usbip_core::down::Down;
use usbip_core::server::Client;

/// How often to try for the lock of a device, in ms.
const LOCK_POLL_MS: i64 = 2;

/// How long to try for the lock of a device that is to be reset, in ms. Whoever holds it is
/// usbcore, which gives up on a device after a few seconds.
const RESET_LOCK_MS: u32 = 30_000;

/// What a device is doing, as in `usbip_status`.
enum State {
    /// Nothing: a client may have it.
    Available,
    /// A client has it.
    Used(Client<Server>),
    /// The connection is down; the device is being reset.
    Closing,
    /// It could not be reset after a client; only unbinding it helps.
    Error,
}

/// An exported device.
#[pin_data]
pub(crate) struct Stub {
    device: ARef<Device>,
    /// `busnum << 16 | devnum`, which requests have to name.
    devid: u32,
    shared: Arc<Shared>,
    #[pin]
    state: Mutex<State>,
    /// Not 0 while there is a client. Changes with `state`.
    used: Atomic<u32>,
    /// Not 0 when the device is being unbound: no new client, and no reset after the last.
    leaving: Atomic<u32>,
    /// Whoever unbinds the device waits here for the end of the connection.
    #[pin]
    idle: WaitQueue,
}

impl Stub {
    /// An available device. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(device: ARef<Device>, shared: Arc<Shared>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                devid: device.busnum() << 16 | device.devnum(),
                device,
                shared,
                state <- new_mutex!(State::Available, "usbip_stub"),
                used: Atomic::new(0),
                leaving: Atomic::new(0),
                idle <- WaitQueue::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// The device.
    pub(crate) fn device(&self) -> &ARef<Device> {
        &self.device
    }

    /// What every request of the client has to name.
    pub(crate) fn devid(&self) -> u32 {
        self.devid
    }

    /// What it shares with other devices.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// What `usbip_status` shows: `SDEV_ST_*` of `include/uapi/linux/usbip.h`.
    pub(crate) fn status(&self) -> u32 {
        match &*self.state.lock() {
            State::Available => 1,
            State::Used(_) | State::Closing => 2,
            State::Error => 3,
        }
    }

    /// Gives the device to the client at the other end of a socket. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the device is not available, or the descriptor is no connected stream socket, or
    /// a thread could not be had. `EACCES`: TLS is required, and the socket has none. `ENODEV`: the
    /// device is being unbound. `ENOMEM`.
    pub(crate) fn connect(self: &Arc<Self>, fd: i32) -> Result {
        let name = self.device.name();
        let mut state = self.state.lock();
        if self.leaving.load(Relaxed) != 0 {
            return Err(ENODEV);
        }
        if !matches!(*state, State::Available) {
            return Err(EINVAL);
        }
        let shared = &self.shared;
        let client = Client::new(
            name,
            fd,
            &shared.statistics,
            &shared.events,
            patience(),
            |peer| Server::new(self.clone(), peer),
        )
        .and_then(|client| client.start().map(|()| client))
        .map_err(|why| {
            pr_err!("{}: {}\n", name, why);
            why.error()
        })?;
        usbip_core::log_client!(name, client.peer);
        self.used.store(1, Relaxed);
        *state = State::Used(client);
        Ok(())
    }

    /// Ends the connection; the device is available some time after this has returned.
    ///
    /// # Errors
    ///
    /// `EINVAL`: there is no client.
    pub(crate) fn disconnect(&self) -> Result {
        match &*self.state.lock() {
            State::Used(client) => {
                client.connection.kill(Down::Detached);
                Ok(())
            }
            State::Closing => Ok(()),
            State::Available | State::Error => Err(EINVAL),
        }
    }

    /// The device is being unbound: ends the connection and waits for that. No client can come
    /// after this. May sleep; called with the lock of the device.
    pub(crate) fn shut_down(&self) {
        self.leaving.store(1, Relaxed);
        if let State::Used(client) = &*self.state.lock() {
            client.connection.kill(Down::Removed);
        }
        self.idle.wait_until(|| self.used.load(Relaxed) == 0);
    }

    /// The connection is down, and no request of the client is at the device any more. May sleep.
    pub(crate) fn client_gone(&self) {
        // The file with the statistics has to be gone before there can be another.
        drop(core::mem::replace(&mut *self.state.lock(), State::Closing));
        let next = match self.reset() {
            Ok(()) => State::Available,
            Err(error) => {
                if !self.is_going() {
                    pr_err!(
                        "{}: the device could not be reset, error {}: unbind and bind it\n",
                        self.device.name(),
                        error.to_errno()
                    );
                }
                State::Error
            }
        };
        *self.state.lock() = next;
        self.used.store(0, Relaxed);
        self.idle.wake_all();
    }

    /// Whether the device is unplugged or being unbound: nothing should be done with it any more.
    fn is_going(&self) -> bool {
        self.leaving.load(Relaxed) != 0 || self.device.is_unplugged()
    }

    fn reset(&self) -> Result {
        let deadline = time::now_ms().saturating_add(RESET_LOCK_MS.into());
        let give_up = || self.is_going() || time::now_ms() > deadline;
        lock(&self.device, give_up).ok_or(EBUSY)?.reset()
    }
}

/// Takes the lock of a device as soon as it is free, unless `give_up` says to stop trying: whoever
/// holds it may be waiting for the caller. May sleep.
pub(crate) fn lock(device: &Device, give_up: impl Fn() -> bool) -> Option<Locked<'_>> {
    loop {
        if give_up() {
            return None;
        }
        if let Some(locked) = device.try_lock() {
            return Some(locked);
        }
        fsleep(Delta::from_millis(LOCK_POLL_MS));
    }
}

/// What the driver keeps for a device. The order of the fields is the order of the teardown.
pub(crate) struct Exported {
    _files: Files<Arc<Stub>>,
    /// The device.
    pub(crate) stub: Arc<Stub>,
}

impl Exported {
    /// A device with its files. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(dev: &Bound, stub: Arc<Stub>) -> Result<Arc<Self>> {
        let files = sysfs::create(dev.as_ref(), &stub)?;
        Ok(Arc::new(
            Self {
                _files: files,
                stub,
            },
            GFP_KERNEL,
        )?)
    }
}
