# SPDX-License-Identifier: GPL-2.0
"""What an honest client gets: every transfer type but isochronous, every field of the replies."""

import errno
import random
import socket

import pytest

import vhci
from host import beyond_c, controller_too
from host_client import GET_CONFIGURATION, GET_DESCRIPTOR
from host_model import (BULK_IN, BULK_OUT, INT_IN, INT_OUT, INT_PACKET, SINK, SOURCE, STALL,
                        VENDOR_IN, VENDOR_OUT, pattern)
from host_wire import RetSubmit, setup
from vhci_wire import FLAG_DIR_IN, FLAG_SG, FLAG_SHORT_NOT_OK, FLAG_ZERO_PACKET, IN, OUT

pytest_plugins = ("host_fixtures",)
pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml")]

PACKET = 512
MIB = 1 << 20
# Around the packet, the page, and what is contiguous.
SIZES = [1, PACKET - 1, PACKET, PACKET + 1, 4096, 4097, 20000, 65536, MIB]


def done(seqnum: int, data: bytes = b"", *, actual: int | None = None, status: int = 0,
         packets: int = 0) -> RetSubmit:
    """The reply of an honest server."""
    return RetSubmit(seqnum, status, len(data) if actual is None else actual, 0, packets, 0, data)


# --- control ----------------------------------------------------------------------------------

@controller_too
@pytest.mark.parametrize("length", [1, 8, 18, 64, 255])
def test_control_in(link, gadget, length):
    """As much as the device has, at most what was asked for."""
    number = link.submit_control(setup(0x80, GET_DESCRIPTOR, 0x0100, 0, length))
    assert link.recv() == done(number, gadget.model.device_descriptor()[:length])


@pytest.mark.parametrize("sent,asked", [(0, 64), (1, 1), (63, 64), (64, 64), (65, 64),
                                        (4096, 4096), (20000, 65535)])
def test_control_in_of_the_vendor(link, sent, asked):
    number = link.submit_control(setup(VENDOR_IN, SOURCE, sent, 0, asked))
    assert link.recv() == done(number, pattern(sent)[:asked])


@controller_too
@pytest.mark.parametrize("length", [0, 1, 64, 65, 4096])
def test_control_out(link, gadget, length):
    """The setup packet and the data arrive as they were sent; the reply has no data."""
    control = setup(VENDOR_OUT, SINK, 0x1234, 0x5678, length)
    number = link.submit_control(control, pattern(length))
    assert link.recv() == done(number, actual=length)
    request, data = gadget.taken()
    assert (request.request_type, request.request, request.value, request.index,
            request.length) == (VENDOR_OUT, SINK, 0x1234, 0x5678, length)
    assert data == pattern(length)


@controller_too
@pytest.mark.parametrize("control", [setup(VENDOR_IN, STALL, 0, 0, 64),
                                     setup(VENDOR_OUT, STALL, 0, 0, 0),
                                     setup(0x80, GET_DESCRIPTOR, 0x2200, 0, 64)])
def test_s117_control_stall(link, control):
    number = link.submit_control(control)
    assert link.recv() == done(number, status=-errno.EPIPE)
    link.in_step()


# --- the fields of a reply --------------------------------------------------------------------

@pytest.mark.parametrize("number", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_s116_sequence_numbers(link, number):
    """Any number will do, in any order."""
    link.submit_control(setup(0x80, GET_CONFIGURATION, 0, 0, 1), seqnum=number)
    assert link.recv() == done(number, b"\x01")


@pytest.mark.parametrize("packets", [0, -1])
def test_s116_number_of_packets(link, gadget, packets):
    """Echoed for what is not isochronous: clients send 0 or -1."""
    number = link.submit_control(setup(0x80, GET_CONFIGURATION, 0, 0, 1), packets=packets)
    assert link.recv() == done(number, b"\x01", packets=packets)
    gadget.send(BULK_IN, b"data")
    number = link.submit_in(BULK_IN, 64, packets=packets)
    assert link.recv() == done(number, b"data", packets=packets)


def test_fields_without_a_meaning(link, gadget):
    """Interval and start frame of a bulk transfer are noise."""
    for value in (-1, 1, 0x7FFFFFFF, -0x80000000):
        gadget.send(BULK_IN, b"data")
        number = link.submit_in(BULK_IN, 64, interval=value, start_frame=value)
        reply = link.reply(number)
        assert (reply.status, reply.data, reply.packets, reply.errors) == (0, b"data", 0, 0)


# --- bulk -------------------------------------------------------------------------------------

@controller_too
@pytest.mark.parametrize("flags", [0, FLAG_SG], ids=["linear", "sg"])
@pytest.mark.parametrize("length", SIZES)
def test_s125_bulk_in(link, gadget, length, flags):
    data = pattern(length, 1)
    sent = gadget.send(BULK_IN, data)
    number = link.submit_in(BULK_IN, length, flags=FLAG_DIR_IN | flags)
    assert link.recv() == done(number, data)
    assert sent.wait() == data


@controller_too
@pytest.mark.parametrize("flags", [0, FLAG_SG], ids=["linear", "sg"])
@pytest.mark.parametrize("length", SIZES)
def test_s125_bulk_out(link, gadget, length, flags):
    data = pattern(length, 2)
    received = gadget.receive(BULK_OUT, length)
    number = link.submit_out(BULK_OUT, data, flags=flags)
    assert link.recv() == done(number, actual=length)
    assert received.wait() == data


@controller_too
@pytest.mark.parametrize("flags", [0, FLAG_SG], ids=["linear", "sg"])
@pytest.mark.parametrize("sent", [0, 1, PACKET, PACKET + 1, 4096, 10000])
def test_bulk_in_short(link, gadget, sent, flags):
    """A short packet ends the transfer; nothing but what came is in the reply."""
    gadget.send(BULK_IN, pattern(sent), zero=True)
    number = link.submit_in(BULK_IN, 20000, flags=FLAG_DIR_IN | flags)
    assert link.recv() == done(number, pattern(sent))


@controller_too
def test_bulk_in_empty(link, gadget):
    """A transfer of no bytes takes an empty packet."""
    sent = gadget.send(BULK_IN, b"")
    number = link.submit_in(BULK_IN, 0)
    assert link.recv() == done(number)
    assert sent.wait() == b""


@controller_too
def test_bulk_out_empty(link, gadget):
    """A transfer of no bytes is an empty packet, with ZERO_PACKET or without."""
    for flags in (0, FLAG_ZERO_PACKET):
        received = gadget.receive(BULK_OUT, PACKET)
        number = link.submit_out(BULK_OUT, b"", flags=flags)
        assert link.recv() == done(number)
        assert received.wait() == b""


@controller_too
@pytest.mark.parametrize("length", [PACKET, 4 * PACKET])
def test_zero_packet(link, gadget, length):
    """Only with ZERO_PACKET a transfer of full packets ends in an empty one."""
    received = gadget.receive(BULK_OUT, length + PACKET)
    number = link.submit_out(BULK_OUT, pattern(length))
    assert link.recv() == done(number, actual=length)
    assert not received.done.is_set()
    number = link.submit_out(BULK_OUT, b"end")
    assert link.recv() == done(number, actual=3)
    assert received.wait() == pattern(length) + b"end"

    received = gadget.receive(BULK_OUT, length + PACKET)
    number = link.submit_out(BULK_OUT, pattern(length), flags=FLAG_ZERO_PACKET)
    assert link.recv() == done(number, actual=length)
    assert received.wait() == pattern(length)


@controller_too
def test_short_not_ok(link, gadget):
    """s72: the data comes with the error."""
    for sent, status in ((100, -errno.EREMOTEIO), (PACKET, 0)):
        gadget.send(BULK_IN, pattern(sent))
        number = link.submit_in(BULK_IN, PACKET, flags=FLAG_DIR_IN | FLAG_SHORT_NOT_OK)
        assert link.recv() == done(number, pattern(sent), status=status)


@controller_too
def test_s118_overflow(link, gadget):
    """The device sends more than was asked for: what fits comes with the error."""
    gadget.send(BULK_IN, pattern(PACKET))
    number = link.submit_in(BULK_IN, 64)
    assert link.recv() == done(number, pattern(64), status=-errno.EOVERFLOW)
    link.in_step()


@controller_too
@pytest.mark.parametrize("flags", [0, FLAG_SG], ids=["linear", "sg"])
def test_s117_bulk_stall(link, gadget, flags):
    for address, ask in ((0x80 | BULK_IN, lambda: link.submit_in(BULK_IN, 5000, flags=flags)),
                         (BULK_OUT, lambda: link.submit_out(BULK_OUT, b"x" * 5000, flags=flags))):
        gadget.halt(address)
        for _ in range(2):
            number = ask()
            assert link.recv() == done(number, status=-errno.EPIPE)
        cleared = link.control(2, 1, 0, address)
        assert (cleared.status, cleared.actual) == (0, 0)


# --- interrupt --------------------------------------------------------------------------------

@controller_too
@pytest.mark.parametrize("interval", [1, 2, 8, 1000])
def test_interrupt_in(link, gadget, interval):
    gadget.send(INT_IN, b"report")
    number = link.submit_in(INT_IN, INT_PACKET, interval=interval)
    assert link.recv() == done(number, b"report")


@controller_too
@pytest.mark.parametrize("length", [0, 1, INT_PACKET, 3 * INT_PACKET + 1])
def test_interrupt_out(link, gadget, length):
    received = gadget.receive(INT_OUT, max(length, 1))
    number = link.submit_out(INT_OUT, pattern(length), interval=1)
    assert link.recv() == done(number, actual=length)
    assert received.wait() == pattern(length)


@controller_too
def test_interrupt_in_waits(link, gadget):
    """A report may take as long as it likes, and nothing else waits for it."""
    waiting = link.submit_in(INT_IN, 8, interval=8)
    link.nothing()
    gadget.send(BULK_IN, b"bulk")
    number = link.submit_in(BULK_IN, 64)
    assert link.recv() == done(number, b"bulk")
    link.in_step()
    gadget.send(INT_IN, b"late")
    assert link.recv() == done(waiting, b"late")


# --- flags ------------------------------------------------------------------------------------

# Each bit that is not tested by what it does. Scatter-gather has tests of its own.
NOISE = [1 << bit for bit in range(32) if 1 << bit not in (
    FLAG_SHORT_NOT_OK, FLAG_ZERO_PACKET, FLAG_SG)]


def test_s128_flags_without_effect(link, gadget):
    """Bits that say nothing about a transfer change nothing, one by one and all together."""
    device = gadget.model.device_descriptor()
    for flags in [*NOISE, sum(NOISE)]:
        asked = [link.submit_control(setup(0x80, GET_DESCRIPTOR, 0x0100, 0, 18), flags=flags),
                 link.submit_in(BULK_IN, 200, flags=flags),
                 link.submit_out(BULK_OUT, pattern(100), flags=flags),
                 link.submit_in(INT_IN, 8, flags=flags, interval=1)]
        gadget.send(BULK_IN, pattern(100))
        gadget.send(INT_IN, b"report")
        received = gadget.receive(BULK_OUT, 100)
        assert list(dict(sorted(link.replies(4).items())).values()) == [
            done(asked[0], device), done(asked[1], pattern(100)), done(asked[2], actual=100),
            done(asked[3], b"report")]
        assert received.wait() == pattern(100)


def test_flags_of_other_transfers(link, gadget):
    """ZERO_PACKET of an IN transfer and SHORT_NOT_OK of an OUT transfer mean nothing."""
    gadget.send(BULK_IN, pattern(PACKET))
    number = link.submit_in(BULK_IN, PACKET, flags=FLAG_DIR_IN | FLAG_ZERO_PACKET)
    assert link.recv() == done(number, pattern(PACKET))
    received = gadget.receive(BULK_OUT, 10)
    number = link.submit_out(BULK_OUT, b"0123456789", flags=FLAG_SHORT_NOT_OK)
    assert link.recv() == done(number, actual=10)
    received.wait()
    number = link.submit_control(setup(VENDOR_OUT, SINK, 0, 0, 4), b"data",
                                 flags=FLAG_SHORT_NOT_OK | FLAG_ZERO_PACKET)
    assert link.recv() == done(number, actual=4)


def test_direction_bit_is_ours(link, gadget):
    """The direction of a request is its direction field, not a flag."""
    gadget.send(BULK_IN, b"in")
    number = link.submit(IN, BULK_IN, 64, flags=0)
    assert link.recv() == done(number, b"in")
    received = gadget.receive(BULK_OUT, 3)
    number = link.submit(OUT, BULK_OUT, 3, data=b"out", flags=FLAG_DIR_IN)
    assert link.recv() == done(number, actual=3)
    assert received.wait() == b"out"


@beyond_c
@pytest.mark.parametrize("flags", [FLAG_SG, FLAG_SG | FLAG_DIR_IN])
def test_s127_scatter_gather_where_it_means_nothing(link, gadget, flags):
    """The flag concerns bulk transfers with data; on others it is noise."""
    number = link.submit_control(setup(0x80, GET_DESCRIPTOR, 0x0100, 0, 18), flags=flags)
    assert link.recv() == done(number, gadget.model.device_descriptor())
    number = link.submit_control(setup(VENDOR_OUT, SINK, 0, 0, 4096), pattern(4096), flags=flags)
    assert link.recv() == done(number, actual=4096)
    assert gadget.taken()[1] == pattern(4096)
    gadget.send(INT_IN, b"report")
    number = link.submit_in(INT_IN, 8, interval=1, flags=flags)
    assert link.recv() == done(number, b"report")
    gadget.send(BULK_IN, b"")
    number = link.submit_in(BULK_IN, 0, flags=flags)
    assert link.recv() == done(number)
    received = gadget.receive(BULK_OUT, 1)
    number = link.submit_out(BULK_OUT, b"", flags=flags)
    assert link.recv() == done(number)
    assert received.wait() == b""


# --- many at once -----------------------------------------------------------------------------

@controller_too
def test_queue_in(link, gadget):
    """Transfers of one endpoint are done in order."""
    asked = [link.submit_in(BULK_IN, PACKET) for _ in range(64)]
    for turn in range(64):
        gadget.send(BULK_IN, pattern(100 + turn, turn))
    for turn, number in enumerate(asked):
        assert link.recv() == done(number, pattern(100 + turn, turn))


@controller_too
def test_queue_out(link, gadget):
    asked = [link.submit_out(BULK_OUT, pattern(1000 + turn, turn)) for turn in range(64)]
    received = [gadget.receive(BULK_OUT, 1000 + turn) for turn in range(64)]
    for turn, number in enumerate(asked):
        assert link.recv() == done(number, actual=1000 + turn)
        assert received[turn].wait() == pattern(1000 + turn, turn)


@controller_too
def test_both_ways_and_control(link, gadget):
    """Endpoints do not wait for each other; every request is answered once."""
    rng = random.Random(5)
    expected = {}
    for turn in range(60):
        length = rng.choice(SIZES[:-2])
        expected[link.submit_in(BULK_IN, length)] = pattern(length, turn)
        gadget.send(BULK_IN, pattern(length, turn))
        expected[link.submit_out(BULK_OUT, pattern(length, turn))] = length
        gadget.receive(BULK_OUT, length)
        expected[link.submit_control(setup(VENDOR_IN, SOURCE, 50, 0, 50))] = pattern(50)
    found = link.replies(len(expected))
    for number, wanted in expected.items():
        assert found[number] == (done(number, actual=wanted) if isinstance(wanted, int)
                                 else done(number, wanted))


@pytest.mark.parametrize("segment", [1, 7, 48, 1000])
def test_s84_segments(link, gadget, segment):
    """Where the stream is cut does not matter."""
    link.segment = segment
    try:
        for length in (1, 300):
            received = gadget.receive(BULK_OUT, length)
            number = link.submit_out(BULK_OUT, pattern(length))
            assert link.recv() == done(number, actual=length)
            assert received.wait() == pattern(length)
            link.in_step()
    finally:
        link.segment = None


def test_many_in_one_segment(link, gadget):
    """Requests that arrive together are served like others."""
    raw, expected = b"", []
    for turn in range(40):
        number, pdu = link.pack(OUT, BULK_OUT, 900, data=pattern(900, turn))
        raw, expected = raw + pdu, [*expected, done(number, actual=900)]
        gadget.receive(BULK_OUT, 900)
    link.send(raw)
    assert [link.recv() for _ in expected] == expected


@beyond_c
def test_replies_that_wait_go_out_together(export, link, gadget):
    """Behind others that the client is slow to read: with one call for many of them, in order."""
    link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    lengths = [MIB] * 8 + [1, 512, 513, 2048, 2049, 4096, 4097, 16384, 16385] * 10
    asked = [link.submit_in(BULK_IN, length) for length in lengths]
    ready = [gadget.send(BULK_IN, pattern(length, turn)) for turn, length in enumerate(lengths)]
    for one in ready:
        one.wait(vhci.ENUMERATION)
    assert export.statistics()["in_flight"] > 90, "the client is not slow"
    before = export.statistics()["sends"]
    for turn, (number, length) in enumerate(zip(asked, lengths)):
        assert link.recv() == done(number, pattern(length, turn))
    # Two for a long one, and one for up to 64 KiB of others.
    assert export.statistics()["sends"] - before < 2 * 18 + 10


@pytest.mark.parametrize("length", [4096, 8192, 16384, 65536])
def test_nothing_of_other_transfers_is_sent(link, gadget, length):
    """A short reply holds what the device sent, whatever the buffer held before."""
    secret = b"\xa5" * length
    for _ in range(4):
        gadget.receive(BULK_OUT, length)
        assert link.reply(link.submit_out(BULK_OUT, secret)).status == 0
    for sent in (0, 1, 100, 4095 if length == 4096 else 4097):
        gadget.send(BULK_IN, pattern(sent, 9), zero=True)
        number = link.submit_in(BULK_IN, length)
        assert link.recv() == done(number, pattern(sent, 9))


# --- speeds and sockets -----------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["tcp", "tcp6", "mptcp", pytest.param("vsock", marks=beyond_c),
                                  "tls"])
def test_every_stream_socket(export, gadget, host_watched, kind):
    link = export.client(kind)
    try:
        for length in (1, 4096, 300000):
            gadget.send(BULK_IN, pattern(length))
            number = link.submit_in(BULK_IN, length)
            assert link.recv() == done(number, pattern(length))
            received = gadget.receive(BULK_OUT, length)
            number = link.submit_out(BULK_OUT, pattern(length))
            assert link.recv() == done(number, actual=length)
            assert received.wait() == pattern(length)
    finally:
        export.drop()
