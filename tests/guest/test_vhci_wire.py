# SPDX-License-Identifier: GPL-2.0
"""What an honest client sends and what it makes of honest answers: statements 61-74, 80-82, 84."""

import errno
import os
import random
import socket
import struct

import pytest

import vhci
import vhci_usbfs as usbfs
from vhci_device import FakeDevice
from vhci_peer import Peer
from vhci_session import DEVID, attach_pair, beyond_c
from vhci_wire import (FLAG_DIR_IN, FLAG_ISO_ASAP, FLAG_SG, FLAG_SHORT_NOT_OK, FLAG_ZERO_PACKET,
                       IN, OUT, Iso, Submit)

pytest_plugins = ("vhci_fixtures",)
# The bytes do not depend on the series.
pytestmark = pytest.mark.lanes("uml", "stock-7.2")

GET_CONFIGURATION = (0x80, 8, 0, 0, 1)


def pattern(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def in_step(device):
    """The stream is still understood by both ends."""
    assert device.control(*GET_CONFIGURATION) == b"\x01"


@pytest.fixture(params=[vhci.HIGH, vhci.SUPER], ids=["high", "super"])
def session(plug, request):
    return plug(FakeDevice(request.param))


@pytest.fixture
def device(session):
    return session.usbfs()


def finish(session, device, urb, status=0, data=b"", **more):
    """Submit, answer, reap."""
    device.submit(urb)
    pdu = session.peer.next()
    session.peer.complete(pdu, status, data, **more)
    assert device.reap() is urb
    return pdu


# --- requests ---------------------------------------------------------------------------------

def test_s61_s62_s63_headers(session, device):
    """48 bytes each (or nothing would parse), unused ones zero, numbers rising, one devid."""
    finish(session, device, usbfs.bulk_out(2, b"x" * 10))
    finish(session, device, usbfs.bulk_in(1, 10), data=b"y" * 10)
    finish(session, device, usbfs.interrupt_out(4, b"z" * 8))
    device.control(0x80, 6, 0x0100, 0, 18)
    log = session.peer.submits()
    numbers = [pdu.seqnum for pdu in log]
    assert numbers == sorted(set(numbers)) and numbers[0] > 0
    for pdu in log:
        assert pdu.devid == DEVID
        assert pdu.direction in (IN, OUT) and pdu.ep < 16
        if pdu.ep:
            assert pdu.setup == bytes(8)
        assert pdu.packets in (0, -1)


def test_s62_numbers_of_two_ports(plug):
    """Numbers rise on each connection, whatever the neighbour does."""
    one, two = plug(FakeDevice()), plug(FakeDevice(), index=1)
    with one.usbfs() as first, two.usbfs() as second:
        for _ in range(5):
            in_step(first)
            in_step(second)
    for peer in (one.peer, two.peer):
        numbers = [pdu.seqnum for pdu in peer.log]
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("make,flags", [
    (lambda: usbfs.bulk_in(1, 64), FLAG_DIR_IN),
    (lambda: usbfs.bulk_out(2, b"x" * 64), 0),
    (lambda: usbfs.bulk_out(2, b"x" * 512, usbfs.ZERO_PACKET), FLAG_ZERO_PACKET),
    (lambda: usbfs.bulk_in(1, 64, usbfs.SHORT_NOT_OK), FLAG_DIR_IN | FLAG_SHORT_NOT_OK),
    (lambda: usbfs.interrupt_in(3, 8), FLAG_DIR_IN),
    (lambda: usbfs.interrupt_out(4, b"x" * 8), 0),
    (lambda: usbfs.bulk_in(1, 40000), FLAG_DIR_IN | FLAG_SG),
    (lambda: usbfs.bulk_out(2, b"x" * 40000), FLAG_SG),
], ids=["in", "out", "zero-packet", "short-not-ok", "int-in", "int-out", "sg-in", "sg-out"])
def test_s64_flags(session, device, make, flags):
    urb = make()
    pdu = finish(session, device, urb, data=b"d" * urb.length if flags & FLAG_DIR_IN else b"")
    assert pdu.flags == flags
    assert urb.status == 0 and urb.actual == urb.length


def test_s65_interval(session, device):
    """bInterval 4 of a high-speed interrupt endpoint is 2^3 microframes."""
    pdu = finish(session, device, usbfs.interrupt_in(3, 8), data=b"x" * 8)
    assert (pdu.ep, pdu.direction, pdu.interval, pdu.start_frame) == (3, IN, 8, 0)


def test_s66_setup(session, device):
    seen = []

    def vendor(setup, data):
        seen.append((setup, bytes(data)))
        return b"answer" if setup.request_type & 0x80 else b""

    session.device.vendor = vendor
    assert device.control(0xC0, 0x42, 0x1234, 0x5678, 6) == b"answer"
    assert device.control(0x40, 0x43, 0xFFFF, 0, b"payload") == 7
    assert device.control(0x40, 0x44, 0, 1) == 0
    raw = [pdu.setup for pdu in session.peer.log[-3:]]
    assert raw == [struct.pack("<BBHHH", 0xC0, 0x42, 0x1234, 0x5678, 6),
                   struct.pack("<BBHHH", 0x40, 0x43, 0xFFFF, 0, 7),
                   struct.pack("<BBHHH", 0x40, 0x44, 0, 1, 0)]
    assert seen[1][1] == b"payload"
    assert [pdu.direction for pdu in session.peer.log[-3:]] == [IN, OUT, OUT]


@pytest.mark.parametrize("length", [0, 1, 511, 512, 513, 4096, 16384, 16385, 32768, 100001,
                                    1 << 20, 4 << 20])
def test_s67_bulk_out(session, device, length):
    data = pattern(length, length)
    urb = usbfs.bulk_out(2, data)
    pdu = finish(session, device, urb)
    assert (pdu.ep, pdu.direction, pdu.length) == (2, OUT, length)
    assert pdu.data == data
    assert (urb.status, urb.actual) == (0, length)
    in_step(device)


@pytest.fixture
def iso(session, device):
    """The session with alternate setting 1."""
    device.set_interface(0, 1)
    assert session.device.alternate == 1
    return session


LENGTHS = [100, 0, 512, 7, 256]


def offsets(lengths):
    return [sum(lengths[:n]) for n in range(len(lengths))]


def test_s68_iso_out(iso, device):
    data = pattern(sum(LENGTHS))
    device.submit(urb := usbfs.iso_out(6, LENGTHS, data))
    pdu = iso.peer.next()
    assert (pdu.ep, pdu.direction, pdu.length, pdu.packets) == (6, OUT, len(data), len(LENGTHS))
    assert pdu.flags == FLAG_ISO_ASAP and pdu.interval == 1
    assert pdu.data == data
    assert pdu.iso == [Iso(o, n, 0, -errno.EXDEV) for o, n in zip(offsets(LENGTHS), LENGTHS)]
    answer = [Iso(i.offset, i.length, i.length, 0) for i in pdu.iso]
    iso.peer.complete(pdu, packets=len(answer), iso=answer)
    assert device.reap() is urb
    assert urb.iso == [(n, 0) for n in LENGTHS] and urb.error_count == 0
    in_step(device)


@beyond_c
@pytest.mark.parametrize("ep", [5, 6], ids=["in", "out"])
def test_iso_failed_as_a_whole(iso, device, ep):
    """A server that could not carry out a request has nothing to say about its packets."""
    urb = usbfs.iso_in(5, LENGTHS) if ep == 5 else usbfs.iso_out(6, LENGTHS, bytes(sum(LENGTHS)))
    device.submit(urb)
    iso.peer.complete(iso.peer.next(), status=-errno.ENOSPC, actual=0, packets=0)
    assert device.reap() is urb
    assert (urb.status, urb.actual, urb.error_count) == (-errno.EPROTO, 0, len(LENGTHS))
    assert urb.iso == [(0, -errno.EPROTO)] * len(LENGTHS)
    in_step(device)


def test_s69_s73_iso_in(iso, device):
    """Short packets: data comes compacted and ends up at the offset of its packet."""
    device.submit(urb := usbfs.iso_in(5, LENGTHS))
    pdu = iso.peer.next()
    assert (pdu.direction, pdu.flags) == (IN, FLAG_ISO_ASAP | FLAG_DIR_IN) and not pdu.data
    assert pdu.iso == [Iso(o, n, 0, -errno.EXDEV) for o, n in zip(offsets(LENGTHS), LENGTHS)]
    actual = [60, 0, 512, 0, 1]
    status = [0, 0, -errno.EILSEQ, -errno.EXDEV, 0]
    parts = [pattern(n, 7 + n) for n in actual]
    answer = [Iso(i.offset, i.length, n, s) for i, n, s in zip(pdu.iso, actual, status)]
    iso.peer.complete(pdu, data=b"".join(parts), packets=len(answer), iso=answer, errors=2,
                      start_frame=99)
    assert device.reap() is urb
    assert urb.iso == list(zip(actual, status)) and urb.error_count == 2
    for offset, part in zip(offsets(LENGTHS), parts):
        assert urb.data()[offset:offset + len(part)] == part
    in_step(device)


@pytest.mark.parametrize("count", [1, 2, 31, 128])
def test_s73_iso_in_full(iso, device, count):
    """Every packet full: nothing has to be moved."""
    device.submit(urb := usbfs.iso_in(5, [64] * count))
    pdu = iso.peer.next()
    data = pattern(64 * count, count)
    iso.peer.complete(pdu, data=data, packets=count,
                      iso=[Iso(i.offset, i.length, 64, 0) for i in pdu.iso])
    assert device.reap() is urb
    assert urb.data() == data


def test_s73_iso_in_empty(iso, device):
    device.submit(urb := usbfs.iso_in(5, [64] * 8))
    pdu = iso.peer.next()
    iso.peer.complete(pdu, packets=8, iso=[Iso(i.offset, i.length, 0, 0) for i in pdu.iso])
    assert device.reap() is urb
    assert urb.iso == [(0, 0)] * 8
    in_step(device)


# --- replies ----------------------------------------------------------------------------------

@pytest.mark.parametrize("length,actual", [(512, 0), (512, 1), (512, 511), (512, 512),
                                           (65536, 0), (65536, 20000), (65536, 65536),
                                           (1 << 20, 1 << 20), (1 << 20, 999999)])
def test_s70_short_read(session, device, length, actual):
    data = pattern(actual, actual)
    urb = usbfs.bulk_in(1, length)
    finish(session, device, urb, data=data)
    assert (urb.status, urb.actual) == (0, actual)
    assert urb.data() == data + b"\xee" * (length - actual)
    in_step(device)


STATUS = [errno.EPIPE, errno.EPROTO, errno.EILSEQ, errno.EOVERFLOW, errno.EREMOTEIO, errno.ECOMM,
          errno.ENOSR, errno.ETIME, errno.ETIMEDOUT, errno.ENODEV, errno.ESHUTDOWN]


@pytest.mark.parametrize("status", STATUS, ids=[errno.errorcode[s] for s in STATUS])
def test_s71_status(session, device, status):
    urb = usbfs.bulk_in(1, 64)
    finish(session, device, urb, status=-status)
    assert (urb.status, urb.actual) == (-status, 0)
    urb = usbfs.bulk_out(2, b"x" * 64)
    finish(session, device, urb, status=-status, actual=32)
    assert (urb.status, urb.actual) == (-status, 32)
    in_step(device)


def test_s71_short_not_ok(session, device):
    """The client applies the flag itself."""
    urb = usbfs.bulk_in(1, 64, usbfs.SHORT_NOT_OK)
    finish(session, device, urb, data=b"x" * 10)
    assert (urb.status, urb.actual) == (-errno.EREMOTEIO, 10)


@pytest.mark.parametrize("length", [64, 65536])
def test_s72_data_with_error(session, device, length):
    urb = usbfs.bulk_in(1, length)
    finish(session, device, urb, status=-errno.EOVERFLOW, data=b"q" * length)
    assert (urb.status, urb.actual) == (-errno.EOVERFLOW, length)
    in_step(device)


@pytest.mark.parametrize("packets", [0, -1, 5, 0x7FFFFFFF, -0x80000000])
def test_s74_packets_of_non_iso(session, device, packets):
    urb = usbfs.bulk_in(1, 64)
    finish(session, device, urb, data=b"x" * 64, packets=packets)
    assert (urb.status, urb.actual) == (0, 64)
    urb = usbfs.bulk_out(2, b"x" * 64)
    finish(session, device, urb, packets=packets)
    assert urb.status == 0
    in_step(device)


def test_replies_may_echo(session, device):
    """Device, direction and endpoint of a reply mean nothing."""
    for basic in ((DEVID, 1, 1), (0xFFFFFFFF, 7, 0x8F)):
        urb = usbfs.bulk_in(1, 64)
        finish(session, device, urb, data=b"x" * 64, basic=basic, start_frame=-5, errors=77)
        assert (urb.status, urb.actual) == (0, 64)
    in_step(device)


def test_out_of_order(session, device):
    """Replies may come in any order; each URB comes back once, with its own data."""
    rng = random.Random(5)
    urbs = {}
    for number in range(60):
        if number % 2:
            device.submit(urb := usbfs.bulk_in(1, 64 + number))
        else:
            device.submit(urb := usbfs.bulk_out(2, pattern(300 + number, number)))
        urbs[number] = urb
    pdus = [session.peer.next() for _ in urbs]
    for number, pdu in enumerate(pdus):
        if number % 2 == 0:
            assert pdu.data == pattern(300 + number, number)
    order = list(enumerate(pdus))
    rng.shuffle(order)
    for number, pdu in order:
        session.peer.complete(pdu, data=pattern(pdu.length, number) if number % 2 else b"")
    reaped = device.reap_all(len(urbs))
    assert sorted(map(id, reaped)) == sorted(map(id, urbs.values()))
    for number, urb in urbs.items():
        assert urb.status == 0 and urb.actual == urb.length
        if number % 2:
            assert urb.data() == pattern(urb.length, number)
    assert device.reap_now() is None


def test_requests_of_an_endpoint_in_order(session, device):
    for number in range(100):
        device.submit(usbfs.bulk_out(2, struct.pack("<I", number)))
    for number in range(100):
        pdu = session.peer.next()
        assert struct.unpack("<I", pdu.data)[0] == number
        session.peer.complete(pdu)
    device.reap_all(100)


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_s84_one_byte_segments(plug, kind):
    device_model = FakeDevice()
    session = plug(device_model, kind=kind, auto=False)
    session.peer.segment = 1
    session.peer.auto()
    session.configured()
    device = session.usbfs()
    # Long enough to be received straight into its place.
    urb = usbfs.bulk_in(1, 6000)
    finish(session, device, urb, data=pattern(6000))
    assert urb.data() == pattern(6000)
    device.set_interface(0, 1)
    device.submit(urb := usbfs.iso_in(5, [32] * 4))
    pdu = session.peer.next()
    session.peer.complete(pdu, data=b"i" * 100, packets=4,
                          iso=[Iso(i.offset, 32, n, 0) for i, n in zip(pdu.iso, (32, 4, 32, 32))])
    assert device.reap() is urb
    assert [n for n, _ in urb.iso] == [32, 4, 32, 32]
    in_step(device)


def test_large_pdus_between_small_ones(session, device):
    """The boundary between a receive buffer and direct receiving, at many offsets."""
    rng = random.Random(11)
    for _ in range(20):
        sizes = [rng.choice([0, 1, 47, 48, 49, 4095, 4096, 4097, 20000, 70000]) for _ in range(6)]
        for size in sizes:
            device.submit(usbfs.bulk_in(1, max(size, 1)))
        pdus = [session.peer.next() for _ in sizes]
        session.peer.send(b"".join(
            reply(pdu, pattern(size, size + 1)) for pdu, size in zip(pdus, sizes)))
        for urb, size in zip(device.reap_all(len(sizes)), sizes):
            assert urb.actual == size and urb.data()[:size] == pattern(size, size + 1)


def reply(pdu: Submit, data: bytes) -> bytes:
    from vhci_wire import ret_submit  # pylint: disable=import-outside-toplevel
    return ret_submit(pdu.seqnum, 0, len(data), data=data)


# --- receive timeouts -------------------------------------------------------------------------

# Seconds. The test's own peer, in a process of many threads, has to answer within them.
TIMEOUT = 2
LONGER = 2.4


def plug_with_timeout():
    """A device whose socket gets a receive timeout once the device is configured."""
    kernel, ours = vhci.stream_pair("tcp")
    peer = Peer(ours, FakeDevice()).auto()
    with kernel.dup() as same:
        attach_pair(kernel, vhci.hs(), DEVID, vhci.HIGH)
        path = vhci.wait_configured(vhci.hs())
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", TIMEOUT, 0))
    # The receiver waits with the old one, until something comes.
    with usbfs.Device(vhci.devnode(path)) as device:
        in_step(device)
    return peer, path


def test_s80_receive_timeout_idle():
    """With nothing awaited, a receive timeout of the socket means nothing."""
    peer, path = plug_with_timeout()
    vhci.stays(lambda: vhci.port(vhci.hs()).state == vhci.USED, "dropped", LONGER)
    with usbfs.Device(vhci.devnode(path)) as device:
        in_step(device)
    vhci.detach(vhci.hs())
    vhci.wait_free(vhci.hs())
    peer.close()


def test_s80_receive_timeout_pending():
    peer, path = plug_with_timeout()
    with usbfs.Device(vhci.devnode(path)) as device:
        device.claim()
        device.submit(urb := usbfs.bulk_in(1, 64))
        peer.next()
        peer.wait_closed()
        assert device.reap() is urb
        assert urb.status == -errno.ESHUTDOWN
    vhci.wait_free(vhci.hs())
    vhci.wait_gone(path.name)
    peer.close()


@beyond_c
def test_s80_receive_timeout_inside_a_header():
    """An unlink answer nobody waits for arrives in two parts, a timeout apart."""
    from vhci_wire import ret_unlink  # pylint: disable=import-outside-toplevel
    peer, path = plug_with_timeout()
    raw = ret_unlink(0x7FFFFFF0, 0)
    peer.send(raw[:20])
    vhci.stays(lambda: vhci.port(vhci.hs()).state == vhci.USED, "dropped", LONGER)
    peer.send(raw[20:])
    with usbfs.Device(vhci.devnode(path)) as device:
        in_step(device)
    vhci.detach(vhci.hs())
    vhci.wait_free(vhci.hs())
    peer.close()


def test_s81_submit_after_drop(session, device):
    session.peer.close()
    session.gone()
    assert vhci.errno_of(device.submit, usbfs.bulk_in(1, 64)) == "ENODEV"
    assert not os.path.exists(vhci.USB / session.path.name)


def test_every_speed_has_its_endpoints(plug):
    """Interrupt transfers at low speed, everything at full speed."""
    for speed in (vhci.LOW, vhci.FULL, vhci.SUPER_PLUS):
        session = plug(FakeDevice(speed))
        device = session.usbfs()
        urb = usbfs.interrupt_in(3, 8)
        finish(session, device, urb, data=b"k" * 8)
        assert urb.data() == b"k" * 8
        if speed != vhci.LOW:
            urb = usbfs.bulk_in(1, 1000)
            finish(session, device, urb, data=b"b" * 1000)
            assert urb.actual == 1000
        vhci.detach(session.port)
        session.gone()


def test_sessions_do_not_mix(plug):
    """Four devices at once on both hubs; each gets its own requests only."""
    sessions = [plug(FakeDevice(speed), index=index, devid=0x20000 + 8 * index + speed)
                for speed in (vhci.HIGH, vhci.SUPER) for index in (0, 1)]
    devices = [session.usbfs() for session in sessions]
    for turn in range(10):
        for number, device in enumerate(devices):
            device.submit(usbfs.bulk_out(2, bytes([number, turn])))
        for number, session in enumerate(sessions):
            pdu = session.peer.next()
            assert pdu.data == bytes([number, turn]) and pdu.devid == session.devid
            session.peer.complete(pdu)
        for device in devices:
            device.reap()
