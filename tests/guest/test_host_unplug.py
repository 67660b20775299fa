# SPDX-License-Identifier: GPL-2.0
"""The device is pulled out, in every phase: statements 109, 131, 132 and defect B18. The client is
told by the end of its connection, nothing hangs, and what is plugged in next works."""

import os
import threading
import time

import pytest

import host
import vhci
from host import beyond_c
from host_client import PORT_RESET, SET_CONFIGURATION, SET_FEATURE, SET_INTERFACE
from host_model import BULK_IN, BULK_OUT, INT_IN, SOURCE, VENDOR_IN, pattern
from host_wire import HEADER, cmd_submit, cmd_unlink, setup
from vhci_wire import FLAG_SG, OUT

pytest_plugins = ("host_fixtures",)
# After an unplug the C driver has a name in its table that it must not be asked about again.
pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml"), beyond_c]


@pytest.fixture
def plugged(gadget):
    """(gadget, client): the device, exported and in use; in the end plugged in and with its own
    driver."""
    busid = gadget.busid
    if not (vhci.USB / busid).exists():
        gadget.plug()
    host.wait_own(busid)
    host.take(busid)
    client = host.connect(busid)
    client.set_configuration(1)
    yield gadget, client
    client.close()
    gadget.hold = lambda one: False
    gadget.plug()
    host.wait_own(busid)
    # The name is still in the table, and still good.
    host.unbind(busid, host.GENERIC)
    host.bind(busid)
    again = host.connect(busid)
    again.in_step()
    again.set_configuration(1)
    again.close()
    host.wait_status(busid)
    host.give_back(busid)
    assert host.table() == []


def pulled(gadget, client) -> bytes:
    """Pull the plug: the device disappears in bounded time, and so does the connection. Returns
    what the client was sent before."""
    start = time.monotonic()
    gadget.unplug()
    rest = client.rest(vhci.TEARDOWN)
    vhci.wait_gone(gadget.busid, vhci.TEARDOWN)
    assert time.monotonic() - start < vhci.TEARDOWN
    vhci.wait_for(lambda: not vhci.kernel_threads(host.THREADS), "the threads to end")
    return rest


def test_s131_idle(plugged):
    assert pulled(*plugged) == b""


def test_s131_available(plugged):
    """Nobody uses it."""
    gadget, client = plugged
    client.close()
    host.wait_status(gadget.busid)
    gadget.unplug()
    vhci.wait_gone(gadget.busid)


def test_s131_in_flight(plugged):
    """Requests of every kind. Some may still be answered, each once and with an error."""
    gadget, client = plugged
    for _ in range(10):
        client.submit_in(BULK_IN, 512)
        client.submit_in(INT_IN, 8, interval=1)
        client.submit_out(BULK_OUT, pattern(100 * 512), flags=FLAG_SG)
    rest = pulled(gadget, client)
    assert len(rest) % HEADER == 0
    seen = [rest[at + 4:at + 8] for at in range(0, len(rest), HEADER)]
    assert len(seen) == len(set(seen))
    for at in range(0, len(rest), HEADER):
        assert rest[at + 20:at + 24] != bytes(4), "nothing was transferred"


def test_s131_in_the_middle_of_a_request(plugged):
    """The server is waiting for the rest of the data."""
    gadget, client = plugged
    client.send(cmd_submit(9, client.devid, OUT, BULK_OUT, 100000, data=pattern(5000)))
    pulled(gadget, client)


def test_s131_in_the_middle_of_a_header(plugged):
    gadget, client = plugged
    client.send(cmd_submit(9, client.devid, OUT, BULK_OUT, 0)[:30])
    pulled(gadget, client)


def test_s131_while_the_client_does_not_read(plugged):
    """The sender is stuck in a full window."""
    gadget, client = plugged
    length = 300000
    for turn in range(4):
        client.submit_in(BULK_IN, length)
        gadget.send(BULK_IN, pattern(length, turn)).wait()
    pulled(gadget, client)


@pytest.mark.parametrize("control", [
    setup(0, SET_CONFIGURATION, 2), setup(0, SET_CONFIGURATION, 0), setup(1, SET_INTERFACE, 1, 0),
    setup(VENDOR_IN, SOURCE, 9, 0, 9)], ids=["configuration", "none", "interface", "vendor"])
def test_s132_while_the_device_thinks(plugged, control):
    """B18: it has got a control request and not answered."""
    gadget, client = plugged
    gadget.hold = lambda one: True
    client.submit_control(control)
    gadget.held.get(timeout=vhci.SOON)
    pulled(gadget, client)


def test_s132_while_it_is_configured(plugged):
    """At some moment of many changes of configuration."""
    gadget, client = plugged
    stop = threading.Event()

    def configure():
        try:
            while not stop.is_set():
                for value in (2, 0, 1):
                    client.submit_control(setup(0, SET_CONFIGURATION, value))
                client.replies(3)
        except Exception:  # pylint: disable=broad-except
            pass  # the end of the connection

    thread = threading.Thread(target=configure)
    thread.start()
    since = len(gadget.requests)
    vhci.wait_for(lambda: len(gadget.requests) > since + 5, "requests")
    gadget.unplug()
    stop.set()
    vhci.wait_gone(gadget.busid, vhci.TEARDOWN)
    thread.join(vhci.TEARDOWN)
    assert not thread.is_alive()


def test_s132_while_it_is_reset(plugged):
    """By the client's request."""
    gadget, client = plugged
    resets = gadget.resets
    client.submit_control(setup(0x23, SET_FEATURE, PORT_RESET, 1))
    vhci.wait_for(lambda: gadget.resets > resets, "a reset", step=0.001)
    pulled(gadget, client)


def test_s131_while_it_is_reset_after_a_client(plugged):
    """By the end of the last client's connection."""
    gadget, client = plugged
    resets = gadget.resets
    client.close()
    vhci.wait_for(lambda: gadget.resets > resets, "a reset", step=0.001)
    gadget.unplug()
    vhci.wait_gone(gadget.busid, vhci.TEARDOWN)


def test_s131_while_requests_are_taken_back(plugged):
    gadget, client = plugged
    numbers = [client.submit_in(BULK_IN, 64) for _ in range(200)]
    raw = b"".join(cmd_unlink(1000 + one, client.devid, one) for one in numbers)
    thread = threading.Thread(target=vhci.errno_of, args=(client.sock.sendall, raw))
    thread.start()
    pulled(gadget, client)
    thread.join(vhci.SOON)


def test_s131_while_it_is_unbound(plugged):
    """Two reasons to leave at once."""
    gadget, client = plugged
    for _ in range(20):
        client.submit_in(BULK_IN, 64)
    thread = threading.Thread(target=vhci.errno_of, args=(host.unbind, gadget.busid))
    thread.start()
    gadget.unplug()
    client.rest(vhci.TEARDOWN)
    vhci.wait_gone(gadget.busid, vhci.TEARDOWN)
    thread.join(vhci.TEARDOWN)
    assert not thread.is_alive()


def test_s109_unload_afterwards(plugged):
    """The module has no device any more, and none to give back."""
    gadget, client = plugged
    pulled(gadget, client)
    host.unload()
    host.load()
    host.add(gadget.busid)


def test_s131_file_that_stays_open(plugged):
    """usbip_status and usbip_sockfd of a device that is gone."""
    gadget, client = plugged
    path = vhci.USB / gadget.busid
    status = os.open(path / "usbip_status", os.O_RDONLY)
    sockfd = os.open(path / "usbip_sockfd", os.O_WRONLY)
    try:
        assert os.pread(status, 10, 0) == b"2\n"
        pulled(gadget, client)
        assert vhci.errno_of(os.pread, status, 10, 0) == "ENODEV"
        assert vhci.errno_of(os.write, sockfd, b"-1") == "ENODEV"
    finally:
        os.close(status)
        os.close(sockfd)
