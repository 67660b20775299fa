// SPDX-License-Identifier: GPL-2.0

//! A port: where one remote device is attached.
//!
//! C counterpart: `struct vhci_device`. One lock covers what the hub driver sees of the port, the
//! connection and the ledger of its URBs; no lock is shared between ports.
//!
//! ```text
//!         attach               kill, closed()          URBs are back         free_device()
//!   Free --------> Up(Session) ------------> Closing ---------------> Draining --------> Free
//!                                    (straight to Free if usbcore has no device)
//! ```
//!
//! A port is not free while usbcore still holds the device of the last connection, so that nothing
//! of an old device can reach a new peer.

use crate::client::Client;
use crate::root_hub::{HubKind, Lanes, RootPort};
use kernel::debugfs::File;
use kernel::sync::aref::ARef;
use kernel::sync::Arc;
use kernel_ext::new_spinlock_irqsave;
use kernel_ext::prelude::*;
use kernel_ext::sync::irqsave::SpinLockIrqSave;
use kernel_ext::usb::device::{Device, DeviceKey};
use kernel_ext::usb::hcd::Controller;
use kernel_ext::usb::urb::{Accepted, Lent, Linked, Submitted, UrbRef};
use usbip_core::connection::Connection;
use usbip_core::down::Down;
use usbip_core::stats::Stats;
use usbip_protocol::ledger::client::{ClientLedger, Dequeued, Entry, Full};
use usbip_protocol::ledger::{ring_len, RingSlot, Token};
use usbip_protocol::limits::{BUSID_LEN, MAX_ISO_PACKETS};
use usbip_protocol::speed::{PortStatus, Speed};
use usbip_protocol::wire::{Direction, UrbMeta};

/// The most URBs that can be pending on a port; a USB driver that submits more gets `ENOMEM`.
///
/// The memory for them, 0.2 MiB, is allocated when a device is attached, so that neither
/// submitting nor unlinking nor completing allocates. usbfs is by default limited to 16 MiB of
/// buffers, which are 1024 transfers of 16 KiB.
pub(crate) const MAX_URBS: usize = 1024;

/// A URB in the ledger.
pub(crate) struct Pending {
    /// The URB.
    pub(crate) urb: Linked,
    /// When it was sent, for the statistics.
    pub(crate) sent_ns: u64,
}

/// The ledger of a port's URBs.
pub(crate) type Ledger = ClientLedger<Pending, KVVec<Entry<Pending>>, KVVec<RingSlot>>;

/// Allocates a ledger. May sleep.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn new_ledger() -> Result<Ledger> {
    let slots = ring_len(MAX_URBS).ok_or(EINVAL)?;
    let mut entries = KVVec::with_capacity(MAX_URBS, GFP_KERNEL)?;
    for _ in 0..MAX_URBS {
        entries.push(Entry::new(), GFP_KERNEL)?;
    }
    let mut ring = KVVec::with_capacity(slots, GFP_KERNEL)?;
    ring.extend_with(slots, RingSlot::new(), GFP_KERNEL)?;
    ClientLedger::new(entries, ring).map_err(|_| EINVAL)
}

/// An attached device.
pub(crate) struct Session {
    /// The connection with the server.
    pub(crate) connection: Arc<Connection<Client>>,
    /// Shows its statistics.
    pub(crate) _statistics: Pin<KBox<File<Arc<Stats>>>>,
    /// Its URBs.
    pub(crate) ledger: Ledger,
    /// The device's number on the server, `busnum << 16 | devnum`.
    pub(crate) devid: u32,
    /// Its speed, as the writer of `attach` said.
    pub(crate) speed: Speed,
    /// The descriptor that the writer of `attach` passed, to be shown.
    pub(crate) sockfd: u32,
}

/// Whether a device is attached.
pub(crate) enum Link {
    /// None is, and one may be.
    Free,
    /// One is.
    Up(Session),
    /// The connection is gone; what is left of the session is being taken apart.
    Closing,
    /// The session is gone as well; usbcore has not let go of the device yet.
    Draining,
}

/// The name of a USB device, as `3-1`.
#[derive(Clone, Copy)]
pub(crate) struct Name {
    bytes: [u8; BUSID_LEN],
    len: usize,
}

impl Name {
    const NONE: Name = Name {
        bytes: [0; BUSID_LEN],
        len: 0,
    };

    fn new(name: &[u8]) -> Self {
        let mut this = Self::NONE;
        for (to, from) in this.bytes.iter_mut().zip(name) {
            *to = *from;
            this.len += 1;
        }
        this
    }

    /// The name; `0-0` if there is none.
    pub(crate) fn as_str(&self) -> &str {
        let name = self.bytes.get(..self.len).unwrap_or(&[]);
        match core::str::from_utf8(name) {
            Ok(name) if !name.is_empty() => name,
            _ => "0-0",
        }
    }
}

/// What a line of the `status` file says about a port.
pub(crate) struct Status {
    /// Its state.
    pub(crate) state: PortStatus,
    /// See [`Session::speed`].
    pub(crate) speed: u32,
    /// See [`Session::devid`].
    pub(crate) devid: u32,
    /// See [`Session::sockfd`].
    pub(crate) sockfd: u32,
    /// The local name of the device.
    pub(crate) name: Name,
}

/// What the lock of a port protects.
pub(crate) struct Inner {
    /// What the hub driver sees.
    pub(crate) root: RootPort,
    /// What is attached.
    pub(crate) link: Link,
    /// The device that usbcore has on this port and has not reported as freed.
    device: Option<DeviceKey>,
    /// That device, once it has an address.
    addressed: Option<ARef<Device>>,
    /// Whether that device was seen by its bus, see [`Self::announced()`].
    announced: bool,
}

impl Inner {
    /// The device of this port, if it can be found by its name in sysfs.
    ///
    /// It has the name earlier, but a `usbip port` that looked it up would give up then. That a
    /// driver has been chosen for a device says that it is on its bus.
    fn announced(&mut self) -> Option<&Device> {
        let device = self.addressed.as_deref()?;
        self.announced |= device.has_driver();
        (self.announced && device.is_registered()).then_some(device)
    }

    /// usbcore has no device here any more. Drop what is returned without the lock.
    #[must_use]
    fn forget_device(&mut self) -> Option<ARef<Device>> {
        self.device = None;
        self.announced = false;
        self.addressed.take()
    }
}

/// A port of a root hub.
#[pin_data]
pub(crate) struct Port {
    /// Its number over all controllers, as in the `status` and `attach` files.
    pub(crate) number: u32,
    /// See [`Inner`].
    #[pin]
    pub(crate) inner: SpinLockIrqSave<Inner>,
}

impl Port {
    /// A free port. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(number: u32, kind: HubKind, lanes: Lanes) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                number,
                inner <- new_spinlock_irqsave!(
                    Inner {
                        root: RootPort::new(kind, lanes),
                        link: Link::Free,
                        device: None,
                        addressed: None,
                        announced: false,
                    },
                    "vhci_port"
                ),
            }),
            GFP_KERNEL,
        )
    }

    /// Takes a URB for a device on this port in. Atomic context.
    ///
    /// # Errors
    ///
    /// `ENODEV`: nothing is attached (any more). `EINVAL`: the URB has no buffer, or one that is too
    /// short, or more isochronous packets than a server takes. `ENOMEM`: too many URBs. What
    /// [`Submitted::link`] says.
    pub(crate) fn enqueue<'a>(
        &self,
        urb: Submitted<'a>,
    ) -> Result<Accepted<'a>, (Error, Submitted<'a>)> {
        if !urb.has_buffer() || urb.iso_packets() > MAX_ISO_PACKETS {
            return Err((EINVAL, urb));
        }
        let mut inner = self.inner.lock();
        match &inner.link {
            Link::Up(session) if !session.connection.is_dying() => {}
            _ => return Err((ENODEV, urb)),
        }
        let device = urb.device();
        let key = device.is_on_root_hub().then(|| device.key());
        let meta = UrbMeta {
            direction: direction(&urb),
            iso_packets: urb.iso_packets(),
            length: urb.length(),
        };
        let (urb, accepted) = urb.link(&inner)?;
        if key.is_some() {
            inner.device = key;
        }
        let Inner {
            link: Link::Up(session),
            ..
        } = &mut *inner
        else {
            // It was up above, and the lock was held since; refusing is right in any case.
            return urb.refuse(&inner, accepted, ENODEV);
        };
        match session.ledger.enqueue(Pending { urb, sent_ns: 0 }, meta) {
            Ok(queued) => {
                let wake = queued.wake.then(|| session.connection.clone());
                const { assert!(usize::BITS >= u64::BITS, "a token does not fit") };
                accepted.set_token(&inner, queued.token.into_raw().get() as usize);
                drop(inner);
                if let Some(connection) = wake {
                    connection.kick();
                }
                Ok(accepted)
            }
            Err(Full(pending)) => pending.urb.refuse(&inner, accepted, ENOMEM),
        }
    }

    /// Brings a URB back early. Atomic context.
    ///
    /// # Errors
    ///
    /// What [`UrbRef::check_unlink`] says.
    pub(crate) fn dequeue(&self, hcd: &Controller, urb: &UrbRef<'_>, status: i32) -> Result {
        let mut inner = self.inner.lock();
        urb.check_unlink(hcd, &inner, status)?;
        let token = Token::from_raw(urb.token(&inner) as u64);
        // Without a session the URB is already on its way back.
        let (Some(token), Link::Up(session)) = (token, &mut inner.link) else {
            return Ok(());
        };
        match session.ledger.dequeue(token) {
            Dequeued::Local(pending) => {
                let urb = pending.urb.unlink(&inner);
                drop(inner);
                urb.giveback(status);
            }
            Dequeued::Unlinking { wake: true } => {
                let connection = session.connection.clone();
                drop(inner);
                connection.kick();
            }
            Dequeued::Unlinking { wake: false }
            | Dequeued::Deferred
            | Dequeued::AlreadyPending
            | Dequeued::Gone => {}
        }
        Ok(())
    }

    /// usbcore gives the device on this port an address.
    ///
    /// # Errors
    ///
    /// `ENODEV`: nothing is attached (any more).
    pub(crate) fn address(&self, device: &Device) -> Result {
        let mut inner = self.inner.lock();
        if !matches!(&inner.link, Link::Up(session) if !session.connection.is_dying()) {
            return Err(ENODEV);
        }
        if device.is_on_root_hub() {
            let before = inner.forget_device();
            inner.device = Some(device.key());
            inner.addressed = Some(device.into());
            drop(inner);
            drop(before);
        }
        Ok(())
    }

    /// usbcore has let go of a device on this port.
    pub(crate) fn free_device(&self, device: &Device) {
        let mut inner = self.inner.lock();
        if inner.device == Some(device.key()) {
            let reference = inner.forget_device();
            if matches!(inner.link, Link::Draining) {
                inner.link = Link::Free;
            }
            drop(inner);
            drop(reference);
        }
    }

    /// Makes the connection of this port go down, if there is one. Returns whether the port was
    /// in use.
    pub(crate) fn kill(&self, why: Down) -> bool {
        let connection = match &self.inner.lock().link {
            Link::Free => return false,
            Link::Closing | Link::Draining => return true,
            Link::Up(session) => session.connection.clone(),
        };
        connection.kill(why);
        true
    }

    /// Plugs a session's device in, if the port is free; hands the session back otherwise.
    pub(crate) fn plug(&self, session: Session) -> Result<(), Session> {
        let mut inner = self.inner.lock();
        if !matches!(inner.link, Link::Free) {
            return Err(session);
        }
        inner.root.connect(session.speed);
        inner.link = Link::Up(session);
        Ok(())
    }

    /// Ends the session of `client`, if it is still there: gives back every URB that is left, then
    /// unplugs the device. May sleep.
    ///
    /// For when the threads of the connection have ended (or never ran).
    pub(crate) fn unplug(&self, client: &Client) {
        let mut inner = self.inner.lock();
        match &inner.link {
            Link::Up(session) if core::ptr::eq(session.connection.side(), client) => {}
            _ => return,
        }
        let link = core::mem::replace(&mut inner.link, Link::Closing);
        drop(inner);
        let Link::Up(mut session) = link else {
            return;
        };
        while let Some(pending) = session.ledger.drain() {
            Stats::count(&session.connection.stats().errors);
            let urb = pending.urb.unlink(&self.inner.lock());
            urb.giveback(ESHUTDOWN.to_errno());
        }
        // Before the port is free, as the next session's statistics have the same name.
        drop(session);
        let mut inner = self.inner.lock();
        inner.root.disconnect();
        inner.link = match inner.device {
            None => Link::Free,
            Some(_) => Link::Draining,
        };
    }

    /// What the `status` file is to say.
    pub(crate) fn status(&self) -> Status {
        let mut inner = self.inner.lock();
        let name = inner
            .announced()
            .map(|device| Name::new(device.name().to_bytes()));
        let (state, session) = match (&inner.link, name) {
            (Link::Free, _) => (PortStatus::PortFree, None),
            (Link::Up(session), Some(name)) => (PortStatus::PortUsed, Some((session, name))),
            (Link::Up(_), None) | (Link::Closing | Link::Draining, _) => {
                (PortStatus::PortNotAssigned, None)
            }
        };
        match session {
            Some((session, name)) => Status {
                state,
                speed: session.speed.raw(),
                devid: session.devid,
                sockfd: session.sockfd,
                name,
            },
            None => Status {
                state,
                speed: 0,
                devid: 0,
                sockfd: 0,
                name: Name::NONE,
            },
        }
    }
}

/// The direction of a URB's data, for the wire.
pub(crate) fn direction(urb: &impl Lent) -> Direction {
    if urb.is_in() {
        Direction::In
    } else {
        Direction::Out
    }
}
