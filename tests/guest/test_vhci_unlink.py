# SPDX-License-Identifier: GPL-2.0
"""Cancelling URBs: conformance statements 87-90, 95, 96 and what may go wrong with it."""

import errno
import random
import threading
import time

import pytest

import vhci
import vhci_usbfs as usbfs
from vhci_device import FakeDevice
from vhci_session import beyond_c
from vhci_wire import Submit, Unlink, ret_submit, ret_unlink

pytest_plugins = ("vhci_fixtures",)


@pytest.fixture
def session(plug):
    return plug(FakeDevice())


@pytest.fixture
def device(session):
    return session.usbfs()


class Discard(threading.Thread):
    """usbfs unlinks a URB and waits for it to come back: that needs a thread of its own. It holds
    the device's lock meanwhile, so that every other call but reaping waits too."""

    def __init__(self, device, urb):
        super().__init__(daemon=True)
        self.device, self.urb, self.result = device, urb, None
        self.start()

    def run(self):
        self.result = vhci.errno_of(self.device.discard, self.urb)

    def done(self, timeout: float = vhci.SOON):
        """Wait for the unlink to be over; returns the errno name of the call, or None."""
        self.join(timeout)
        assert not self.is_alive(), "the URB was not given back"
        return self.result


def in_step(device):
    assert device.control(0x80, 8, 0, 0, 1) == b"\x01"


def start(session, device, length=64):
    """A URB in flight and its unlink request on the wire: (urb, submit, discard, unlink)."""
    device.submit(urb := usbfs.bulk_in(1, length))
    submit = session.peer.next()
    discard = Discard(device, urb)
    unlink = session.peer.next()
    return urb, submit, discard, unlink


def test_s87_request(session, device):
    urb, submit, discard, unlink = start(session, device)
    assert isinstance(unlink, Unlink)
    assert unlink.victim == submit.seqnum and unlink.seqnum > submit.seqnum
    # s63: nothing but the device is named.
    assert (unlink.devid, unlink.direction, unlink.ep) == (session.devid, 0, 0)
    session.peer.unlinked(unlink)
    assert discard.done() is None
    assert device.reap() is urb and urb.status == -errno.ENOENT
    in_step(device)


@pytest.mark.parametrize("status", [-errno.ECONNRESET, -errno.EPIPE, -errno.ESHUTDOWN, 7,
                                    -errno.EINPROGRESS, -errno.ENOENT])
def test_s88_own_code_wins(session, device, status):
    urb, _, discard, unlink = start(session, device)
    session.peer.unlinked(unlink, status)
    assert discard.done() is None
    assert device.reap() is urb
    assert (urb.status, urb.actual) == (-errno.ENOENT, 0)
    in_step(device)


def test_s88_status_0_alone(session, device):
    """0 says that there is nothing to unlink, so the reply should follow. It does not; the URB
    comes back all the same, in bounded time."""
    urb, _, discard, unlink = start(session, device)
    session.peer.unlinked(unlink, 0)
    assert discard.done(20 * vhci.SLACK) is None
    assert device.reap() is urb and urb.status == -errno.ENOENT


def test_s89_completed_meanwhile(session, device):
    """The reply was on its way; then the unlink finds nothing."""
    for _ in range(5):
        urb, submit, discard, unlink = start(session, device)
        session.peer.complete(submit, data=b"d" * 64)
        session.peer.unlinked(unlink, 0)
        assert discard.done() is None
        assert device.reap() is urb
        # usbcore shows the code of the unlink, with the data that came.
        assert (urb.status, urb.actual, urb.data()) == (-errno.ENOENT, 64, b"d" * 64)
    in_step(device)


@beyond_c
@pytest.mark.parametrize("length,actual", [(64, 64), (64, 0), (65536, 30000)])
def test_unlinked_0_before_the_reply(session, device, length, actual):
    """Some servers answer the unlink before the reply that makes it pointless."""
    urb, submit, discard, unlink = start(session, device, length)
    session.peer.unlinked(unlink, 0)
    session.peer.complete(submit, data=b"d" * actual)
    assert discard.done(20 * vhci.SLACK) is None
    assert device.reap() is urb and urb.status == -errno.ENOENT
    in_step(device)
    assert vhci.port(session.port).state == vhci.USED


def test_answered_twice(session, device):
    """The second answer to an unlink is one to an unknown number, and ignored."""
    urb, _, discard, unlink = start(session, device)
    session.peer.unlinked(unlink)
    session.peer.unlinked(unlink)
    session.peer.unlinked(unlink, 0)
    assert discard.done() is None
    assert device.reap() is urb
    in_step(device)


def test_s77_unknown_unlink(session, device):
    for number in (0, 1, 0xFFFFFFFF, 12345):
        session.peer.send(ret_unlink(number, 0))
        session.peer.send(ret_unlink(number))
    in_step(device)


def test_out_of_a_queue(session, device):
    """URBs cancelled in any order, from the middle of a queue; the others stay."""
    session.peer.auto_unlink = True
    urbs = [device.submit(usbfs.bulk_in(1, 64)) for _ in range(30)]
    submits = {id(urb): session.peer.next() for urb in urbs}
    order = urbs[:]
    random.Random(2).shuffle(order)
    for urb in order[:20]:
        device.discard(urb)
        assert device.reap() is urb and urb.status == -errno.ENOENT
        assert session.peer.unlinks()[-1].victim == submits[id(urb)].seqnum
    for urb in order[20:]:
        session.peer.complete(submits[id(urb)], data=b"s" * 64)
        assert device.reap() is urb and (urb.status, urb.actual) == (0, 64)
    in_step(device)


def test_close_unlinks_everything(session, device):
    """Closing usbfs takes back every URB."""
    session.peer.auto_unlink = True
    for _ in range(10):
        device.submit(usbfs.bulk_in(1, 64))
        device.submit(usbfs.interrupt_in(3, 8))
    # What was not sent yet needs no unlink.
    for _ in range(20):
        session.peer.next()
    device.close()
    vhci.wait_for(lambda: len(session.peer.unlinks()) == 20, "20 unlinks")
    again = session.usbfs()
    in_step(again)


@beyond_c
def test_s90_unlink_never_first(session, device):
    """Submit and cancel at once, many times: on the wire each unlink follows its submit."""
    answered = set()

    def answer(pdu):
        if isinstance(pdu, Unlink):
            session.peer.send(ret_unlink(pdu.seqnum, -errno.ECONNRESET))
            answered.add(pdu.victim)
            return True
        return pdu.ep == 1

    session.peer.handler = answer
    for _ in range(400):
        device.submit(urb := usbfs.bulk_in(1, 64))
        device.discard(urb)
        assert device.reap() is urb and urb.status == -errno.ENOENT
    seen = set()
    for pdu in list(session.peer.log):
        if isinstance(pdu, Submit):
            seen.add(pdu.seqnum)
        else:
            assert pdu.victim in seen, f"unlink {pdu} before its submit"
    assert vhci.port(session.port).state == vhci.USED
    in_step(device)


@beyond_c
def test_s96_race_with_completion(session, device):
    """The peer answers at once or when it sees the unlink, we cancel at once or a little later:
    every order there is, and each URB comes back once."""
    rng = random.Random(7)
    held = set()

    def answer(pdu):
        if isinstance(pdu, Unlink):
            status = -errno.ECONNRESET if pdu.victim in held else 0
            held.discard(pdu.victim)
            session.peer.unlinked(pdu, status)
            return True
        if pdu.ep != 1:
            return False
        if rng.random() < 0.2:
            held.add(pdu.seqnum)
        else:
            session.peer.complete(pdu, data=b"r" * 8)
        return True

    session.peer.handler = answer
    statuses = set()
    for turn in range(300):
        device.submit(urb := usbfs.bulk_in(1, 64))
        if turn % 3:
            time.sleep(0.0005 * (turn % 7))  # spreads the race; nothing depends on it
        vhci.errno_of(device.discard, urb)
        assert device.reap() is urb
        statuses.add(urb.status)
        assert device.reap_now() is None
    assert statuses == {0, -errno.ENOENT}, "one side always won"
    in_step(device)
    assert vhci.port(session.port).state == vhci.USED


@beyond_c
@pytest.mark.lanes("uml", "stock-7.2")
def test_unlink_never_answered(session, device):
    """A silent server ends the connection after a while, not the patience of the driver."""
    urb, _, discard, _ = start(session, device)
    begin = time.monotonic()
    discard.done(30 * vhci.SLACK)
    assert device.reap() is urb and urb.status == -errno.ENOENT
    assert time.monotonic() - begin > 5, "an honest but slow server must have some seconds"
    session.gone()
    session.peer.wait_closed()


@beyond_c
@pytest.mark.lanes("uml-lockdep", "stock-7.2")
def test_unlink_answered_late(session, device):
    """A server that is not silent may take longer: its answer comes behind all replies that wait, and
    the link may be slow."""
    others = [usbfs.bulk_in(1, 64) for _ in range(7)]
    submits = []
    for other in others:
        device.submit(other)
        submits.append(session.peer.next())
    urb, _, discard, unlink = start(session, device)
    for submit in submits:
        time.sleep(2)
        session.peer.send(ret_submit(submit.seqnum, 0, 64, data=b"d" * 64))
    session.peer.send(ret_unlink(unlink.seqnum, -errno.ECONNRESET))
    assert discard.done() is None
    assert device.reap_all(8, vhci.SOON) == [*others, urb]
    assert [other.status for other in others] == [0] * 7 and urb.status == -errno.ENOENT
    in_step(device)


def test_detach_while_unlinking(session, device):
    urb, _, discard, _ = start(session, device)
    vhci.detach(session.port)
    discard.done(vhci.TEARDOWN)
    assert device.reap() is urb and urb.status == -errno.ENOENT
    session.gone()


def test_peer_closes_while_unlinking(session, device):
    urb, _, discard, _ = start(session, device)
    session.peer.close()
    discard.done(vhci.TEARDOWN)
    assert device.reap() is urb and urb.status == -errno.ENOENT
    session.gone()
