# SPDX-License-Identifier: GPL-2.0
"""Which sockets are taken, and devices that claim more than their port."""

import socket
import struct
import subprocess

import pytest

import vhci
import vhci_usbfs as usbfs
from vhci_device import INT_ATTR, Endpoint, FakeDevice
from vhci_peer import Peer
from vhci_session import DEVID, beyond_c

pytest_plugins = ("vhci_fixtures",)


def refused(sock, number=None) -> str:
    number = vhci.hs() if number is None else number
    return vhci.errno_of(vhci.attach, number, sock.fileno(), DEVID, vhci.HIGH)


NOT_CONNECTED = ("EINVAL", "ENOTCONN")


@beyond_c
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_unconnected(family):
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        assert refused(sock) in NOT_CONNECTED
        if family != socket.AF_UNIX:
            sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        else:
            sock.bind("")
        sock.listen(1)
        assert refused(sock) in NOT_CONNECTED
    assert vhci.port(vhci.hs()).state == vhci.NULL


@beyond_c
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_already_shut_down(kind):
    kernel, ours = vhci.stream_pair(kind)
    with kernel, ours:
        kernel.shutdown(socket.SHUT_RDWR)
        assert refused(kernel) in NOT_CONNECTED
    assert vhci.port(vhci.hs()).state == vhci.NULL


@beyond_c
def test_same_socket_twice():
    kernel, ours = vhci.stream_pair()
    with kernel:
        peer = Peer(ours, FakeDevice()).auto()
        vhci.attach(vhci.hs(0), kernel.fileno(), DEVID, vhci.HIGH)
        assert refused(kernel, vhci.hs(1)) in ("EBUSY", "EINVAL")
        copy = kernel.dup()
        assert refused(copy, vhci.hs(1)) in ("EBUSY", "EINVAL")
        copy.close()
        # The first connection has not noticed.
        vhci.wait_configured(vhci.hs(0))
        vhci.detach(vhci.hs(0))
        peer.wait_closed()
        vhci.wait_free(vhci.hs(0))
    peer.close()


@beyond_c
def test_both_ends_of_a_pair():
    """A connection of the client with itself ends, whichever way, and hurts nobody."""
    kernel, ours = vhci.stream_pair()
    with kernel, ours:
        vhci.attach(vhci.hs(0), kernel.fileno(), DEVID, vhci.HIGH)
        if refused(ours, vhci.hs(1)) is None:
            # Both send requests where a reply is due.
            vhci.wait_free(vhci.hs(1))
        else:
            vhci.detach(vhci.hs(0))
        vhci.wait_free(vhci.hs(0))


class FakeHub(FakeDevice):
    """A high-speed hub of two ports with something plugged into the second."""

    def __init__(self):
        super().__init__(vhci.HIGH, alternates=[[Endpoint(0x81, INT_ATTR, 1, 12)]],
                         cls=(9, 0, 0), device_class=(9, 0, 1), vendor=self.hub_request)
        self.status = {1: [0x0100, 0], 2: [0x0101, 1]}
        self.port_requests = []

    def hub_request(self, setup, _data):
        if (setup.request_type, setup.request) == (0xA0, 6):
            return bytes([9, 0x29, 2, 9, 0, 1, 0, 0, 0xFF])
        if (setup.request_type, setup.request) == (0xA0, 0):
            return bytes(4)
        port = self.status.get(setup.index & 0xFF)
        if (setup.request_type, setup.request) == (0xA3, 0) and port:
            return struct.pack("<HH", *port)
        if setup.request_type == 0x23 and port:
            self.port_requests.append((setup.request, setup.value, setup.index))
            if setup.request == 3 and setup.value == 4:
                port[0], port[1] = 0x0503, port[1] | 0x10
            if setup.request == 1 and 16 <= setup.value < 32:
                port[1] &= ~(1 << (setup.value - 16))
            return b""
        if setup.request_type == 0x20:
            return b""
        return None


@beyond_c
def test_child_of_a_hub_stays_with_its_connection(plug):
    """A device behind an attached hub belongs to the hub's connection, or is refused. It never
    reaches the device that happens to be on the root port of the same number."""
    neighbour = plug(FakeDevice(), index=1)
    hub = plug(FakeHub(), index=0, configured=False)
    # The hub is a device like others; what is behind it may or may not come up.
    hub.peer.handler = lambda pdu: pdu.ep != 0
    vhci.wait_for(lambda: vhci.port(hub.port).state == vhci.USED or hub.peer.closed.is_set(),
                  "the hub", vhci.ENUMERATION)
    before, line = len(neighbour.peer.log), vhci.port(neighbour.port).line
    # Long enough for a child to be reset and asked for its descriptor.
    vhci.stays(lambda: len(neighbour.peer.log) == before and
               vhci.port(neighbour.port).line == line,
               "the neighbour got requests that were not for it", 3.0)
    with neighbour.usbfs() as device:
        device.submit(urb := usbfs.bulk_in(1, 8))
        neighbour.peer.complete(neighbour.peer.next(), data=b"n" * 8)
        assert device.reap() is urb and urb.data() == b"n" * 8
    vhci.detach(hub.port)
    hub.gone()
    assert vhci.port(neighbour.port).line == line


# --- who may attach ---------------------------------------------------------------------------

@beyond_c
def test_root_without_capability(plug):
    """What the mode of a file allows is not enough, or root of a container could do it."""
    kernel, ours = vhci.stream_pair()
    with kernel, ours:
        text = f"{vhci.hs()} {kernel.fileno()} {DEVID} {vhci.HIGH}"
        assert vhci.errno_of(vhci.write_without_admin, vhci.VHCI / "attach", text,
                             kernel.fileno()) == "EPERM"
    assert vhci.port(vhci.hs()).state == vhci.NULL
    session = plug(FakeDevice())
    assert vhci.errno_of(vhci.write_without_admin, vhci.VHCI / "detach",
                         str(session.port)) == "EPERM"
    assert session.usbfs().control(0x80, 8, 0, 0, 1) == b"\x01"


@beyond_c
def test_require_tls(plug, watched):
    """Connections that are not encrypted, or only one way, are not taken if an administrator says
    so; those that are there stay."""
    subprocess.run(["modprobe", "tls"], check=True)
    device = plug(FakeDevice()).usbfs()
    with vhci.parameter("usbip_core_rs", "require_tls", "Y"):
        for kind in ("unix", "tcp"):
            kernel, ours = vhci.stream_pair(kind)
            with kernel, ours:
                assert refused(kernel, vhci.hs(1)) == "EACCES"
        kernel, ours = vhci.stream_pair("tcp")
        with kernel, ours:
            vhci.start_tls(kernel, ours, back=False)
            assert refused(kernel, vhci.hs(1)) == "EACCES"
        assert len(watched.grep(r"port 1: descriptor \d+ is not encrypted by kernel TLS, which "
                                "require_tls asks for$")) == 3
        assert vhci.port(vhci.hs(1)).state == vhci.NULL
        after = plug(FakeDevice(), kind="tls", index=1).usbfs()
        assert after.control(0x80, 8, 0, 0, 1) == b"\x01"
    assert device.control(0x80, 8, 0, 0, 1) == b"\x01"
