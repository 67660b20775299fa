# SPDX-License-Identifier: GPL-2.0
"""Sets up what is measured, inside the guest: devices, servers, clients."""

import contextlib
import os
import subprocess
from pathlib import Path

import host_configfs
import vhci
from lib import guestlib
from lib.guestlib import run, wait_for

PROGRAMS = Path(os.environ.get("RUSBIP_BIN", "/programs"))
CLIENT = {"c": "vhci-hcd", "rust": "vhci_hcd_rs"}
SERVER = {"c": "usbip-host", "rust": "usbip_host_rs"}
# The fastest for those in Rust; each gadget says how fast it is.
CONTROLLERS = {"c vudc": ("usbip-vudc", {}), "rust vudc": ("usbip_vudc_rs", {"max_speed": 5})}
CONTROLLER = "usbip-vudc.0"
DRIVER = Path("/sys/bus/usb/drivers/usbip-host")
PLATFORM = Path("/sys/devices/platform")
USB = Path("/sys/bus/usb/devices")
# Part of the path of what is attached; and where the devices themselves are.
REMOTE = "/vhci_hcd"
LOCAL = {"sample": "/sample_hcd", "disk": "/pci"}
# Vendor and product; endpoints for IN and OUT. Those of a gadget are its controller's choice.
# By the ids of Gadget Zero the kernel's usbtest knows what it can test.
GADGET_ZERO = ("0525", "a4a0")
IDS = {"null": ("1209", "0002"), "sample": GADGET_ZERO}
ENDPOINTS = {"null": ("1", "2"), "sample": ("2", "2")}
# As AREA in tests/server/src/disk.rs.
AREA_MIB = 16
IMAGE = Path("/dev/shm/gadget-disk")
SECONDS = 20


# The speed, and what of samples/gadget makes it. Source and sink: 32 requests of 16 KiB, which is the
# size that the kernel's mass storage uses; they do not look at the data.
_SOURCE = ("source-sink", "--pattern", 2, "--length", 16384, "--depth", 32)
GADGETS = {"gadget": (vhci.HIGH, _SOURCE), "gadget-ss": (vhci.SUPER, _SOURCE),
           "gadget-disk": (vhci.HIGH, ("disk", IMAGE))}
IDS |= {"gadget": GADGET_ZERO, "gadget-ss": GADGET_ZERO, "gadget-disk": ("1209", "0003")}


def folder(device, where):
    """The sysfs folder of a device that is ready to be used, below some controller; None if there
    is none."""
    for file in USB.glob("*/idProduct"):
        # One that goes away meanwhile is none.
        with contextlib.suppress(OSError):
            one = file.parent
            ids = tuple((one / name).read_text().strip() for name in ("idVendor", "idProduct"))
            if (ids == IDS[device] and where in str(one.resolve())
                    and (one / "bConfigurationValue").read_text().strip()):
                return one.resolve()
    return None


def block(where):
    """The sysfs folder of the disk below some controller, None if there is none."""
    for one in Path("/sys/block").glob("sd*"):
        with contextlib.suppress(OSError):
            if where in str(one.resolve()) and int((one / "size").read_text()):
                return one.resolve()
    return None


def endpoints(found):
    """The numbers of the bulk endpoints for IN and OUT of a device's interface 0, None for what is
    not there yet."""
    numbers = {}
    for one in found.glob("*:*.0/ep_*"):
        if (one / "type").read_text().strip() == "Bulk":
            numbers[(one / "direction").read_text().strip()] = str(int(one.name[3:], 16) & 0xf)
    return numbers.get("in"), numbers.get("out")


def target(device, where):
    """What tells usbip-bench-client to measure a device, None while that is not there."""
    if device in ("disk", "gadget-disk"):
        found = block(where)
        return ["--disk", f"/dev/{found.name}"] if found else None
    found = folder(device, where)
    if not found:
        return None
    bus, number = (int((found / name).read_text()) for name in ("busnum", "devnum"))
    node = Path(f"/dev/bus/usb/{bus:03}/{number:03}")
    incoming, outgoing = ENDPOINTS.get(device) or endpoints(found)
    if not (node.exists() and incoming and outgoing):
        return None
    return ["--node", str(node), "--in", incoming, "--out", outgoing]


def ready(device, where):
    """As target(), when it is there and udev is done with it."""
    found = wait_for(lambda: target(device, where), SECONDS, f"the device {device} below {where}")
    run("udevadm", "settle")
    return found


def prepare(device, modules):
    """Has a device plugged in and returns its bus id."""
    if device == "sample":
        modules.load("sample_hcd_rs", gadget_zero=1)
        ready(device, LOCAL[device])
        return folder(device, LOCAL[device]).name
    _, node = ready(device, LOCAL[device])
    # So that QEMU's disk image has every block that is written later.
    run("dd", "if=/dev/urandom", f"of={node}", "bs=1M", f"count={AREA_MIB}", "oflag=direct")
    return next(one.name for one in block(LOCAL[device]).parents if (one / "idVendor").exists())


def prepare_gadgets():
    """Has what all gadgets need; it stays loaded, as their functions are."""
    run("modprobe", "libcomposite")
    IMAGE.write_bytes(bytes(AREA_MIB << 20))


@contextlib.contextmanager
def ends(pair, devices):
    """Both ends, loaded, and devices exported, given as {name: bus id}; all is undone
    afterwards."""
    with guestlib.Modules() as modules:
        modules.load(CLIENT[pair.client])
        wait_for(lambda: (guestlib.VHCI / "status").exists(), SECONDS, "the controller")
        run("udevadm", "settle")
        if pair.server in CONTROLLERS:
            module, parameters = CONTROLLERS[pair.server]
            modules.load(module, **parameters)
            with daemon("--device"):
                yield
            return
        if pair.server not in SERVER:
            yield
            return
        modules.load(SERVER[pair.server])
        with daemon():
            for busid in devices.values():
                run("usbip", "bind", "-b", busid)
            yield
            for device, busid in devices.items():
                available(busid)
                run("usbip", "unbind", "-b", busid)
                ready(device, LOCAL[device])


@contextlib.contextmanager
def daemon(*options):
    """Debian's usbipd."""
    with subprocess.Popen(["usbipd", *options], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: ":3240" in run("ss", "-Hltn"), SECONDS, "usbipd")
            yield
        finally:
            process.terminate()


def available(busid):
    """Waits until the server would give a device to a client."""
    devices = PLATFORM if busid == CONTROLLER else DRIVER
    wait_for(lambda: (devices / busid / "usbip_status").read_text() == "1\n", SECONDS,
             f"{busid} to be available")


@contextlib.contextmanager
def attached(device, pair, busid):
    """A device at the client; yields what tells usbip-bench-client to measure it."""
    if pair.server in CONTROLLERS:
        through = exported(device)
    else:
        through = null_server() if pair.server == "null" else imported(busid)
    with through:
        # A client that is slow to set a device up must not be measured while it does.
        yield ready(device, REMOTE)


@contextlib.contextmanager
def null_server():
    """Our server in userspace, which attaches its device itself."""
    with subprocess.Popen([PROGRAMS / "usbip-bench-server"], stdout=subprocess.PIPE,
                          text=True) as server:
        try:
            port = int(server.stdout.readline().removeprefix("attached to port "))
            yield
            guestlib.detach(port, SECONDS)
            server.wait(SECONDS * guestlib.SLACK)
        finally:
            server.kill()


@contextlib.contextmanager
def exported(device):
    """A gadget of the controller, attached."""
    speed, script = GADGETS[device]
    plugged = host_configfs.Gadget(*script, "--id", ":".join(IDS[device]), speed=speed,
                                   udc=CONTROLLER)
    try:
        with imported(CONTROLLER):
            yield
        available(CONTROLLER)
    finally:
        plugged.close()


@contextlib.contextmanager
def imported(busid):
    """A device of usbipd, attached."""
    available(busid)
    run("usbip", "attach", "-r", "127.0.0.1", "-b", busid)
    yield
    port = next(one.number for one in guestlib.ports() if not one.free)
    guestlib.detach(port, SECONDS)


def complaints():
    """What the kernel complained about."""
    return [line for line in run("dmesg").splitlines()
            if any(word in line for word in ("BUG:", "WARNING:", "Oops", "blocked for more"))]
