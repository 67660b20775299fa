# SPDX-License-Identifier: GPL-2.0
"""Gadgets of the kernel at a virtual controller, with the drivers that users have at the other end, on
one machine. The scripts of samples/gadget make them; the client is ours."""

import contextlib
import itertools
import os
import random
import subprocess

import pytest

import host_configfs
import peer_disk
import peer_ethernet
import peer_fido
import peer_keyboard
import peer_loop
import peer_serial
import peer_sound
import peer_video
import vhci
import vudc
from test_vhci_devices import BULK, ISO, UNLINK, path_of_testusb, run_cases
from vudc import beyond_c
from vudc_fixtures import *  # noqa: F401,F403  pylint: disable=wildcard-import,unused-wildcard-import

pytest_plugins = ("vhci_fixtures",)
pytestmark = [pytest.mark.usefixtures("host_watched", "watched")]

NAME = "usbip-vudc.0"
SPEEDS = {vhci.FULL: 2, vhci.HIGH: 3, vhci.SUPER: 5}
# An emulated machine takes long for each device: what the debug kernels have is tried once there.
STOCK, STOCK_ONCE = pytest.mark.lanes("stock"), pytest.mark.lanes("stock-7.2")
UML, UML_AND_ONCE = pytest.mark.lanes("uml"), pytest.mark.lanes("uml", "stock-7.2")


@pytest.fixture
def fastest(vudc_driver):
    """fastest(speed): the module with controllers of this speed."""
    def reload(speed: int):
        vudc.unload()
        vudc.load("num=2", *([] if vudc.VUDC == "c" else [f"max_speed={SPEEDS[speed]}"]))

    yield reload
    reload(vhci.HIGH)


@pytest.fixture
def four_controllers(vudc_driver):
    """Their names."""
    vudc.unload()
    vudc.load("num=4")
    yield [f"usbip-vudc.{number}" for number in range(4)]
    vudc.unload()
    vudc.load("num=2")


@pytest.fixture
def usbtest_module():
    """usbtest(setting): it is loaded, with the endpoints of this alternate setting."""
    def load(setting: int):
        path_of_testusb()
        subprocess.run(["modprobe", "usbtest", f"alt={setting}"], check=True)

    yield load
    subprocess.run(["modprobe", "-r", "usbtest"], check=True)


@contextlib.contextmanager
def used(script: str, *arguments, name: str = NAME, speed: int = vhci.HIGH, **options):
    """A gadget and, attached, the device that it is."""
    with vudc.gadget(script, *arguments, name=name, speed=speed, **options) as gadget:
        with vudc.attached(name, speed) as device:
            yield gadget, device


# --- source, sink and loop --------------------------------------------------------------------

@pytest.mark.parametrize("speed", [
    pytest.param(vhci.FULL, marks=pytest.mark.lanes("uml-lockdep"), id="full"),
    pytest.param(vhci.HIGH, id="high"),
    pytest.param(vhci.SUPER, marks=[pytest.mark.lanes("uml-kasan", "stock-7.2"), beyond_c],
                 id="super")])
def test_usbtest(fastest, usbtest_module, speed):
    """Every case of a source and sink but the isochronous ones."""
    fastest(speed)
    usbtest_module(-1)
    # Whole packets, or what is read in part is an overflow.
    sizes = {"size": 4096, "vary": 1024} if speed == vhci.SUPER else {}
    with used("source-sink", speed=speed) as (_, device):
        device.bound("usbtest")
        run_cases(device.usbfs(), BULK, count=5, **sizes)
        if vudc.VUDC != "c":
            run_cases(device.usbfs(), UNLINK, count=50)


@beyond_c
@STOCK
@pytest.mark.parametrize("speed", [vhci.HIGH, vhci.SUPER], ids=["high", "super"])
def test_usbtest_isochronous(fastest, usbtest_module, speed):
    """Cases 15, 16, 22 and 23, which neither C's controller nor dummy_hcd can do."""
    fastest(speed)
    # Once it was bound to dummy_hcd, it has no isochronous setting any more. (Debug kernels have it
    # built in.)
    subprocess.run(["modprobe", "-r", "usb_f_ss_lb"], check=True)
    usbtest_module(1)
    with used("source-sink", speed=speed) as (_, device):
        device.bound("usbtest")
        run_cases(device.usbfs(), ISO, count=5)


@UML
def test_usbtest_loopback(vudc_driver, usbtest_module):
    """The cases that a loop can do. Not those that read: it is empty when a case begins, as each
    selects the setting anew."""
    usbtest_module(-1)
    with used("source-sink", "--loopback") as (_, device):
        device.bound("usbtest")
        run_cases(device.usbfs(), [0, 1, 3, 9, 10, 17], count=5)


@UML
def test_loopback(vudc_driver):
    """A loop of the kernel's."""
    # By its own id usbtest would take it.
    with used("source-sink", "--loopback", "--id", "1209:0001") as (_, device):
        peer_loop.check(device)


@pytest.mark.parametrize("speed", [
    pytest.param(vhci.HIGH, marks=UML, id="high"),
    pytest.param(vhci.SUPER, marks=[pytest.mark.lanes("uml-kasan", "stock-7.2"), beyond_c],
                 id="super")])
def test_functionfs(fastest, speed):
    """A loop that a program is, with asynchronous descriptors; again for the next client."""
    fastest(speed)
    with vudc.gadget("functionfs", kind=host_configfs.Played, speed=speed):
        for _ in range(2):
            with vudc.attached(NAME, speed) as device:
                peer_loop.check(device)


# --- devices ----------------------------------------------------------------------------------

@pytest.mark.parametrize("speed", [vhci.HIGH, pytest.param(vhci.SUPER, marks=beyond_c)],
                         ids=["high", "super"])
def test_disk(fastest, tmp_path, speed):
    """What is written is in the image, and what is in the image is read."""
    fastest(speed)
    image = tmp_path / "image"
    content = random.Random(speed).randbytes(2 << 20)
    image.write_bytes(content)
    with used("disk", image, speed=speed) as (_, device):
        expected = peer_disk.check_image(device, content)
    assert image.read_bytes() == expected


def test_modem(vudc_driver):
    """A modem: two interfaces, an interrupt endpoint, both ways at once."""
    with used("serial") as (gadget, device):
        peer_serial.check_modem(device, *gadget.said)


@UML_AND_ONCE
def test_keyboard(vudc_driver):
    """Reports of an interrupt endpoint become key presses."""
    with used("keyboard") as (gadget, device):
        peer_keyboard.check_gadget(device, *gadget.said)


@UML
def test_mouse(vudc_driver):
    """Reports of an interrupt endpoint become motions."""
    with used("mouse") as (gadget, device):
        peer_keyboard.check_mouse(device, *gadget.said)


@UML
def test_security_key(vudc_driver):
    """Packets of 64 bytes both ways, as FIDO keys have them."""
    with used("security-key") as (gadget, device):
        peer_fido.check(device, *gadget.said)


@peer_ethernet.LANES
@pytest.mark.parametrize("kind", peer_ethernet.DRIVERS)
def test_network(vudc_driver, tmp_path, kind):
    """A network card, between two network namespaces."""
    with used("network", "--kind", kind) as (gadget, device):
        peer_ethernet.check(device, *gadget.said, kind, tmp_path)


@beyond_c
@pytest.mark.parametrize("gadget_plays", [True, False], ids=["microphone", "speaker"])
@pytest.mark.parametrize("audio_class", [
    pytest.param(1, marks=pytest.mark.lanes("uml-kasan"), id="uac1"),
    pytest.param(2, marks=UML_AND_ONCE, id="uac2")])
def test_headset(vudc_driver, audio_class, gadget_plays):
    """Isochronous streams, of the second class with feedback: what one end plays the other records."""
    with used("audio", "--class", audio_class) as (gadget, device):
        device.bound(*["snd-usb-audio"] * 3)
        here, there = *gadget.said, peer_sound.card(device)
        cards = (here, there) if gadget_plays else (there, here)
        peer_sound.check_headset(*cards, gadget_plays)


@beyond_c
@STOCK_ONCE
def test_camera(vudc_driver):
    """A stream of frames that a program makes arrives whole, each once, in order; twice."""
    width, height = 80, 60
    with used("video", "--size", f"{width}x{height}", kind=host_configfs.Played) as (_, device):
        device.bound("uvcvideo", "uvcvideo")
        node = device.node("video4linux/video*")
        for _ in range(2):
            with peer_video.capture(node, width, height, buffers=4) as frames:
                got = [data for _, data in itertools.islice(frames, 4)]
            first = got[0][0]
            assert got == [bytes((first + number + byte) % 256 for byte in range(width * height * 2))
                           for number in range(4)]


# --- several ----------------------------------------------------------------------------------

@pytest.fixture
def image(tmp_path):
    """Of a disk that :class:`peer_disk.Traffic` can read."""
    path = tmp_path / "image"
    path.write_bytes(b"")
    os.truncate(path, 2 * peer_disk.AREA)
    return path


@UML
def test_composite(vudc_driver, image):
    """A disk and two lines in one device, all busy at once."""
    with used("composite", image) as (gadget, device):
        disk = device.disk(*["cdc_acm"] * 4)
        nodes = ["/dev/" + next(device.path.glob(f"*:1.{number}/tty/*")).name for number in (1, 3)]
        with peer_disk.Traffic(disk) as traffic:
            peer_serial.check_lines(*zip(nodes, gadget.said))
            traffic.wait_flowing()


@UML_AND_ONCE
def test_four_gadgets(four_controllers, image):
    """Four controllers at once, each with a client: what one does disturbs no other."""
    with contextlib.ExitStack() as stack:
        devices = [stack.enter_context(used(*what, name=name))
                   for name, what in zip(four_controllers, (
                       ("disk", image), ("serial",), ("keyboard",),
                       ("source-sink", "--loopback", "--id", "1209:0001")))]
        (_, disk), (line, modem), (keys, board), (_, loop) = devices
        with peer_disk.Traffic(disk.disk()) as traffic:
            peer_serial.check_modem(modem, *line.said)
            peer_keyboard.check_gadget(board, *keys.said)
            peer_loop.check(loop)
            traffic.wait_flowing()


def test_two_gadgets(vudc_driver):
    """A client of one controller does not use the other."""
    with vudc.gadget("serial"), vudc.gadget("serial", name="usbip-vudc.1"):
        with vudc.attached(NAME) as one:
            one.bound("cdc_acm", "cdc_acm")
            assert vudc.status("usbip-vudc.1") == vudc.AVAILABLE
        assert vudc.status(NAME) == vudc.AVAILABLE


# --- it goes ----------------------------------------------------------------------------------

def check_goes(image, go, come):
    """A disk is being read when go(gadget) takes it away: the client loses it. After come(gadget) it
    works again."""
    with vudc.gadget("disk", image) as gadget:
        with vudc.attached(NAME) as device:
            with peer_disk.Traffic(device.disk()) as traffic:
                go(gadget)
                traffic.wait_over()
            vhci.wait_free(device.port)
            come(gadget)
        vudc.wait_gadget(NAME)
        with vudc.attached(NAME) as device:
            assert device.disk()


# Of C's controller the next client gets first what was meant for this one, and gives up (B7).
@beyond_c
@pytest.mark.parametrize("turn", range(3))
def test_unbound_under_traffic(vudc_driver, image, turn):
    """The gadget is taken away from the controller."""
    check_goes(image, host_configfs.Gadget.unbind, host_configfs.Gadget.bind)


@beyond_c
@UML
def test_pull_up_off_under_traffic(vudc_driver, image):
    """The gadget stays bound, and is not to be seen for a while."""
    def connect(word: str):
        (vudc.UDCS / NAME / "soft_connect").write_text(word)

    def go(_):
        connect("disconnect")
        vudc.wait_status(NAME)
        assert vhci.errno_of(vudc.sockfd, NAME, -1) == "ENODEV"

    check_goes(image, go, lambda _: connect("connect"))


@UML
def test_unloaded_under_traffic(vudc_driver, image):
    """The module goes; when it is back, the gadget's driver finds the new controller by its name."""
    check_goes(image, lambda _: vudc.unload(), lambda _: vudc.load("num=2"))


def test_gadget_folder_is_left_clean():
    """The tests before this one have left nothing behind."""
    assert not list((host_configfs.CONFIGFS / "usb_gadget").glob("usbip-vudc*"))
