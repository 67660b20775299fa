# SPDX-License-Identifier: GPL-2.0
"""QEMU's devices through Debian's usbipd and the C usbip-host: what users do with them works.
Nothing at the other end knows this client."""

import contextlib

import pytest

import peer_ccid
import peer_disk
import peer_keyboard
import peer_serial
import peer_sound
import peer_stock
from peer_stock import attached, available, exported

pytest_plugins = ("vhci_fixtures",)
pytestmark = pytest.mark.lanes("stock")


@pytest.fixture(scope="module")
def daemon():
    """usbipd runs, usbip-host is loaded."""
    one = peer_stock.Daemon()
    yield one
    one.stop()


@pytest.fixture
def remote(daemon):
    """A function that exports and attaches one of QEMU's devices."""
    with contextlib.ExitStack() as stack:
        yield lambda name: stack.enter_context(attached(stack.enter_context(exported(name))))


def test_storage(daemon, tmp_path):
    """Files written through vhci are the same after a new attach, and on the disk itself."""
    with exported("storage") as number:
        with attached(number) as device:
            disk = device.disk()
            peer_disk.mounted(disk, tmp_path, peer_disk.fill)
            before = peer_disk.checksum(disk)
        available(number)
        with attached(number) as device:
            disk = device.disk()
            assert peer_disk.checksum(disk) == before
            there = peer_disk.mounted(disk, tmp_path, peer_disk.files, "-o", "ro")
            assert there.items() >= peer_disk.WRITTEN.items()
    # Not through vhci any more.
    assert peer_disk.local_checksum(number) == before


def test_keyboard(remote, machine):
    """Keys pressed at QEMU's keyboard arrive as events of the device below vhci_hcd."""
    peer_keyboard.check(remote("kbd"), machine.press)


def test_serial(remote):
    """What goes into one end of the line comes out of the other, both ways at once."""
    with peer_serial.adapter(remote("serial")) as node:
        peer_serial.check_both_ways(node, peer_serial.PORT)


def test_smart_card_reader(remote):
    """Commands are answered while an interrupt request waits, and that one can be taken back."""
    peer_ccid.check(remote("ccid"))


def test_headset(remote, tmp_path):
    """Every sample that is played comes out of QEMU's sound card, in order and without a gap."""
    frames = peer_sound.RATE // 2
    peer_sound.play_loudest(remote("audio"), tmp_path, frames, 2)
    peer_sound.wait_heard(frames, 2)
