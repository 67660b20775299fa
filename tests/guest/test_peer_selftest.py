# SPDX-License-Identifier: GPL-2.0
"""The kernel's selftest of USB/IP, unchanged, with our client in the place of vhci_hcd, and with
either server in that of usbip_host.

The script prints what the tools say and always succeeds, so what it printed is judged here.
"""

import contextlib
import os
import re
import subprocess
from pathlib import Path

import pytest

import peer_stock
import vhci
from lib.guestlib import MODULES

pytest_plugins = ("vhci_fixtures",)
pytestmark = pytest.mark.lanes("stock")

SCRIPT = "tools/testing/selftests/drivers/usb/usbip/usbip_test.sh"


@pytest.fixture
def script():
    """The selftest of the kernel that runs, from its own sources."""
    series = ".".join(os.uname().release.split(".")[:2])
    path = Path(f"/usr/src/linux-source-{series}", SCRIPT)
    assert path.exists()
    return path


# The module that exports devices, which may have a name of its own, and how it begins a line of the
# kernel log about a device.
SERVERS = {"usbip_host": "usbip-host BUSID: ", "usbip_host_rs": "usbip_host_rs: "}


@pytest.fixture
def stand_in():
    """`modprobe vhci_hcd` is content with the client that is loaded; a function that has `modprobe`
    do something else for another module, too."""
    folder = Path("/run/modprobe.d")
    folder.mkdir(exist_ok=True)
    file = folder / "rusbip.conf"

    def install(name, command):
        with open(file, "a", encoding="ascii") as rules:
            rules.write(f"install {name} {command}\n")

    install("vhci_hcd", "/bin/true")
    yield install
    file.unlink()


@pytest.fixture(params=SERVERS)
def server(request, stand_in, tmp_path, monkeypatch):
    """What the script loads and removes as usbip_host: the name of the module. None is loaded yet,
    so nothing has been said of it."""
    subprocess.run(["modprobe", "-r", "usbip_host"], check=True)
    if request.param != "usbip_host":
        file = MODULES / f"{request.param}.ko"
        stand_in("usbip_host", f"/sbin/insmod {file}")
        (tmp_path / "bin").mkdir()
        rmmod = tmp_path / "bin/rmmod"
        rmmod.write_text(f'#!/bin/sh\n[ "$*" = usbip_host ] && set {request.param}\n'
                         'exec /sbin/rmmod "$@"\n')
        rmmod.chmod(0o755)
        monkeypatch.setenv("PATH", str(rmmod.parent), prepend=":")
    yield request.param
    subprocess.run(["rmmod", request.param], check=True)


@pytest.fixture
def tools(tmp_path):
    """The folder of the tools as the script expects it: that of their sources."""
    (tmp_path / "src").mkdir()
    for name in ("usbip", "usbipd"):
        (tmp_path / "src" / name).symlink_to(Path("/usr/sbin", name))
    before = daemons()
    yield tmp_path
    for pid in daemons() - before:
        os.kill(pid, 15)
    vhci.wait_for(lambda: daemons() == before, "the script's usbipd to end")


def daemons() -> set:
    """Process numbers of all usbipd."""
    found = set()
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if comm.read_text() == "usbipd\n":
                found.add(int(comm.parent.name))
    return found


@pytest.fixture
def device():
    """The bus id of a device, which the script leaves without a driver."""
    number = peer_stock.busid("serial")
    peer_stock.settle()
    before = peer_stock.drivers(vhci.USB / number)
    yield number
    (vhci.USB.parent / "drivers_probe").write_text(number)
    vhci.wait_for(lambda: peer_stock.drivers(vhci.USB / number) == before, "the device's driver")


# What usbipd says when it starts and finds nothing to export.
STARTING = re.compile(r"^(lib)?usbip: info: [Pp]lease load .*\n", re.MULTILINE)
# Title of each part of the script, and what the tools say in it; BUSID is the device. The parts
# without a text list all of USB.
NONE = "Imported USB devices\n====================\n"
EXPORTED = """Exportable USB devices
======================
 - localhost
        BUSID: .*
           : /sys/devices/pci.*/BUSID
           : \\(Defined at Interface level\\) \\(00/00/00\\)

"""
IMPORTED = NONE + """Port 00: <Port in Use> at Full Speed\\(12Mbps\\)
       .*
       [0-9]+-1 -> usbip://localhost:3240/BUSID
           -> remote bus/dev [0-9]{3}/[0-9]{3}
"""
DETACHED = "usbip: info: Port {} is already detached!\n\n"
NOT_TAKEN = "(.*\n)*\\[.*\\] PREFIXBUSID is not in match_busid table\\.\\.\\. skip!\n"
PARTS = (
    ("Running USB over IP Testing on BUSID",
     "Load usbip_host module\nusbip_test: module usbip_host is loaded \\[OK\\]\n"
     "Load vhci_hcd module\nusbip_test: module vhci_hcd is loaded \\[OK\\]\n"),
    ("Expect to see export-able devices", None),
    ("Run lsusb to see all usb devices", None),
    ("Get exported devices from localhost - expect to see none",
     "usbip: info: no exportable devices found on localhost\n"),
    ("bind devices", "usbip: info: bind device on busid BUSID: complete\n"),
    ("Run lsusb - bound devices should be under usbip_host control", None),
    ("bind devices - expect already bound messages",
     "usbip: error: device on busid BUSID is already bound to usbip-host\n"),
    ("Get exported devices from localhost - expect to see exported devices", EXPORTED),
    ("unbind devices", "usbip: info: unbind device on busid BUSID: complete\n"),
    ("Run lsusb - bound devices should be rebound to original drivers", None),
    ("unbind devices - expect no devices bound message",
     "usbip: error: device is not bound to usbip-host driver\n"),
    ("Get exported devices from localhost - expect to see none",
     "usbip: info: no exportable devices found on localhost\n"),
    ("List imported devices - expect to see none", NONE),
    ("Import devices from localhost - should fail with no devices",
     "usbip: error: Attach Request for BUSID failed - Device not found\n\n"),
    ("bind devices", "usbip: info: bind device on busid BUSID: complete\n"),
    ("List imported devices - expect to see exported devices", EXPORTED),
    ("List imported devices - expect to see none", NONE),
    ("Import devices from localhost - should work", ""),
    ("List imported devices - expect to see imported devices", IMPORTED),
    ("Import devices from localhost - expect already imported messages",
     "usbip: error: Attach Request for BUSID failed - Device busy \\(exported\\)\n\n"),
    ("Un-import devices", "usbip: info: Port 0 is now detached!\n\n" + DETACHED.format(1)),
    ("List imported devices - expect to see none", NONE),
    ("Un-import devices - expect no devices to detach messages",
     DETACHED.format(0) + DETACHED.format(1)),
    # There are more than 100 ports.
    ("Detach invalid port tests - expect invalid port error message", DETACHED.format(100)),
    ("Expect to see export-able devices", None),
    ("Remove usbip_host module",
     "Run lsusb - bound devices should be rebound to original drivers\n(.*\n)*"),
    ("Run bind without usbip_host - expect fail",
     "usbip: error: unable to bind device on BUSID\n"),
    ("Run lsusb - devices that failed to bind aren't bound to any driver", None),
    ("modprobe usbip_host - does it work?",
     "Should see -busid- is not in match_busid table... skip! dmesg\n"),
    # What the kernel logged, when the module came back and found the device without a driver.
    (None, NOT_TAKEN),
    ("End of USB over IP Testing on BUSID", ""),
)


def test_selftest(script, server, tools, device):
    done = subprocess.run(["bash", str(script), "-b", device, "-p", str(tools)], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                          stdin=subprocess.DEVNULL, timeout=60 * vhci.SLACK)
    assert done.returncode == 0
    output = STARTING.sub("", done.stdout)
    parts = [part.partition("\n") for part in re.split(r"^={62}\n", output, flags=re.M)]
    for (title, text), (found, _, body) in zip(PARTS, parts):
        if title is None:
            body = f"{found}\n{body}"
        else:
            assert found == title.replace("BUSID", device)
        if text is not None:
            text = text.replace("PREFIX", SERVERS[server]).replace("BUSID", device)
            assert re.fullmatch(text, body), (title, body)
    assert len(parts) == len(PARTS)
