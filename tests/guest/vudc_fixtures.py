# SPDX-License-Identifier: GPL-2.0
"""Fixtures of the tests of virtual device controllers.

Those that have the names of the server's (`gadget`, `export`, `link`) let the server's tests run
with a controller: a test module imports both.
"""

import subprocess

import pytest

import vhci
import vudc
from host_model import Model


@pytest.fixture(scope="module")
def vudc_driver():
    """The module is loaded, and unloaded in the end."""
    subprocess.run(["modprobe", "-r", "usbip-vudc"], check=True)
    vudc.load("num=2")
    yield
    vudc.unload()


@pytest.fixture
def host_watched(request, vudc_driver):
    """No test may leave a kernel report, a thread without a connection, or a stuck task."""
    with vhci.watching(request.node.nodeid) as log:
        yield log


@pytest.fixture(scope="module")
def gadget(vudc_driver):
    """The scripted device, at high speed."""
    subprocess.run(["modprobe", "raw_gadget"], check=True)
    one = vudc.Scripted(Model())
    try:
        vudc.wait_gadget(one.busid)
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def export(gadget):
    """The scripted device and who uses it."""
    one = vudc.Export(gadget)
    yield one
    one.close()
