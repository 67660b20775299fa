# SPDX-License-Identifier: GPL-2.0
"""Allocations that fail: each one of a bind, of a connection, of a request. Who asked gets an error
or what it asked for; nothing is left behind, and the next try works."""

import errno
import os

import pytest

import failslab
import host
import vhci
from failslab import Failing, thread
from host import beyond_c
from host_client import Client, Closed
from host_model import BULK_IN, BULK_OUT, SINK, SOURCE, VENDOR_IN, VENDOR_OUT, pattern
from host_wire import RetUnlink, setup
from vhci_wire import FLAG_DIR_IN, FLAG_SG

pytest_plugins = ("host_fixtures",)
pytestmark = [pytest.mark.usefixtures("host_watched"), beyond_c, pytest.mark.lanes("uml-kasan")]


@pytest.fixture(scope="module", autouse=True)
def on():
    """Allocations fail when they are told to."""
    failslab.switch_on()


REFUSALS = (None, "ENOMEM", "EINVAL", "ENODEV", "EAGAIN")


def each(write, path, check, most: int = 400) -> int:
    """Let each allocation of one write to a file fail. `check(error)` puts things back; returns how
    many there are."""
    fd = os.open(path, os.O_WRONLY)
    try:
        for nth in range(1, most):
            text = write()
            failing = Failing(nth)
            try:
                os.write(fd, text)
                error = None
            except OSError as caught:
                error = errno.errorcode[caught.errno]
            came_to_that = failing.end()
            assert error in REFUSALS and (came_to_that or error is None), error
            check(error)
            if not came_to_that:
                return nth - 1
    finally:
        os.close(fd)
    raise AssertionError("it does not end")


def test_load(host_driver):
    """The last allocations of loading the module, which are its own: it is there, or nothing of it
    is."""
    host.unload()
    with failslab.sparing("bus_add_driver"):
        for error in failslab.loads(host.MODULES[-1]):
            assert (error is None) == (host.DRIVER / "match_busid").exists()
            if host.DRIVER.exists():
                host.unload()
    host.load()


def test_names(host_driver):
    """match_busid."""
    def check(error):
        assert host.table() == ([] if error else ["1-1"])
        if not error:
            host.delete("1-1")

    assert each(lambda: b"add 1-1", host.DRIVER / "match_busid", check) >= 1


def test_bind(gadget):
    """The driver has the device and its files, or neither; the port is claimed or free."""
    busid = gadget.busid
    host.wait_own(busid)
    host.add(busid)
    host.unbind(busid, host.GENERIC)

    def check(error):
        assert host.driver_of(busid) == (None if error else "usbip-host"), error
        for name in ("usbip_status", "usbip_sockfd", "usbip_debug"):
            assert (vhci.USB / busid / name).exists() == (not error)
        if not error:
            assert host.status(busid) == host.AVAILABLE
            host.unbind(busid)

    assert each(busid.encode, host.DRIVER / "bind", check) >= 5
    host.delete(busid)
    host.rebind(busid)
    host.wait_own(busid)
    assert host.table() == []


def test_rebind(gadget):
    """usbcore may give up in the middle; a second try helps."""
    busid = gadget.busid
    host.wait_own(busid)

    def write():
        host.take(busid)
        host.unbind(busid)
        return busid.encode()

    def check(error):
        if host.driver_of(busid) is None:
            host.bind(busid, host.GENERIC)
        elif not host.configuration(busid):
            host.unbind(busid, host.GENERIC)
            host.bind(busid, host.GENERIC)
        host.wait_own(busid)
        if host.table():
            host.delete(busid)

    # All that usbcore allocates for a new configuration is more than is worth the time.
    fd = os.open(host.DRIVER / "rebind", os.O_WRONLY)
    try:
        for nth in range(1, 12):
            text = write()
            failing = Failing(nth)
            error = vhci.errno_of(os.write, fd, text)
            failing.end()
            check(error)
    finally:
        os.close(fd)


def test_connection(export):
    """usbip_sockfd: the client is served, or the device stays available."""
    busid = export.busid
    export.drop()
    pair = []

    def write():
        pair[:] = vhci.stream_pair("tcp")
        return str(pair[0].fileno()).encode()

    def check(error):
        kernel, ours = pair
        kernel.close()
        if error:
            assert host.status(busid) == host.AVAILABLE
        else:
            client = Client(ours, host.devid(busid))
            client.in_step()
        ours.close()
        host.wait_status(busid)
        assert not vhci.kernel_threads(host.THREADS)

    assert each(write, vhci.USB / busid / "usbip_sockfd", check) >= 5


REQUESTS = {
    "control in": lambda link: link.submit_control(setup(VENDOR_IN, SOURCE, 64, 0, 64)),
    "control out": lambda link: link.submit_control(setup(VENDOR_OUT, SINK, 0, 0, 64), pattern(64)),
    "bulk in": lambda link: link.submit_in(BULK_IN, 512),
    "bulk out": lambda link: link.submit_out(BULK_OUT, pattern(512)),
    "sg in": lambda link: link.submit_in(BULK_IN, 100000, flags=FLAG_DIR_IN | FLAG_SG),
    "sg out": lambda link: link.submit_out(BULK_OUT, pattern(100000), flags=FLAG_SG),
    "special": lambda link: link.submit_control(setup(1, 11, 0, 1, 0)),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_request(export, gadget, what):
    """Each allocation of the receiving thread: the request is answered, or the connection ends.
    Then everything works."""
    for nth in range(1, 60):
        link = export.client()
        length = 100000 if what.startswith("sg") else 512
        if what.endswith("in"):
            gadget.send(BULK_IN, pattern(length))
        else:
            gadget.receive(BULK_OUT, length)
        failing = Failing(nth, thread(f"{export.threads}_rx"))
        try:
            reply = link.reply(REQUESTS[what](link))
            assert reply.status in (0, -errno.ENOMEM), reply
        except Closed:
            pass
        try:
            came_to_that = failing.end()
        except ProcessLookupError:
            came_to_that = True  # the thread has ended with its connection
        export.check()
        if not came_to_that:
            return
    raise AssertionError("it does not end")


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_reply(export, gadget, kind, nth):
    """Those of the sending thread: the reply comes late, or the connection ends."""
    link = export.client(kind)
    failing = Failing(nth, thread(f"{export.threads}_tx"))
    try:
        for turn in range(4):
            gadget.send(BULK_IN, pattern(20000, turn))
            reply = link.reply(link.submit_in(BULK_IN, 20000))
            assert (reply.status, reply.data) == (0, pattern(20000, turn))
            unlink = link.unlink(4711)
            assert link.recv() == RetUnlink(unlink, 0)
    except Closed:
        pass
    vhci.errno_of(failing.end)
    export.drop()
    export.client().in_step()
