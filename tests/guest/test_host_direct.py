# SPDX-License-Identifier: GPL-2.0
"""Requests that a server takes in where they arrive, without its receiving thread, and those that are
left to the thread."""

import errno

import pytest

import vhci
from host import beyond_c
from host_client import GET_DESCRIPTOR
from host_model import (BULK_IN, BULK_OUT, INT_IN, INT_OUT, INT_PACKET, NOWHERE, SINK, VENDOR_OUT,
                        pattern)
from host_wire import HEADER, RetUnlink, setup
from vhci_wire import OUT

pytest_plugins = ("host_fixtures",)
pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml"), beyond_c]

# What may follow a header, and what may be asked for.
MOST_OUT, MOST_IN = 4096, 16384
# Bytes of buffers that a client may have, by default.
CAP = 32 << 20


@pytest.fixture
def link(export, host_watched):
    """As the one of conftest.py, over TCP."""
    yield export.client("tcp")
    export.check()


def becomes_direct(export, link):
    """The thread leaves the socket alone again, as soon as it has nothing to do: from then on a request
    is taken in directly."""
    def once() -> bool:
        before = export.statistics()["direct"]
        link.in_step()
        return export.statistics()["direct"] == before + 1
    vhci.wait_for(once, "a request that is taken in directly")


def direct(export, link, what) -> int:
    """How many PDUs of `what` were taken in directly."""
    becomes_direct(export, link)
    before = export.statistics()["direct"]
    what()
    return export.statistics()["direct"] - before


@pytest.mark.parametrize("length", [1, 47, 48, 49, 512, MOST_OUT - 1, MOST_OUT])
def test_small_requests_out(export, link, gadget, length):
    def send():
        for seed in range(3):
            received = gadget.receive(BULK_OUT, length)
            assert link.reply(link.submit_out(BULK_OUT, pattern(length, seed))).status == 0
            assert received.wait() == pattern(length, seed)
    assert direct(export, link, send) == 3


@pytest.mark.parametrize("length", [1, 512, 4096, MOST_IN])
def test_small_requests_in(export, link, gadget, length):
    def ask():
        for seed in range(3):
            gadget.send(BULK_IN, pattern(length, seed))
            reply = link.reply(link.submit_in(BULK_IN, length))
            assert (reply.status, reply.data) == (0, pattern(length, seed))
    assert direct(export, link, ask) == 3


def test_interrupt_and_control(export, link, gadget):
    def ask():
        gadget.send(INT_IN, pattern(INT_PACKET))
        assert link.reply(link.submit_in(INT_IN, INT_PACKET, interval=8)).data == pattern(INT_PACKET)
        gadget.receive(INT_OUT, 8)
        assert link.reply(link.submit_out(INT_OUT, b"12345678", interval=8)).actual == 8
        number = link.submit_control(setup(0x80, GET_DESCRIPTOR, 0x0100, 0, 18))
        assert link.reply(number).data == gadget.model.device_descriptor()
        number = link.submit_control(setup(VENDOR_OUT, SINK, 0, 0, 64), pattern(64))
        assert link.reply(number).actual == 64
        assert gadget.taken()[1] == pattern(64)
    assert direct(export, link, ask) == 4


def test_many_requests_in_one_segment(export, link, gadget):
    """All of them, in their order."""
    def ask():
        queued = [gadget.receive(BULK_OUT, 64) for _ in range(32)]
        packed = [link.pack(OUT, BULK_OUT, 64, data=pattern(64, seed)) for seed in range(32)]
        link.send(b"".join(raw for _, raw in packed))
        for number, _ in packed:
            assert link.reply(number).actual == 64
        assert [one.wait() for one in queued] == [pattern(64, seed) for seed in range(32)]
    assert direct(export, link, ask) == 32


@pytest.mark.parametrize("first", [1, HEADER - 1, HEADER, HEADER + 1, HEADER + 99])
def test_a_request_in_two_parts(export, link, gadget, first):
    """The thread waits for the second."""
    becomes_direct(export, link)
    before = export.statistics()
    received = gadget.receive(BULK_OUT, 100)
    number, raw = link.pack(OUT, BULK_OUT, 100, data=pattern(100))
    link.send(raw[:first])
    vhci.wait_for(lambda: export.statistics()["receives"] == before["receives"] + 1,
                  "the first part to be received")
    link.send(raw[first:])
    assert link.reply(number).actual == 100
    assert received.wait() == pattern(100)
    assert export.statistics()["direct"] == before["direct"]
    becomes_direct(export, link)


def test_what_is_left_to_the_thread(export, link, gadget):
    """What is large, for nobody, carried out by somebody who sleeps, or takes something back."""
    def large_out():
        gadget.receive(BULK_OUT, MOST_OUT + 1)
        number = link.submit_out(BULK_OUT, pattern(MOST_OUT + 1))
        assert link.reply(number).actual == MOST_OUT + 1

    def large_in():
        gadget.send(BULK_IN, pattern(MOST_IN + 1))
        reply = link.reply(link.submit_in(BULK_IN, MOST_IN + 1))
        assert reply.data == pattern(MOST_IN + 1)

    def nowhere():
        assert link.reply(link.submit_in(NOWHERE, 8)).status == -errno.ENOENT

    def unlink():
        victim = link.submit_in(BULK_IN, 8)
        link.asked.pop(victim)
        number = link.unlink(victim)
        assert (reply := link.recv()) == RetUnlink(number, -errno.ECONNRESET), reply

    for what in (large_out, large_in, nowhere, lambda: link.set_interface(0, 0)):
        assert direct(export, link, what) == 0
    # The request itself, but not the CMD_UNLINK.
    assert direct(export, link, unlink) == 1
    becomes_direct(export, link)


def test_a_request_over_the_cap(export, link):
    """A small request that is too much is the thread's to refuse."""
    victims = [link.submit_in(BULK_IN, CAP // 2) for _ in range(2)]
    before = export.statistics()["direct"]
    assert link.reply(link.submit_in(BULK_IN, 1)).status == -errno.ENOMEM
    assert export.statistics()["direct"] == before
    for victim in victims:
        link.asked.pop(victim)
        assert link.unlink(victim) == link.recv().seqnum
    becomes_direct(export, link)


def test_nothing_is_direct_elsewhere(export, gadget):
    link = export.client("unix")
    gadget.send(BULK_IN, b"12345678")
    assert link.reply(link.submit_in(BULK_IN, 8)).data == b"12345678"
    assert export.statistics()["direct"] == 0
    export.check()
