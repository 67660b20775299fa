# SPDX-License-Identifier: GPL-2.0
"""Two machines: the one with the device connects to the one that uses it, with `ssh -R`, because it
cannot be connected to, or is not to be."""

import hashlib
import random

import pytest

import pair_server
import pair_tunnel
import peer_disk
import peer_stock
import vhci
from lib import pair
from peer_disk import MIB, Traffic
from vhci_server import usbip

pytest_plugins = ("vhci_fixtures", "pair_fixtures")
pytestmark = [pytest.mark.lanes("pair"), pytest.mark.usefixtures("watched_server"),
              pytest.mark.pairs("rust-rust")]

HERE = "localhost"


@pytest.fixture(scope="module")
def gate():
    """sshd of this guest; its public key."""
    with pair_tunnel.gate() as key:
        yield key


def test_disk(server, gate):
    """What is written through the tunnel is read through it, and on the disk itself."""
    data = random.Random("tunnel").randbytes(2 * MIB)
    with server.exported("storage") as number:
        with pair_tunnel.tunnel(gate), peer_stock.attached(number, host=HERE) as device:
            disk = device.disk()
            peer_disk.write(disk, peer_disk.AREA, data)
            assert peer_disk.checksum(disk, peer_disk.AREA, len(data)) == hashlib.sha256(
                data).hexdigest()
        server.available(number)
    assert pair.call(peer_disk.local_checksum, number, peer_disk.AREA,
                     len(data)) == hashlib.sha256(data).hexdigest()


def kill():
    """ssh, at the device."""
    pair.call(pair_tunnel.kill)


def reset():
    """The connection that ssh leads through."""
    assert pair_tunnel.reset() == 1


def test_the_tunnel_ends(server, gate):
    """Under traffic, for either reason. The device is lost, and there again through the next
    tunnel."""
    with server.exported("storage") as number:
        for end in (kill, reset):
            with pair_tunnel.tunnel(gate), peer_stock.attached(number, host=HERE) as device:
                with Traffic(device.disk()) as traffic:
                    end()
                    vhci.wait_free(device.port)
                    vhci.wait_gone(device.path.name)
                    traffic.wait_over()
            pair.call(pair_server.wait_idle)
            server.available(number)
            done = usbip("list", "-r", HERE, check=False)
            assert done.returncode and f"could not connect to {HERE}:3240: " in done.stderr
        with pair_tunnel.tunnel(gate), peer_stock.attached(number, host=HERE) as device:
            with Traffic(device.disk()):
                pass
