# SPDX-License-Identifier: GPL-2.0
"""The server in a network of its own, so that packets go over a link that can fail."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import peer_stock
import vhci
from peer_stock import attached, available, exported, run
from vhci_server import usbip

pytest_plugins = ("vhci_fixtures",)
pytestmark = pytest.mark.lanes("stock")

HERE, THERE = "192.0.2.1", "192.0.2.2"
BLOCK = 1 << 16


@pytest.fixture(scope="module")
def network():
    """A link between this machine and a network namespace in which usbipd runs."""
    inside = ("ip", "netns", "exec", "peer")
    run("ip", "netns", "add", "peer")
    run("ip", "link", "add", "peer0", "type", "veth", "peer", "name", "peer1", "netns", "peer")
    run("ip", "addr", "add", f"{HERE}/24", "dev", "peer0")
    run("ip", "link", "set", "peer0", "up")
    run(*inside, "ip", "addr", "add", f"{THERE}/24", "dev", "peer1")
    run(*inside, "ip", "link", "set", "peer1", "up")
    daemon = peer_stock.Daemon(*inside)
    yield
    daemon.stop()
    run("ip", "netns", "del", "peer")


def in_flight(disk: str) -> int:
    """Requests that the disk has not answered."""
    return sum(map(int, Path("/sys/class/block", Path(disk).name, "inflight").read_text().split()))


def read(fd: int, offset: int) -> bytes:
    """A block of a disk, nothing if that is gone: before the request it is at its end, during the
    request that fails."""
    try:
        return os.pread(fd, BLOCK, offset)
    except OSError:
        return b""


def test_a_dead_link(network):
    """Detach waits neither for a peer that is not heard from any more, nor for its answers."""
    with exported("storage") as number:
        with attached(number, host=THERE) as device, ThreadPoolExecutor() as pool:
            disk = device.disk()
            with open(disk, "rb", buffering=0) as file:
                assert len(file.read(BLOCK)) == BLOCK
                run("ip", "link", "set", "peer0", "down")
                try:
                    # Far from what has been read ahead.
                    reading = pool.submit(read, file.fileno(), 256 * BLOCK)
                    vhci.wait_for(lambda: in_flight(disk), "a request without an answer")
                    start = time.monotonic()
                    usbip("detach", "-p", str(device.port))
                    vhci.wait_free(device.port)
                    assert time.monotonic() - start < vhci.TEARDOWN
                    assert reading.result(vhci.TEARDOWN) == b""
                finally:
                    run("ip", "link", "set", "peer0", "up")
        # The server hears of it as soon as the link is there again, and all is as before.
        available(number)
        with attached(number, host=THERE) as device:
            with open(device.disk(), "rb", buffering=0) as file:
                assert len(file.read(BLOCK)) == BLOCK
