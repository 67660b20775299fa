// SPDX-License-Identifier: GPL-2.0

//! The server as its client sees it, byte by byte.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use usbip_protocol::flags::TransferFlags;
use usbip_protocol::iso::{Packet, DESCRIPTOR_LEN};
use usbip_protocol::op::{self, Device, Op, OpStatus, Text};
use usbip_protocol::wire::{
    CmdSubmit, CmdUnlink, Direction, Reply, RetSubmit, RetUnlink, HEADER_LEN,
};
use usbip_test_server::op::Export;
use usbip_test_server::session::{Bell, End, Style};
use usbip_test_server::spec::{Handle, Spec};

const DEVID: u32 = 0x0001_0002;

struct Client<S> {
    stream: S,
    seqnum: u32,
}

impl<S: Read + Write> Client<S> {
    fn command(&mut self, ep: u32, direction: Direction, length: u32) -> CmdSubmit {
        self.seqnum += 1;
        CmdSubmit {
            seqnum: self.seqnum,
            devid: DEVID,
            direction,
            ep,
            flags: TransferFlags::NONE,
            length,
            start_frame: 0,
            number_of_packets: 0,
            interval: 1,
            setup: [0; 8],
        }
    }

    fn submit(&mut self, ep: u32, direction: Direction, length: u32, data: &[u8]) -> u32 {
        let cmd = self.command(ep, direction, length);
        self.stream.write_all(&cmd.build()).unwrap();
        self.stream.write_all(data).unwrap();
        cmd.seqnum
    }

    fn unlink(&mut self, victim: u32) -> u32 {
        self.seqnum += 1;
        let cmd = CmdUnlink {
            seqnum: self.seqnum,
            devid: DEVID,
            victim,
        };
        self.stream.write_all(&cmd.build()).unwrap();
        cmd.seqnum
    }

    fn control(&mut self, setup: [u8; 8]) -> (i32, Vec<u8>) {
        let length = u32::from(u16::from_le_bytes([setup[6], setup[7]]));
        let direction = if setup[0] & 0x80 != 0 {
            Direction::In
        } else {
            Direction::Out
        };
        let mut cmd = self.command(0, direction, length);
        cmd.setup = setup;
        self.stream.write_all(&cmd.build()).unwrap();
        let ret = self.ret_submit();
        assert_eq!(ret.seqnum, cmd.seqnum);
        let len = match direction {
            Direction::In => ret.actual_length as usize,
            Direction::Out => 0,
        };
        (ret.status, self.bytes(len))
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.stream.read_exact(&mut data).unwrap();
        data
    }

    fn reply(&mut self) -> Reply {
        let header: [u8; HEADER_LEN] = self.bytes(HEADER_LEN).try_into().unwrap();
        Reply::parse(&header).unwrap()
    }

    fn ret_submit(&mut self) -> RetSubmit {
        match self.reply() {
            Reply::Submit(ret) => ret,
            other => panic!("{other:?}"),
        }
    }

    fn ret_unlink(&mut self) -> RetUnlink {
        match self.reply() {
            Reply::Unlink(ret) => ret,
            other => panic!("{other:?}"),
        }
    }
}

type Server = JoinHandle<End>;

fn serve(spec: &str) -> (Client<UnixStream>, Handle, Server) {
    let spec: Spec = spec.parse().unwrap();
    let bell = Bell::default();
    let (model, handle) = spec.build(&bell).unwrap();
    let export = Export::new("1-1", (1, 2), model, Some(bell), spec.style().unwrap()).unwrap();
    let (theirs, ours) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let server = thread::spawn(move || export.serve(theirs.into()).unwrap());
    let client = Client {
        stream: ours,
        seqnum: 0,
    };
    (client, handle, server)
}

fn finish(client: Client<UnixStream>, server: Server) {
    drop(client);
    assert!(matches!(server.join().unwrap(), End::Closed));
}

const GET_DEVICE: [u8; 8] = [0x80, 6, 0, 1, 0, 0, 18, 0];
const SET_CONFIGURATION: [u8; 8] = [0, 9, 1, 0, 0, 0, 0, 0];

#[test]
fn chapter_9() {
    let (mut client, _, server) = serve("zero");
    let (status, data) = client.control(GET_DEVICE);
    assert_eq!((status, data.len()), (0, 18));
    assert_eq!(data[8..12], [0x25, 0x05, 0xa0, 0xa4]);
    assert_eq!(
        client.control([0x80, 6, 0, 1, 0, 0, 8, 0]),
        (0, data[..8].to_vec())
    );
    assert_eq!(client.control([0x80, 6, 0, 2, 1, 0, 9, 0]).0, 0);
    assert_eq!(client.control([0x80, 6, 1, 2, 0, 0, 9, 0]).0, -32);
    assert_eq!(client.control([0x80, 8, 0, 0, 0, 0, 1, 0]), (0, vec![0]));
    assert_eq!(client.control(SET_CONFIGURATION).0, 0);
    assert_eq!(client.control([0x80, 8, 0, 0, 0, 0, 1, 0]), (0, vec![1]));
    assert_eq!(client.control([0, 9, 2, 0, 0, 0, 0, 0]).0, -32);
    assert_eq!(client.control([1, 11, 1, 0, 0, 0, 0, 0]).0, 0);
    assert_eq!(client.control([0x81, 10, 0, 0, 0, 0, 1, 0]), (0, vec![1]));
    assert_eq!(client.control([1, 11, 9, 0, 0, 0, 0, 0]).0, -32);
    assert_eq!(client.control([0x80, 0, 0, 0, 0, 0, 2, 0]), (0, vec![0, 0]));
    // Halt a bulk endpoint: requests stall until it is cleared.
    assert_eq!(client.control([2, 3, 0, 0, 0x81, 0, 0, 0]).0, 0);
    assert_eq!(
        client.control([0x82, 0, 0, 0, 0x81, 0, 2, 0]),
        (0, vec![1, 0])
    );
    client.submit(1, Direction::In, 64, &[]);
    assert_eq!(client.ret_submit().status, -32);
    assert_eq!(client.control([2, 1, 0, 0, 0x81, 0, 0, 0]).0, 0);
    client.submit(1, Direction::In, 64, &[]);
    assert_eq!(client.ret_submit().status, 0);
    client.bytes(64);
    assert_eq!(client.control([0xc0, 0x99, 0, 0, 0, 0, 4, 0]).0, -32);
    finish(client, server);
}

/// Statements 91, 92, 94, 95 of the conformance list, for this server.
#[test]
fn unlink() {
    let (mut client, handle, server) = serve("keyboard");
    let Handle::Keys(keys) = handle else {
        panic!("no keys");
    };
    let victim = client.submit(1, Direction::In, 8, &[]);
    let unlink = client.unlink(victim);
    assert_eq!(
        client.ret_unlink(),
        RetUnlink {
            seqnum: unlink,
            status: -104
        }
    );
    // Unlinked before, and never heard of.
    for number in [victim, 4711] {
        let start = Instant::now();
        let unlink = client.unlink(number);
        assert_eq!(
            client.ret_unlink(),
            RetUnlink {
                seqnum: unlink,
                status: 0
            }
        );
        assert!(start.elapsed() < Duration::from_millis(100));
    }
    // Finished before the unlink: the reply comes first.
    let late = client.submit(1, Direction::In, 8, &[]);
    keys.type_text("a");
    let ret = client.ret_submit();
    assert_eq!((ret.seqnum, ret.actual_length), (late, 8));
    assert_eq!(client.bytes(8), [0, 0, 4, 0, 0, 0, 0, 0]);
    client.unlink(late);
    assert_eq!(client.ret_unlink().status, 0);
    finish(client, server);
}

#[test]
fn requests_of_an_endpoint_keep_their_order() {
    let (mut client, handle, server) = serve("keyboard");
    let Handle::Keys(keys) = handle else {
        panic!("no keys");
    };
    let first: Vec<u32> = (0..4)
        .map(|_| client.submit(1, Direction::In, 8, &[]))
        .collect();
    keys.type_text("ab");
    for (seqnum, key) in first.into_iter().zip([4, 0, 5, 0]) {
        assert_eq!(client.ret_submit().seqnum, seqnum);
        assert_eq!(client.bytes(8)[2], key);
    }
    finish(client, server);
}

#[test]
fn a_bad_request_does_not_end_the_connection() {
    let (mut client, _, server) = serve("zero");
    for ep in [9, 15, 16, 200] {
        client.submit(ep, Direction::Out, 100, &[1; 100]);
        assert_eq!(client.ret_submit().status, -2, "endpoint {ep}");
    }
    assert_eq!(client.control(GET_DEVICE).0, 0);
    finish(client, server);
}

#[test]
fn another_devid_ends_the_connection() {
    let (mut client, _, server) = serve("null");
    let mut cmd = client.command(1, Direction::In, 4);
    cmd.devid = 77;
    client.stream.write_all(&cmd.build()).unwrap();
    assert_eq!(client.stream.read(&mut [0; 1]).unwrap(), 0);
    assert!(matches!(server.join().unwrap(), End::Protocol(_)));
}

#[test]
fn styles() {
    let (mut client, _, server) = serve("null,echo,packets=-1,segment=1");
    let cmd = client.command(1, Direction::In, 10);
    client.stream.write_all(&cmd.build()).unwrap();
    let header = client.bytes(HEADER_LEN);
    assert_eq!(header[8..20], cmd.build()[8..20]);
    assert_eq!(header[32..36], [0xff; 4]);
    assert_eq!(client.bytes(10), [0; 10]);
    finish(client, server);
}

#[test]
fn a_large_transfer_each_way() {
    let (mut client, _, server) = serve("null");
    client.submit(2, Direction::Out, 3 << 20, &vec![7; 3 << 20]);
    let ret = client.ret_submit();
    assert_eq!((ret.status, ret.actual_length), (0, 3 << 20));
    client.submit(1, Direction::In, 3 << 20, &[]);
    assert_eq!(client.ret_submit().actual_length, 3 << 20);
    client.bytes(3 << 20);
    finish(client, server);
}

#[test]
fn isochronous_in_time() {
    let (mut client, _, server) = serve("audio");
    client.control(SET_CONFIGURATION);
    client.control([1, 11, 1, 0, 2, 0, 0, 0]);
    let start = Instant::now();
    for _ in 0..3 {
        let mut cmd = client.command(2, Direction::In, 8 * 192);
        cmd.number_of_packets = 8;
        client.stream.write_all(&cmd.build()).unwrap();
        for n in 0..8 {
            let packet = Packet::submitted(n * 192, 192);
            client.stream.write_all(&packet.build()).unwrap();
        }
    }
    let mut next = 0u16;
    for _ in 0..3 {
        let ret = client.ret_submit();
        assert_eq!(
            (ret.status, ret.number_of_packets, ret.error_count),
            (0, 8, 0)
        );
        for frame in client.bytes(ret.actual_length as usize).chunks(4) {
            let [low, high] = next.to_le_bytes();
            assert_eq!(frame, [low, high, low, high]);
            next += 1;
        }
        for chunk in client.bytes(8 * DESCRIPTOR_LEN).chunks(DESCRIPTOR_LEN) {
            let packet = Packet::parse(chunk.try_into().unwrap());
            assert_eq!((packet.actual_length, packet.status), (192, 0));
        }
    }
    assert!(start.elapsed() >= Duration::from_millis(24));
    finish(client, server);
}

#[test]
fn a_second_client_finds_the_device_as_new() {
    let spec: Spec = "zero".parse().unwrap();
    let (model, _) = spec.build(&Bell::default()).unwrap();
    let export = Export::new("1-1", (1, 2), model, None, Style::default()).unwrap();
    for _ in 0..2 {
        let (theirs, ours) = UnixStream::pair().unwrap();
        thread::scope(|scope| {
            let server = scope.spawn(|| export.serve(theirs.into()).unwrap());
            let mut client = Client {
                stream: ours,
                seqnum: 0,
            };
            assert_eq!(client.control([0x80, 8, 0, 0, 0, 0, 1, 0]), (0, vec![0]));
            client.control(SET_CONFIGURATION);
            drop(client);
            assert!(matches!(server.join().unwrap(), End::Closed));
        });
    }
}

// --- the phase before -----------------------------------------------------------------------

fn listen(specs: &[&str]) -> std::net::SocketAddr {
    let exports: Vec<Export> = specs
        .iter()
        .zip(1u16..)
        .map(|(text, n)| {
            let spec: Spec = text.parse().unwrap();
            let (model, _) = spec.build(&Bell::default()).unwrap();
            let busid = format!("1-{n}");
            Export::new(&busid, (1, n + 1), model, None, Style::default()).unwrap()
        })
        .collect();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || usbip_test_server::op::listen(&listener, &Arc::new(exports)));
    address
}

fn list(address: std::net::SocketAddr) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&op::request(Op::DevList)).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

fn import(address: std::net::SocketAddr, busid: &str) -> (OpStatus, TcpStream) {
    let mut stream = TcpStream::connect(address).unwrap();
    let text = Text::new(busid.as_bytes()).unwrap();
    stream.write_all(&op::import_request(text)).unwrap();
    let mut header = [0; op::OP_HEADER_LEN];
    stream.read_exact(&mut header).unwrap();
    (op::parse_reply(&header, Op::Import).unwrap(), stream)
}

#[test]
fn list_and_import() {
    let address = listen(&["disk,size=1M", "audio"]);
    let all = list(address);
    assert_eq!(all.len(), 12 + 312 + 4 + 312 + 3 * 4);
    let (status, mut stream) = import(address, "1-2");
    assert_eq!(status, OpStatus::Ok);
    let mut record = [0; op::DEVICE_LEN];
    stream.read_exact(&mut record).unwrap();
    let device = Device::parse(&record);
    assert_eq!(device.busid.as_bytes(), b"1-2");
    assert_eq!(device.devid(), Some(0x0001_0003));
    // In use: refused, and not listed; afterwards available again.
    assert_eq!(import(address, "1-2").0, OpStatus::DevBusy);
    assert_eq!(list(address).len(), 12 + 312 + 4);
    assert_eq!(import(address, "9-9").0, OpStatus::NoDev);
    drop(stream);
    let end = Instant::now() + Duration::from_secs(10);
    while list(address).len() != all.len() {
        assert!(Instant::now() < end, "the device did not come back");
        thread::yield_now();
    }
}

#[test]
fn nonsense_is_not_answered() {
    let address = listen(&["null"]);
    for request in [
        [0x02, 0x00, 0x80, 0x05, 0, 0, 0, 0],
        [0x01, 0x11, 0x80, 0x06, 0, 0, 0, 0],
        [0x01, 0x11, 0x00, 0x05, 0, 0, 0, 0],
        [0x01, 0x11, 0x80, 0x05, 0, 0, 0, 1],
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&request).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert!(all.is_empty());
    }
}
