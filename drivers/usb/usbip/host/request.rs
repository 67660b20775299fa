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
use usbip_core::server::{self, Refused};
use usbip_protocol::flags::{self, Flag};
use usbip_protocol::limits::MAX_URB_BYTES;
use usbip_protocol::status::errno;
use usbip_protocol::wire::{Body, BodyError, CmdSubmit, Direction};

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
        return Ok(Verdict::Refuse(Refused::no_endpoint(cmd)?));
    };
    let body = cmd.body(endpoint.kind == TransferType::Isochronous)?;
    if cmd.length > MAX_URB_BYTES {
        return refuse(body, -errno::EMSGSIZE);
    }
    let mut endpoint = endpoint;
    if endpoint.kind == TransferType::Control {
        if let Err(status) = server::check_control(cmd) {
            return refuse(body, status);
        }
        // Without data, usbcore wants the direction to be OUT whatever the request says.
        endpoint.is_in = cmd.length > 0 && cmd.direction == Direction::In;
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
    Ok(Verdict::Refuse(Refused::new(body, status)?))
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
