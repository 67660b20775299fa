# SPDX-License-Identifier: GPL-2.0
"""Allocations that fail: each one of an attach, and those of the threads of a connection."""

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
@pytest.mark.parametrize("name", ["vhci_tx", "vhci_rx"])
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_allocations_of_a_thread(plug, kind, name, nth):
    """Every URB comes back, done or with the connection's end."""
    session = plug(FakeDevice(), kind=kind)
    device = session.usbfs()
    failing = Failing(nth, thread(name))
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
    try:
        failing.end()
    except OSError as error:
        # The thread has ended with its connection.
        assert error.errno == errno.ESRCH
