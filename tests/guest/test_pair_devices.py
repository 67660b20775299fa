# SPDX-License-Identifier: GPL-2.0
"""Two machines: what users do with QEMU's devices that another machine has."""

from concurrent.futures import ThreadPoolExecutor

import pytest

import peer_ccid
import peer_disk
import peer_keyboard
import peer_serial
import peer_sound
import vhci
from lib import monitor, pair
from peer_stock import run

pytest_plugins = ("vhci_fixtures", "pair_fixtures")
pytestmark = [pytest.mark.lanes("pair"), pytest.mark.usefixtures("watched_server")]
# What is the same in test_peer_stock where only the client is ours.
RUST_SERVER = pytest.mark.pairs("rust-rust", "rust-c")


def test_list(server):
    """What is bound and not in use is on offer, and nothing else."""
    assert server.offers() == {}
    with server.exported("kbd") as keyboard, server.exported("ccid") as reader:
        assert server.offers() == {keyboard: "0627:0001", reader: "08e6:4433"}
        with server.attached(keyboard):
            assert server.offers() == {reader: "08e6:4433"}
        server.available(keyboard)
        assert server.offers() == {keyboard: "0627:0001", reader: "08e6:4433"}
    assert server.offers() == {}


def test_storage(server, tmp_path):
    """Files that are written are the same after a new attach, and on the disk itself."""
    with server.exported("storage") as number:
        with server.attached(number) as device:
            disk = device.disk()
            peer_disk.mounted(disk, tmp_path, peer_disk.fill)
            before = peer_disk.checksum(disk)
        server.available(number)
        with server.attached(number) as device:
            disk = device.disk()
            assert peer_disk.checksum(disk) == before
            there = peer_disk.mounted(disk, tmp_path, peer_disk.files, "-o", "ro")
            assert there.items() >= peer_disk.WRITTEN.items()
    assert pair.call(peer_disk.local_checksum, number) == before


@RUST_SERVER
def test_keyboard(remote):
    """Keys pressed at the server's keyboard arrive as events."""
    peer_keyboard.check(remote("kbd"), lambda key: pair.call(monitor.press, key))


@RUST_SERVER
def test_serial(remote):
    """What goes into one end of the line comes out of the other, both ways at once."""
    with peer_serial.adapter(remote("serial")) as node, ThreadPoolExecutor() as pool:
        far = pool.submit(pair.call, peer_serial.talk, peer_serial.PORT, "port", "adapter")
        peer_serial.talk(node, "adapter", "port")
        far.result()


@RUST_SERVER
def test_smart_card_reader(remote):
    """Commands are answered while an interrupt request waits, and that one can be taken back."""
    peer_ccid.check(remote("ccid"))


@RUST_SERVER
def test_headset(remote, tmp_path):
    """Every sample that is played comes out of the server's sound card, in order, without a gap."""
    frames = peer_sound.RATE // 2
    peer_sound.play_loudest(remote("audio"), tmp_path, frames, 2)
    pair.call(peer_sound.wait_heard, frames, 2)


def test_unbound(server):
    """A device that its server takes back is gone at the client."""
    with server.exported("kbd") as number:
        with server.attached(number) as device:
            pair.call(run, "usbip", "unbind", "-b", number)
            vhci.wait_free(device.port)
            vhci.wait_gone(device.path.name)
        pair.call(run, "usbip", "bind", "-b", number)
        server.available(number)
        with server.attached(number) as device:
            device.bound("usbhid")
