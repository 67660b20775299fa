# SPDX-License-Identifier: GPL-2.0
"""What a new device goes through: conformance statements 35-42, 57-60."""

import errno
import os
import re
import time
from pathlib import Path

import pytest

import vhci
from vhci_device import FakeDevice
from vhci_session import DEVID, attach_pair, beyond_c
from vhci_peer import Peer

pytest_plugins = ("vhci_fixtures",)

GET_DEVICE = bytes((0x80, 6, 0, 1, 0, 0))


def read(path: Path, name: str) -> str:
    return (path / name).read_text().rstrip("\n")


@pytest.mark.parametrize("speed", [vhci.HIGH, vhci.SUPER])
def test_s35_unaddressed_hides_columns(plug, speed):
    """A USB 2 port stays in state 5 while its peer says nothing. A USB 3 device is addressed
    before the first byte is sent, so there only the moment before that can be seen."""
    session = plug(FakeDevice(speed), auto=False)
    line = vhci.port(session.port)
    kind = "ss" if speed >= vhci.SUPER else "hs"
    if speed == vhci.HIGH:
        session.peer.recv_pdu()
        line = vhci.port(session.port)
    if line.state == vhci.NOTASSIGNED:
        assert line.line == f"{kind}  {session.port:04} 005 000 00000000 000000 0-0"
    else:
        assert speed == vhci.SUPER and line.state == vhci.USED


def test_s36_used_line():
    number = vhci.hs(1)
    kernel, ours = vhci.stream_pair()
    fd = kernel.fileno()
    peer = Peer(ours, FakeDevice()).auto()
    attach_pair(kernel, number, 0x00ABCDEF, vhci.HIGH)
    path = vhci.wait_configured(number)
    try:
        bus = int(read(vhci.root_hub(number), "busnum"))
        assert path.name == f"{bus}-{number + 1}"
        assert vhci.port(number).line == f"hs  {number:04} 006 003 00abcdef {fd:06} {path.name}"
    finally:
        vhci.detach(number)
        vhci.wait_free(number)
        peer.close()


@pytest.mark.parametrize("speed", [vhci.LOW, vhci.FULL, vhci.HIGH])
def test_s37_first_request_usb2(plug, speed):
    session = plug(FakeDevice(speed))
    first = session.peer.log[0]
    assert (first.direction, first.ep, first.setup[:6]) == (1, 0, GET_DEVICE)
    assert first.length == int.from_bytes(first.setup[6:], "little") == 64
    assert all(pdu.setup[1] != 5 for pdu in session.peer.log if pdu.setup[0] == 0)


@pytest.mark.parametrize("speed", [vhci.SUPER, vhci.SUPER_PLUS])
def test_s38_first_request_usb3(plug, speed):
    """No 64-byte probe at address 0: the address is assigned first, and only on our side."""
    session = plug(FakeDevice(speed))
    setups = [pdu.setup for pdu in session.peer.log]
    assert not [s for s in setups if s[:6] == GET_DEVICE and s[6] == 64]
    assert all(s[1] != 5 for s in setups if s[0] == 0)
    assert bytes((0, 0x31)) in [s[:2] for s in setups], "SET_ISOCH_DELAY was not sent"
    assert [s for s in setups if s[:4] == bytes((0x80, 6, 0, 15))], "BOS was not read"


@pytest.mark.parametrize("speed,shown", [(1, "1.5"), (2, "12"), (3, "480"), (4, "12"),
                                         (5, "5000")])
def test_s39_s40_s41_speeds(plug, speed, shown):
    session = plug(FakeDevice(speed))
    assert read(session.path, "speed") == shown
    assert vhci.port(session.port).speed == speed
    assert read(session.path, "product") == "Test device"
    assert read(session.path, "bNumInterfaces").strip() == "1"


def test_s40_super_plus(plug):
    """Stock enumerates speed 6 as SuperSpeed; here the bus runs at SuperSpeedPlus."""
    session = plug(FakeDevice(vhci.SUPER_PLUS))
    assert vhci.port(session.port).speed == vhci.SUPER_PLUS
    if vhci.CLIENT == "c":
        assert read(session.path, "speed") == "5000"
    else:
        assert read(session.path, "speed") == "10000"
        with session.usbfs() as device:
            assert device.speed() == vhci.SUPER_PLUS


@beyond_c
@pytest.mark.parametrize("first,then", [(vhci.HIGH, vhci.FULL), (vhci.FULL, vhci.HIGH),
                                        (vhci.LOW, vhci.HIGH), (vhci.HIGH, vhci.LOW),
                                        (vhci.LOW, vhci.FULL)])
def test_s42_speed_change_on_a_port(plug, watched, first, then):
    session = plug(FakeDevice(first))
    vhci.detach(session.port)
    session.gone()
    number = int(read(vhci.root_hub(session.port), "busnum"))
    mark = len(watched.lines())
    again = plug(FakeDevice(then))
    name = {vhci.LOW: "low", vhci.FULL: "full", vhci.HIGH: "high"}
    found = [line for line in watched.lines()[mark:] if "USB device number" in line]
    assert len(found) == 1 and f"usb {number}-1: new {name[then]}-speed" in found[0], found
    assert read(again.path, "speed") == {1: "1.5", 2: "12", 3: "480"}[then]


def test_s57_device_reset(plug):
    session = plug(FakeDevice())
    device = session.usbfs()
    devnum = read(session.path, "devnum")
    before = len(session.peer.log)
    device.reset()
    setups = [pdu.setup for pdu in session.peer.log[before:]]
    assert [s for s in setups if s[:4] == bytes((0x80, 6, 0, 1))], setups
    assert [s for s in setups if s[:4] == bytes((0x80, 6, 0, 2))], setups
    assert [s for s in setups if s[:3] == bytes((0, 9, 1))], "SET_CONFIGURATION missing"
    assert all(s[1] != 5 for s in setups if s[0] == 0)
    assert vhci.port(session.port).state == vhci.USED
    assert read(session.path, "devnum") == devnum
    assert device.control(0x80, 8, 0, 0, 1) == b"\x01"
    assert not session.peer.closed.is_set()


def test_s57_many_resets(plug):
    session = plug(FakeDevice(vhci.SUPER))
    device = session.usbfs()
    for _ in range(5):
        device.reset()
        assert device.control(0x80, 8, 0, 0, 1) == b"\x01"
    assert vhci.port(session.port).state == vhci.USED


def suspend() -> str | None:
    """A system suspend that goes as far as the devices and comes back by itself."""
    Path("/sys/power/pm_test").write_text("devices")
    try:
        return vhci.errno_of(vhci.write_raw, Path("/sys/power/state"), "freeze")
    finally:
        Path("/sys/power/pm_test").write_text("none")


# User-Mode Linux with several processors cannot suspend.
stock = pytest.mark.lanes("stock")


@pytest.fixture
def quick_suspend():
    delay = Path("/sys/module/suspend/parameters/pm_test_delay")
    if delay.exists():
        delay.write_text("1")


@stock
def test_s58_suspend_refused(plug, quick_suspend):
    """The controller is younger than every other device, so it is asked first and nothing else
    has been suspended when it refuses."""
    session = plug(FakeDevice())
    assert suspend() == "EBUSY"
    with session.usbfs() as device:
        assert device.control(0x80, 8, 0, 0, 1) == b"\x01"


@stock
def test_s58_suspend_idle(plug, quick_suspend, watched):
    """The idle controllers are younger than the one in use, so they are asked before it: they
    suspend, and they work again after it has refused. (All of the guest can't suspend, as its
    files come over virtio-9p.)"""
    assert vhci.controllers() > 1
    plug(FakeDevice())
    times = Path("/sys/power/pm_print_times")
    times.write_text("1")
    try:
        assert suspend() == "EBUSY"
    finally:
        times.write_text("0")
    last = vhci.controllers() - 1
    returned = re.compile(r"vhci_hcd\.(\d+): PM: platform_pm_suspend returned (-?\d+) after")
    results = {int(match[1]): int(match[2])
               for line in watched.lines() if (match := returned.search(line))}
    assert results[0] == -errno.EBUSY and results[last] == 0, results
    port = vhci.nports() - 2 * vhci.hub_ports()
    assert plug(FakeDevice(), port=port).path.exists()


def test_unconfigurable_device_stays(plug):
    """A device that stalls everything is given up by usbcore; the port is still in our hands."""
    session = plug(FakeDevice(), auto=False)
    device = FakeDevice()
    device.standard = lambda setup: None
    session.peer.device = device
    session.peer.auto()
    vhci.wait_for(lambda: len(session.peer.log) >= 6, "usbcore to try", vhci.ENUMERATION)
    assert vhci.port(session.port).state in (vhci.NOTASSIGNED, vhci.USED)
    vhci.detach(session.port)
    session.gone()


@beyond_c
def test_detach_during_enumeration(plug):
    """The peer never answers; detach returns and ends everything within bounded time."""
    for count in range(1, 5):
        session = plug(FakeDevice(), auto=False)
        answered = 0
        while answered < count:
            pdu = session.peer.recv_pdu()
            answered += 1
            if answered < count:
                session.peer.dispatch(pdu)
        start = time.monotonic()
        vhci.detach(session.port)
        session.peer.wait_closed()
        session.gone()
        assert time.monotonic() - start < vhci.TEARDOWN


def test_bcd_usb_below_3_on_usb3_port(plug, watched):
    """usbcore refuses such a device after a warm reset; the connection survives until detach."""
    session = plug(FakeDevice(vhci.SUPER, bcd_usb=0x0200), configured=False)
    vhci.wait_for(lambda: len(session.peer.log) > 1, "usbcore to look at it", vhci.ENUMERATION)
    vhci.detach(session.port)
    session.gone()


def test_s60_no_frame_number_noise(plug, watched):
    """usbfs asks for nothing, but a stream of iso URBs must not make the driver log."""
    session = plug(FakeDevice())
    before = len(watched.lines())
    with session.usbfs() as device:
        for _ in range(50):
            device.control(0x80, 8, 0, 0, 1)
    assert len(watched.lines()) - before <= 2, watched.lines()[before:]


def test_authorized_is_honoured(plug):
    """A port of vhci obeys `authorized_default` as every other port does."""
    hub = vhci.root_hub(vhci.hs())
    setting = hub / "authorized_default"
    before = setting.read_text()
    setting.write_text("0")
    try:
        session = plug(FakeDevice(), configured=False)
        vhci.wait_state(session.port, vhci.USED)
        path = vhci.USB / vhci.port(session.port).busid
        vhci.wait_for(lambda: (path / "authorized").exists(), "the device node")
        assert read(path, "authorized") == "0"
        assert not any(os.path.exists(f"{path}/{path.name}:1.{n}") for n in range(2))
        assert not [s for s in session.device.requests if s.request == 9]
    finally:
        setting.write_text(before)


def test_devid_column_is_verbatim(plug):
    """The whole 32 bits of the devid are shown and sent."""
    for devid in (0, 1, 0xFFFFFFFF, DEVID):
        session = plug(FakeDevice(), devid=devid)
        assert vhci.port(session.port).devid == devid
        assert {pdu.devid for pdu in session.peer.log} == {devid}
        vhci.detach(session.port)
        session.gone()
