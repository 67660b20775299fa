# SPDX-License-Identifier: GPL-2.0
"""The module of virtual device controllers as userspace sees it.

What differs between implementations is here and nowhere else. Which one is loaded says
:data:`VUDC` (environment RUSBIP_VUDC, `rust` unless set to `c`).
"""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import host_configfs
import host_export
import host_gadget
import vhci
from host_client import Client

VUDC = os.environ.get("RUSBIP_VUDC", "rust")
MODULES = {"c": ["usbip_core", "usbip_vudc"], "rust": ["usbip_core_rs", "usbip_vudc_rs"]}
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
    vhci.load_modules(MODULES[VUDC], VUDC == "rust", *parameters)
    assert DRIVER.exists()


def unload():
    """Unload it; what it shares with other modules stays while they need it."""
    subprocess.run(["rmmod", MODULES[VUDC][-1]], check=True)


def use(implementation: str):
    """Load an implementation, of which none is loaded."""
    global VUDC
    VUDC = implementation
    load()


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


def connect(name: str, kind: str = "") -> Client:
    """Hand one end of a new connection to a controller; returns the client at the other."""
    return hand_over(name, *vhci.stream_pair(kind))


def attached(name: str, speed: int = vhci.HIGH):
    """The gadget of a controller, attached by the client of this kernel; gives it there."""
    return host_export.joined(sys.modules[__name__], name, 0, speed)


@contextlib.contextmanager
def gadget(script: str, *arguments, name: str = "usbip-vudc.0", kind=host_configfs.Gadget, **options):
    """A gadget of the kernel's at a controller, made by a script."""
    one = kind(script, *arguments, udc=name, **options)
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


class Export(host_export.Export):
    """A controller and the client that uses it, for as many tests as the connection survives."""

    server = sys.modules[__name__]
    threads = "vudc"
    folder = "usbip-vudc"

    def is_configured(self) -> bool:
        return self.device.model.configuration == 1

    def drop(self):
        if self.connection is None:
            return
        super().drop()
        # The device hears of it later, and may still be busy with what it was asked before.
        vhci.wait_for(lambda: self.device.resets > self.resets, "the device to be reset")
        self.device.ask(lambda: None)
