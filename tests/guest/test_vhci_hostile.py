# SPDX-License-Identifier: GPL-2.0
"""Peers that lie, stall and vanish. What must hold: bounded time, every URB back exactly once,
nothing on the wire that was not submitted, a port that works for the next device."""

import errno
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import vhci
import vhci_usbfs as usbfs
from vhci_device import FakeDevice
from vhci_peer import Peer
from vhci_session import DEVID, attach_pair, beyond_c
from vhci_wire import (HEADER, Iso, Unlink, basic_header, parse_header, ret_submit, ret_unlink)

pytest_plugins = ("vhci_fixtures",)

# What a server may do to us depends neither on the series nor on the configuration of the kernel.
pytestmark = pytest.mark.lanes("uml")

BIG = 2 << 20


@pytest.fixture
def session(plug):
    return plug(FakeDevice())


@pytest.fixture
def device(session):
    return session.usbfs()


def pattern(length: int, seed: int = 3) -> bytes:
    return random.Random(seed).randbytes(length)


def in_step(device):
    assert device.control(0x80, 8, 0, 0, 1) == b"\x01"


def dropped(session, device, count=0) -> list:
    """The connection ends: the URBs in flight come back, the port is free, a new device works."""
    session.peer.wait_closed(vhci.TEARDOWN)
    urbs = device.reap_all(count, vhci.TEARDOWN)
    session.gone()
    assert vhci.errno_of(device.reap_now) == "ENODEV", "a URB came back twice"
    return urbs


def works_again(plug):
    """An honest device on the same port."""
    session = plug(FakeDevice())
    with session.usbfs() as device:
        in_step(device)
    session.close()


# --- replies that contradict the request ------------------------------------------------------

def answer_in(session, device, length, **lie):
    device.submit(urb := usbfs.bulk_in(1, length))
    pdu = session.peer.next()
    session.peer.complete(pdu, **lie)
    return urb


@beyond_c
@pytest.mark.parametrize("length", [64, 20000])
@pytest.mark.parametrize("excess", [1, 4096, 0x7FFFFFFF])
def test_s75_more_than_asked_for(plug, session, device, length, excess):
    actual = min(length + excess, 0x7FFFFFFF)
    urb = answer_in(session, device, length, data=b"L" * (length + min(excess, 4096)),
                    actual=actual)
    assert dropped(session, device, 1) == [urb]
    assert urb.status == -errno.EPROTO
    assert urb.actual <= length
    works_again(plug)


@beyond_c
@pytest.mark.parametrize("actual", [-1, -2, -0x80000000])
@pytest.mark.parametrize("out", [False, True], ids=["in", "out"])
def test_negative_length(plug, session, device, actual, out):
    urb = usbfs.bulk_out(2, b"x" * 64) if out else usbfs.bulk_in(1, 64)
    device.submit(urb)
    session.peer.complete(session.peer.next(), actual=actual)
    assert dropped(session, device, 1) == [urb]
    assert urb.status == -errno.EPROTO and urb.actual == 0
    assert urb.data() == (b"x" if out else b"\xee") * 64
    works_again(plug)


@beyond_c
def test_more_sent_than_given(plug, session, device):
    """An OUT transfer cannot have moved more than was in it."""
    device.submit(urb := usbfs.bulk_out(2, b"x" * 64))
    session.peer.complete(session.peer.next(), actual=65)
    assert dropped(session, device, 1) == [urb]
    assert urb.status == -errno.EPROTO and urb.actual <= 64


@beyond_c
@pytest.mark.parametrize("status", [-errno.EINPROGRESS, 7, 1, -1, -512, -0x80000000, 0x7FFFFFFF,
                                    -errno.ECONNRESET, -errno.ENOENT, -4095, -errno.EXDEV])
def test_status_is_filtered(session, device, status):
    """Drivers see only what a host controller may report; the connection stays."""
    urb = answer_in(session, device, 64, status=status, data=b"d" * 10)
    assert device.reap() is urb
    assert urb.status == -errno.EPROTO
    in_step(device)


@pytest.mark.parametrize("number", [0, 0xFFFFFFFF, 0x80000000, 999999])
def test_s76_unknown_submit(plug, session, device, number):
    device.submit(urb := usbfs.bulk_in(1, 64))
    session.peer.next()
    session.peer.send(ret_submit(number))
    assert dropped(session, device, 1) == [urb]
    assert urb.status == -errno.ESHUTDOWN
    works_again(plug)


def test_reply_twice(session, device):
    urb = answer_in(session, device, 64, data=b"1" * 64)
    assert device.reap() is urb and urb.status == 0
    session.peer.send(ret_submit(session.peer.log[-1].seqnum, 0, 64, data=b"2" * 64))
    dropped(session, device)
    assert urb.data() == b"1" * 64


@pytest.mark.parametrize("command", [0, 1, 2, 5, 0x80000003, 0x03000000, 0xFFFFFFFF])
def test_s78_unknown_command(plug, session, device, command):
    device.submit(urb := usbfs.bulk_in(1, 64))
    pdu = session.peer.next()
    session.peer.send(basic_header(command, pdu.seqnum))
    assert dropped(session, device, 1) == [urb]
    assert urb.status == -errno.ESHUTDOWN
    works_again(plug)


def test_reply_to_nobody_before_enumeration(plug):
    """An answer before the first question."""
    session = plug(FakeDevice(), auto=False)
    session.peer.send(ret_submit(4711))
    session.peer.wait_closed()
    session.gone()


# --- isochronous lies -------------------------------------------------------------------------

@pytest.fixture
def iso(session, device):
    device.set_interface(0, 1)
    return session


@beyond_c
@pytest.mark.parametrize("offset,length", [(0xFFFFFFFF, 0xFFFFFFFF), (0, 0), (3, 1 << 20),
                                           (0x80000000, 64), (192, 1)])
def test_s86_iso_offsets_are_ours(iso, device, offset, length):
    """Offset and length of the reply are ignored: data ends up where it was asked for."""
    device.submit(urb := usbfs.iso_in(5, [64] * 4))
    pdu = iso.peer.next()
    data = pattern(40 + 64 + 1)
    actual = [40, 0, 64, 1]
    iso.peer.complete(pdu, data=data, packets=4, iso=[Iso(offset, length, n, 0) for n in actual])
    assert device.reap() is urb
    assert urb.iso == [(n, 0) for n in actual]
    assert urb.data()[:40] == data[:40]
    assert urb.data()[128:192] == data[40:104]
    assert urb.data()[192:193] == data[104:]
    in_step(device)


@beyond_c
@pytest.mark.parametrize("actual,header", [([65, 0, 0, 0], 65), ([0xFFFFFFFF, 65, 0, 0], 64),
                                           ([64, 64, 64, 0], 100), ([0, 0, 0, 0], 64),
                                           ([10, 10, 10, 10], 0)],
                         ids=["long", "wraps", "sum-high", "sum-low", "sum-0"])
def test_s86_iso_lengths_must_add_up(plug, iso, device, actual, header):
    device.submit(urb := usbfs.iso_in(5, [64] * 4))
    pdu = iso.peer.next()
    iso.peer.complete(pdu, data=b"d" * header, packets=4, actual=header,
                      iso=[Iso(i.offset, 64, n, 0) for i, n in zip(pdu.iso, actual)])
    vhci.wait_for(lambda: urb.reaped or device.reap_now() is urb, "the URB")
    # What the peer says about the transfer is worth nothing; the stream itself may be in step.
    assert urb.status == -errno.EPROTO
    if vhci.port(iso.port).state == vhci.USED and not iso.peer.closed.is_set():
        iso.peer.close()
    iso.gone()
    works_again(plug)


@beyond_c
@pytest.mark.parametrize("packets", [0, 3, 5, 1025, -1, 0x7FFFFFFF, -0x80000000])
def test_iso_packet_count_must_match(plug, iso, device, packets):
    device.submit(urb := usbfs.iso_in(5, [64] * 4))
    pdu = iso.peer.next()
    count = max(0, min(packets, 2000))
    iso.peer.complete(pdu, packets=packets, iso=[Iso(0, 64, 0, 0)] * count)
    assert dropped(iso, device, 1) == [urb]
    assert urb.status == -errno.EPROTO
    works_again(plug)


@beyond_c
def test_iso_packet_status_is_filtered(iso, device):
    device.submit(urb := usbfs.iso_in(5, [64] * 4))
    pdu = iso.peer.next()
    status = [-errno.EINPROGRESS, 5, -errno.EXDEV, -errno.EILSEQ]
    iso.peer.complete(pdu, packets=4, errors=99,
                      iso=[Iso(i.offset, 64, 0, s) for i, s in zip(pdu.iso, status)])
    assert device.reap() is urb
    assert [s for _, s in urb.iso] == [-errno.EPROTO, -errno.EPROTO, -errno.EXDEV, -errno.EILSEQ]
    assert urb.error_count == 4, "counted here, not believed"


# --- answers to what has not been sent --------------------------------------------------------

class Stalled:
    """A session whose peer has stopped reading in the middle of a big OUT transfer."""

    def __init__(self, session, device, taken=1000):
        self.session, self.device = session, device
        self.data = pattern(BIG)
        session.peer.manual()
        device.submit(urb := usbfs.bulk_out(2, self.data))
        self.urb = urb
        self.pdu = parse_header(session.peer.recv_exact(HEADER))
        assert self.pdu.length == BIG
        self.read = session.peer.recv_exact(taken)
        # The rest can not fit into any socket buffer, so the sender is, or soon will be, stuck.

    def rest_is_ours(self):
        """Read to the end: everything must be a prefix of what was submitted."""
        self.read += self.session.peer.drain_to_eof()
        assert len(self.read) <= len(self.data)
        assert self.data.startswith(self.read), "bytes that were never submitted"


class Sipping(Stalled):
    """One whose peer reads on, so slowly that in 6 s there is not a third of the socket's buffer free,
    which is what TCP wakes its sender for."""

    PIECE, PAUSE = 8000, 0.25

    def __init__(self, session, device):
        super().__init__(session, device)
        self.enough = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.enough.wait(self.PAUSE):
            self.read += self.session.peer.recv_exact(self.PIECE)

    def finish(self):
        """It takes the rest and answers."""
        self.enough.set()
        self.thread.join(vhci.SOON)
        self.read += self.session.peer.recv_exact(BIG - len(self.read))
        assert self.read == self.data
        self.session.peer.send(ret_submit(self.pdu.seqnum, 0, BIG))
        assert self.device.reap(vhci.SOON) is self.urb and self.urb.status == 0


@beyond_c
@pytest.mark.parametrize("status,actual", [(0, BIG), (-errno.EPIPE, 0)], ids=["success", "stall"])
def test_reply_before_everything_was_sent(plug, session, device, status, actual):
    stalled = Stalled(session, device)
    session.peer.send(ret_submit(stalled.pdu.seqnum, status, actual))
    assert device.reap(vhci.TEARDOWN) is stalled.urb
    assert stalled.urb.status in (-errno.EPROTO, -errno.ESHUTDOWN)
    stalled.rest_is_ours()
    session.gone()
    works_again(plug)


@beyond_c
@pytest.mark.parametrize("how", ["detach", "close"])
def test_s83_unlink_before_sent_then_teardown(plug, session, device, how):
    """The peer stops reading; a queued URB is cancelled; then it all goes down."""
    stalled = Stalled(session, device)
    device.submit(queued := usbfs.bulk_in(1, 64))
    device.submit(other := usbfs.bulk_out(2, b"x" * 100))
    workers = [threading.Thread(target=vhci.errno_of, args=(device.discard, urb), daemon=True)
               for urb in (queued, stalled.urb)]
    for worker in workers:
        worker.start()
    start = time.monotonic()
    if how == "detach":
        vhci.detach(session.port)
    else:
        session.peer.close()
    for worker in workers:
        worker.join(vhci.TEARDOWN)
        assert not worker.is_alive(), "a driver waits for its URB"
    reaped = device.reap_all(3, vhci.TEARDOWN)
    assert sorted(map(id, reaped)) == sorted(map(id, (stalled.urb, queued, other)))
    assert {urb.status for urb in reaped} <= {-errno.ESHUTDOWN, -errno.ENOENT}
    session.gone()
    assert time.monotonic() - start < vhci.TEARDOWN
    if how == "detach":
        stalled.rest_is_ours()
    works_again(plug)


@beyond_c
def test_cancelled_before_sent_leaves_no_trace(session, device):
    """A URB cancelled while it waits in the queue comes back at once and is never sent."""
    stalled = Stalled(session, device)
    for _ in range(5):
        device.submit(urb := usbfs.bulk_in(1, 64))
        start = time.monotonic()
        device.discard(urb)
        assert time.monotonic() - start < vhci.SOON
        assert device.reap() is urb and urb.status == -errno.ENOENT
    device.submit(last := usbfs.bulk_out(2, b"last"))
    peer = session.peer
    rest = peer.recv_exact(BIG - len(stalled.read))
    assert stalled.read + rest == stalled.data
    pdu = peer.recv_pdu()
    assert pdu.data == b"last", f"{pdu} was cancelled before it was sent"
    peer.complete(stalled.pdu)
    peer.complete(pdu)
    assert {id(u) for u in device.reap_all(2)} == {id(stalled.urb), id(last)}
    peer.auto()
    in_step(device)


@beyond_c
def test_cancelled_while_being_sent(session, device):
    """The peer resumes: it sees the whole request and then the unlink, and all is well."""
    stalled = Stalled(session, device)
    worker = threading.Thread(target=device.discard, args=(stalled.urb,), daemon=True)
    worker.start()
    peer = session.peer
    rest = peer.recv_exact(BIG - len(stalled.read))
    assert stalled.read + rest == stalled.data
    unlink = peer.recv_pdu()
    assert isinstance(unlink, Unlink) and unlink.victim == stalled.pdu.seqnum
    peer.unlinked(unlink)
    worker.join(vhci.SOON)
    assert not worker.is_alive()
    assert device.reap() is stalled.urb and stalled.urb.status == -errno.ENOENT
    peer.auto()
    in_step(device)


def test_peer_resumes(session, device):
    """Backpressure alone is no error, and no byte is lost."""
    stalled = Stalled(session, device)
    urbs = [device.submit(usbfs.bulk_out(2, pattern(5000, n))) for n in range(40)]
    peer = session.peer
    assert stalled.read + peer.recv_exact(BIG - len(stalled.read)) == stalled.data
    peer.complete(stalled.pdu)
    for number in range(40):
        pdu = peer.recv_pdu()
        assert pdu.data == pattern(5000, number)
        peer.complete(pdu)
    assert len(device.reap_all(41)) == 41
    assert {urb.status for urb in urbs} == {0}
    peer.auto()
    in_step(device)


# No fork() of this process, which has threads.
KILLED = """
import signal, sys
import vhci_usbfs as usbfs
device = usbfs.Device(sys.argv[1])
device.claim()
data = bytes(int(sys.argv[2]))
for urb in usbfs.bulk_out(2, data), usbfs.bulk_in(1, 64), usbfs.bulk_out(2, data):
    device.submit(urb)
print("submitted", flush=True)
signal.pause()
"""


@beyond_c
def test_killed_process(session):
    """A process that is killed with URBs in flight at a peer that does not answer."""
    session.peer.manual()
    node = vhci.devnode(session.path)
    child = subprocess.Popen([sys.executable, "-c", KILLED, node, str(BIG)],
                             cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "submitted\n"
    session.peer.recv_exact(HEADER + 100)
    child.kill()
    vhci.detach(session.port)
    assert child.wait(vhci.TEARDOWN) == -signal.SIGKILL
    session.gone()


# --- the end of the stream, anywhere ----------------------------------------------------------

TRANSPORTS = pytest.mark.parametrize("kind,reset", [("unix", False), ("tcp", False),
                                                    ("tcp", True)], ids=["unix", "fin", "rst"])


def end_after(data: bytes, kind: str, reset: bool, asked: bool = False):
    """Attach, send `data`, and vanish; with `asked`, not before the first request, whose number
    replaces the one in `data`."""
    kernel, ours = vhci.stream_pair(kind)
    # The hub driver gives a port up for a while on which devices come and go too fast.
    number = vhci.hs(1 if asked else 0)
    attach_pair(kernel, number, DEVID, vhci.HIGH)
    peer = Peer(ours)
    if asked:
        data = data[:4] + struct.pack(">I", peer.recv_pdu().seqnum) + data[8:]
    peer.send(data)
    if reset:
        peer.reset()
    else:
        peer.close()
    vhci.wait_free(number)


REPLY = ret_submit(1, 0, 18, data=FakeDevice().device_descriptor())


@TRANSPORTS
def test_s79_end_at_every_byte(plug, kind, reset):
    """The stream ends inside a header, at each of its bytes, and inside the data."""
    for count in range(HEADER):
        end_after(REPLY[:count], kind, reset)
    for count in (0, 17, HEADER, HEADER + 1, HEADER + 17):
        end_after(REPLY[:count], kind, reset, asked=True)
    works_again(plug)


@TRANSPORTS
def test_s79_end_with_urbs_in_flight(plug, kind, reset):
    for count in (0, 17, HEADER, HEADER + 100):
        session = plug(FakeDevice(), kind=kind)
        device = session.usbfs()
        urbs = [device.submit(usbfs.bulk_in(1, 1000)) for _ in range(4)]
        urbs += [device.submit(usbfs.bulk_out(2, b"x" * 1000)) for _ in range(4)]
        pdus = [session.peer.next() for _ in urbs]
        session.peer.send(ret_submit(pdus[0].seqnum, 0, 1000, data=b"d" * 1000)[:count])
        if reset:
            session.peer.reset()
        else:
            session.peer.close()
        reaped = device.reap_all(8, vhci.TEARDOWN)
        assert sorted(map(id, reaped)) == sorted(map(id, urbs))
        # Never partial data as a success.
        assert {urb.status for urb in urbs[1:]} == {-errno.ESHUTDOWN}
        assert urbs[0].status in (-errno.ESHUTDOWN, -errno.EPROTO)
        session.gone()
    works_again(plug)


def test_s79_half_closed(plug):
    """The peer shuts down its sending side only."""
    session = plug(FakeDevice(), kind="tcp")
    session.peer.manual()
    session.peer.sock.shutdown(socket.SHUT_WR)
    session.gone()


def test_partial_header_then_silence(session, device):
    """A slow loris does not keep detach from working at once."""
    device.submit(urb := usbfs.bulk_in(1, 64))
    pdu = session.peer.next()
    session.peer.send(ret_submit(pdu.seqnum, 0, 64)[:6])
    start = time.monotonic()
    vhci.detach(session.port)
    assert device.reap(vhci.TEARDOWN) is urb and urb.status == -errno.ESHUTDOWN
    session.gone()
    assert time.monotonic() - start < vhci.TEARDOWN


def test_partial_payload_then_silence(session, device):
    device.submit(urb := usbfs.bulk_in(1, 100000))
    pdu = session.peer.next()
    session.peer.send(ret_submit(pdu.seqnum, 0, 100000, data=b"d" * 70000))
    assert device.reap_now() is None
    vhci.detach(session.port)
    assert device.reap(vhci.TEARDOWN) is urb
    assert urb.status in (-errno.ESHUTDOWN, -errno.EPROTO)
    session.gone()


@beyond_c
def test_a_server_that_stops(plug, watched):
    """In a header, in data, with data that it does not take: the connection ends when the time is
    over that is set. One that is silent between two PDUs stays, and one that takes a little."""
    with vhci.parameter("vhci_hcd_rs", "server_timeout", 6):
        # TCP may give up on one that does not take anything before we do.
        sessions = [plug(FakeDevice(), index=index, kind=kind)
                    for index, kind in enumerate(("tcp", "tcp", "unix", "tcp", "tcp"))]
    header, data, deaf, silent, slow = sessions
    devices = [session.usbfs() for session in sessions]
    devices[1].submit(urb := usbfs.bulk_in(1, 100000))
    pdu = data.peer.next()
    sipping = Sipping(slow, devices[4])
    Stalled(deaf, devices[2])
    start = time.monotonic()
    data.peer.send(ret_submit(pdu.seqnum, 0, 100000, data=b"d" * 70000))
    header.peer.send(ret_unlink(0x7FFFFFF0, 0)[:20])
    for session in (header, data, deaf):
        session.gone(6 + vhci.TEARDOWN)
        assert time.monotonic() - start > 5.5
    assert devices[1].reap(vhci.SOON) is urb and urb.status in (-errno.ESHUTDOWN, -errno.EPROTO)
    in_step(devices[3])
    for session, why in ((header, "the peer stopped within a message"),
                         (data, "the peer stopped within a message"),
                         (deaf, "the peer does not read")):
        [line] = watched.grep(rf"^vhci_hcd_rs: port {session.port} \(.*\): .* \(URBs")
        assert f": {why} (" in line
        assert re.search(r" \(URBs: \d+, errors: \d+, unlinks: 0, bytes in: \d+, out: \d+\)$", line)
    assert silent.peer.failure is None
    sipping.finish()


@beyond_c
def test_b32_threads_do_not_wait_for_io(session):
    """What they allocate may be needed to write to the disk that they serve."""
    pf_memalloc_noio = 0x00080000  # include/linux/sched.h
    flags = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
        if name.startswith(("vhci_rx", "vhci_tx")):
            flags[name] = int(rest.split()[6])
    assert len(flags) == 2
    assert all(value & pf_memalloc_noio for value in flags.values()), flags


@beyond_c
def test_s30_s158_no_port_in_the_error_state(plug):
    """However a connection ends, its port is used, or free; so there is nothing to detach."""
    seen, stop = set(), threading.Event()

    def look():
        while not stop.is_set():
            seen.update(port.state for port in vhci.ports())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for end in (lambda session: session.peer.send(b"\xff" * HEADER),
                    lambda session: session.peer.send(ret_submit(0x7FFFFFF0, 0, 0)),
                    lambda session: session.peer.send(ret_unlink(1, 0)[:7]) or session.peer.close(),
                    lambda session: session.peer.close(),
                    lambda session: vhci.detach(session.port)):
            session = plug(FakeDevice())
            end(session)
            session.gone()
            assert vhci.errno_of(vhci.detach, session.port) == "EINVAL"
    finally:
        stop.set()
        watcher.join()
    assert vhci.USED in seen and seen <= {vhci.NULL, vhci.NOTASSIGNED, vhci.USED}


def test_the_last_line_counts(plug, watched):
    """When a connection ends the log says what was on it."""
    session = plug(FakeDevice(), kind="unix")
    device = session.usbfs()
    session.peer.auto_unlink = True
    device.submit(urb := usbfs.bulk_in(1, 64))
    session.peer.next()
    device.discard(urb)
    assert device.reap() is urb
    session.close()
    submits = [pdu for pdu in session.peer.log if not isinstance(pdu, Unlink)]
    sent = sum(HEADER + len(pdu.data) for pdu in submits) + HEADER
    [line] = watched.grep(r"^vhci_hcd_rs: port 0 \(unix\): detached ")
    counts = re.search(r"\(URBs: (\d+), errors: (\d+), unlinks: 1, bytes in: \d+, out: (\d+)\)$",
                       line)
    assert [int(one) for one in counts.groups()] == [len(submits), 1, sent]


def test_garbage(plug):
    """Random bytes instead of a server, many times; the port survives."""
    rng = random.Random(1)
    for turn in range(40):
        data = rng.randbytes(rng.choice([1, 47, 48, 49, 96, 1000]))
        if turn % 2:
            # A plausible start, so that more of the header is looked at.
            data = struct.pack(">I", rng.choice([3, 4])) + data
        end_after(data, "unix", False)
    works_again(plug)


# --- storms and logs --------------------------------------------------------------------------

@beyond_c
def test_unlink_storm(session, device, watched):
    before = len(watched.lines())
    storm = b"".join(ret_unlink(0x40000000 + n, 0) for n in range(1000))
    for _ in range(20):
        session.peer.send(storm)
    in_step(device)
    assert len(watched.lines()) - before <= 10
    assert vhci.port(session.port).state == vhci.USED


@beyond_c
def test_log_lines_of_a_connection(plug, watched):
    """One line at attach and one at the end, which names the port and the reason."""
    session = plug(FakeDevice())
    before = len(watched.lines())
    session.peer.send(basic_header(99, 1))
    session.peer.wait_closed()
    session.gone()
    ours = [line for line in watched.lines()[before:] if "vhci" in line and "usb " not in line]
    assert len(ours) == 1, ours
    assert str(session.port) in ours[0]


@beyond_c
def test_many_urbs_in_flight(session, device):
    """A thousand URBs and a peer that answers none: all come back at detach."""
    urbs = [device.submit(usbfs.bulk_in(1, 64)) for _ in range(1000)]
    vhci.wait_for(lambda: len(session.peer.submits(1)) == 1000, "1000 requests", vhci.ENUMERATION)
    vhci.detach(session.port)
    assert len(device.reap_all(1000, vhci.TEARDOWN)) == 1000
    assert {urb.status for urb in urbs} == {-errno.ESHUTDOWN}
    session.gone()
