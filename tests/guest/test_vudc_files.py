# SPDX-License-Identifier: GPL-2.0
"""The files of a virtual controller, and how a client comes and goes: statements 13, 14, 135 to 137
and 146 to 150."""

import errno
import os
import stat
import struct
import subprocess
import time
from pathlib import Path

import pytest

import vhci
import vudc
from host_client import GET_DESCRIPTOR, Closed
from host_model import BULK_IN, SOURCE, VENDOR_IN, Model, pattern
from host_wire import setup
from vudc import beyond_c
from vudc_fixtures import *  # noqa: F401,F403  pylint: disable=wildcard-import,unused-wildcard-import

pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml")]

# A controller that no gadget is bound to.
EMPTY = "usbip-vudc.1"


def refused(name: str, text) -> str | None:
    """The errno of a write to usbip_sockfd that must not change the state."""
    before = vudc.status(name)
    error = vhci.errno_of(vudc.sockfd, name, text)
    assert vudc.status(name) == before
    return error


def udc(name: str, file: str) -> str:
    """What a file of the class device says."""
    return (vudc.UDCS / name / file).read_text().strip()


# --- the module -------------------------------------------------------------------------------

def test_s13_number_of_controllers(vudc_driver):
    vudc.unload()
    vudc.load("num=3")
    try:
        names = [f"usbip-vudc.{number}" for number in range(3)]
        assert sorted(one.name for one in vudc.UDCS.glob("usbip-vudc*")) == names
        assert sorted(one.name for one in vudc.PLATFORM.glob("usbip-vudc*")) == names
    finally:
        vudc.unload()
    try:
        for number in ("0", "-1"):
            with pytest.raises(subprocess.CalledProcessError):
                vudc.load(f"num={number}")
            assert not list(vudc.PLATFORM.glob("usbip-vudc*"))
    finally:
        vudc.load("num=2")


@beyond_c
@pytest.mark.parametrize("wrong", ["max_speed=1", "max_speed=7", "num=257", "client_timeout=5",
                                   "connection_urbs=0"])
def test_parameters(vudc_driver, kernel_log, wrong):
    """Nonsense is refused, with a line that says what is wrong."""
    vudc.unload()
    try:
        with pytest.raises(subprocess.CalledProcessError):
            vudc.load(wrong)
        kernel_log.wait(f"{wrong}: must be")
    finally:
        vudc.load("num=2")


def test_s14_uevent(vudc_driver):
    """What usbipd looks for, the same for every controller."""
    for number in range(2):
        text = (vudc.UDCS / f"usbip-vudc.{number}/uevent").read_text()
        assert "USB_UDC_NAME=usbip-vudc\n" in text


# --- files ------------------------------------------------------------------------------------

def test_modes(vudc_driver):
    for name, mode in (("usbip_status", 0o444), ("usbip_sockfd", 0o200), ("dev_desc", 0o444)):
        assert stat.S_IMODE((vudc.path(EMPTY) / name).stat().st_mode) == mode, name
    assert (vudc.path(EMPTY) / "dev_desc").stat().st_size == 18
    assert not (vudc.path(EMPTY) / "usbip_debug").exists()


def test_s135_without_a_gadget(vudc_driver):
    assert vhci.errno_of(vudc.descriptor, EMPTY) == "ENODEV"
    assert (vudc.path(EMPTY) / "usbip_status").read_bytes() == b"1\n"


def test_s135_with_a_gadget(gadget, export):
    export.drop()
    assert vudc.descriptor(gadget.busid) == gadget.model.device_descriptor()
    assert (vudc.path(gadget.busid) / "usbip_status").read_bytes() == b"1\n"
    export.client(configured=False)
    assert (vudc.path(gadget.busid) / "usbip_status").read_bytes() == b"2\n"
    # In parts as well.
    fd = os.open(vudc.path(gadget.busid) / "dev_desc", os.O_RDONLY)
    try:
        whole = gadget.model.device_descriptor()
        assert [os.pread(fd, 5, at) for at in (0, 16, 18)] == [whole[:5], whole[16:], b""]
    finally:
        os.close(fd)


@pytest.mark.parametrize("text", ["-1", "0", "3", "1000000"])
def test_s136_without_a_gadget(vudc_driver, text):
    assert refused(EMPTY, text) == "ENODEV"


@pytest.mark.parametrize("text", ["x", "1 ", "1x", "0x", "--1", "99999999999", "1\n2"])
def test_s136_no_number(export, text):
    export.drop()
    assert refused(export.busid, text) == "EINVAL"


def test_s136_no_client(export):
    export.drop()
    assert refused(export.busid, "-1") == "EINVAL"


def test_s136_no_socket(export):
    export.drop()
    with open("/dev/null", "rb") as null:
        assert refused(export.busid, null.fileno()) == "EINVAL"
    assert refused(export.busid, 1000) == "EINVAL"
    with vhci.socket.socket(vhci.socket.AF_INET, vhci.socket.SOCK_DGRAM) as sock:
        assert refused(export.busid, sock.fileno()) == "EINVAL"


@pytest.mark.parametrize("form", ["{}", "{}\n", "0x{:x}", "0X{:X}\n", "0{:o}", "+{}"])
def test_s136_number(export, form):
    export.drop()
    kernel, ours = vhci.stream_pair()
    with kernel, ours:
        vudc.sockfd(export.busid, form.format(kernel.fileno()))
        assert vudc.status(export.busid) == vudc.USED
    vudc.wait_status(export.busid)


def test_s136_second_client(export):
    """It gets EBUSY, and the first one goes on."""
    link = export.client()
    kernel, ours = vhci.stream_pair()
    with kernel, ours:
        assert refused(export.busid, kernel.fileno()) == "EBUSY"
    link.in_step()


def test_disconnect(export):
    link = export.client()
    vudc.sockfd(export.busid, "-1\n")
    link.gone()
    export.drop()


def test_s137_udc(gadget, export):
    export.client()
    assert udc(gadget.busid, "current_speed") == "high-speed"
    assert udc(gadget.busid, "maximum_speed") == "high-speed"
    assert gadget.controller_endpoints() == [
        f"ep{number}{direction}" for number in range(1, 16) for direction in ("out", "in")]
    assert udc(EMPTY, "maximum_speed") == "high-speed"
    assert udc(EMPTY, "current_speed") == "UNKNOWN"
    assert udc(EMPTY, "state") == "not attached"


# --- clients that come and go -----------------------------------------------------------------

def test_s146_nothing_of_the_last_client(export, gadget):
    """Replies that a client did not read do not reach the next one."""
    for turn in range(5):
        link = export.client()
        for _ in range(20):
            gadget.send(BULK_IN, pattern(400, turn))
            link.submit_in(BULK_IN, 512)
        link.submit_control(setup(VENDOR_IN, SOURCE, 60, 0, 60))
        export.drop()
        gadget.cancel()
        link = export.client(configured=False)
        number = link.submit_control(setup(0x80, GET_DESCRIPTOR, 0x100, 0, 18))
        assert link.reply(number).data == gadget.model.device_descriptor()


def test_end_with_requests(export, gadget):
    """The requests of the gadget come back when the client goes."""
    link = export.client()
    waiting = gadget.send(BULK_IN, pattern(1024))
    # It is there, as half of it is taken.
    assert link.reply(link.submit_in(BULK_IN, 512)).data == pattern(512)
    export.drop()
    assert waiting.done.wait(vhci.SOON)
    assert waiting.error.errno == errno.ESHUTDOWN


@pytest.mark.parametrize("when", ["idle", "in flight", "control"])
def test_s147_gadget_goes(export, gadget, when):
    """The client loses the device, and the next gadget works."""
    link = export.client()
    if when == "in flight":
        for _ in range(10):
            link.submit_in(BULK_IN, 512)
    elif when == "control":
        gadget.hold = lambda setup: setup.request == SOURCE
        link.submit_control(setup(VENDOR_IN, SOURCE, 60, 0, 60))
        gadget.held.get(timeout=vhci.SOON)
    gadget.close()
    with pytest.raises((Closed, AssertionError)):
        link.recv()
    export.connection.close()
    export.connection = None
    vudc.wait_status(export.busid)
    assert vhci.errno_of(vudc.descriptor, export.busid) == "ENODEV"
    assert refused(export.busid, "-1") == "ENODEV"
    assert udc(export.busid, "state") == "not attached"
    gadget.hold = lambda setup: False
    gadget.plug()
    vudc.wait_gadget(export.busid)
    export.client().in_step()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_the_client_vanishes(export, kind):
    """Closed in the middle of a header: available again, in no time."""
    link = export.client(kind)
    link.send(struct.pack(">II", 1, 1))
    start = time.monotonic()
    export.drop()
    assert time.monotonic() - start < 2 * vhci.SLACK


@beyond_c
def test_s150_a_late_descriptor(vudc_driver):
    """A gadget that does not tell its descriptor at once: nobody can have it before it does."""
    subprocess.run(["modprobe", "raw_gadget"], check=True)
    one = vudc.Scripted(Model(), 1)
    try:
        one.hold = lambda setup: setup.request == GET_DESCRIPTOR
        assert vhci.errno_of(vudc.descriptor, EMPTY) == "ENODEV"
        assert refused(EMPTY, "0") == "ENODEV"
        one.held.get(timeout=vhci.SOON).answer()
        vudc.wait_gadget(EMPTY)
        assert vudc.descriptor(EMPTY) == one.model.device_descriptor()
    finally:
        one.close()


def test_s150_never_a_descriptor(vudc_driver):
    """A gadget that goes without having told it."""
    subprocess.run(["modprobe", "raw_gadget"], check=True)
    one = vudc.Scripted(Model(), 1)
    try:
        one.hold = lambda setup: setup.request == GET_DESCRIPTOR
        assert vhci.errno_of(vudc.descriptor, EMPTY) == "ENODEV"
    finally:
        one.close()
    assert vhci.errno_of(vudc.descriptor, EMPTY) == "ENODEV"


# --- rest -------------------------------------------------------------------------------------

def switches() -> int:
    """How often the threads of connections have been put to sleep."""
    total = 0
    for task in Path("/proc").glob("[0-9]*"):
        try:
            if (task / "comm").read_text().startswith("vudc_"):
                text = (task / "status").read_text()
                total += sum(int(line.split()[1]) for line in text.splitlines()
                             if "ctxt_switches" in line)
        except OSError:
            continue
    return total


@beyond_c
def test_s149_no_idle_wake_up(link):
    """A request that waits for the gadget costs nothing."""
    link.submit_in(BULK_IN, 512)
    link.in_step()
    vhci.wait_for(lambda: (before := switches()) == (time.sleep(0.05), switches())[1] and before,
                  "the threads to rest")
    before = switches()
    time.sleep(1)  # not a synchronisation: what would happen in this time is what is tested
    assert switches() == before


def test_unload_with_a_client(export, gadget):
    """The module goes when its gadgets are gone, and everything with it."""
    export.client()
    gadget.close()
    export.connection.close()
    export.connection = None
    vudc.unload()
    assert not vudc.DRIVER.exists() and not vhci.kernel_threads(vudc.THREADS)
    vudc.load("num=2")
    gadget.plug()
    vudc.wait_gadget(export.busid)
    export.client().in_step()
