# SPDX-License-Identifier: GPL-2.0
"""Long transfers at a controller that takes no scatter list: they go out in pieces, and neither the
client nor the device can tell. Statement 126; the controller and its device are those of the
sample."""

import errno

import pytest

import host
import peer_sample
from host import beyond_c
from host_client import GET_STATUS
from host_model import pattern
from host_wire import RetSubmit, RetUnlink

pytest_plugins = ("host_fixtures",)
pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml")]

ECHO, SINK, SOURCE = 1, 2, 2
# What the echo device keeps; a packet; the longest piece; what fits into one piece for certain.
STREAM, PACKET, PIECE, SHORT = 4096, 512, 32768, 16384
LENGTHS = [PIECE, PIECE + 1, PIECE + PACKET, 2 * PIECE, 2 * PIECE + 5000, 5 * PIECE - 1]


@pytest.fixture(scope="module")
def busid(host_driver):
    """The echo device in the hands of the server."""
    with peer_sample.plugged(scatter_lists=0) as name, host.exported(name):
        yield name


@pytest.fixture
def link(busid, host_watched):
    """A connection to it, configured, with an empty stream."""
    with host.connected(busid) as client:
        yield client
        # No reply is left, and the next one is found where it should be.
        assert client.control(0x80, GET_STATUS, data=2).data == b"\x01\0"


def read(link, count: int, seen: list) -> bytes:
    """So many bytes of the echo; other replies go to `seen`."""
    data = b""
    while len(data) < count:
        number = link.submit_in(ECHO, SHORT)
        while True:
            reply = link.recv()
            if isinstance(reply, RetSubmit) and reply.seqnum == number:
                break
            seen.append(reply)
        assert reply.status == 0 and reply.actual
        data += reply.data
    assert len(data) == count
    return data


def done(seen: list) -> list:
    """(number, status, actual length) of replies to OUT requests, in order."""
    return [(reply.seqnum, reply.status, reply.actual) for reply in seen]


@pytest.mark.parametrize("length", LENGTHS)
def test_s126_out(link, length):
    data, seen = pattern(length), []
    number = link.submit_out(ECHO, data)
    assert read(link, length, seen) == data
    assert done(seen or [link.recv()]) == [(number, 0, length)]


@pytest.mark.parametrize("length", LENGTHS)
def test_s126_in(link, length):
    """The source has as much as is asked for."""
    reply = link.reply(link.submit_in(SOURCE, length))
    assert (reply.status, reply.actual) == (0, length)
    assert reply.data == bytes(length)


@pytest.mark.parametrize("length", [0, 1, PACKET, STREAM])
def test_in_ends_early(link, length):
    """The first piece is short: nothing waits for more, and nothing of the next transfer is lost."""
    if length:
        link.reply(link.submit_out(ECHO, pattern(length)))
    number = link.submit_in(ECHO, 2 * PIECE)
    if not length:
        link.nothing()
        late = link.submit_out(ECHO, b"late")
        found = link.replies(2)
        assert (found[late].status, found[number].data) == (0, b"late")
    else:
        reply = link.reply(number)
        assert (reply.status, reply.data) == (0, pattern(length))
    link.reply(link.submit_out(ECHO, b"next"))
    assert link.reply(link.submit_in(ECHO, 2 * PIECE)).data == b"next"


@beyond_c
def test_in_order(link):
    """Transfers that are submitted together do not get between each other."""
    datas = [pattern(length, seed) for seed, length in enumerate(LENGTHS)]
    seen = []
    numbers = [link.submit_out(ECHO, data) for data in datas]
    assert read(link, sum(map(len, datas)), seen) == b"".join(datas)
    seen += [link.recv() for _ in range(len(numbers) - len(seen))]
    assert done(seen) == [(number, 0, len(data)) for number, data in zip(numbers, datas)]


@beyond_c
def test_in_transfers_in_order(link):
    """The one that was asked for first gets what comes first, the next one the rest."""
    numbers = [link.submit_in(ECHO, 2 * PIECE) for _ in range(3)]
    for text in (b"first", b"second", b"third"):
        out = link.submit_out(ECHO, text)
        found = link.replies(2)
        assert (found[out].status, found[numbers.pop(0)].data) == (0, text)


@pytest.mark.parametrize("taken", [0, PIECE, PIECE + PACKET])
def test_unlink_out(link, taken):
    """It is taken back as a whole, wherever it is; what is behind it begins at its beginning."""
    data, seen = b"", []
    first = link.submit_out(ECHO, pattern(3 * PIECE))
    behind = link.submit_out(ECHO, b"behind")
    while len(data) < taken:
        data += read_some(link, seen)
    unlink = link.unlink(first)
    while not data.endswith(b"behind"):
        data += read_some(link, seen)
    # What the device had taken before stays in the stream.
    assert len(data) < 3 * PIECE
    assert pattern(3 * PIECE).startswith(data[:-len(b"behind")])
    while len(seen) < 2:
        seen.append(link.recv())
    assert {reply.seqnum: (type(reply), reply.status) for reply in seen} == {
        unlink: (RetUnlink, -errno.ECONNRESET), behind: (RetSubmit, 0)}


def read_some(link, seen: list) -> bytes:
    """What the echo has at the moment, at least a byte."""
    number = link.submit_in(ECHO, SHORT)
    while True:
        reply = link.recv()
        if reply.seqnum == number:
            assert reply.status == 0
            return reply.data
        seen.append(reply)


def test_unlink_in(link):
    """It waits for its first byte."""
    first = link.submit_in(ECHO, 2 * PIECE)
    unlink = link.unlink(first)
    reply = link.recv()
    assert (type(reply), reply.seqnum, reply.status) == (RetUnlink, unlink, -errno.ECONNRESET)
    link.reply(link.submit_out(ECHO, b"next"))
    assert link.reply(link.submit_in(ECHO, 2 * PIECE)).data == b"next"


def test_stall(link):
    """A halted endpoint: one error for all of it."""
    link.reply(link.submit_control(bytes([2, 3, 0, 0, ECHO, 0, 0, 0])))
    reply = link.reply(link.submit_out(ECHO, pattern(2 * PIECE)))
    assert (reply.status, reply.actual) == (-errno.EPIPE, 0)
    reply = link.reply(link.submit_control(bytes([2, 1, 0, 0, ECHO, 0, 0, 0])))
    assert reply.status == 0
    link.reply(link.submit_out(ECHO, b"again"))
    assert link.reply(link.submit_in(ECHO, SHORT)).data == b"again"


def test_end_in_the_middle(busid, link):
    """The connection ends while a piece is at the device and others wait behind it."""
    link.submit_out(ECHO, pattern(5 * PIECE))
    link.submit_in(SOURCE, 5 * PIECE)
    other = host.sockfd(busid, -1)
    assert other == 2
    link.rest()
    host.wait_status(busid)
    link.sock = host.connect(busid).sock
    link.set_configuration(1)
