# SPDX-License-Identifier: GPL-2.0
"""The module of virtual device controllers as userspace sees it.

What differs between implementations is here and nowhere else. Which one is loaded says
:data:`VUDC` (environment RUSBIP_VUDC, `rust` unless set to `c`).
"""

import contextlib
import os
import socket
import subprocess
from pathlib import Path

import pytest

import host_configfs
import host_gadget
import peer_stock
import vhci
from host_client import Client, Closed

VUDC = os.environ.get("RUSBIP_VUDC", "rust")
MODULES = {"c": ["usbip_core", "usbip_vudc"], "rust": ["usbip_core_rs", "usbip_vudc_rs"]}[VUDC]
DRIVER = Path("/sys/bus/platform/drivers/usbip-vudc")
PLATFORM = Path("/sys/devices/platform")
UDCS = Path("/sys/class/udc")
THREADS = r"vudc_(rx|tx)"

AVAILABLE, USED = 1, 2

# Until a controller that was in use is available again.
RECOVERY = 2.0 * vhci.SLACK

# A test of a property that this module has and the contract with the C driver does not ask for.
beyond_c = pytest.mark.skipif(VUDC == "c", reason="a property of this module")


# --- the module -------------------------------------------------------------------------------

def load(*parameters: str):
    """Load it, which must not be there yet."""
    assert not DRIVER.exists(), "a driver usbip-vudc is loaded already"
    # C's own symbols, of which the kernel's modules for gadgets are made.
    subprocess.run(["modprobe", "udc-core"], check=True)
    for name in MODULES:
        if vhci.loaded(name):
            continue
        directory = os.environ.get("RUSBIP_MODULES") if VUDC == "rust" else None
        command = ["insmod", f"{directory}/{name}.ko"] if directory else ["modprobe", name]
        subprocess.run([*command, *(parameters if name == MODULES[-1] else ())], check=True)
    assert DRIVER.exists()


def unload():
    """Unload it; what it shares with other modules stays while they need it."""
    subprocess.run(["rmmod", MODULES[-1]], check=True)


# --- a controller -----------------------------------------------------------------------------

def path(name: str) -> Path:
    """The folder of a controller."""
    return PLATFORM / name


def status(name: str) -> int:
    """usbip_status: one digit and the end of the line."""
    text = (path(name) / "usbip_status").read_text()
    assert len(text) == 2 and text[1] == "\n" and text[0] in "12", text
    return int(text[0])


def wait_status(name: str, value: int = AVAILABLE, timeout: float = RECOVERY):
    """Wait for a state."""
    vhci.wait_for(lambda: status(name) == value, f"{name} to have the status {value}", timeout)


def sockfd(name: str, text) -> int:
    """Write to usbip_sockfd: the number of a socket, or -1."""
    return vhci.write_raw(path(name) / "usbip_sockfd", str(text))


def descriptor(name: str) -> bytes:
    """The device descriptor of the gadget."""
    return (path(name) / "dev_desc").read_bytes()


def has_gadget(name: str) -> bool:
    """Whether there is a gadget that can be had."""
    try:
        return bool(descriptor(name))
    except OSError:
        return False


def wait_gadget(name: str):
    """Wait for a gadget."""
    vhci.wait_for(lambda: has_gadget(name), f"the gadget of {name}")


def hand_over(name: str, kernel: socket.socket, ours: socket.socket) -> Client:
    """Give one end of a connection to a controller, and close our copy of it as usbipd does. The
    id of the device is what usbipd tells clients: 0-0."""
    with kernel:
        sockfd(name, f"{kernel.fileno()}\n")
    return Client(ours, 0)


def connect(name: str, kind: str = "unix") -> Client:
    """Hand one end of a new connection to a controller; returns the client at the other."""
    return hand_over(name, *vhci.stream_pair(kind))


@contextlib.contextmanager
def attached(name: str, speed: int = vhci.HIGH, kind: str = "tcp"):
    """The gadget of a controller, attached by the client of this kernel; yields it there."""
    one, other = vhci.stream_pair(kind)
    with one, other:
        sockfd(name, one.fileno())
        number = vhci.port_for(speed)
        vhci.attach(number, other.fileno(), 0, speed)
    try:
        yield peer_stock.Remote(number)
    finally:
        peer_stock.detach(number)
        wait_status(name)


@contextlib.contextmanager
def gadget(*configurations: list, name: str = "usbip-vudc.0", **options):
    """A gadget of the kernel's at a controller."""
    one = host_configfs.Gadget(*configurations, udc=name, **options)
    try:
        wait_gadget(name)
        yield one
    finally:
        one.close()


class Scripted(host_gadget.Gadget):
    """The scripted device as the gadget of a controller."""

    udc = "usbip-vudc"
    has_iso = True

    @property
    def busid(self) -> str:
        """The name by which clients ask for it."""
        return self.name


class Export:
    """A controller and the client that uses it, for as many tests as the connection survives."""

    # What the names of the connection's threads begin with.
    threads = "vudc"

    def __init__(self, device):
        self.device = device
        self.busid = device.busid
        self.connection = None
        # Resets of the device before this connection.
        self.resets = 0

    def client(self, kind: str = "unix", configured: bool = True) -> Client:
        """The connection, a new one if there is none; in configuration 1 unless told otherwise."""
        if self.connection is None or kind != "unix" or not configured:
            self.drop()
            self.resets = self.device.resets
            self.connection = connect(self.busid, kind)
            if configured:
                self.connection.set_configuration(1)
        return self.connection

    def check(self):
        """After a test: whoever comes next finds what this test found, or starts anew."""
        self.device.hold = lambda setup: False
        self.device.cancel()
        if self.connection is None:
            return
        usable = False
        try:
            if self.connection.sock.fileno() >= 0 and not self.connection.asked:
                self.connection.in_step()
                model = self.device.model
                usable = model.configuration == 1 and not model.settings.get(0)
        except (Closed, AssertionError):
            pass
        if not usable:
            self.drop()

    def statistics(self) -> dict:
        """The counters of the connection."""
        text = Path("/sys/kernel/debug/usbip-vudc", self.busid).read_text()
        return {name: int(value) for name, value in (line.split() for line in text.splitlines()
                                                    if not line.startswith("rtt_us"))}

    def wait(self):
        """Wait until the controller is available."""
        wait_status(self.busid)

    def end(self):
        """End the connection as an administrator does."""
        sockfd(self.busid, -1)

    def drop(self):
        """End the connection, if there is one, and wait until the controller is available."""
        if self.connection is None:
            return
        self.connection.close()
        self.connection = None
        wait_status(self.busid)
        # The device hears of it later, and may still be busy with what it was asked before.
        vhci.wait_for(lambda: self.device.resets > self.resets, "the device to be reset")
        self.device.ask(lambda: None)

    def close(self):
        """End whatever there is."""
        self.device.hold = lambda setup: False
        self.device.cancel()
        self.drop()
        vhci.wait_for(lambda: not vhci.kernel_threads(THREADS), "the threads to end")
