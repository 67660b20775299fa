# SPDX-License-Identifier: GPL-2.0
"""The two guests of a pair are what the other tests take for granted. Without these the lane could
pass because it tested nothing."""

import os
import re

import pytest

import peer_stock
import vhci
from lib import monitor, pair
from peer_stock import run

pytestmark = pytest.mark.lanes("pair")


def test_devices_are_at_the_server():
    """All of QEMU's, and none at the client."""
    for name in peer_stock.IDS:
        assert pair.call(peer_stock.busid, name)
    assert not [one for one in vhci.USB.glob("[0-9]*-[0-9]") if "/pci" in str(one.resolve())]


def test_each_guest_is_what_it_is_called():
    """Each with the kernel that was asked for."""
    here, there = run("uname", "-nr"), pair.call(run, "uname", "-nr")
    assert here.startswith(f"client {os.environ['RUSBIP_KERNEL']}.")
    assert there.startswith(f"server {os.environ['RUSBIP_SERVER_KERNEL']}.")


def test_there_is_no_way_out():
    """Each guest knows the other, and nobody else."""
    for routes in (run("ip", "route"), pair.call(run, "ip", "route")):
        assert re.fullmatch(r"10\.77\.0\.0/24 dev eth0 [^\n]*\n", routes)


def test_either_monitor_is_its_own(machine):
    """The functions of tests/lib/monitor.py reach the QEMU of the guest that they run in."""
    assert "xhci.0" in pair.call(monitor.hmp, "info qtree")
    assert "rusbip.agent,server=on" not in machine.hmp("info chardev")
    assert "unix:/run/link/agent,server=on" in pair.call(monitor.hmp, "info chardev")


def test_what_fails_at_the_server_fails_here():
    """With the server's own words; the next call works."""
    with pytest.raises(pair.ServerFailed, match=r"\('ls', '/nonexistent'\): 2\n(.*\n)*.*No such"):
        pair.call(run, "ls", "/nonexistent")
    assert pair.call(pair.shell, "echo out; echo err >&2; exit 3") == [3, "out\nerr\n"]
