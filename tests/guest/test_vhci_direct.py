# SPDX-License-Identifier: GPL-2.0
"""Replies that the client takes in where they arrive, without its receiving thread, and those that are
left to the thread."""

import pytest

import vhci
import vhci_usbfs as usbfs
from vhci_device import FakeDevice
from vhci_session import beyond_c
from vhci_wire import HEADER, Iso, ret_submit
from test_vhci_wire import pattern

pytest_plugins = ("vhci_fixtures",)
pytestmark = [pytest.mark.usefixtures("watched"), pytest.mark.lanes("uml"), beyond_c]

MOST = 4096


@pytest.fixture
def session(plug):
    return plug(FakeDevice(), kind="tcp")


@pytest.fixture
def device(session):
    return session.usbfs()


def count(session, name: str) -> int:
    """A counter of the connection."""
    return vhci.statistic(session.port, name)


def reply(pdu, data: bytes) -> bytes:
    return ret_submit(pdu.seqnum, 0, len(data), data=data)


def becomes_direct(session, device):
    """The thread leaves the socket alone again, as soon as it has nothing to do: from then on a reply is
    taken in directly."""
    def once() -> bool:
        before = count(session, "direct")
        device.submit(urb := usbfs.bulk_in(1, 8))
        session.peer.send(reply(session.peer.next(), b"12345678"))
        assert device.reap() is urb and urb.data() == b"12345678"
        return count(session, "direct") == before + 1
    vhci.wait_for(once, "a reply that is taken in directly")


@pytest.mark.parametrize("length", [0, 1, 47, 48, 49, 512, MOST - 1, MOST])
def test_small_replies(session, device, length):
    becomes_direct(session, device)
    before = count(session, "direct")
    for seed in range(3):
        device.submit(urb := usbfs.bulk_in(1, MOST))
        session.peer.send(reply(session.peer.next(), pattern(length, seed + 1)))
        assert device.reap() is urb and urb.status == 0
        assert (urb.actual, urb.data()[:length]) == (length, pattern(length, seed + 1))
    device.submit(urb := usbfs.bulk_out(2, pattern(length)))
    session.peer.complete(session.peer.next())
    assert device.reap() is urb and urb.status == 0
    assert count(session, "direct") == before + 4


def test_many_replies_in_one_segment(session, device):
    """All of them, in their order."""
    becomes_direct(session, device)
    before = count(session, "direct"), count(session, "receives")
    urbs = [device.submit(usbfs.bulk_in(1, 100)) for _ in range(32)]
    pdus = [session.peer.next() for _ in urbs]
    session.peer.send(b"".join(reply(pdu, pattern(n, n + 1)) for n, pdu in enumerate(pdus)))
    assert device.reap_all(32) == urbs
    for n, urb in enumerate(urbs):
        assert urb.actual == n and urb.data()[:n] == pattern(n, n + 1)
    assert (count(session, "direct"), count(session, "receives")) == (before[0] + 32, before[1] + 1)


@pytest.mark.parametrize("first", [1, 20, HEADER - 1, HEADER, HEADER + 1, HEADER + 99])
def test_a_reply_in_two_parts(session, device, first):
    """The thread waits for the second."""
    becomes_direct(session, device)
    before = count(session, "direct"), count(session, "receives")
    device.submit(urb := usbfs.bulk_in(1, 100))
    whole = reply(session.peer.next(), pattern(100))
    session.peer.send(whole[:first])
    vhci.wait_for(lambda: count(session, "receives") == before[1] + 1, "the first part to be received")
    assert device.reap_now() is None
    session.peer.send(whole[first:])
    assert device.reap() is urb and urb.data() == pattern(100)
    assert count(session, "direct") == before[0]
    becomes_direct(session, device)


def test_a_large_reply_and_a_small_one(session, device):
    """What comes behind a reply for the thread is the thread's as well."""
    becomes_direct(session, device)
    before = count(session, "direct")
    large, small = usbfs.bulk_in(1, MOST + 1), usbfs.bulk_in(1, 10)
    device.submit(large)
    device.submit(small)
    pdus = [session.peer.next() for _ in range(2)]
    session.peer.send(reply(pdus[0], pattern(MOST + 1)) + reply(pdus[1], pattern(10)))
    assert device.reap_all(2) == [large, small]
    assert large.data() == pattern(MOST + 1) and small.data() == pattern(10)
    assert count(session, "direct") == before
    becomes_direct(session, device)


def test_an_isochronous_reply(session, device):
    device.set_interface(0, 1)
    becomes_direct(session, device)
    before = count(session, "direct")
    device.submit(urb := usbfs.iso_in(5, [32] * 2))
    session.peer.complete(session.peer.next(), data=b"i" * 36, packets=2,
                          iso=[Iso(0, 32, 32, 0), Iso(32, 32, 4, 0)])
    assert device.reap() is urb and [n for n, _ in urb.iso] == [32, 4]
    assert count(session, "direct") == before


def test_an_unlink(session, device):
    session.peer.auto_unlink = True
    becomes_direct(session, device)
    before = count(session, "direct")
    device.submit(urb := usbfs.bulk_in(1, 64))
    session.peer.next()
    device.discard(urb)
    assert device.reap() is urb
    vhci.wait_for(lambda: count(session, "direct") == before + 1, "the RET_UNLINK")


def test_the_end_behind_a_reply(session, device):
    """What has come before the end counts."""
    becomes_direct(session, device)
    urbs = [device.submit(usbfs.bulk_in(1, 64)) for _ in range(2)]
    pdus = [session.peer.next() for _ in urbs]
    session.peer.send(reply(pdus[0], pattern(64)))
    session.peer.close()
    assert device.reap_all(2, vhci.TEARDOWN) == urbs
    assert urbs[0].status == 0 and urbs[0].data() == pattern(64)
    assert urbs[1].status < 0
    session.gone()


def test_nothing_is_direct_elsewhere(plug):
    session = plug(FakeDevice(), kind="unix")
    device = session.usbfs()
    device.submit(urb := usbfs.bulk_in(1, 8))
    session.peer.send(reply(session.peer.next(), b"12345678"))
    assert device.reap() is urb and urb.data() == b"12345678"
    assert count(session, "direct") == 0
