# SPDX-License-Identifier: GPL-2.0
"""Allocations that fail: each one of an attach, and those of the threads of a connection."""

import contextlib
import errno
import os

import pytest

import failslab
import vhci
import vhci_usbfs as usbfs
from failslab import Failing, thread
from vhci_device import FakeDevice
from vhci_peer import Peer
from vhci_session import DEVID
from vhci_wire import Iso

pytest_plugins = ("vhci_fixtures",)
pytestmark = pytest.mark.lanes("uml-kasan")


@pytest.fixture(scope="module", autouse=True)
def on():
    """Allocations fail when they are told to."""
    failslab.switch_on()


def test_each_allocation_of_an_attach():
    """Whichever fails: the writer gets an error, and the port is free; or the device works."""
    number = vhci.hs()
    attach = os.open(vhci.VHCI / "attach", os.O_WRONLY)
    errors = []
    try:
        for nth in range(1, 400):
            kernel, ours = vhci.stream_pair("unix")
            peer = Peer(ours, FakeDevice()).auto()
            line = f"{number} {kernel.fileno()} {DEVID} {vhci.HIGH}".encode()
            failing = Failing(nth)
            try:
                os.write(attach, line)
                error = None
            except OSError as caught:
                error = caught.errno
            came_to_that = failing.end()
            kernel.close()
            if error is None:
                vhci.wait_configured(number)
                vhci.detach(number)
            else:
                assert error in (errno.ENOMEM, errno.EINVAL), os.strerror(error)
                assert came_to_that
                errors.append(error)
            vhci.wait_free(number)
            peer.close()
            if not came_to_that:
                break
        else:
            pytest.fail("an attach does not end")
    finally:
        os.close(attach)
    assert len(errors) >= 5, "the allocations of an attach were not reached"
    assert errno.ENOMEM in errors


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_allocations_for_sending(plug, nth):
    """The socket's. Every URB comes back, done or with the connection's end."""
    session = plug(FakeDevice(), kind="unix")
    device = session.usbfs()
    failing = Failing(nth, thread("vhci_tx"))
    urbs = []
    for _ in range(6):
        urb = usbfs.control_urb(bytes((0x80, 6, 0, 1, 0, 0, 18, 0)), 18)
        refused = vhci.errno_of(device.submit, urb)
        # From the end of the connection on nothing is taken any more.
        assert refused in (None, "ENODEV")
        if not refused:
            urbs.append(urb)
    assert {id(device.reap()) for _ in urbs} == {id(urb) for urb in urbs}
    assert {urb.status for urb in urbs} <= {0, -errno.ESHUTDOWN}
    # A thread that has ended did so for it.
    with contextlib.suppress(ProcessLookupError):
        assert failing.end()


@pytest.fixture
def without_memory():
    """See :func:`failslab.without_memory`."""
    with failslab.without_memory() as choose:
        yield choose


def test_sending_without_memory(plug, without_memory):
    """TCP waits for memory. That does not keep a detach waiting, and the URB comes back."""
    session = plug(FakeDevice(), kind="tcp")
    device = session.usbfs()
    without_memory(thread("vhci_tx"))
    device.submit(urb := usbfs.bulk_out(2, b"x" * 64))
    session.peer.nothing()
    vhci.detach(session.port)
    assert device.reap(vhci.TEARDOWN) is urb and urb.status == -errno.ESHUTDOWN
    session.gone()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_receiving_without_memory(plug, without_memory, kind):
    """An isochronous reply larger than the buffer needs a larger one. Without it the URB comes back
    with an error, and the connection goes on."""
    session = plug(FakeDevice(), kind=kind)
    device = session.usbfs()
    device.set_interface(0, 1)
    device.submit(urb := usbfs.iso_in(5, [512] * 128))
    request = session.peer.next()
    without_memory(thread("vhci_rx"))
    packets = [Iso(one.offset, one.length, one.length, 0) for one in request.iso]
    session.peer.complete(request, data=b"i" * 65536, packets=len(packets), iso=packets)
    assert device.reap() is urb
    assert (urb.status, urb.actual) == (-errno.EPROTO, 0)
    assert set(urb.iso) == {(0, -errno.EXDEV)}
    assert device.control(0x80, 8, 0, 0, 1) == b"\x01"
    assert vhci.port(session.port).state == vhci.USED
