# SPDX-License-Identifier: GPL-2.0
"""Connections over each kind of stream socket that may be handed in."""

import random
import subprocess

import pytest

import vhci
import vhci_usbfs as usbfs
from vhci_device import FakeDevice
from vhci_wire import ret_submit

pytest_plugins = ("vhci_fixtures",)

MODULE = {"mptcp": None, "vsock": "vsock_loopback", "tls": "tls"}
ALERT, HANDSHAKE = 21, 22
CLOSE_NOTIFY = b"\x01\x00"
NEW_SESSION_TICKET = b"\x04\x00\x00\x08ticket!!"


@pytest.fixture
def connect(plug):
    """connect(kind) → a session over a socket of that kind."""
    def attach(kind: str):
        if MODULE.get(kind):
            subprocess.run(["modprobe", MODULE[kind]], check=True)
        return plug(FakeDevice(), kind=kind)

    return attach


def transfer(session, device, length: int = 100_001):
    """Data of many segments both ways, and a small request."""
    data = random.Random(length).randbytes(length)
    device.submit(out := usbfs.bulk_out(2, data))
    pdu = session.peer.next()
    assert pdu.data == data
    session.peer.complete(pdu, actual=length)
    assert device.reap() is out and (out.status, out.actual) == (0, length)
    device.submit(in_ := usbfs.bulk_in(1, length))
    session.peer.complete(session.peer.next(), data=data)
    assert device.reap() is in_ and in_.status == 0 and in_.data() == data
    assert device.control(0x80, 8, 0, 0, 1) == b"\x01"


@pytest.mark.parametrize("kind", ["tcp6", "mptcp", "vsock", "tls"])
def test_transfers(connect, kind):
    session = connect(kind)
    transfer(session, session.usbfs())
    vhci.detach(session.port)
    session.gone()
    session.peer.wait_closed()


@pytest.mark.parametrize("kind", ["mptcp", "vsock", "tls"])
def test_peer_closes(connect, kind):
    session = connect(kind)
    device = session.usbfs()
    device.submit(urb := usbfs.bulk_in(1, 64))
    session.peer.next()
    session.peer.close()
    assert device.reap() is urb and urb.status != 0
    session.gone()


def test_tls_tickets_are_no_data(connect):
    """A TLS 1.3 server sends session tickets whenever it likes."""
    session = connect("tls")
    device = session.usbfs()
    vhci.send_tls_record(session.peer.sock, HANDSHAKE, NEW_SESSION_TICKET)
    transfer(session, device, 5000)
    vhci.send_tls_record(session.peer.sock, HANDSHAKE, NEW_SESSION_TICKET * 3)
    transfer(session, device, 5000)


def test_tls_ticket_inside_data(connect):
    """It ends what is received at once, not the data."""
    session = connect("tls")
    device = session.usbfs()
    data = random.Random(3).randbytes(50_000)
    device.submit(urb := usbfs.bulk_in(1, len(data)))
    reply = ret_submit(session.peer.next().seqnum, 0, len(data), data=data)
    session.peer.send(reply[:20_000])
    vhci.send_tls_record(session.peer.sock, HANDSHAKE, NEW_SESSION_TICKET)
    session.peer.send(reply[20_000:])
    assert device.reap() is urb and urb.status == 0 and urb.data() == data
    assert device.control(0x80, 8, 0, 0, 1) == b"\x01"


def test_tls_close_notify_is_an_orderly_end(connect, watched):
    session = connect("tls")
    vhci.send_tls_record(session.peer.sock, ALERT, CLOSE_NOTIFY)
    session.gone()
    assert watched.grep(rf"port {session.port} .*: the peer closed the connection")
