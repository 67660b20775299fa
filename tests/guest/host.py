# SPDX-License-Identifier: GPL-2.0
"""The server module as userspace sees it: the files of the driver and of exported devices.

What differs between implementations is here and nowhere else. Which one is loaded says
:data:`HOST` (environment RUSBIP_HOST, `rust` unless set to `c`).
"""

import contextlib
import os
import socket
import subprocess
from pathlib import Path

import pytest

import vhci
from host_client import Client

HOST = os.environ.get("RUSBIP_HOST", "rust")
MODULES = {"c": ["usbip_core", "usbip_host"], "rust": ["usbip_core_rs", "usbip_host_rs"]}[HOST]
DRIVERS = Path("/sys/bus/usb/drivers")
DRIVER = DRIVERS / "usbip-host"
# The driver of USB devices that nobody else wants, and of root hubs.
GENERIC = DRIVERS / "usb"
THREADS = r"stub_(rx|tx)"

AVAILABLE, USED, ERROR = 1, 2, 3

# Until a device that was in use is available again: it is reset, and on the emulated controllers a
# reset takes a third of a second.
RECOVERY = 5.0 * vhci.SLACK

# A test of a property that this server has and the contract with the C driver does not ask for.
beyond_c = pytest.mark.skipif(HOST == "c", reason="a property of this server")
# A test of the debug kernels that says something about a real controller's driver as well, and asks
# for no more than usbredir can do.
controller_too = pytest.mark.lanes("stock-7.2")


# --- the module -------------------------------------------------------------------------------

def load(*parameters: str):
    """Load the server, which must not be there yet."""
    assert not DRIVER.exists(), "a driver usbip-host is loaded already"
    vhci.load_modules(MODULES, HOST == "rust", *parameters)
    assert (DRIVER / "match_busid").exists() and (DRIVER / "rebind").exists()


def unload():
    """Unload the server; what it shares with other modules stays while they need it."""
    subprocess.run(["rmmod", MODULES[-1]], check=True)


# --- files of the driver ----------------------------------------------------------------------

def table() -> list:
    """The names in match_busid; each is followed by a blank, and all by the end of the line."""
    text = (DRIVER / "match_busid").read_text()
    assert text.endswith("\n") and text.count("\n") == 1, text
    names = text[:-1].split(" ")
    assert names.pop() == "", text
    return names


def match_busid(line) -> int:
    return vhci.write_raw(DRIVER / "match_busid", line)


def add(busid: str) -> int:
    return match_busid(f"add {busid}")


def delete(busid: str) -> int:
    return match_busid(f"del {busid}")


def rebind(busid: str) -> int:
    return vhci.write_raw(DRIVER / "rebind", busid)


def bind(busid: str, driver: Path = DRIVER) -> int:
    return vhci.write_raw(driver / "bind", busid)


def unbind(busid: str, driver: Path = DRIVER) -> int:
    return vhci.write_raw(driver / "unbind", busid)


def driver_of(busid: str):
    """The name of the driver that a device has, or None."""
    link = vhci.USB / busid / "driver"
    return link.resolve().name if link.exists() else None


def wait_driver(busid: str, name: str | None, timeout: float = vhci.ENUMERATION):
    """Wait until a device is there and has this driver."""
    vhci.wait_for(lambda: (vhci.USB / busid).exists() and driver_of(busid) == name,
                  f"{busid} to have the driver {name}", timeout)


def interface_drivers(busid: str) -> list:
    """The names of the drivers of a device's interfaces; None for one without."""
    found = []
    for interface in sorted((vhci.USB / busid).glob(f"{busid}:*")):
        link = interface / "driver"
        found.append(link.resolve().name if link.exists() else None)
    return found


def configuration(busid: str) -> str:
    """The active configuration as sysfs has it; empty if there is none."""
    return (vhci.USB / busid / "bConfigurationValue").read_text().strip()


def wait_own(busid: str):
    """Wait until a device is with the generic driver again, and configured."""
    wait_driver(busid, "usb")
    vhci.wait_for(lambda: configuration(busid), f"{busid} to be configured", vhci.ENUMERATION)


# --- exported devices -------------------------------------------------------------------------

def status(busid: str) -> int:
    """usbip_status: one digit and the end of the line."""
    text = (vhci.USB / busid / "usbip_status").read_text()
    assert len(text) == 2 and text[1] == "\n" and text[0] in "123", text
    return int(text[0])


def wait_status(busid: str, value: int = AVAILABLE, timeout: float = RECOVERY):
    """Wait for a state; an error, unless it is waited for, is final."""
    seen = []

    def check():
        seen[:] = [status(busid)]
        assert seen[0] != ERROR or value == ERROR, f"{busid} is unusable"
        return seen[0] == value

    try:
        vhci.wait_for(check, f"{busid} to have the status {value}", timeout)
    except vhci.Timeout as error:
        raise vhci.Timeout(f"{error}; it has {seen}") from None


def sockfd(busid: str, text) -> int:
    """Write to usbip_sockfd: the number of a socket, or -1."""
    return vhci.write_raw(vhci.USB / busid / "usbip_sockfd", str(text))


def devid(busid: str) -> int:
    """The id by which clients name a device."""
    path = vhci.USB / busid
    return int((path / "busnum").read_text()) << 16 | int((path / "devnum").read_text())


def connect(busid: str, kind: str = "") -> Client:
    """Hand one end of a new connection to an available device; returns the client at the other."""
    kernel, ours = vhci.stream_pair(kind)
    return hand_over(busid, kernel, ours)


@contextlib.contextmanager
def connected(busid: str, kind: str = ""):
    """Yields the client of a new connection, in configuration 1. Afterwards the device is available."""
    client = connect(busid, kind)
    try:
        client.set_configuration(1)
        yield client
    finally:
        client.close()
        wait_status(busid)


def statistics(busid: str, folder: str = "usbip-host") -> dict:
    """The counters of a connection."""
    text = Path("/sys/kernel/debug", folder, busid).read_text()
    return {name: int(value) for name, value in (line.split() for line in text.splitlines()
                                                if not line.startswith("rtt_us"))}


def hand_over(busid: str, kernel: socket.socket, ours: socket.socket) -> Client:
    """Give one end of a connection to a device, and close our copy of it as usbipd does."""
    with kernel:
        sockfd(busid, f"{kernel.fileno()}\n")
    return Client(ours, devid(busid))


def take(busid: str):
    """What `usbip bind` does: from the driver that has the device to the server."""
    if (driver := driver_of(busid)) is not None:
        unbind(busid, DRIVERS / driver)
    add(busid)
    bind(busid)


def give_back(busid: str):
    """What `usbip unbind` does, and the device is with its own driver again."""
    unbind(busid)
    delete(busid)
    rebind(busid)
    wait_own(busid)


@contextlib.contextmanager
def exported(busid: str):
    """A device in the hands of the server; with its own driver afterwards, however it ended."""
    wait_own(busid)
    take(busid)
    try:
        yield busid
    finally:
        if driver_of(busid) == "usbip-host":
            give_back(busid)
