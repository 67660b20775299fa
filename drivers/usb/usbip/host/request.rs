// SPDX-License-Identifier: GPL-2.0

//! What of a request is acceptable, before anything is allocated for it.
//!
//! C counterpart: `get_pipe()`, `masking_bogus_flags()` and the checks of `stub_recv_cmd_submit()`.
//! A request that makes no sense is answered with an error, and the stream goes on behind its
//! body; only where the end of the body cannot be told does the connection end.

use kernel_ext::prelude::*;
use kernel_ext::usb::device::Endpoint;
use kernel_ext::usb::transfer;
use kernel_ext::usb::urb::Flags;
use kernel_ext::usb::TransferType;
use usbip_protocol::flags::{self, Flag};
use usbip_protocol::ledger::server::Failure;
use usbip_protocol::limits::{MAX_DRAIN_BYTES, MAX_ISO_PACKETS, MAX_URB_BYTES};
use usbip_protocol::status::errno;
use usbip_protocol::wire::{Body, BodyError, CmdSubmit, Direction};

/// A request that is not carried out.
pub(crate) struct Refused {
    /// What follows its header and is not read.
    pub(crate) body: Body,
    /// The answer, a negative errno.
    pub(crate) status: i32,
}

impl Refused {
    /// What the answer says.
    pub(crate) fn failure(&self) -> Failure {
        Failure {
            status: self.status,
            iso_packets: self.body.iso_packets,
        }
    }
}

/// What to do about a request.
pub(crate) enum Verdict {
    /// Carry it out; what follows the header is `body`.
    Accept(transfer::Request, Body),
    /// Answer it at once.
    Refuse(Refused),
}

/// Looks at a request for an endpoint that the device has at the moment, or has not.
///
/// # Errors
///
/// What follows its header cannot be told, or is too much to be thrown away.
pub(crate) fn check(cmd: &CmdSubmit, endpoint: Option<Endpoint>) -> Result<Verdict, BodyError> {
    let Some(endpoint) = endpoint else {
        // Isochronous or not? Nobody but an isochronous client has packets.
        let is_iso =
            u32::try_from(cmd.number_of_packets).is_ok_and(|n| (1..=MAX_ISO_PACKETS).contains(&n));
        return refuse(cmd.body(is_iso)?, -errno::ENOENT);
    };
    let body = cmd.body(endpoint.kind == TransferType::Isochronous)?;
    if cmd.length > MAX_URB_BYTES {
        return refuse(body, -errno::EMSGSIZE);
    }
    let mut endpoint = endpoint;
    if endpoint.kind == TransferType::Control {
        let setup = Setup(cmd.setup);
        if u32::from(setup.length()) != cmd.length {
            // What usb_submit_urb() says.
            return refuse(body, EBADR.to_errno());
        }
        if cmd.length > 0 && setup.is_in() != (cmd.direction == Direction::In) {
            return refuse(body, -errno::EINVAL);
        }
        // Without data, usbcore wants the direction to be OUT whatever the request says.
        endpoint.is_in = cmd.length > 0 && setup.is_in();
    }
    Ok(Verdict::Accept(
        transfer::Request {
            endpoint,
            flags: flags(cmd, endpoint),
            length: cmd.length,
            setup: cmd.setup,
            interval: cmd.interval,
            start_frame: cmd.start_frame,
            packets: body.iso_packets,
        },
        body,
    ))
}

fn refuse(body: Body, status: i32) -> Result<Verdict, BodyError> {
    if body.total() > MAX_DRAIN_BYTES.into() {
        return Err(BodyError::TooLong(body.total()));
    }
    Ok(Verdict::Refuse(Refused { body, status }))
}

/// What is left of the client's flags.
fn flags(cmd: &CmdSubmit, endpoint: Endpoint) -> Flags {
    let kind = match endpoint.kind {
        TransferType::Control => flags::TransferType::Control,
        TransferType::Isochronous => flags::TransferType::Isochronous,
        TransferType::Bulk => flags::TransferType::Bulk,
        TransferType::Interrupt => flags::TransferType::Interrupt,
    };
    let kept = cmd.flags.for_endpoint(kind, !endpoint.is_in);
    Flags::from_bits(kept.to_local(|flag| {
        match flag {
            Flag::ShortNotOk => Flags::SHORT_NOT_OK,
            Flag::IsoAsap => Flags::ISO_ASAP,
            Flag::ZeroPacket => Flags::ZERO_PACKET,
            Flag::NoInterrupt => Flags::NO_INTERRUPT,
            Flag::DirIn => Flags::DIR_IN,
        }
        .bits()
    }))
}

/// A setup packet (USB 2.0 table 9-2).
pub(crate) struct Setup(pub(crate) [u8; 8]);

impl Setup {
    fn word(&self, at: usize) -> u16 {
        match self.0.get(at..at + 2) {
            Some(&[low, high]) => u16::from_le_bytes([low, high]),
            _ => 0,
        }
    }

    /// `bmRequestType` and `bRequest`.
    pub(crate) fn request(&self) -> (u8, u8) {
        let [kind, request, ..] = self.0;
        (kind, request)
    }

    /// Whether data goes to the host.
    pub(crate) fn is_in(&self) -> bool {
        self.request().0 & 0x80 != 0
    }

    /// `wValue`.
    pub(crate) fn value(&self) -> u16 {
        self.word(2)
    }

    /// `wIndex`.
    pub(crate) fn index(&self) -> u16 {
        self.word(4)
    }

    /// `wLength`.
    pub(crate) fn length(&self) -> u16 {
        self.word(6)
    }
}
