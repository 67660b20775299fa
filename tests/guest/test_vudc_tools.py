# SPDX-License-Identifier: GPL-2.0
"""Debian's unmodified `usbip` and `usbipd --device` with a gadget: statement 156. A client that is no
kernel, of the Python package `usbip`."""

import random
import re
import subprocess

import pytest
from usbip.classes.host.msc import MSCDriver
from usbip.transport import USBIP

import peer_stock
import vhci
import vudc
from vhci_server import usbip
from vudc_fixtures import host_watched  # noqa: F401  pylint: disable=unused-import

pytest_plugins = ("vhci_fixtures",)
pytestmark = [pytest.mark.usefixtures("host_watched", "watched")]

HERE = "127.0.0.1"
NAME = "usbip-vudc.0"
# Of SCSI and of the bulk-only transport.
TEST_UNIT_READY, FAILED = 0x00, 1


@pytest.fixture(scope="module")
def vudc_driver():
    """One controller: the tool gives up where there is one without a gadget."""
    subprocess.run(["modprobe", "-r", "usbip-vudc"], check=True)
    vudc.load()
    yield
    vudc.unload()


@pytest.fixture
def disk(vudc_driver, tmp_path):
    """A disk of 1 MiB at the first controller."""
    image = tmp_path / "image"
    image.write_bytes(bytes(range(256)) * 4096)
    with vudc.gadget("disk", image):
        peer_stock.settle()
        yield image


@pytest.fixture
def daemon():
    """usbipd runs, for gadgets."""
    one = peer_stock.Daemon(gadgets=True)
    yield one
    one.stop()


def offered() -> list:
    """The bus ids that usbipd offers."""
    done = usbip("list", "-r", HERE, check=False)
    return re.findall(r"^ *(usbip-vudc\.\d+): ", done.stdout, re.MULTILINE)


def test_list_of_this_machine(disk):
    done = usbip("list", "-d")
    assert NAME in done.stdout and "1d6b:" in done.stdout


def test_s156_journey(disk, daemon):
    """List, attach, read, detach, and again."""
    for _ in range(2):
        assert offered() == [NAME]
        with peer_stock.attached(NAME) as remote:
            assert vudc.status(NAME) == vudc.USED
            with open(remote.disk(), "rb") as block:
                assert block.read() == disk.read_bytes()
        vudc.wait_status(NAME)


def test_python_client(disk, daemon):
    """A client in userspace reads and writes the disk."""
    before, new = disk.read_bytes(), random.Random(5).randbytes(64 << 10)
    with MSCDriver.open(busid=NAME, transport=USBIP(HERE, 3240)) as driver:
        # The first command is told that the disk is a new one.
        assert driver.command_out([TEST_UNIT_READY, 0, 0, 0, 0, 0]) == FAILED
        blocks, size = driver.read_capacity()
        assert (blocks * size, size) == (len(before), 512)
        step = 256
        assert b"".join(driver.read_blocks(number, step, size)
                        for number in range(0, blocks, step)) == before
        assert driver.write_blocks(100, new, size) == len(new) // size
    vudc.wait_status(NAME)
    assert disk.read_bytes() == before[:51200] + new + before[51200 + len(new):]


def test_taken(disk, daemon):
    """A second client is told that the gadget is in use, and the first one keeps it."""
    with peer_stock.attached(NAME) as remote:
        done = usbip("attach", "-r", HERE, "-b", NAME, check=False)
        assert done.returncode != 0
        assert remote.disk()
    vudc.wait_status(NAME)


def test_without_a_gadget(vudc_driver, daemon):
    """Controllers without a gadget are not offered."""
    assert vhci.errno_of(vudc.descriptor, NAME) == "ENODEV"
    assert not offered()
    done = usbip("attach", "-r", HERE, "-b", NAME, check=False)
    assert done.returncode != 0
