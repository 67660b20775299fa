# SPDX-License-Identifier: GPL-2.0
"""Devices as they are, through the server and a client, with the drivers that users have: what is
written is there, what is typed arrives, and `usbtest` finds nothing."""

import contextlib
import random
import subprocess

import pytest

import host
import host_configfs
import host_gadget
import peer_ccid
import peer_disk
import peer_ethernet
import peer_fido
import peer_keyboard
import peer_loop
import peer_sample
import peer_serial
import peer_sound
import peer_stock
import vhci
import vhci_usbfs as usbfs
from host import beyond_c
from host_export import attached
from host_model import INT_IN, INT_OUT, INT_PACKET, Model
from test_vhci_devices import BULK, UNLINK, path_of_testusb, run_cases, run_every_case

pytest_plugins = ("vhci_fixtures", "host_fixtures")
pytestmark = pytest.mark.usefixtures("host_watched")

UML = pytest.mark.lanes("uml")
STOCK = pytest.mark.lanes("stock")


@contextlib.contextmanager
def passed_on(busid: str):
    """A device in the hands of the server, attached again by the client; yields it there."""
    with host.exported(busid), attached(busid) as device:
        yield device


@contextlib.contextmanager
def passed_on_gadget(*script, **options):
    """The same of a gadget that a script makes behind dummy_hcd; yields the gadget as well."""
    gadget = host_configfs.Gadget(*script, **options)
    with host_configfs.plugged(gadget) as busid, passed_on(busid) as device:
        yield gadget, device


# --- gadgets ----------------------------------------------------------------------------------

@pytest.fixture
def usbtest_module(request):
    """usbtest is loaded, with the bulk endpoints of setting 0 or all those of another one."""
    path_of_testusb()
    setting = getattr(request, "param", -1)
    subprocess.run(["modprobe", "usbtest", f"alt={setting}"], check=True)
    yield
    subprocess.run(["rmmod", "usbtest"], check=True)


# Both debug kernels see the same code at each speed.
@pytest.mark.parametrize("speed", [
    pytest.param(vhci.FULL, marks=pytest.mark.lanes("uml-lockdep"), id="full"),
    pytest.param(vhci.HIGH, marks=UML, id="high"),
    pytest.param(vhci.SUPER, marks=pytest.mark.lanes("uml-kasan"), id="super")])
def test_usbtest(host_driver, usbtest_module, speed):
    """Every case that a source and sink can do whose controller has no isochronous transfers.
    Unlinking as fast as possible is among them."""
    # Whole packets, or what is read in part is an overflow.
    sizes = {"size": 4096, "vary": 1024} if speed == vhci.SUPER else {}
    with passed_on_gadget("source-sink", speed=speed) as (_, device):
        device.bound("usbtest")
        run_cases(device.usbfs(), BULK, count=5, **sizes)
        if host.HOST != "c":
            run_cases(device.usbfs(), UNLINK, count=100)


@UML
@beyond_c
@pytest.mark.parametrize("usbtest_module", [peer_sample.PERIODIC], indirect=True)
def test_usbtest_every_case(host_driver, usbtest_module):
    """All that there are, at a device that has endpoints of every type: that of the sample."""
    with peer_sample.plugged(gadget_zero=1) as busid, passed_on(busid) as device:
        device.bound("usbtest")
        run_every_case(device.usbfs())


@UML
@beyond_c
@pytest.mark.parametrize("usbtest_module", [peer_sample.PERIODIC], indirect=True)
def test_requests_of_completions(host_driver, usbtest_module):
    """A driver that submits again in its completion does not wait for the client's tx thread."""
    with peer_sample.plugged(gadget_zero=1) as busid, passed_on(busid) as device:
        device.bound("usbtest")

        def once() -> bool:
            before = vhci.statistic(device.port, "direct_sends")
            run_cases(device.usbfs(), [28], count=50, size=512, sglen=1)
            return vhci.statistic(device.port, "direct_sends") >= before + 40
        vhci.wait_for(once, "requests that are sent in completions")


@UML
def test_periodic(host_driver):
    """Isochronous and interrupt transfers at the same device: every byte of every packet."""
    with peer_sample.plugged() as busid, passed_on(busid) as remote:
        with usbfs.Device(remote.usbfs()) as device:
            device.claim()
            device.set_interface(0, peer_sample.PERIODIC)
            peer_sample.check_isochronous(device)
            peer_sample.check_interrupt(device)


class Interrupts(host_gadget.Gadget):
    """A source and sink with nothing but interrupt endpoints, which `usbtest` selects before each
    case."""

    COUNT, SIZE = 50, 60

    def __init__(self):
        model = Model(product_id=0xA4A0, vendor_id=0x0525)
        model.configurations = {1: [model.configurations[1][1]]}
        self.taken_in, self.given = [], []
        super().__init__(model)

    def select(self, interface, alternate):
        super().select(interface, alternate)
        self.given = [self.send(INT_IN, bytes(self.SIZE)) for _ in range(self.COUNT)]
        self.taken_in = [self.receive(INT_OUT, INT_PACKET) for _ in range(self.COUNT)]


@UML
def test_usbtest_interrupt(host_driver, usbtest_module):
    """The cases of interrupt endpoints, which a source and sink of the kernel does not have."""
    host_gadget.load()
    gadget = Interrupts()
    try:
        host.wait_own(gadget.busid)
        with passed_on(gadget.busid) as device:
            device.bound("usbtest")
            sizes = {"count": gadget.COUNT, "size": gadget.SIZE, "vary": 1}
            run_cases(device.usbfs(), [25], **sizes)
            assert [len(one.wait()) for one in gadget.taken_in] == [gadget.SIZE] * gadget.COUNT
            run_cases(device.usbfs(), [26], **sizes)
            assert [len(one.wait()) for one in gadget.given] == [gadget.SIZE] * gadget.COUNT
    finally:
        gadget.close()
        vhci.wait_gone(gadget.busid)


@UML
@pytest.mark.parametrize("speed", [vhci.HIGH, vhci.SUPER], ids=["high", "super"])
def test_disk(host_driver, tmp_path, speed):
    """What is written is in the image, and what is in the image is read."""
    image = tmp_path / "image"
    content = random.Random(speed).randbytes(2 << 20)
    image.write_bytes(content)
    with passed_on_gadget("disk", image, speed=speed) as (_, device):
        expected = peer_disk.check_image(device, content)
    assert image.read_bytes() == expected


@UML
def test_loopback_gadget(host_driver):
    """What is sent comes back."""
    # By its own id usbtest would take it.
    with passed_on_gadget("source-sink", "--loopback", "--id", "1209:0001") as (_, device):
        peer_loop.check(device)


@peer_ethernet.LANES
@pytest.mark.parametrize("kind", peer_ethernet.DRIVERS)
def test_network_gadget(host_driver, tmp_path, kind):
    """A network card, between two network namespaces."""
    with passed_on_gadget("network", "--kind", kind) as (gadget, device):
        peer_ethernet.check(device, *gadget.said, kind, tmp_path)


@UML
def test_serial_gadget(host_driver):
    """A modem: two interfaces, an interrupt endpoint, both ways at once."""
    with passed_on_gadget("serial") as (gadget, device):
        peer_serial.check_modem(device, *gadget.said)


@UML
def test_keyboard_gadget(host_driver):
    """Reports of an interrupt endpoint become key presses."""
    with passed_on_gadget("keyboard") as (gadget, device):
        peer_keyboard.check_gadget(device, *gadget.said)


@UML
def test_mouse_gadget(host_driver):
    """The same with a mouse."""
    with passed_on_gadget("mouse") as (gadget, device):
        peer_keyboard.check_mouse(device, *gadget.said)


@UML
def test_security_key(host_driver):
    """Packets of 64 bytes both ways, as FIDO keys have them."""
    with passed_on_gadget("security-key") as (gadget, device):
        peer_fido.check(device, *gadget.said)


# --- QEMU's devices ---------------------------------------------------------------------------

@pytest.fixture
def remote(host_driver):
    """A function that passes one of QEMU's devices on."""
    with contextlib.ExitStack() as stack:
        def attach(name: str) -> peer_stock.Remote:
            busid = peer_stock.busid(name)
            peer_stock.settle()
            return stack.enter_context(passed_on(busid))

        yield attach


@STOCK
def test_storage(host_driver, tmp_path):
    """Files that are written are the same for the next client, and on the disk itself."""
    busid = peer_stock.busid("storage")
    peer_stock.settle()
    with passed_on(busid) as device:
        disk = device.disk()
        peer_disk.mounted(disk, tmp_path, peer_disk.fill)
        before = peer_disk.checksum(disk)
    with passed_on(busid) as device:
        disk = device.disk()
        assert peer_disk.checksum(disk) == before
        there = peer_disk.mounted(disk, tmp_path, peer_disk.files, "-o", "ro")
        assert there.items() >= peer_disk.WRITTEN.items()
    assert peer_disk.local_checksum(busid) == before


@STOCK
def test_keyboard(remote, machine):
    peer_keyboard.check(remote("kbd"), machine.press)


@pytest.fixture
def tablet(machine):
    """It is plugged in. By its numbers it is the keyboard."""
    machine.plug("usb-tablet", "tablet")
    busid = peer_stock.busid("tablet")
    yield
    machine.unplug("tablet")
    vhci.wait_gone(busid)


@STOCK
def test_tablet(tablet, remote, machine):
    peer_keyboard.check_tablet(remote("tablet"), machine)


@STOCK
def test_serial(remote):
    with peer_serial.adapter(remote("serial")) as node:
        peer_serial.check_both_ways(node, peer_serial.PORT)


@STOCK
def test_smart_card_reader(remote):
    peer_ccid.check(remote("ccid"))


@STOCK
def test_headset(remote, tmp_path):
    """Isochronous OUT: every sample, in order and without a gap."""
    frames = peer_sound.RATE // 2
    peer_sound.play_loudest(remote("audio"), tmp_path, frames, 2)
    peer_sound.wait_heard(frames, 2)
