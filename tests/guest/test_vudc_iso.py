# SPDX-License-Identifier: GPL-2.0
"""Isochronous transfers of a virtual controller, which C does not have: statements 129, 130 and 143."""

import errno
import time

import pytest

import vhci
import vudc
from host_model import BULK_IN, ISO_IN, ISO_OUT, ISO_PACKET, pattern
from host_wire import Iso, RetUnlink
from vudc_fixtures import *  # noqa: F401,F403  pylint: disable=wildcard-import,unused-wildcard-import

pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml"), vudc.beyond_c]

# Of the scripted device's endpoints, in seconds: bInterval 4 at high speed.
INTERVAL = 0.001


@pytest.fixture
def iso(link, gadget):
    """The connection with the isochronous endpoints there."""
    link.set_interface(0, 1)
    yield link
    gadget.cancel()
    link.set_interface(0, 0)


def packets(count: int, length: int = ISO_PACKET, step: int = ISO_PACKET) -> list:
    """Packets of a request, with gaps between them if the step is longer than they are."""
    return [Iso(number * step, length, 0, -errno.EXDEV) for number in range(count)]


def split(reply) -> list:
    """The data of each packet of a reply whose fields agree with each other."""
    assert reply.packets == len(reply.iso)
    assert reply.actual == sum(one.actual for one in reply.iso)
    assert reply.errors == sum(one.status != 0 for one in reply.iso)
    found, at = [], 0
    for one in reply.iso:
        found.append(reply.data[at:at + one.actual])
        at += one.actual
    return found


@pytest.mark.parametrize("step", [ISO_PACKET, 256], ids=["dense", "gaps"])
def test_s129_in(iso, gadget, step):
    """A packet for each request that the gadget has queued, in order, without what is between them in
    the buffer; an empty one where it has none."""
    sent = [pattern(1 + n * 53 % ISO_PACKET, n) for n in range(40)]
    for one in sent:
        gadget.send(ISO_IN, one)
    found = []
    for _ in range(200):
        reply = iso.reply(iso.submit_in(ISO_IN, 8 * step, iso=packets(8, step=step), interval=4))
        assert reply.status == 0
        assert [(one.offset, one.length) for one in reply.iso] == [
            (n * step, ISO_PACKET) for n in range(8)]
        found += filter(None, split(reply))
        if len(found) >= len(sent):
            break
    assert found == sent


def test_in_of_nothing(iso):
    reply = iso.reply(iso.submit_in(ISO_IN, 4 * ISO_PACKET, iso=packets(4), interval=4))
    assert (reply.status, reply.actual, reply.errors) == (0, 0, 0)
    assert [(one.actual, one.status) for one in reply.iso] == [(0, 0)] * 4


def test_in_overflow(iso, gadget):
    """A packet that the host has no room for fails alone."""
    gadget.send(ISO_IN, pattern(100))
    vhci.wait_for(lambda: not gadget.workers[0x80 | ISO_IN].jobs.qsize(), "it to be queued")
    found = []
    while not any(one.actual for one in found):
        found = iso.reply(iso.submit_in(ISO_IN, 40, iso=packets(1, 40), interval=4)).iso
    assert found == [Iso(0, 40, 40, -errno.EOVERFLOW)]


@pytest.mark.parametrize("count", [1, 8, 64])
def test_s129_out(iso, gadget, count):
    """What the gadget has room for arrives, in order; the host hears nothing of what is lost."""
    taken = [gadget.receive(ISO_OUT, ISO_PACKET) for _ in range(5)]
    lengths = [4 + n * 53 % (ISO_PACKET - 4) for n in range(count)]
    asked = [Iso(n * 256, length, 0, -errno.EXDEV) for n, length in enumerate(lengths)]
    sent = []
    while not all(one.done.is_set() for one in taken):
        data = pattern(count * 256, len(sent) // count)
        reply = iso.reply(iso.submit_out(ISO_OUT, data, iso=asked, interval=4))
        assert (reply.status, reply.actual, reply.errors) == (0, sum(lengths), 0)
        assert reply.iso == [Iso(one.offset, one.length, one.length, 0) for one in asked]
        sent += [data[one.offset:one.offset + one.length] for one in asked]
        assert len(sent) < 200 * count, "nothing arrives"
    places = [sent.index(one.wait()) for one in taken]
    assert places == sorted(set(places))


def test_s130_the_most_packets(iso):
    reply = iso.reply(iso.submit_out(ISO_OUT, pattern(1024 * 8), iso=packets(1024, 8, 8),
                                     interval=4))
    assert (reply.status, reply.actual, reply.packets) == (0, 1024 * 8, 1024)


def test_pace(iso):
    """A stream takes as long as its intervals, however soon its requests come. (How much longer is the
    machine's business.)"""
    count, rounds = 50, 4
    start = time.monotonic()
    numbers = [iso.submit_in(ISO_IN, count * ISO_PACKET, iso=packets(count), interval=4)
               for _ in range(rounds)]
    for number in numbers:
        assert iso.reply(number).status == 0
    assert time.monotonic() - start >= (count * rounds - 1) * INTERVAL


@pytest.mark.parametrize("ep", [ISO_IN, ISO_OUT], ids=["in", "out"])
def test_refused(iso, ep):
    """One with a packet outside of its buffer fails alone, with a descriptor for each packet."""
    bad = [Iso(0, 64), Iso(129, 64), Iso(64, 64)]
    number = (iso.submit_in(ep, 192, iso=bad) if ep == ISO_IN else
              iso.submit_out(ep, pattern(192), iso=bad))
    reply = iso.reply(number)
    assert (reply.status, reply.actual, reply.packets, reply.errors) == (-errno.EINVAL, 0, 3, 3)
    assert reply.iso == [Iso(0, 0, 0, -errno.EINVAL)] * 3
    iso.in_step()


@pytest.mark.parametrize("ep", [ISO_IN, ISO_OUT], ids=["in", "out"])
def test_unlink(iso, ep):
    """A stream is stopped while its packets have their turn."""
    asked = packets(1000)
    numbers = [iso.submit_in(ep, 1000 * ISO_PACKET, iso=asked) if ep == ISO_IN else
               iso.submit_out(ep, bytes(1000 * ISO_PACKET), iso=asked) for _ in range(3)]
    for number in reversed(numbers):
        unlink = iso.unlink(number)
        iso.asked.pop(number)
        assert iso.recv() == RetUnlink(unlink, -errno.ECONNRESET)
    iso.in_step()


def test_setting_ends_a_stream(iso):
    """SET_INTERFACE takes the endpoint away under it."""
    number = iso.submit_in(ISO_IN, 1000 * ISO_PACKET, iso=packets(1000))
    change = iso.submit_control(bytes([1, 11, 0, 0, 0, 0, 0, 0]))
    found = iso.replies(2)
    assert found[change].status == 0
    assert found[number].status == -errno.EPROTO
    iso.in_step()


def test_beside_other_transfers(iso, gadget):
    number = iso.submit_in(ISO_IN, 1000 * ISO_PACKET, iso=packets(1000))
    gadget.send(BULK_IN, b"bulk")
    assert iso.reply(iso.submit_in(BULK_IN, 64)).data == b"bulk"
    unlink = iso.unlink(number)
    iso.asked.pop(number)
    assert iso.recv() == RetUnlink(unlink, -errno.ECONNRESET)
