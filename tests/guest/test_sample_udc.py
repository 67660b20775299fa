# SPDX-License-Identifier: GPL-2.0
"""The sample of a device controller: what a gadget sends comes back to it."""

import os
import random
import subprocess
from pathlib import Path

import pytest

import host_configfs
import peer_serial
from lib import guestlib

pytestmark = pytest.mark.lanes("uml")

MODULE = "sample_udc_rs"
NAME = "sample_udc.0"
STATE = Path("/sys/class/udc", NAME, "state")


@pytest.fixture(autouse=True)
def sample(module):
    subprocess.run(["modprobe", "udc-core"], check=True)
    module(MODULE)
    assert state() == "not attached"


@pytest.fixture
def gadget():
    """A serial line."""
    one = host_configfs.Gadget("serial", udc=NAME)
    yield one
    one.close()


def state() -> str:
    return STATE.read_text().strip()


def configured():
    guestlib.wait_for(lambda: state() == "configured", 5, "the gadget to be configured")


def test_configured(gadget):
    """The host selects the configuration, and is gone with the gadget's wish to be seen."""
    configured()
    gadget.unbind()
    assert state() == "not attached"
    gadget.bind()
    configured()


def test_echo(gadget):
    configured()
    fd = peer_serial.raw("/dev/ttyGS0")
    try:
        for turn in range(20):
            data = random.Random(turn).randbytes(1 + turn * 37)
            assert os.write(fd, data) == len(data)
            assert peer_serial.read(fd, len(data)) == data
    finally:
        os.close(fd)


def test_unbound_in_use(gadget):
    """The requests of the gadget come back, and it works again."""
    configured()
    fd = peer_serial.raw("/dev/ttyGS0")
    os.write(fd, b"lost or not")
    gadget.unbind()
    os.close(fd)
    gadget.bind()
    configured()
    test_echo(gadget)


def test_the_controller_goes(gadget):
    """Unloading unbinds the gadget."""
    configured()
    subprocess.run(["rmmod", MODULE], check=True)
    assert not STATE.exists()
    # What ends the test expects to find it.
    guestlib.run("insmod", str(guestlib.MODULES / f"{MODULE}.ko"))
