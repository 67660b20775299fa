# SPDX-License-Identifier: GPL-2.0
"""Long OUT data that a server does not copy: the device gets it from where it has arrived. The device
is that of the sample, whose echo tells what it got."""

import errno
import fcntl
import socket
import struct
import tempfile
import termios

import pytest

import failslab
import host
import peer_sample
import vhci
from host import beyond_c
from host_client import GET_STATUS
from host_model import pattern
from host_wire import HEADER, RetSubmit, RetUnlink
from vhci_wire import OUT

pytest_plugins = ("host_fixtures",)
pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml"), beyond_c]

ECHO, SINK = peer_sample.ECHO, peer_sample.BULK
# The most that is copied in any case. What the echo is read by.
EASY = SHORT = 16384
LENGTHS = [EASY + 1, 40000, 65536, 300000, 1 << 20]


@pytest.fixture(scope="module")
def busid(host_driver):
    """The device in the hands of the server."""
    with peer_sample.plugged() as name, host.exported(name):
        yield name


@pytest.fixture
def link(busid, host_watched):
    """One over TCP."""
    with host.connected(busid, "tcp") as client:
        yield client


def counted(busid: str, name: str) -> int:
    """What the server has counted."""
    return host.statistics(busid)[name]


def collect(link, sent: dict) -> bytes:
    """What the device has got of requests, given as {number: length}, once all of them are answered."""
    got, total, asked = b"", sum(sent.values()), None
    while len(got) < total or sent:
        if asked is None and len(got) < total:
            asked = link.submit_in(ECHO, SHORT)
        reply = link.recv()
        assert isinstance(reply, RetSubmit) and reply.status == 0, reply
        if reply.seqnum == asked:
            got, asked = got + reply.data, None
        else:
            assert reply.actual == sent.pop(reply.seqnum)
    return got


def echo(link, data: bytes, submit=None) -> bytes:
    """What the device gets when it is sent something."""
    number = submit() if submit else link.submit_out(ECHO, data)
    return collect(link, {number: len(data)})


@pytest.mark.parametrize("length", LENGTHS)
def test_the_device_gets_it(busid, link, length):
    # Behind a long request the thread reads little more than a header at a time.
    link.reply(link.submit_out(SINK, pattern(EASY + 1)))
    before = counted(busid, "held")
    data = pattern(length)
    assert echo(link, data) == data
    # What comes with the header is copied, and so is what there is little of in a buffer.
    held = counted(busid, "held") - before
    assert length // 2 <= held <= length


def test_many_behind_each_other(busid, link):
    """They share buffers of the network at their ends."""
    before = counted(busid, "held")
    numbers, raw = zip(*(link.pack(OUT, SINK, length, data=pattern(length, length % 256))
                         for length in LENGTHS * 3))
    link.send(b"".join(raw))
    for number, length in zip(numbers, LENGTHS * 3):
        reply = link.reply(number)
        assert (reply.status, reply.actual) == (0, length)
    assert counted(busid, "held") - before >= sum(LENGTHS) * 3 // 2


def test_many_are_told_apart(link):
    """As above, and the device has all of it in order."""
    datas = [pattern(length, length % 256) for length in LENGTHS[:-1]]
    packed = [link.pack(OUT, ECHO, len(data), data=data) for data in datas]
    link.send(b"".join(raw for _, raw in packed))
    assert collect(link, {number: len(data) for (number, _), data in zip(packed, datas)}) == (
        b"".join(datas))


def in_portions(link, raw: bytes, size: int):
    """Sends bytes so that each portion has arrived before the next one is sent."""
    def unacknowledged() -> int:
        return struct.unpack("i", fcntl.ioctl(link.sock, termios.TIOCOUTQ, bytes(4)))[0]

    for at in range(0, len(raw), size):
        link.send(raw[at:at + size])
        vhci.wait_for(lambda: not unacknowledged(), "the portion to arrive")


@pytest.mark.parametrize("size", [700, 1400, 4096, 9000])
def test_portions(busid, link, size):
    """What comes in small pieces is copied, what comes in large ones is not."""
    data = pattern(EASY + 20000)
    before = counted(busid, "held")

    def submit():
        number, raw = link.pack(OUT, ECHO, len(data), data=data)
        in_portions(link, raw, size)
        return number
    assert echo(link, data, submit) == data
    held = counted(busid, "held") - before
    assert held == 0 if size < 2048 else held > 0


@pytest.mark.parametrize("cut", [1, HEADER - 1, HEADER, HEADER + 1, HEADER + 1000, HEADER + 70000])
def test_in_two_parts(link, cut):
    """Wherever a PDU is cut."""
    data = pattern(150000)
    for _ in range(2):
        def submit():
            number, raw = link.pack(OUT, ECHO, len(data), data=data)
            in_portions(link, raw[:cut], cut)
            link.send(raw[cut:])
            return number
        assert echo(link, data, submit) == data


def test_pages_of_a_file(link):
    """The client sends a file's pages (sendfile): the same memory all the way to the device."""
    data = pattern(200000)
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        def submit():
            number, raw = link.pack(OUT, ECHO, len(data), data=data)
            link.send(raw[:HEADER])
            file.write(raw[HEADER:])
            file.flush()
            assert link.sock.sendfile(file, 0) == len(data)
            return number
        assert echo(link, data, submit) == data


def test_not_elsewhere(busid, host_watched):
    """Other sockets have nothing that could be kept."""
    with host.connected(busid, "unix") as link:
        data = pattern(100000)
        assert echo(link, data) == data
        assert counted(busid, "held") == 0


def test_not_for_in_nor_for_little(busid, link):
    data = pattern(EASY)
    assert echo(link, data) == data
    assert link.reply(link.submit_in(SINK, 100000)).data == bytes(100000)
    assert counted(busid, "held") == 0


def test_unlink(link):
    """It is taken back while the device has a part of it."""
    first = link.submit_out(ECHO, pattern(100000))
    behind = link.submit_out(ECHO, b"behind")
    unlink = link.unlink(first)
    assert link.recv() == RetUnlink(unlink, -errno.ECONNRESET)
    del link.asked[first]
    got = b""
    while not got.endswith(b"behind"):
        asked = link.submit_in(ECHO, SHORT)
        while (reply := link.recv()).seqnum != asked:
            assert (reply.seqnum, reply.status) == (behind, 0)
        got += reply.data
    assert pattern(100000).startswith(got[:-len(b"behind")])


def test_stall(link):
    """A halted endpoint."""
    link.reply(link.submit_control(bytes([2, 3, 0, 0, ECHO, 0, 0, 0])))
    reply = link.reply(link.submit_out(ECHO, pattern(100000)))
    assert (reply.status, reply.actual) == (-errno.EPIPE, 0)
    link.reply(link.submit_control(bytes([2, 1, 0, 0, ECHO, 0, 0, 0])))
    assert echo(link, pattern(100000)) == pattern(100000)


@pytest.mark.parametrize("how", ["close", "reset", "shutdown"])
def test_the_client_goes_in_the_middle(busid, host_watched, how):
    """Of one request, while another is at the device. The device is available again."""
    with host.connected(busid, "tcp") as link:
        link.submit_out(ECHO, pattern(100000))
        _, raw = link.pack(OUT, ECHO, 300000, data=pattern(300000))
        link.send(raw[:150000])
        if how == "reset":
            link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0] + [0] * 4))
        if how == "shutdown":
            link.sock.shutdown(socket.SHUT_WR)
            link.rest()
        link.close()
        host.wait_status(busid)


def test_unbind_in_the_middle(busid, host_watched):
    """The server does not wait for the rest."""
    with host.connected(busid, "tcp") as link:
        _, raw = link.pack(OUT, ECHO, 300000, data=pattern(300000))
        link.send(raw[:150000])
        assert host.sockfd(busid, -1) == 2
        link.rest()


def test_urgent_data(link):
    """Which is no part of the stream: what comes behind it is."""
    data = pattern(100000)

    def submit():
        number, raw = link.pack(OUT, ECHO, len(data), data=data)
        link.send(raw[:50000])
        link.sock.send(b"!", socket.MSG_OOB)
        link.send(raw[50000:])
        return number
    assert echo(link, data, submit) == data


@pytest.mark.only("uml-kasan")
def test_allocations_that_fail(busid, host_watched):
    """Each of the receiving thread: the request is refused, and the next one is found where it begins."""
    failslab.switch_on()
    for nth in range(1, 80):
        with host.connected(busid, "tcp") as link:
            failing = failslab.Failing(nth, failslab.thread("stub_rx"))
            reply = link.reply(link.submit_out(SINK, pattern(100000)))
            assert (reply.status, reply.actual) in ((0, 100000), (-errno.ENOMEM, 0))
            assert link.reply(link.submit_out(SINK, pattern(20000))).status in (0, -errno.ENOMEM)
            came_to_that = failing.end()
            assert link.control(0x80, GET_STATUS, data=2).data == b"\x01\0"
        if not came_to_that:
            return
    raise AssertionError("it does not end")


@pytest.mark.only("uml-kasan")
def test_without_memory(busid, host_watched):
    """What is large is refused, and what follows is found where it begins."""
    with host.connected(busid, "tcp") as link:
        with failslab.without_memory() as choose:
            choose(failslab.thread("stub_rx"))
            for length in (EASY + 1, 300000):
                reply = link.reply(link.submit_out(SINK, pattern(length)))
                assert (reply.status, reply.actual) == (-errno.ENOMEM, 0)
        assert echo(link, pattern(100000)) == pattern(100000)
