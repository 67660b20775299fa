# SPDX-License-Identifier: GPL-2.0
"""The guest is what other tests take for granted: devices, monitor, peers, checkers. Without these
a lane could pass because it tested nothing."""

import os
import select
import struct
import time
from pathlib import Path

import pytest

from lib import guestlib, monitor

STOCK = pytest.mark.lanes("stock")
# Device → vendor and product id in QEMU.
DEVICES = {"storage": "46f4:0001", "kbd": "0627:0001", "audio": "46f4:0002",
           "serial": "0403:6001", "ccid": "08e6:4433"}
INPUT_EVENT = struct.Struct("llHHi")
KEY_A = 30


def usb_ids():
    """Ids of all USB devices on QEMU's controller."""
    found = set()
    for device in Path("/sys/bus/usb/devices").glob("[0-9]*-*"):
        if "/pci" in str(device.resolve()) and (device / "idVendor").exists():
            found.add(":".join((device / name).read_text().strip()
                               for name in ("idVendor", "idProduct")))
    return found


@STOCK
def test_qemu_devices_are_there():
    guestlib.wait_for(lambda: set(DEVICES.values()) <= usb_ids(), 10, "QEMU's USB devices")


def keyboard():
    """The event device of QEMU's keyboard."""
    for name in Path("/sys/class/input").glob("event*/device/name"):
        if "QEMU USB Keyboard" in name.read_text():
            return Path("/dev/input") / name.parts[4]
    return None


@STOCK
def test_the_monitor_presses_keys(machine):
    device = guestlib.wait_for(keyboard, 10, "the keyboard's event device")
    fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
    try:
        machine.press("a")
        events = b""

        def pressed():
            nonlocal events
            if select.select([fd], [], [], 0)[0]:
                events += os.read(fd, INPUT_EVENT.size * 64)
            return (1, KEY_A, 1) in [one[2:] for one in INPUT_EVENT.iter_unpack(events)]
        guestlib.wait_for(pressed, 5, "the press of A")
    finally:
        os.close(fd)


@STOCK
def test_the_monitor_plugs_and_unplugs(machine):
    before = usb_ids()
    machine.plug("usb-tablet", "extra", serial="4711")
    guestlib.wait_for(lambda: any(path.read_text().strip() == "4711" for path in
                                  Path("/sys/bus/usb/devices").glob("*/serial")), 10, "the tablet")
    machine.unplug("extra")
    guestlib.wait_for(lambda: not any(path.read_text().strip() == "4711" for path in
                                      Path("/sys/bus/usb/devices").glob("*/serial")), 10,
                      "the tablet to be gone")
    assert usb_ids() == before


@STOCK
def test_the_monitor_reports_errors(machine):
    with pytest.raises(RuntimeError, match="nonexistent"):
        machine.unplug("nonexistent")


@STOCK
def test_the_serial_device_is_looped_to_a_port():
    usb = guestlib.wait_for(lambda: next(iter(Path("/dev").glob("ttyUSB*")), None), 10, "ttyUSB")
    guestlib.run("stty", "-F", str(usb), "raw", "-echo", "115200")
    device = os.open(usb, os.O_RDWR | os.O_NOCTTY)
    port = os.open("/dev/virtio-ports/rusbip.serial", os.O_RDWR)
    try:
        for source, sink in ((device, port), (port, device)):
            os.write(source, b"over the wire\n")
            got = b""
            while len(got) < 14:
                assert select.select([sink], [], [], 5 * guestlib.SLACK)[0], got
                got += os.read(sink, 100)
            assert got == b"over the wire\n"
    finally:
        os.close(device)
        os.close(port)


@pytest.mark.parametrize("name", ["usbip-host", "vhci-hcd", "usbip-vudc", "dummy_hcd", "usbtest"])
def test_the_kernels_own_modules_are_there(name):
    assert "insmod" in guestlib.run("modprobe", "-n", "-v", name) or guestlib.loaded(name)


def test_tools_are_there():
    import usbip  # noqa: F401  (the independent implementation)
    for tool in ("usbip", "usbipd", "tshark", "testusb", "fio", "aplay", "socat", "ssh", "sshd"):
        guestlib.run("which", tool)


@pytest.mark.lanes("uml-lockdep")
def test_lockdep_is_on():
    assert "debug_locks:                             1" in Path("/proc/lockdep_stats").read_text()


@pytest.mark.lanes("uml-kasan")
def test_memory_checkers_are_on():
    log = guestlib.run("dmesg")
    assert "KernelAddressSanitizer initialized" in log
    assert Path("/sys/kernel/debug/kmemleak").exists()
    assert Path("/sys/kernel/debug/failslab/stacktrace-depth").exists()


def test_no_monitor_outside_qemu(lane):
    assert monitor.available() == lane.startswith("stock")


def test_the_host_says_what_was_taken_of_it():
    every, taken = monitor.host_processors()
    guestlib.wait_for(lambda: monitor.host_processors()[0] > every, 10, "the host's clock")
    assert 0 <= taken < every


@pytest.mark.lanes("uml")
def test_only_work_takes_time():
    """Of a debug guest's time, what it waits is skipped (scripts/kernels/uml-fast.c), and what it
    works is the host's."""
    times = [monitor.host_processors()[0]]
    time.sleep(60)
    times.append(monitor.host_processors()[0])
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pass
    times.append(monitor.host_processors()[0])
    assert times[1] - times[0] < times[2] - times[1]


def test_our_modules_load_and_unload_twice():
    names = sorted(file.stem for file in guestlib.MODULES.glob("*_rs.ko"))
    assert "vhci_hcd_rs" in names
    for _ in range(2):
        with guestlib.Modules() as modules:
            for name in names:
                # One controller will do and takes less time.
                modules.load(name, **{"nr_hcs": 1} if name == "vhci_hcd_rs" else {})
            assert all(guestlib.loaded(name) for name in names)
