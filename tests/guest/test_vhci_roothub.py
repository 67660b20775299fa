# SPDX-License-Identifier: GPL-2.0
"""The emulated hubs, asked directly: conformance statements 43-56.

The kernel's hub driver is taken off the root hub for these tests, so that it does not clear
the change bits before the test has seen them; the requests go through usbfs.
"""

import struct
import time

import pytest

import vhci
import vhci_usbfs
from vhci_device import FakeDevice
from vhci_peer import Peer
from vhci_session import DEVID, attach_pair, beyond_c

pytest_plugins = ("vhci_fixtures",)

GET_STATUS, CLEAR, SET, GET_DESCRIPTOR = 0, 1, 3, 6
CONNECTION, ENABLE, SUSPEND, OVER_CURRENT, RESET, LINK_STATE = 0, 1, 2, 3, 4, 5
POWER = 8
C_CONNECTION, C_ENABLE, C_SUSPEND, C_OVER_CURRENT, C_RESET = 16, 17, 18, 19, 20
U1_TIMEOUT, U2_TIMEOUT, BH_RESET, C_BH_RESET = 23, 24, 28, 29
# The bit of wPortChange for a feature is its number minus 16, but for this one
# (USB_PORT_STAT_C_BH_RESET).
BH_RESET_BIT = 5


class Hub:
    """One root hub without its driver."""

    def __init__(self, port: int):
        self.path = vhci.root_hub(port)
        self.superspeed = (port // vhci.hub_ports()) % 2 == 1
        self.interface = f"{int((self.path / 'busnum').read_text())}-0:1.0"
        vhci.write_raw(vhci.Path("/sys/bus/usb/drivers/hub/unbind"), self.interface)
        self.device = vhci_usbfs.Device(vhci.devnode(self.path))
        self.device.claim(0)

    def restore(self):
        self.device.close()
        vhci.write_raw(vhci.Path("/sys/bus/usb/drivers/hub/bind"), self.interface)

    def control(self, *arguments):
        return self.device.control(*arguments)

    def stalls(self, *arguments) -> bool:
        return vhci.errno_of(self.control, *arguments) == "EPIPE"

    def set(self, feature: int, port: int = 1):
        self.control(0x23, SET, feature, port)

    def clear(self, feature: int, port: int = 1):
        self.control(0x23, CLEAR, feature, port)

    def words(self, port: int = 1):
        """(wPortStatus, wPortChange)."""
        return struct.unpack("<HH", self.control(0xA3, GET_STATUS, 0, port, 4))

    def clear_changes(self, port: int = 1):
        change = self.words(port)[1]
        for bit in range(16):
            if change & (1 << bit):
                self.clear(C_BH_RESET if bit == BH_RESET_BIT else 16 + bit, port)

    def wait_change(self, feature: int, port: int = 1):
        """Wait for the change bit of a feature; returns the words."""
        bit = BH_RESET_BIT if feature == C_BH_RESET else feature - 16
        return vhci.wait_for(lambda: (w := self.words(port))[1] & (1 << bit) and w,
                             f"change bit {bit}")


@pytest.fixture(params=["hs", "ss"])
def hub(request):
    hub = Hub(vhci.hs() if request.param == "hs" else vhci.ss())
    yield hub
    hub.restore()


@pytest.fixture
def hs():
    hub = Hub(vhci.hs())
    yield hub
    hub.restore()


@pytest.fixture
def ss():
    hub = Hub(vhci.ss())
    yield hub
    hub.restore()


@pytest.fixture
def connect():
    """Attach a peer to a port whose hub has no driver."""
    opened = []

    def run(port: int, speed: int) -> Peer:
        kernel, ours = vhci.stream_pair()
        attach_pair(kernel, port, DEVID, speed)
        opened.append((port, Peer(ours, FakeDevice(speed)).auto()))
        return opened[-1][1]

    yield run
    for port, peer in opened:
        if vhci.port(port).state != vhci.NULL:
            vhci.detach(port)
        peer.close()
        vhci.wait_free(port)


# --- descriptors ------------------------------------------------------------------------------

def test_s43_hs_hub_descriptor(hs):
    ports = vhci.hub_ports()
    expected = bytes([7 + 2 * (ports // 8 + 1), 0x29, ports, 1, 0, 0, 0])
    expected += bytes(ports // 8 + 1) + b"\xff" * (ports // 8 + 1)
    assert hs.control(0xA0, GET_DESCRIPTOR, 0x2900, 0, len(expected)) == expected
    # The type in wValue is not looked at; what does not fit is cut.
    assert hs.control(0xA0, GET_DESCRIPTOR, 0, 0, len(expected)) == expected
    assert hs.control(0xA0, GET_DESCRIPTOR, 0x2900, 0, 4) == expected[:4]


def test_s43_ss_hub_descriptor(ss):
    expected = bytes([12, 0x2A, vhci.hub_ports(), 1, 0, 0, 0, 4, 0, 0, 0xFF, 0xFF])
    assert ss.control(0xA0, GET_DESCRIPTOR, 0x2A00, 0, 12) == expected
    # A longer request is answered too; usbcore reports it as that long.
    assert ss.control(0xA0, GET_DESCRIPTOR, 0x2A00, 0, 64)[:12] == expected


def test_s44_bos(ss, hs):
    full = ss.control(0x80, GET_DESCRIPTOR, 0x0F00, 0, 255)
    if vhci.CLIENT == "c":
        assert full == bytes.fromhex("050f0f00010a1003000800030000 00".replace(" ", ""))
    # Any version: a well formed BOS whose first capability is SuperSpeed USB.
    assert full[:2] == b"\x05\x0f" and struct.unpack("<H", full[2:4])[0] == len(full)
    assert full[5:8] == b"\x0a\x10\x03"
    if vhci.CLIENT != "c":
        assert b"\x10\x0a" in full[15:], "no SuperSpeedPlus capability"
    for length in (1, 4, 5, 14):
        assert ss.control(0x80, GET_DESCRIPTOR, 0x0F00, 0, length) == full[:length]
    assert hs.stalls(0x80, GET_DESCRIPTOR, 0x0F00, 0, 255)


def test_s45_ss_hub_descriptor_refused(ss):
    assert ss.stalls(0xA0, GET_DESCRIPTOR, 0x2A00, 0, 8)
    assert ss.stalls(0xA0, GET_DESCRIPTOR, 0x2900, 0, 12)


# --- requests ---------------------------------------------------------------------------------

def test_s46_port_numbers(hub):
    last = vhci.hub_ports()
    assert hub.stalls(0xA3, GET_STATUS, 0, 0, 4)
    assert hub.stalls(0xA3, GET_STATUS, 0, last + 1, 4)
    assert hub.words(last) == hub.words(last | 0x4200)
    for request in (SET, CLEAR):
        assert hub.stalls(0x23, request, POWER, 0)
        assert hub.stalls(0x23, request, POWER, last + 1)
        assert hub.stalls(0x23, request, POWER, 0xFF)


def test_s47_hub_level(hub):
    assert hub.control(0xA0, GET_STATUS, 0, 0, 4) == bytes(4)
    for feature in (0, 1):
        assert hub.stalls(0x20, SET, feature, 0)
        hub.control(0x20, CLEAR, feature, 0)


def test_s48_hs_suspend(hs, connect):
    connect(vhci.hs(), vhci.HIGH)
    hs.set(RESET)
    hs.wait_change(C_RESET)
    hs.clear_changes()
    hs.set(SUSPEND)
    assert hs.words()[0] & (1 << SUSPEND)
    start = time.monotonic()
    hs.clear(SUSPEND)
    status, _ = hs.wait_change(C_SUSPEND)
    assert time.monotonic() - start >= 0.018
    assert not status & (1 << SUSPEND)
    hs.clear(C_SUSPEND)
    assert not hs.words()[1]


def test_s49_features_of_one_hub_only(hs, ss):
    assert ss.stalls(0x23, SET, SUSPEND, 1)
    assert ss.stalls(0x23, CLEAR, SUSPEND, 1)
    for feature in (LINK_STATE, U1_TIMEOUT, U2_TIMEOUT):
        ss.set(feature, 1)
        assert hs.stalls(0x23, SET, feature, 1)
    ss.control(0x20, 12, 0, 0)
    assert hs.stalls(0x20, 12, 0, 0)
    assert hs.stalls(0x23, SET, BH_RESET, 1)
    assert hs.stalls(0xA3, 13, 0, 1, 4)


@pytest.mark.parametrize("speed", [vhci.FULL, vhci.HIGH, vhci.SUPER])
def test_s50_reset(hs, ss, connect, speed):
    hub, port = (ss, vhci.ss()) if speed == vhci.SUPER else (hs, vhci.hs())
    hub.clear_changes()
    connect(port, speed)
    status, change = hub.words()
    assert status & (1 << CONNECTION) and change == 1 << (C_CONNECTION - 16)
    hub.clear(C_CONNECTION)
    start = time.monotonic()
    hub.set(RESET)
    status, change = hub.words()
    if time.monotonic() - start < 0.045:
        assert status & (1 << RESET) and not change
    status, change = hub.wait_change(C_RESET)
    assert time.monotonic() - start >= 0.045
    assert not status & (1 << RESET)
    assert status & (1 << ENABLE)
    # The C driver keeps the speed of an earlier device on the port.
    if speed == vhci.HIGH or (speed == vhci.FULL and vhci.CLIENT != "c"):
        assert bool(status & 0x0400) == (speed == vhci.HIGH)
    hub.clear(C_RESET)
    assert not hub.words()[1]


def test_s51_power(hub):
    bit = 9 if hub.superspeed else 8
    for port in (1, vhci.hub_ports()):
        hub.set(POWER, port)
        assert hub.words(port)[0] & (1 << bit)
        hub.clear(POWER, port)
        assert not hub.words(port)[0] & (1 << bit)
        hub.set(POWER, port)
        assert hub.words(port)[0] & (1 << bit)


def test_s52_features_out_of_range(hub):
    for feature in (32, 33, 40, 63, 64, 255, 0xFFFF):
        assert hub.stalls(0x23, SET, feature, 1), feature
        assert hub.stalls(0x23, CLEAR, feature, 1), feature


def test_unknown_requests_stall(hub):
    for request_type, request in ((0xA3, 2), (0x23, 8), (0x23, 9), (0x23, 10), (0x23, 99),
                                  (0xA0, 99)):
        data = 4 if request_type & 0x80 else b""
        assert hub.stalls(request_type, request, 0, 1, data), (request_type, request)


@beyond_c
def test_s53_reset_of_empty_port(hub):
    hub.set(POWER)
    for feature in ((RESET, BH_RESET) if hub.superspeed else (RESET,)):
        hub.set(feature)
        vhci.stays(lambda: not hub.words()[0] & 3, "an empty port reports a device", 0.2)
        hub.clear_changes()


@beyond_c
def test_s54_two_resets(hs, connect):
    """A reset that begins while another is under way does not put that one off. A slow machine
    may look too late to see it, so there are many attempts; the wrong result can't look right."""
    connect(vhci.hs(0), vhci.HIGH)
    connect(vhci.hs(1), vhci.FULL)

    def overlap() -> bool:
        hs.clear_changes(1)
        hs.clear_changes(2)
        hs.set(RESET, 1)
        time.sleep(0.03)  # not a synchronisation: it makes the two resets overlap
        second = time.monotonic()
        hs.set(RESET, 2)
        hs.wait_change(C_RESET, 1)
        apart = time.monotonic() - second < 0.05
        status, change = hs.wait_change(C_RESET, 2)
        assert time.monotonic() - second >= 0.045
        assert change == 1 << (C_RESET - 16)
        assert status & 0x0402 == 0x0002 and hs.words(1)[0] & 0x0402 == 0x0402
        return apart

    assert any(overlap() for _ in range(20)), "the first reset waited for the second"


@beyond_c
def test_s54_resume_next_to_a_reset(hs, connect):
    """What port 1 resumes from is not reported by port 2, whose status is read first."""
    connect(vhci.hs(0), vhci.HIGH)
    connect(vhci.hs(1), vhci.HIGH)
    hs.set(RESET, 1)
    hs.wait_change(C_RESET, 1)
    hs.clear_changes(1)
    hs.clear_changes(2)
    hs.set(SUSPEND, 1)
    hs.clear(SUSPEND, 1)
    hs.set(RESET, 2)
    assert hs.wait_change(C_RESET, 2)[1] == 1 << (C_RESET - 16)
    assert hs.wait_change(C_SUSPEND, 1)[1] == 1 << (C_SUSPEND - 16)


@beyond_c
def test_s55_bh_reset(ss, connect):
    connect(vhci.ss(), vhci.SUPER)
    ss.clear_changes()
    ss.set(BH_RESET)
    _, change = ss.wait_change(C_BH_RESET)
    assert change == (1 << BH_RESET_BIT) | (1 << (C_RESET - 16))
    ss.clear(C_BH_RESET)
    ss.clear(C_RESET)
    status, change = ss.words()
    assert change == 0 and status & 3 == 3


def test_s56_interrupt_without_polling(hub, connect):
    """The status-change endpoint answers at connect and at disconnect, with the right bit."""
    index = 2 if vhci.hub_ports() > 2 else 0
    port = vhci.ss(index) if hub.superspeed else vhci.hs(index)
    size = vhci.hub_ports() // 8 + 1
    # The hub's driver was taken off before it has seen the end of an earlier device, perhaps.
    for number in range(1, vhci.hub_ports() + 1):
        hub.clear_changes(number)
    urb = vhci_usbfs.interrupt_in(1, size)
    hub.device.submit(urb)
    # Nothing happens while nothing changes.
    vhci.stays(lambda: hub.device.reap_now() is None, "a status change without a change", 0.3)
    expected = (1 << (index + 1)).to_bytes(size, "little")
    connect(port, vhci.SUPER if hub.superspeed else vhci.HIGH)
    assert hub.device.reap() is urb
    assert urb.status == 0 and urb.data()[:urb.actual] == expected
    hub.clear(C_CONNECTION, index + 1)
    urb = hub.device.submit(vhci_usbfs.interrupt_in(1, size))
    vhci.detach(port)
    assert hub.device.reap() is urb
    assert urb.status == 0 and urb.data()[:urb.actual] == expected
    assert not hub.words(index + 1)[0] & 1
