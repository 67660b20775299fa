# SPDX-License-Identifier: GPL-2.0
"""Next to the kernel's own module, and next to a core of another build: who comes second is
refused with a clear message, changes nothing, and who was there first goes on working."""

import re
import subprocess
from pathlib import Path

import pytest

import host
import vhci
import vudc
from lib import guestlib
from lib.guestlib import MODULES
from vhci_server import Server, usbip

pytestmark = pytest.mark.lanes("stock")

OURS = "vhci_hcd_rs"


@pytest.fixture
def neither():
    """No client is loaded; afterwards ours is loaded again if it was."""
    ours = vhci.loaded(OURS)
    vhci.unload()
    yield
    subprocess.run(["modprobe", "-r", "vhci-hcd"], check=True)
    vhci.unload()
    if ours:
        vhci.load()


def registered() -> dict:
    """What a client registers, as the names in some folders of sysfs."""
    folders = ("bus/platform/devices", "bus/platform/drivers", "bus/usb/devices",
               "bus/workqueue/devices", "devices/platform", "kernel/debug/usbip")
    return {name: sorted(one.name for one in Path("/sys", name).glob("*")) for name in folders}


def insert(path) -> subprocess.CompletedProcess:
    """insmod, which may fail."""
    return subprocess.run(["insmod", str(path)], capture_output=True, text=True, check=False)


def load_core():
    """Loads our core and nothing else."""
    assert insert(MODULES / "usbip_core_rs.ko").returncode == 0


def use():
    """The client that is loaded takes a device and lets it go."""
    server = Server("null")
    try:
        server.usbip("attach", "-r", "127.0.0.1", "-b", "1-1")
        port, = (one for one in guestlib.ports() if not one.free)
        guestlib.wait_for(lambda: Path("/sys/bus/usb/devices", guestlib.port(port.number).busid,
                                       "bConfigurationValue").exists(), 15, "the device")
        usbip("detach", "-p", str(port.number))
        guestlib.wait_for(lambda: guestlib.port(port.number).free, 10, "the port to be free")
    finally:
        server.stop()


def controllers_are_there():
    """Wait until every controller has its root hubs."""
    guestlib.wait_for(lambda: (guestlib.VHCI / "status").exists(), 10, "the status file")
    vhci.wait_for(lambda: all(len(list(one.glob("usb[0-9]*"))) == 2
                              for one in vhci.PLATFORM.glob("vhci_hcd.*")), "the root hubs")


def refused(c, kernel_log):
    """Ours cannot be loaded beside the C module `c`, which goes on as before; the log says what to
    do."""
    ours = f"{c.replace('-', '_')}_rs"
    before = registered()
    done = insert(MODULES / f"{ours}.ko")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Device or resource busy" in done.stderr
    assert not vhci.loaded(ours)
    assert registered() == before
    kernel_log.wait(ours)
    driver = "vhci_hcd" if c == "vhci-hcd" else c
    assert [line for line in kernel_log.lines() if line.startswith(ours)] == [
        f"{ours}: there is a {driver} driver already: unload the C module "
        f"(rmmod {c.replace('-', '_')})"]


def test_the_c_module_is_there_first(neither, kernel_log):
    guestlib.run("modprobe", "vhci-hcd")
    controllers_are_there()
    load_core()
    refused("vhci-hcd", kernel_log)
    use()
    # What the message says helps.
    guestlib.run("rmmod", "vhci_hcd")
    vhci.load("nr_hcs=1")


@pytest.mark.parametrize("c, ours", [("usbip-host", host), ("usbip-vudc", vudc)])
def test_the_c_server_is_there_first(c, ours, neither, kernel_log):
    guestlib.run("modprobe", c)
    load_core()
    refused(c, kernel_log)
    guestlib.run("rmmod", c.replace("-", "_"))
    guestlib.run("rmmod", "usbip_core")
    ours.load()
    ours.unload()


def test_ours_is_there_first(neither, kernel_log):
    vhci.load("nr_hcs=1")
    before = registered()
    done = subprocess.run(["modprobe", "vhci-hcd"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Device or resource busy" in done.stderr
    assert not vhci.loaded("vhci_hcd")
    assert registered() == before
    use()


def crates(path) -> dict:
    """Crate → the hash that the Rust compiler puts into its symbols, of our library crates that a
    module calls."""
    text = guestlib.run("nm", "--undefined-only", str(path))
    return {name: mark for mark, name in
            re.findall(r"Cs([0-9A-Za-z]+)_\d+(kernel_ext|usbip_core|usbip_protocol)", text)}


def test_a_core_of_other_sources(neither, kernel_log, tmp_path):
    """A module built against other sources of the core does not find what it calls."""
    path = MODULES / f"{OURS}.ko"
    found = crates(path)
    assert sorted(found) == ["kernel_ext", "usbip_core", "usbip_protocol"]
    content = path.read_bytes()
    for mark in found.values():
        # As long, and not the same.
        other = mark[:-1] + ("0" if mark[-1] != "0" else "1")
        content = content.replace(f"Cs{mark}_".encode(), f"Cs{other}_".encode())
    stale = tmp_path / path.name
    stale.write_bytes(content)
    load_core()
    before = registered()
    done = insert(stale)
    assert done.returncode == 1 and "Unknown symbol in module" in done.stderr
    assert not vhci.loaded(OURS) and registered() == before
    kernel_log.wait(f"{OURS}: Unknown symbol _R")
    complaints = [line for line in kernel_log.lines() if line.startswith(OURS)]
    assert all(re.fullmatch(rf"{OURS}: Unknown symbol _R\w+ \(err -2\)", line)
               for line in complaints), complaints
    # What was built together works.
    vhci.load("nr_hcs=1")
