# SPDX-License-Identifier: GPL-2.0
"""The other end as distributions ship it: usbipd, the C usbip-host, and QEMU's USB devices.

Everything is in one guest: what QEMU's controller has is exported, and attached again over TCP.
"""

import contextlib
import re
import signal
import subprocess
from pathlib import Path

import vhci
from vhci_server import usbip

DRIVER = Path("/sys/bus/usb/drivers/usbip-host")
# Vendor and product of the devices in QEMU.
IDS = {"storage": "46f4:0001", "kbd": "0627:0001", "audio": "46f4:0002", "serial": "0403:6001",
       "ccid": "08e6:4433"}
# Of those that a test plugs in.
MORE_IDS = {"tablet": "0627:0001"}
# What tells those apart that have the same.
PRODUCTS = {"kbd": "QEMU USB Keyboard", "tablet": "QEMU USB Tablet"}
# State of a device bound to usbip-host: waiting for a client.
AVAILABLE = "1"


def busid(name: str) -> str:
    """The bus id of one of QEMU's devices, on the controller that is no vhci."""
    wanted = (IDS | MORE_IDS)[name]

    def find():
        for device in vhci.USB.glob("[0-9]*-*"):
            with contextlib.suppress(OSError):
                vendor, product, what = ((device / one).read_text().strip()
                                         for one in ("idVendor", "idProduct", "product"))
                if (f"{vendor}:{product}" == wanted and what == PRODUCTS.get(name, what)
                        and "/pci" in str(device.resolve())):
                    return device.name
        return None

    return vhci.wait_for(find, f"QEMU's {name}", vhci.ENUMERATION)


def drivers(device: Path) -> list:
    """Names of the drivers of a device's interfaces, in order; None for one without."""
    found = []
    for interface in sorted(device.glob(f"{device.name}:*")):
        driver = interface / "driver"
        found.append(driver.resolve().name if driver.exists() else None)
    return found


def settle():
    """Wait until udev has handled what there was to handle."""
    subprocess.run(["udevadm", "settle", "--timeout=60"], check=True)


class Daemon:
    """Debian's usbipd in the foreground, with the C usbip-host unless there is a driver of that
    name already; `prefix` is put in front of its command line. With `gadgets` it serves those."""

    def __init__(self, *prefix: str, gadgets: bool = False):
        if not gadgets and not DRIVER.exists():
            subprocess.run(["modprobe", "usbip-host"], check=True)
        command = [*prefix, "usbipd", *(["--device"] if gadgets else [])]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        vhci.wait_for(lambda: listening(prefix) or self.process.poll() is not None, "usbipd")
        assert self.process.poll() is None, "usbipd has ended"

    def stop(self):
        """Ends it as an init system would."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(vhci.SOON)


def listening(prefix=(), port: int = 3240) -> bool:
    """Whether somebody listens on the port of USB/IP, or on another one."""
    done = subprocess.run([*prefix, "ss", "-Hltn", "sport", "=", f":{port}"], capture_output=True,
                          text=True, check=True)
    return f":{port}" in done.stdout


@contextlib.contextmanager
def exported(name: str):
    """One of QEMU's devices bound to usbip-host; yields its bus id. Afterwards its own drivers
    have it again."""
    number, before = export(name)
    try:
        available(number)
        yield number
    finally:
        unexport(number, before)


def export(name: str) -> tuple:
    """Binds one of QEMU's devices to usbip-host; returns its bus id and the drivers that it had."""
    number = busid(name)
    settle()
    before = drivers(vhci.USB / number)
    assert before
    usbip("bind", "-b", number)
    return number, before


def unexport(number: str, before: list):
    """Gives a device back to the drivers that it had."""
    usbip("unbind", "-b", number)
    has_drivers(number, before)


def has_drivers(number: str, names: list):
    """Wait until the interfaces of a device have these drivers."""
    vhci.wait_for(lambda: drivers(vhci.USB / number) == names, f"the drivers {names} of {number}",
                  vhci.ENUMERATION)


def available(number: str):
    """Wait until the server would give a device to a client."""

    def is_available():
        try:
            return (DRIVER / number / "usbip_status").read_text().strip() == AVAILABLE
        except OSError:
            return False

    vhci.wait_for(is_available, f"{number} to be available", vhci.ENUMERATION)


class Remote:
    """An attached device: its port, and its sysfs directory below vhci_hcd."""

    def __init__(self, number: int):
        self.port = number
        self.path = vhci.wait_configured(number)

    def bound(self, *names: str):
        """Wait until the interfaces have these drivers, in order."""
        vhci.wait_for(lambda: drivers(self.path) == list(names),
                      f"{names} instead of {drivers(self.path)}", vhci.ENUMERATION)

    def usbfs(self) -> str:
        """The node of the device in /dev/bus/usb."""
        return vhci.devnode(self.path)

    def node(self, pattern: str) -> str:
        """The device node of a class device below this device, e.g. node("block/sd?")."""

        def find():
            for device in sorted(Path("/sys/class").glob(pattern)):
                if f"/{self.path.name}/" in str(device.resolve()):
                    uevent = (device / "uevent").read_text()
                    file = Path("/dev", re.search(r"^DEVNAME=(.*)$", uevent, re.MULTILINE)[1])
                    return str(file) if file.exists() else None
            return None

        return vhci.wait_for(find, f"{pattern} of {self.path.name}", vhci.ENUMERATION)


    def disk(self, *others: str) -> str:
        """The node of the disk, when its medium is known. The device may have other interfaces behind
        that, with these drivers."""
        self.bound("usb-storage", *others)
        node = self.node("block/sd?")

        def readable():
            # Its name and size are there before it can be opened.
            with contextlib.suppress(OSError), open(node, "rb") as disk:
                return int(Path("/sys/class/block", Path(node).name, "size").read_text()) and disk
            return None

        vhci.wait_for(readable, f"the medium of {node}", vhci.ENUMERATION)
        settle()
        return node


@contextlib.contextmanager
def attached(number: str, host: str = "127.0.0.1", port: int = 3240):
    """A remote device attached with the unmodified tool; yields a :class:`Remote`."""
    before = {one.number for one in vhci.busy_ports()}
    usbip("--tcp-port", str(port), "attach", "-r", host, "-b", number)
    taken, = {one.number for one in vhci.busy_ports()} - before
    try:
        remote = Remote(taken)
        yield remote
    finally:
        detach(taken)


def detach(taken: int):
    """`usbip detach`, unless the port is free already, and the end of the device."""
    if vhci.port(taken).state != vhci.NULL:
        busid_there = vhci.port(taken).busid
        usbip("detach", "-p", str(taken))
        vhci.wait_free(taken)
        vhci.wait_gone(busid_there)


def run(*argv, **options) -> str:
    """A program that must succeed; returns its standard output."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout
