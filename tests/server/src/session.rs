// SPDX-License-Identifier: GPL-2.0

//! The URB phase of one connection.
//!
//! The thread that runs the session reads PDUs, asks the device, and writes what has collected
//! when no further PDU is waiting. A second thread asks models again whose time has come.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Instant;

use usbip_protocol::iso::{Packet, DESCRIPTOR_LEN};
use usbip_protocol::limits::MAX_DRAIN_BYTES;
use usbip_protocol::status::errno::{ECONNRESET, ENOENT, EPIPE};
use usbip_protocol::wire::{CmdSubmit, CmdUnlink, Command, Direction, RetSubmit, RetUnlink};

use crate::device::{Completion, Device, Outcome, Payload, Request, Setup};
use crate::stream::{Input, Output};

/// What a server may do differently without being wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Echo devid, direction and endpoint in replies, where Linux sends zeros.
    pub echo: bool,
    /// `number_of_packets` of replies that are not isochronous; by default what the client sent.
    pub packets: Option<i32>,
    /// Bytes per write.
    pub segment: Option<usize>,
}

/// Rings when a waiting endpoint may have something: see [`Outcome::Wait`]. Cloned into whatever
/// drives a model from outside.
#[derive(Clone, Default)]
pub struct Bell(Arc<Mutex<Weak<Shared>>>);

impl Bell {
    /// Asks the model again for the requests waiting at an endpoint. Without a connection
    /// nothing happens.
    pub fn ring(&self, address: u8) {
        let shared = lock(&self.0).upgrade();
        if let Some(shared) = shared {
            let mut core = lock(&shared.core);
            core.advance(address);
            // A failure shows in the session's thread as well.
            let _ = core.output.flush();
            shared.timer.notify_one();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How requests to an endpoint are dealt with.
#[derive(Clone, Copy)]
enum Route {
    Missing,
    Model { iso: bool },
    InstantIn(&'static [u8]),
    InstantOut,
}

struct Core {
    device: Device,
    queues: BTreeMap<u8, VecDeque<Request>>,
    timers: BTreeMap<u8, Instant>,
    output: Output,
    style: Style,
    finished: bool,
}

struct Shared {
    core: Mutex<Core>,
    timer: Condvar,
}

/// Why a session ended.
#[derive(Debug)]
pub enum End {
    /// The client closed the connection between two PDUs.
    Closed,
    /// The connection broke, possibly in the middle of a PDU.
    Io(io::Error),
    /// The client sent something that cannot be followed.
    Protocol(String),
}

/// Runs the URB phase on a connected stream socket until it ends, and gives the device back.
///
/// `devid` is what the client has to put into every PDU; [`None`] accepts anything.
///
/// # Errors
///
/// The socket cannot be duplicated.
pub fn run(
    socket: OwnedFd,
    mut device: Device,
    devid: Option<u32>,
    style: Style,
    bell: Option<&Bell>,
) -> io::Result<(Device, End)> {
    device.reset();
    let mut output = Output::new(File::from(socket.try_clone()?));
    output.segment = style.segment;
    let routes = routes(&device);
    let shared = Arc::new(Shared {
        core: Mutex::new(Core {
            device,
            queues: BTreeMap::new(),
            timers: BTreeMap::new(),
            output,
            style,
            finished: false,
        }),
        timer: Condvar::new(),
    });
    if let Some(bell) = bell {
        *lock(&bell.0) = Arc::downgrade(&shared);
    }
    let timer = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || shared.run_timers())
    };
    let mut input = Input::new(File::from(socket));
    let end = shared.receive(&mut input, &routes, devid);
    lock(&shared.core).finished = true;
    shared.timer.notify_one();
    let _ = timer.join();
    if let Some(bell) = bell {
        *lock(&bell.0) = Weak::new();
    }
    // A bell may be ringing in this moment; it lets go of the session when it has finished.
    let mut shared = shared;
    let shared = loop {
        match Arc::try_unwrap(shared) {
            Ok(inner) => break inner,
            Err(still) => {
                shared = still;
                thread::yield_now();
            }
        }
    };
    let core = shared
        .core
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    Ok((core.device, end))
}

fn routes(device: &Device) -> [Route; 256] {
    let mut routes = [Route::Missing; 256];
    for (address, route) in (0u8..=255).zip(&mut routes) {
        let model = &*device.model;
        if address & 0x0f == 0 || model.descriptors().endpoint(address).is_none() {
            continue;
        }
        *route = match model.instant_in(address) {
            Some(data) => Route::InstantIn(data),
            None if model.instant_out(address) => Route::InstantOut,
            None => Route::Model {
                iso: device.is_iso(address),
            },
        };
    }
    routes[0x00] = Route::Model { iso: false };
    routes[0x80] = Route::Model { iso: false };
    routes
}

impl Shared {
    fn receive(&self, input: &mut Input, routes: &[Route; 256], devid: Option<u32>) -> End {
        loop {
            let header = match input.header() {
                Ok(Some(header)) => header,
                Ok(None) => return End::Closed,
                Err(error) => return End::Io(error),
            };
            let step = match Command::parse(&header) {
                Err(error) => return End::Protocol(error.to_string()),
                Ok(Command::Submit(cmd)) if devid.is_none_or(|id| id == cmd.devid) => {
                    self.submit(cmd, input, routes)
                }
                Ok(Command::Unlink(cmd)) if devid.is_none_or(|id| id == cmd.devid) => {
                    lock(&self.core).unlink(cmd);
                    Ok(())
                }
                Ok(_) => return End::Protocol("another device's number".into()),
            };
            if let Err(end) = step {
                return end;
            }
            let mut core = lock(&self.core);
            if input.is_drained() || core.output.is_full() {
                if let Err(error) = core.output.flush() {
                    return End::Io(error);
                }
            }
        }
    }

    fn submit(&self, cmd: CmdSubmit, input: &mut Input, routes: &[Route; 256]) -> Result<(), End> {
        let out = cmd.direction == Direction::Out;
        let address = cmd.endpoint().map(|ep| if out { ep } else { ep | 0x80 });
        let route = address.map_or(Route::Missing, |at| routes[usize::from(at)]);
        let body = cmd
            .body(matches!(route, Route::Model { iso: true }))
            .map_err(|error| End::Protocol(error.to_string()))?;
        if body.data > MAX_DRAIN_BYTES {
            return Err(End::Protocol(format!("{} bytes in one request", body.data)));
        }
        let size = body.data as usize;
        match route {
            Route::InstantOut => {
                input.discard(size).map_err(End::Io)?;
                let done = Completion::taken(size);
                lock(&self.core).reply(&cmd, done);
            }
            Route::InstantIn(data) => {
                let len = data.len().min(cmd.length as usize);
                let done = Completion {
                    actual: len as u32,
                    payload: Payload::Static(&data[..len]),
                    ..Completion::default()
                };
                lock(&self.core).reply(&cmd, done);
            }
            Route::Missing => {
                input.discard(size).map_err(End::Io)?;
                lock(&self.core).reply(&cmd, Completion::failed(ENOENT));
            }
            Route::Model { .. } => {
                let data = input.bytes(size).map_err(End::Io)?;
                let raw = input
                    .bytes(body.iso_packets as usize * DESCRIPTOR_LEN)
                    .map_err(End::Io)?;
                let packets = raw
                    .chunks_exact(DESCRIPTOR_LEN)
                    .filter_map(|chunk| chunk.try_into().ok())
                    .map(Packet::parse)
                    .collect();
                lock(&self.core).accept(Request {
                    header: cmd,
                    data,
                    packets,
                    due: None,
                });
                self.timer.notify_one();
            }
        }
        Ok(())
    }

    fn run_timers(&self) {
        let mut core = lock(&self.core);
        while !core.finished {
            let now = Instant::now();
            let due: Vec<u8> = core
                .timers
                .iter()
                .filter(|&(_, &at)| at <= now)
                .map(|(&address, _)| address)
                .collect();
            for address in due {
                core.timers.remove(&address);
                core.advance(address);
            }
            // A failure shows in the session's thread as well.
            let _ = core.output.flush();
            core = match core.timers.values().min() {
                None => self
                    .timer
                    .wait(core)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(&at) => {
                    let rest = at.saturating_duration_since(Instant::now());
                    self.timer
                        .wait_timeout(core, rest)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }
}

impl Core {
    fn accept(&mut self, request: Request) {
        let address = request.address();
        if request.header.ep == 0 {
            let setup = Setup::from(request.header.setup);
            let Device { model, state } = &mut self.device;
            let done = state.control(&mut **model, &setup, &request.data);
            self.reply(&request.header, done);
            return;
        }
        self.queues.entry(address).or_default().push_back(request);
        if !self.timers.contains_key(&address) {
            self.advance(address);
        }
    }

    /// Finishes the requests of an endpoint, in order, as far as the model does.
    fn advance(&mut self, address: u8) {
        while let Some(request) = self.queues.get_mut(&address).and_then(VecDeque::front_mut) {
            let outcome = if self.device.state.is_halted(address) {
                Outcome::Done(Completion::failed(EPIPE))
            } else {
                self.device.model.transfer(request)
            };
            match outcome {
                Outcome::Wait => return,
                Outcome::At(when) => {
                    self.timers.insert(address, when);
                    return;
                }
                Outcome::Done(done) => {
                    let header = request.header;
                    if let Some(queue) = self.queues.get_mut(&address) {
                        queue.pop_front();
                    }
                    self.reply(&header, done);
                }
            }
        }
        self.timers.remove(&address);
        if let Some(other) = self.device.model.wakes(address) {
            self.advance(other);
        }
    }

    fn unlink(&mut self, cmd: CmdUnlink) {
        let mut found = None;
        for (&address, queue) in &mut self.queues {
            if let Some(at) = queue.iter().position(|r| r.header.seqnum == cmd.victim) {
                queue.remove(at);
                found = Some(address);
            }
        }
        // Nothing pending under this number: its reply is in the stream already, before ours.
        let status = found.map_or(0, |_| -ECONNRESET);
        let reply = RetUnlink {
            seqnum: cmd.seqnum,
            status,
        };
        self.output.push(&reply.build());
        if let Some(address) = found {
            self.timers.remove(&address);
            self.advance(address);
        }
    }

    fn reply(&mut self, cmd: &CmdSubmit, done: Completion) {
        let iso = !done.packets.is_empty();
        let packets = match self.style.packets {
            Some(packets) if !iso => packets,
            _ => cmd.number_of_packets,
        };
        let errors = done.packets.iter().filter(|p| p.status != 0).count();
        let mut header = RetSubmit {
            seqnum: cmd.seqnum,
            status: done.status,
            actual_length: done.actual as i32,
            start_frame: if iso {
                done.start_frame
            } else {
                cmd.start_frame
            },
            number_of_packets: packets,
            error_count: errors as i32,
        }
        .build();
        if self.style.echo {
            header[8..20].copy_from_slice(&cmd.build()[8..20]);
        }
        self.output.push(&header);
        if cmd.direction == Direction::In {
            self.output.push_payload(done.payload);
        }
        for packet in &done.packets {
            self.output.push(&packet.build());
        }
    }
}
