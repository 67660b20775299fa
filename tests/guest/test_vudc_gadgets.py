# SPDX-License-Identifier: GPL-2.0
"""Gadgets of the kernel at a virtual controller, with the drivers that users have at the other end, on
one machine: disk, modem, source and sink. The client is ours."""

import hashlib
import os
import random
import socket
import subprocess

import pytest

import host_configfs
import peer_serial
import peer_stock
import vhci
import vudc
from test_vhci_devices import BULK, ISO, UNLINK, path_of_testusb, run_cases
from vudc import beyond_c
from vudc_fixtures import *  # noqa: F401,F403  pylint: disable=wildcard-import,unused-wildcard-import

pytest_plugins = ("vhci_fixtures",)
pytestmark = [pytest.mark.usefixtures("host_watched", "watched")]

NAME = "usbip-vudc.0"
SPEEDS = {vhci.FULL: 2, vhci.HIGH: 3, vhci.SUPER: 5}


@pytest.fixture
def fastest(vudc_driver):
    """fastest(speed): the module with controllers of this speed."""
    def reload(speed: int):
        vudc.unload()
        vudc.load("num=2", *([] if vudc.VUDC == "c" else [f"max_speed={SPEEDS[speed]}"]))

    yield reload
    reload(vhci.HIGH)


@pytest.fixture
def usbtest_module():
    """usbtest(setting): it is loaded, with the endpoints of this alternate setting."""
    def load(setting: int):
        path_of_testusb()
        subprocess.run(["modprobe", "usbtest", f"alt={setting}"], check=True)

    yield load
    subprocess.run(["modprobe", "-r", "usbtest"], check=True)


def source_and_sink(speed: int):
    """What usbtest takes for a tester's device."""
    return vudc.gadget(["SourceSink.0"], ["Loopback.0"], vendor=0x0525, product=0xA4A0, speed=speed)


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
    with source_and_sink(speed), vudc.attached(NAME, speed) as device:
        device.bound("usbtest")
        run_cases(device.usbfs(), BULK, count=5, **sizes)
        if vudc.VUDC != "c":
            run_cases(device.usbfs(), UNLINK, count=50)


@beyond_c
@pytest.mark.lanes("stock")
@pytest.mark.parametrize("speed", [vhci.HIGH, vhci.SUPER], ids=["high", "super"])
def test_usbtest_isochronous(fastest, usbtest_module, speed):
    """Cases 15, 16, 22 and 23, which neither C's controller nor dummy_hcd can do."""
    fastest(speed)
    # Once it was bound to dummy_hcd, it has no isochronous setting any more. (Debug kernels have it
    # built in.)
    subprocess.run(["modprobe", "-r", "usb_f_ss_lb"], check=True)
    usbtest_module(1)
    with source_and_sink(speed), vudc.attached(NAME, speed) as device:
        device.bound("usbtest")
        run_cases(device.usbfs(), ISO, count=5)


@pytest.mark.parametrize("speed", [vhci.HIGH, pytest.param(vhci.SUPER, marks=beyond_c)],
                         ids=["high", "super"])
def test_disk(fastest, tmp_path, speed):
    """What is written is in the image, and what is in the image is read."""
    fastest(speed)
    image = tmp_path / "image"
    content = random.Random(speed).randbytes(2 << 20)
    image.write_bytes(content)

    def setup(folder):
        (folder / "lun.0/file").write_text(str(image))

    with vudc.gadget(["mass_storage.0"], speed=speed, setup=setup):
        with vudc.attached(NAME, speed) as device:
            disk = device.disk()
            with open(disk, "rb") as block:
                assert hashlib.sha256(block.read()).digest() == hashlib.sha256(content).digest()
            new = random.Random(9).randbytes(200 * 1024)
            with open(disk, "r+b") as block:
                block.seek(100 * 512)
                block.write(new)
                os.fsync(block.fileno())
        assert image.read_bytes() == content[:51200] + new + content[51200 + len(new):]


def test_modem(fastest):
    """A modem: two interfaces, an interrupt endpoint, both ways at once."""
    with vudc.gadget(["acm.0"]), vudc.attached(NAME) as device:
        device.bound("cdc_acm", "cdc_acm")
        node = device.node("tty/ttyACM*")
        host_end, gadget_end = peer_serial.raw(node), peer_serial.raw("/dev/ttyGS0")
        try:
            for turn in range(4):
                there = random.Random(turn).randbytes(700)
                back = random.Random(turn + 50).randbytes(900)
                assert os.write(host_end, there) == len(there)
                assert os.write(gadget_end, back) == len(back)
                assert peer_serial.read(gadget_end, len(there)) == there
                assert peer_serial.read(host_end, len(back)) == back
        finally:
            os.close(host_end)
            os.close(gadget_end)


@pytest.mark.lanes("stock")
def test_network(fastest, tmp_path):
    """A network card: a stream of a MiB each way, between two network namespaces."""
    with vudc.gadget(["ncm.usb0"]) as gadget, vudc.attached(NAME) as device:
        device.bound("cdc_ncm", "cdc_ncm")
        there = vhci.wait_for(lambda: next(device.path.glob("*/net/*"), None), "the card").name
        here = (gadget.folder / "functions/ncm.usb0/ifname").read_text().strip()
        peer_stock.run("ip", "netns", "add", "vudc")
        try:
            peer_stock.run("ip", "link", "set", there, "netns", "vudc")
            for inside, name, address in (((), here, "10.55.0.1"), (("-n", "vudc"), there,
                                                                    "10.55.0.2")):
                peer_stock.run("ip", *inside, "addr", "add", f"{address}/24", "dev", name)
                peer_stock.run("ip", *inside, "link", "set", name, "up")
            data = random.Random(3).randbytes(1 << 20)
            (tmp_path / "data").write_bytes(data)
            with socket.create_server(("10.55.0.1", 0)) as listener:
                listener.settimeout(60 * vhci.SLACK)
                port = listener.getsockname()[1]
                echo = f"import socket,sys; s=socket.create_connection(('10.55.0.1', {port}), 60);" \
                    f"s.sendall(open('{tmp_path}/data','rb').read()); s.shutdown(1);" \
                    f"f=open('{tmp_path}/back','wb');" \
                    "[f.write(b) for b in iter(lambda: s.recv(65536), b'')]; f.close()"
                with subprocess.Popen(["ip", "netns", "exec", "vudc", "python3", "-c",
                                       echo]) as far:
                    sock, _ = listener.accept()
                    with sock:
                        sock.settimeout(60 * vhci.SLACK)
                        got = b"".join(iter(lambda: sock.recv(65536), b""))
                        assert got == data
                        sock.sendall(got[::-1])
                    assert far.wait(60 * vhci.SLACK) == 0
            assert (tmp_path / "back").read_bytes() == data[::-1]
        finally:
            subprocess.run(["ip", "netns", "del", "vudc"], check=True)


@pytest.mark.parametrize("turn", range(3))
def test_gadget_goes_under_traffic(fastest, tmp_path, turn):
    """Unbound while a disk is being read: the client loses it, and it works again afterwards."""
    image = tmp_path / "image"
    image.write_bytes(bytes(8 << 20))

    def setup(folder):
        (folder / "lun.0/file").write_text(str(image))

    with vudc.gadget(["mass_storage.0"], setup=setup) as gadget:
        with vudc.attached(NAME) as device:
            with open(device.disk(), "rb", buffering=0) as block:
                assert block.read(65536 << turn)
                with subprocess.Popen(["dd", f"if={device.disk()}", "of=/dev/null", "bs=4096",
                                       "iflag=direct"], stderr=subprocess.DEVNULL):
                    gadget.unbind()
                    vhci.wait_free(device.port)
        assert vudc.status(NAME) == vudc.AVAILABLE
        gadget.bind()
        vudc.wait_gadget(NAME)
        with vudc.attached(NAME) as device:
            assert device.disk()


def test_two_gadgets(fastest):
    """Two controllers at once have nothing to do with each other."""
    with vudc.gadget(["acm.0"]), vudc.gadget(["acm.1"], name="usbip-vudc.1"):
        with vudc.attached(NAME) as one:
            one.bound("cdc_acm", "cdc_acm")
            assert vudc.status("usbip-vudc.1") == vudc.AVAILABLE
        assert vudc.status(NAME) == vudc.AVAILABLE


def test_gadget_folder_is_left_clean():
    """The tests before this one have left nothing behind."""
    assert not list((host_configfs.CONFIGFS / "usb_gadget").glob("usbip-vudc*"))
