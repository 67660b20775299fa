// SPDX-License-Identifier: GPL-2.0

//! The files in `/sys/devices/platform/vhci_hcd.0`, for all controllers.
//!
//! C counterpart: `vhci_sysfs.c`. Names, formats and errnos are what the `usbip` tool relies on.

use crate::controller::Vhci;
use crate::port::Port;
use core::fmt::Write;
use kernel::device;
use kernel::prelude::fmt;
use kernel::str::CString;
use kernel::sync::Arc;
use kernel_ext::prelude::*;
use kernel_ext::sysfs::{Attribute, Files, Page};
use kernel_ext::task;
use usbip_core::debug;

/// Creates the files. May sleep.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn create(dev: &device::Device<device::Bound>, vhci: &Arc<Vhci>) -> Result<Files<Vhci>> {
    let mut files = KVec::new();
    files.push(Attribute::read_only(c"nports", show_nports), GFP_KERNEL)?;
    files.push(Attribute::write_only(c"attach", store_attach), GFP_KERNEL)?;
    files.push(Attribute::write_only(c"detach", store_detach), GFP_KERNEL)?;
    files.push(
        Attribute::read_write(c"usbip_debug", show_debug, store_debug),
        GFP_KERNEL,
    )?;
    files.push(Attribute::read_only(c"status", show_status), GFP_KERNEL)?;
    for index in 1..vhci.controllers().len() as u32 {
        let name = CString::try_from_fmt(fmt!("status.{index}"))?;
        files.push(
            Attribute::read_only(name, show_status).index(index),
            GFP_KERNEL,
        )?;
    }
    Files::create(dev, vhci.clone(), files)
}

fn show_nports(vhci: &Vhci, _index: u32, page: &mut Page<'_>) -> Result {
    Ok(writeln!(page, "{}", vhci.port_count())?)
}

fn show_status(vhci: &Vhci, index: u32, page: &mut Page<'_>) -> Result {
    writeln!(page, "hub port sta spd dev      sockfd local_busid")?;
    let Some(vhc) = vhci.controllers().get(index as usize) else {
        return Ok(());
    };
    let up = vhc.is_up();
    for (hub, ports) in [("hs", vhc.usb2.ports()), ("ss", vhc.usb3.ports())] {
        for port in ports {
            show_port(hub, port, up, page)?;
        }
    }
    Ok(())
}

fn show_port(hub: &str, port: &Port, up: bool, page: &mut Page<'_>) -> Result {
    let number = port.number;
    if !up {
        // What C shows for a controller without HCD.
        writeln!(
            page,
            "{hub}  {number:04} 005 000 00000000 0000000000000000 0-0"
        )?;
        return Ok(());
    }
    let status = port.status();
    writeln!(
        page,
        "{hub}  {number:04} {:03} {:03} {:08x} {:06} {}",
        status.state.raw(),
        status.speed,
        status.devid,
        status.sockfd,
        status.name.as_str(),
    )?;
    Ok(())
}

/// Takes the next number off a line: white space, then decimal digits, as `sscanf` with `%u`.
fn next_number(text: &mut &[u8]) -> Option<u32> {
    let start = text.iter().position(|b| !is_space(*b))?;
    let rest = text.get(start..)?;
    let digits = rest
        .iter()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(rest.len());
    let (number, rest) = rest.split_at_checked(digits)?;
    *text = rest;
    core::str::from_utf8(number).ok()?.parse().ok()
}

fn is_space(byte: u8) -> bool {
    // `isspace()` has the vertical tab, `is_ascii_whitespace()` has not.
    byte.is_ascii_whitespace() || byte == 0x0b
}

fn store_attach(vhci: &Vhci, _index: u32, text: &[u8]) -> Result {
    task::require_admin()?;
    let mut rest = text;
    let mut next = || next_number(&mut rest).ok_or(EINVAL);
    let (port, sockfd, devid, speed) = (next()?, next()?, next()?, next()?);
    vhci.attach(port, sockfd, devid, speed)
}

fn store_detach(vhci: &Vhci, _index: u32, text: &[u8]) -> Result {
    task::require_admin()?;
    let number = text.strip_suffix(b"\n").unwrap_or(text);
    let number: u32 = core::str::from_utf8(number)
        .ok()
        .and_then(|number| number.parse().ok())
        .ok_or(EINVAL)?;
    vhci.detach(number)
}

fn show_debug(_vhci: &Vhci, _index: u32, page: &mut Page<'_>) -> Result {
    debug::show(page)
}

fn store_debug(_vhci: &Vhci, _index: u32, text: &[u8]) -> Result {
    debug::store(text)
}
