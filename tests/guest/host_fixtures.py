# SPDX-License-Identifier: GPL-2.0
"""Fixtures of the tests of the server.

Test modules name this file in `pytest_plugins` and use `host_watched`. The server is loaded for
each module of tests, because other tests need the other implementation.
"""

import subprocess

import pytest

import host
import host_gadget
import host_redir
import vhci
from host_export import Export
from host_model import Model
from lib import monitor


@pytest.fixture(scope="module")
def host_driver():
    """The server is loaded, and unloaded in the end."""
    subprocess.run(["modprobe", "-r", "usbip-host"], check=True)
    host.load()
    yield
    host.unload()


@pytest.fixture
def host_watched(request, host_driver):
    """No test may leave a kernel report, a thread without a connection, or a stuck task."""
    with vhci.watching(request.node.nodeid) as log:
        yield log


@pytest.fixture(scope="module")
def gadget(host_driver):
    """The scripted device, at high speed: on QEMU's controller where there is one, else behind
    dummy_hcd."""
    if monitor.available():
        one = host_redir.Redirected(Model())
    else:
        host_gadget.load()
        one = host_gadget.Gadget(Model())
    busid = one.busid
    host.wait_own(busid)
    yield one
    one.close()
    vhci.wait_gone(busid)


@pytest.fixture(scope="module")
def export(gadget):
    """The scripted device in the hands of the server."""
    with host.exported(gadget.busid):
        one = Export(gadget)
        yield one
        one.close()
