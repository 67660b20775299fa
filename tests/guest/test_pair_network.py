# SPDX-License-Identifier: GPL-2.0
"""Two machines and a network between them that is not as it should be."""

import hashlib
import random
import signal
import time
from collections import Counter

import pytest

import pair_link
import pair_server
import peer_disk
import vhci
from lib import pair
from peer_disk import MIB, Traffic
from vhci_server import usbip

pytest_plugins = ("vhci_fixtures", "pair_fixtures")
pytestmark = [pytest.mark.lanes("pair"), pytest.mark.usefixtures("watched_server")]

# Of the disk: beyond all files.
PLACE = (peer_disk.AREA, MIB)
# TCP_USER_TIMEOUT, in seconds: Documentation/usb/usbip.rst, "Limits".
LIMIT = 30
# Much less than that, and much more than TCP waits until it sends something again.
OUTAGE = 4
DELAY_MS, JITTER_MS = 10, 2
# What netem does to either direction.
FAULTS = {
    "loss": ["loss", "3%"],
    "reorder": ["delay", "5ms", "reorder", "75%"],
    "duplicate": ["duplicate", "20%"],
    "corrupt": ["corrupt", "2%"],
    "delay": ["delay", f"{DELAY_MS}ms", f"{JITTER_MS}ms"],
}


def counted() -> Counter:
    """The counters of both guests together."""
    return Counter(pair_link.counters()) + Counter(pair.call(pair_link.counters))


def happened(fault: str, count: Counter) -> bool:
    """Whether the network has done this, from what was counted meanwhile. What TCP does by itself
    must not be enough."""
    if fault == "loss":
        return count["dropped"] > 0
    if fault == "reorder":  # without a loss nothing else makes a gap
        return count["TcpExtTCPOFOQueue"] > 0 and not count["dropped"]
    if fault == "duplicate":  # more came twice than was sent twice
        twice = count["TcpExtTCPDSACKOldSent"] + count["TcpExtTCPDSACKOfoSent"]
        return twice > count["TcpRetransSegs"]
    if fault == "corrupt":
        return count["TcpInCsumErrors"] > 0
    return pair_link.round_trip() >= 2 * (DELAY_MS - JITTER_MS)


# Users of TCP see the same of each fault: slowness. So one is enough where one end is in C.
@pytest.mark.parametrize("fault", [
    pytest.param(one, marks=() if one == "loss" else pytest.mark.pairs("rust-rust"))
    for one in FAULTS])
def test_a_bad_network(server, fault):
    """A device is enumerated, and data written, read and there as they should be."""
    data = random.Random(fault).randbytes(MIB)
    with server.exported("storage") as number:
        with pair_link.disturbed(*FAULTS[fault]):
            before = counted()
            with server.attached(number) as device:
                disk = device.disk()
                peer_disk.write(disk, PLACE[0], data)
                assert peer_disk.checksum(disk, *PLACE) == hashlib.sha256(data).hexdigest()
                count = counted() - before
                assert happened(fault, count), count
    assert pair.call(peer_disk.local_checksum, number, *PLACE) == hashlib.sha256(data).hexdigest()


@pytest.mark.pairs("rust-rust")
def test_a_short_outage(server):
    """A request waits for the link to come back, and so does the connection."""
    with server.exported("storage") as number, server.attached(number) as device:
        with Traffic(device.disk()) as traffic:
            with pair_link.cut():
                before = traffic.done
                # What had arrived when the link went is still worked on.
                vhci.stays(lambda: traffic.done <= before + 1, "no data", OUTAGE)
            traffic.wait_flowing()


@pytest.mark.pairs("rust-rust")
def test_a_cut_cable(server, watched):
    """TCP gives the connections up in bounded time, one with a request in flight and one without."""
    if vhci.CLIENT == "c":
        pytest.skip("this client does not notice by itself that its server is silent")
    with server.exported("storage") as stick, server.exported("kbd") as keyboard:
        with server.attached(stick) as busy, server.attached(keyboard) as idle:
            with Traffic(busy.disk()) as traffic, pair_link.cut():
                start = time.monotonic()
                for device in (busy, idle):
                    vhci.wait_free(device.port, LIMIT + vhci.TEARDOWN)
                    vhci.wait_gone(device.path.name)
                traffic.wait_over()
                assert time.monotonic() - start < LIMIT + vhci.TEARDOWN
                # ETIMEDOUT, or EHOSTUNREACH if the peer's Ethernet address was asked for meanwhile.
                ends = watched.grep(
                    r"^vhci_hcd_rs: port \d+ .*: connection lost, error -11[03] \(URBs")
                assert len(ends) == 2, watched.lines()
        for number in (stick, keyboard):
            server.has_noticed(number)
            with server.attached(number):
                pass


@pytest.mark.pairs("rust-rust", "c-rust")
def test_detached_without_a_link(server):
    """Detaching waits neither for a peer that is not heard from, nor for what it owes."""
    with server.exported("storage") as number:
        with server.attached(number) as device, Traffic(device.disk()) as traffic:
            pair_link.plug(False)
            try:
                start = time.monotonic()
                usbip("detach", "-p", str(device.port))
                vhci.wait_free(device.port)
                vhci.wait_gone(device.path.name)
                traffic.wait_over()
                assert time.monotonic() - start < vhci.TEARDOWN
            finally:
                pair_link.plug(True)
        # The server hears of it as soon as there is a link again.
        server.available(number)
        with server.attached(number) as device, Traffic(device.disk()):
            pass


@pytest.mark.pairs("rust-rust", "rust-c")
@pytest.mark.parametrize("where", ["server", "client"])
def test_reset(server, where):
    """A connection that either end gives up is over at both, and they can start again."""
    with server.exported("storage") as number:
        with server.attached(number) as device, Traffic(device.disk()) as traffic:
            connections = pair.call(pair_link.reset) if where == "server" else pair_link.reset()
            assert connections == 1
            vhci.wait_free(device.port)
            vhci.wait_gone(device.path.name)
            traffic.wait_over()
        server.available(number)
        with server.attached(number) as device, Traffic(device.disk()):
            pass


@pytest.mark.pairs("rust-rust")
def test_usbipd_killed(server):
    """What is attached goes on without the daemon; nothing new comes until there is one again."""
    with server.exported("storage") as stick, server.exported("kbd") as keyboard:
        with server.attached(stick) as device:
            disk = device.disk()
            pair.call(pair_server.stop, signal.SIGKILL)
            try:
                for command, answer in (("list", "could not connect to server:3240: "),
                                        ("attach", "tcp connect\n")):
                    done = usbip(command, "-r", server.HOST, "-b", keyboard, check=False)
                    assert done.returncode == 1 and f"usbip: error: {answer}" in done.stderr
                with Traffic(disk):
                    pass
            finally:
                pair.call(pair_server.serve)
            assert server.offers() == {keyboard: "0627:0001"}
            with Traffic(disk):
                pass
