// SPDX-License-Identifier: GPL-2.0

//! The op phase on a TCP listener: lists devices and lends them to clients, one at a time.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use usbip_protocol::limits::BUSID_LEN;
use usbip_protocol::op::{self, Interface, Op, OpStatus, Text, OP_HEADER_LEN};

use crate::device::{Device, Model};
use crate::session::{self, Bell, Style};

/// A device that can be imported.
pub struct Export {
    busid: String,
    busnum: u16,
    devnum: u16,
    record: op::Device,
    interfaces: Vec<Interface>,
    /// [`None`] while a client has it.
    device: Mutex<Option<Device>>,
    bell: Option<Bell>,
    style: Style,
}

impl Export {
    /// Offers `model` as `busid` (at most 31 characters). `bell` is the one the model rings with.
    ///
    /// # Errors
    ///
    /// The bus identifier does not fit.
    pub fn new(
        busid: &str,
        (busnum, devnum): (u16, u16),
        model: Box<dyn Model>,
        bell: Option<Bell>,
        style: Style,
    ) -> anyhow::Result<Self> {
        let field = Text::new(busid.as_bytes());
        let path = Text::new(format!("/sys/devices/rusbip/{busid}").as_bytes());
        let (Some(field), Some(path)) = (field, path) else {
            anyhow::bail!("bus identifier {busid:?} is too long");
        };
        let descriptors = model.descriptors();
        let record = op::Device {
            path,
            busid: field,
            busnum: busnum.into(),
            devnum: devnum.into(),
            speed: descriptors.speed.raw(),
            vendor: descriptors.vendor,
            product: descriptors.product,
            bcd_device: 0x0100,
            class: descriptors.class,
            configuration: 1,
            num_configurations: 1,
            num_interfaces: descriptors.interfaces(),
        };
        let interfaces = descriptors
            .settings
            .iter()
            .filter(|setting| setting.alternate == 0)
            .map(|setting| Interface {
                class: setting.class,
            })
            .collect();
        Ok(Self {
            busid: busid.into(),
            busnum,
            devnum,
            record,
            interfaces,
            device: Mutex::new(Some(Device::new(model))),
            bell,
            style,
        })
    }

    /// Its bus identifier.
    pub fn busid(&self) -> &str {
        &self.busid
    }

    /// The number that names it in the URB phase.
    pub fn devid(&self) -> u32 {
        (u32::from(self.busnum) << 16) | u32::from(self.devnum)
    }

    /// Number of its speed.
    pub fn speed(&self) -> u32 {
        self.record.speed
    }

    fn take(&self) -> Option<Device> {
        self.device
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn is_used(&self) -> bool {
        self.device
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_none()
    }

    /// Runs the URB phase on a socket, unless another client has the device.
    ///
    /// # Errors
    ///
    /// The device is in use, or there are no more file descriptors.
    pub fn serve(&self, socket: OwnedFd) -> io::Result<session::End> {
        let device = self.take().ok_or(io::ErrorKind::ResourceBusy)?;
        self.serve_taken(socket, device)
    }

    fn serve_taken(&self, socket: OwnedFd, device: Device) -> io::Result<session::End> {
        let devid = Some(self.devid());
        let (device, end) = session::run(socket, device, devid, self.style, self.bell.as_ref())?;
        *self.device.lock().unwrap_or_else(PoisonError::into_inner) = Some(device);
        Ok(end)
    }
}

/// Everything that is exported.
pub type Exports = Arc<Vec<Export>>;

/// Accepts clients for ever, each in its own thread.
///
/// # Errors
///
/// The listener fails.
pub fn listen(listener: &TcpListener, exports: &Exports) -> io::Result<()> {
    loop {
        let (stream, peer) = listener.accept()?;
        let exports = Arc::clone(exports);
        thread::spawn(move || {
            if let Err(error) = client(stream, &exports) {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

fn invalid(message: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.to_string())
}

/// One connection, from its first byte.
fn client(mut stream: TcpStream, exports: &Exports) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut header = [0; OP_HEADER_LEN];
    stream.read_exact(&mut header)?;
    match op::parse_request(&header).map_err(invalid)? {
        Op::DevList => list(&mut stream, exports),
        Op::Import => import(stream, exports),
        other => Err(invalid(format!("{other:?} is not served"))),
    }
}

fn list(stream: &mut TcpStream, exports: &Exports) -> io::Result<()> {
    // Like usbipd: a device in use is not listed.
    let free: Vec<&Export> = exports.iter().filter(|export| !export.is_used()).collect();
    let mut reply = op::reply(Op::DevList, OpStatus::Ok).to_vec();
    reply.extend((free.len() as u32).to_be_bytes());
    for export in free {
        reply.extend(export.record.build());
        for interface in &export.interfaces {
            reply.extend(interface.build());
        }
    }
    stream.write_all(&reply)
}

fn import(mut stream: TcpStream, exports: &Exports) -> io::Result<()> {
    let mut field = [0; BUSID_LEN];
    stream.read_exact(&mut field)?;
    let busid = op::parse_busid(&field);
    let found = exports
        .iter()
        .find(|export| export.busid.as_bytes() == busid.as_bytes());
    let Some(export) = found else {
        return stream.write_all(&op::reply(Op::Import, OpStatus::NoDev));
    };
    let Some(device) = export.take() else {
        return stream.write_all(&op::reply(Op::Import, OpStatus::DevBusy));
    };
    if let Err(error) = stream.write_all(&op::import_reply(&export.record)) {
        *export.device.lock().unwrap_or_else(PoisonError::into_inner) = Some(device);
        return Err(error);
    }
    let end = export.serve_taken(stream.into(), device)?;
    eprintln!("{}: {end:?}", export.busid);
    Ok(())
}
