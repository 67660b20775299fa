# SPDX-License-Identifier: GPL-2.0
"""Isochronous transfers that take place, byte by byte, on the debug kernels: at the device of the
sample. test_host_iso.py has more of them, at a real controller's driver."""

import errno

import pytest

import host
import peer_sample
import vhci
from host_wire import Iso, RetUnlink, cmd_unlink, setup
from peer_sample import ISO, PACKET
from vhci_wire import IN, OUT

pytest_plugins = ("host_fixtures",)
pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml")]


@pytest.fixture(scope="module")
def busid(host_driver):
    """The device in the hands of the server."""
    with peer_sample.plugged() as name, host.exported(name):
        yield name


@pytest.fixture
def iso(busid, host_watched):
    """A connection to it with the isochronous endpoints there."""
    with host.connected(busid) as client:
        client.set_interface(0, peer_sample.PERIODIC)
        yield client
        client.set_interface(0, 0)


def descriptors(count: int, step: int) -> list:
    """Packets of all lengths, with gaps between them."""
    return [Iso(n * step, length, 0, -errno.EXDEV)
            for n, length in enumerate(peer_sample.lengths(count))]


def complete(asked: list) -> list:
    """What becomes of them."""
    return [Iso(one.offset, one.length, one.length, 0) for one in asked]


@pytest.mark.parametrize("step", [PACKET, PACKET + 44])
def test_s129_in(iso, step):
    """In each packet there is the number of its frame, and nothing between the packets."""
    asked = descriptors(64, step)
    numbers = [iso.submit_in(ISO, 64 * step, iso=asked, interval=8) for _ in range(4)]
    free = 0
    for number in numbers:
        reply = iso.reply(number)
        assert (reply.status, reply.packets, reply.errors) == (0, 64, 0)
        assert reply.iso == complete(asked)
        assert reply.data == b"".join(bytes([(reply.start_frame + n) % 256]) * one.length
                                      for n, one in enumerate(asked))
        assert reply.start_frame >= free
        free = reply.start_frame + 64


@pytest.mark.parametrize("step", [PACKET, PACKET + 44])
def test_s129_out(iso, step):
    asked = descriptors(64, step)
    numbers = [iso.submit_out(ISO, bytes(64 * step), iso=asked, interval=8) for _ in range(4)]
    for number in numbers:
        reply = iso.reply(number)
        assert (reply.status, reply.packets, reply.errors) == (0, 64, 0)
        assert (reply.actual, reply.iso) == (sum(one.length for one in asked), complete(asked))


@pytest.mark.parametrize("direction", [IN, OUT], ids=["in", "out"])
def test_s130_the_most_packets(iso, direction):
    asked = [Iso(n, 1, 0, -errno.EXDEV) for n in range(1024)]
    reply = iso.reply(iso.submit(direction, ISO, 1024, iso=asked, interval=8,
                                 data=b"" if direction == IN else bytes(1024)))
    assert (reply.status, reply.actual, reply.packets, reply.errors) == (0, 1024, 1024, 0)
    assert reply.iso == complete(asked)


def at_once(iso, direction: int) -> tuple:
    """Requests for eight seconds of stream: their numbers, and the bytes, to be sent with what ends
    it."""
    asked = [Iso(n, 1, 0, -errno.EXDEV) for n in range(1024)]
    pdus = [iso.pack(direction, ISO, 1024, iso=asked, interval=8,
                     data=b"" if direction == IN else bytes(1024)) for _ in range(8)]
    return [number for number, _ in pdus], b"".join(raw for _, raw in pdus)


@pytest.mark.parametrize("direction", [IN, OUT], ids=["in", "out"])
def test_unlink(iso, direction):
    """A stream is stopped: each request has one reply, its own or that to the unlink; the last ones
    were taken back."""
    numbers, raw = at_once(iso, direction)
    unlinks = {iso.number(): number for number in reversed(numbers)}
    iso.send(raw + b"".join(cmd_unlink(one, iso.devid, victim) for one, victim in unlinks.items()))
    back = []
    while unlinks:
        reply = iso.recv()
        if isinstance(reply, RetUnlink):
            victim = unlinks.pop(reply.seqnum)
            assert reply.status == (-errno.ECONNRESET if iso.asked.pop(victim, None) else 0)
            back.append((victim, reply.status))
    assert dict(back)[numbers[-1]] == -errno.ECONNRESET
    assert not iso.asked


def test_a_setting_ends_a_stream(iso):
    """SET_INTERFACE takes the endpoints away under it."""
    numbers, raw = at_once(iso, IN)
    change, more = iso.pack(OUT, 0, 0, control=setup(1, 11))
    iso.send(raw + more)
    found = iso.replies(len(numbers) + 1)
    assert found[change].status == 0
    last = found[numbers[-1]]
    assert (last.status, last.actual, last.packets) == (-errno.ESHUTDOWN, 0, 1024)
    assert {found[number].status for number in numbers} <= {0, -errno.ESHUTDOWN}


def test_a_reply_is_sent_at_once(busid, host_watched):
    """Where a completion finds interrupts on and the reply is the only one, nobody is woken up for it."""
    with host.connected(busid, "tcp") as client:
        def once() -> bool:
            before = host.statistics(busid)["direct_sends"]
            reply = client.reply(client.submit_in(peer_sample.BULK, 100))
            assert (reply.status, reply.actual) == (0, 100)
            return host.statistics(busid)["direct_sends"] == before + 1
        vhci.wait_for(once, "a reply that is sent at once")
