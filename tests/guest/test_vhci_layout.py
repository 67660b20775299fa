# SPDX-License-Identifier: GPL-2.0
"""Load, names, layout: conformance statements 1-11."""

import os
import re
import stat
import subprocess
import threading

import pytest

import vhci
from vhci_device import FakeDevice
from vhci_session import beyond_c

pytest_plugins = ("vhci_fixtures",)


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_s2_platform_devices():
    names = sorted(p.name for p in vhci.PLATFORM.glob("vhci_hcd*") if p.name != "vhci_hcd")
    assert names == sorted(f"vhci_hcd.{n}" for n in range(vhci.controllers()))


def test_s3_nports():
    text = (vhci.VHCI / "nports").read_text()
    assert text == f"{2 * vhci.hub_ports() * vhci.controllers()}\n"
    assert vhci.nports() % (2 * vhci.controllers()) == 0
    assert mode(vhci.VHCI / "nports") == 0o444


def test_s4_status_files():
    for file in vhci.status_files():
        assert mode(file) == 0o444, file
    assert not (vhci.VHCI / f"status.{vhci.controllers()}").exists()
    for n in range(1, vhci.controllers()):
        other = vhci.PLATFORM / f"vhci_hcd.{n}"
        for name in ("status", "nports", "attach", "detach", "usbip_debug", f"status.{n}"):
            assert not (other / name).exists(), other / name


def test_s5_s6_s7_status_lines():
    expected = 0
    for file in vhci.status_files():
        text = file.read_text()
        assert text.split("\n")[0] == "hub port sta spd dev      sockfd local_busid"
        ports = vhci.parse_status(text)
        half = vhci.hub_ports()
        assert [p.hub for p in ports] == ["hs"] * half + ["ss"] * half
        for port in ports:
            assert port.line == f"{port.hub}  {expected:04} 004 000 00000000 000000 0-0"
            expected += 1
    assert expected == vhci.nports()


def test_s8_modes():
    for name in ("attach", "detach"):
        path = vhci.VHCI / name
        assert mode(path) == 0o200
        # sysfs refuses to open a file for a direction it has no method for, root or not.
        assert vhci.errno_of(os.open, path, os.O_RDONLY) == "EACCES"
    assert mode(vhci.VHCI / "usbip_debug") == 0o644


def debug_parameter():
    return vhci.Path("/sys/module") / vhci.modules()[0] / "parameters/usbip_debug_flag"


def test_s9_usbip_debug():
    path = vhci.VHCI / "usbip_debug"
    before = path.read_text()
    try:
        vhci.write_raw(path, "0xff")
        assert path.read_text() == "ff\n"
        assert debug_parameter().read_text() == "255\n"
        vhci.write_raw(path, "10")
        assert path.read_text() == "10\n"
        assert debug_parameter().read_text() == "16\n"
        for garbage in ("zz", "", "-"):
            if garbage:
                assert vhci.errno_of(vhci.write_raw, path, garbage) == "EINVAL", garbage
        assert path.read_text() == "10\n"
        vhci.write_raw(debug_parameter(), "3")
        assert path.read_text() == "3\n"
        assert mode(debug_parameter()) == 0o644
    finally:
        vhci.write_raw(path, before)


def test_s10_root_hub_identity():
    release = os.uname().release
    for number in range(vhci.controllers()):
        base = number * 2 * vhci.hub_ports()
        for port, product, bcd, speed, protocol in (
                (base, "0002", "2.00", "480", "01"),
                (base + vhci.hub_ports(), "0003", None, None, "03")):
            hub = vhci.root_hub(port)
            read = lambda name: (hub / name).read_text().rstrip("\n")  # noqa: E731
            assert read("manufacturer") == f"Linux {release} vhci_hcd"
            assert read("product") == "USB/IP Virtual Host Controller"
            assert read("serial") == f"vhci_hcd.{number}"
            assert read("idVendor") == "1d6b" and read("idProduct") == product
            assert read("bDeviceProtocol") == protocol
            assert read("version").strip() == (bcd or read("version").strip())
            if speed:
                assert read("speed") == speed
            else:
                # 3.10 at 10000 in C; a 20 Gb/s root hub is an extension.
                assert read("version").strip() in ("3.10", "3.20")
                assert read("speed") in ("10000", "20000")


def test_s11_ports_of_root_hubs():
    for port in range(0, vhci.nports(), vhci.hub_ports()):
        hub = vhci.root_hub(port)
        assert (hub / "maxchild").read_text() == f"{vhci.hub_ports()}\n"


def test_bus_order():
    """The USB 2 bus of a controller comes right before its USB 3 bus."""
    for number in range(vhci.controllers()):
        base = number * 2 * vhci.hub_ports()
        two, three = vhci.root_hub(base), vhci.root_hub(base + vhci.hub_ports())
        assert int(three.name[3:]) == int(two.name[3:]) + 1


def test_s1_reload():
    """Unloading with nothing attached works and leaves nothing; loading again works."""
    vhci.unload()
    assert not list(vhci.PLATFORM.glob("vhci_hcd.*"))
    assert not vhci.kernel_threads(r"vhci_")
    vhci.load()
    assert not vhci.busy_ports()


def test_s1_unload_attached(plug):
    """Unloading detaches what is attached; the peer sees the end of the stream."""
    session = plug(FakeDevice())
    vhci.unload()
    session.peer.wait_closed()
    session.path = None
    vhci.load()


@beyond_c
def test_s15_sysfs_during_load():
    """Reading status and writing attach and detach while the module comes and goes. Two
    controllers, as more only take longer."""
    stop = threading.Event()
    outcomes = set()

    def hammer():
        while not stop.is_set():
            for name, text in (("attach", f"{vhci_last} 999 1 3"), ("detach", f"{vhci_last}"),
                               ("detach", "0")):
                outcomes.add(vhci.errno_of(vhci.write_raw, vhci.VHCI / name, text))
            for file in list(vhci.VHCI.glob("status*")):
                try:
                    text = file.read_text()
                except OSError as error:
                    outcomes.add(error.errno)
                    continue
                assert text.startswith(vhci.HEADER + "\n")

    vhci.unload()
    vhci.load("nr_hcs=2")
    vhci_last = vhci.nports() - 1
    workers = [threading.Thread(target=hammer) for _ in range(2)]
    for worker in workers:
        worker.start()
    try:
        for _ in range(vhci.times(5)):
            vhci.unload()
            vhci.load("nr_hcs=2")
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    vhci.unload()
    vhci.load()
    assert outcomes <= {"EINVAL", "EAGAIN", "ENOENT", "ENODEV", 2, 19, None}, outcomes
    assert None not in outcomes


def test_modinfo():
    """The modules say what they are."""
    if vhci.CLIENT == "c":
        pytest.skip("describes the modules of this project")
    for name in vhci.modules():
        directory = os.environ.get("RUSBIP_MODULES")
        target = f"{directory}/{name}.ko" if directory else name
        text = subprocess.run(["modinfo", target], check=True, capture_output=True,
                              text=True).stdout
        assert re.search(r"^license:\s+GPL", text, re.M), text
        assert re.search(r"^description:\s+\S", text, re.M), text
