// SPDX-License-Identifier: GPL-2.0

//! Records of kernel TLS that are not application data.
//!
//! C headers: [`include/uapi/linux/tls.h`](srctree/include/uapi/linux/tls.h),
//! [`include/net/tls_prot.h`](srctree/include/net/tls_prot.h)

use super::socket::Socket;
use crate::bindings;
use crate::errno::*;
use crate::pr_info_ratelimited;
use kernel::error::to_result;
use kernel::prelude::*;

/// Record types, RFC 8446 section 5.1.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// Handshake types that may come once a connection stands, RFC 8446 section 4.
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// Alerts that are no error, RFC 8446 section 6.1.
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// What a record means for whom reads the stream.
pub(super) enum Control {
    /// Nothing; read on.
    Skip,
    /// The peer will send nothing more, as after a FIN.
    Eof,
}

/// Takes away the record that made a receive without control buffer fail with `EIO`.
///
/// It goes into a buffer of its own, so that no byte of it ends up in a caller's memory. Does not
/// block.
///
/// # Errors
///
/// `EIO`: there was no such record, the error was a real one. `ECONNABORTED`: a fatal alert, which
/// was logged. `EPROTO`: a record that has no place here.
pub(super) fn take_control_record(socket: &Socket) -> Result<Control> {
    let mut head = [0; 4];
    let (len, kind) = receive(socket, &mut head).map_err(|_| EIO)?;
    match (kind, head, len) {
        (ALERT, [_, CLOSE_NOTIFY, ..], 2..) => Ok(Control::Eof),
        (ALERT, [_, USER_CANCELED, ..], 2..) => Ok(Control::Skip),
        (ALERT, [_, alert, ..], 2..) => {
            pr_info_ratelimited!("TLS alert {} from {}\n", alert, socket.peer());
            Err(ECONNABORTED)
        }
        // The keys that follow are installed by the socket's owner in user space; until then
        // receiving fails with `EKEYEXPIRED`.
        (HANDSHAKE, [NEW_SESSION_TICKET | KEY_UPDATE, a, b, c], 4) => {
            skip(socket, u32::from_be_bytes([0, a, b, c]) as usize)?;
            Ok(Control::Skip)
        }
        (0, ..) => Err(EIO),
        _ => Err(EPROTO),
    }
}

/// Takes away the rest of a handshake message.
///
/// # Errors
///
/// `EPROTO` if it is not all there: a message that spans records is not supported.
fn skip(socket: &Socket, mut left: usize) -> Result {
    let mut buf = [0; 128];
    while left > 0 {
        let part = left.min(buf.len());
        match receive(socket, &mut buf[..part]) {
            Ok((len @ 1.., HANDSHAKE)) => left -= len.min(left),
            _ => return Err(EPROTO),
        }
    }
    Ok(())
}

/// Receives a part of a record that is there already; returns its length and the record's type, or
/// 0 for the latter if the socket does not say.
fn receive(socket: &Socket, buf: &mut [u8]) -> Result<(usize, u8)> {
    let mut kind = 0;
    // SAFETY: The socket is valid, `buf` and `kind` for writes.
    let n = unsafe {
        bindings::tls_recv_control(
            socket.as_ptr(),
            buf.as_mut_ptr().cast(),
            buf.len(),
            &mut kind,
        )
    };
    to_result(n)?;
    Ok((usize::try_from(n).unwrap_or(0), kind))
}
