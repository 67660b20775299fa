# SPDX-License-Identifier: GPL-2.0
"""A device comes to the server and goes back to its own driver: statements 101 to 109, and defects
B4 to B6 and B25. Whatever the order of things, the next bind works."""

import ctypes
import itertools
import os
import random
import threading
import time

import pytest

import host
import host_gadget
import vhci
from host import beyond_c
from host_model import Model
from vhci_device import FakeDevice

pytest_plugins = ("vhci_fixtures", "host_fixtures")
pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml")]

SKIPPED = r"{} is not in match_busid table\.\.\. skip!"


@pytest.fixture
def busid(gadget):
    """The bus id of the scripted device, plugged in and with its own driver; afterwards it is so
    again, and the table is empty."""
    tidy(gadget)
    yield gadget.busid
    tidy(gadget)


def tidy(gadget):
    """From any state to the device with its own driver and nothing in the table."""
    if not host.DRIVER.exists():
        host.load()
    if not (vhci.USB / gadget.busid).exists():
        gadget.plug()
        # Being there is not enough: the driver core may just be looking for its driver.
        vhci.wait_for(lambda: host.driver_of(gadget.busid), f"a driver of {gadget.busid}",
                      vhci.ENUMERATION)
    if host.driver_of(gadget.busid) == "usbip-host":
        host.unbind(gadget.busid)
    if host.driver_of(gadget.busid) is None:
        host.bind(gadget.busid, host.GENERIC)
    host.wait_own(gadget.busid)
    for name in host.table():
        host.delete(name)
    if host.table():
        assert host.HOST == "c"
        host.unload()
        host.load()


def to_nobody(busid: str):
    """Take the device from its own driver."""
    host.unbind(busid, host.GENERIC)
    assert host.driver_of(busid) is None and host.configuration(busid) == ""


def works(busid: str):
    """The server takes the device, a client uses it, and it goes back."""
    with host.exported(busid):
        client = host.connect(busid)
        client.in_step()
        client.set_configuration(1)
        client.close()
        host.wait_status(busid)
    assert host.table() == []


# --- bind -------------------------------------------------------------------------------------

def test_s101_not_in_the_table(busid, host_watched):
    to_nobody(busid)
    assert vhci.errno_of(host.bind, busid) == "ENODEV"
    assert len(host_watched.grep(SKIPPED.format(busid))) == 1
    assert host.driver_of(busid) is None


@beyond_c
def test_s101_deleted_again(busid):
    host.add(busid)
    host.delete(busid)
    to_nobody(busid)
    assert vhci.errno_of(host.bind, busid) == "ENODEV"


def test_s104_with_another_driver(busid):
    host.add(busid)
    assert vhci.errno_of(host.bind, busid) == "EBUSY"
    assert host.driver_of(busid) == "usb"


def test_bind_of_nothing(host_watched):
    host.add("99-99")
    assert vhci.errno_of(host.bind, "99-99") == "ENODEV"
    host.delete("99-99")


def test_s105_bound(busid):
    """Three files, available, no configuration."""
    host.take(busid)
    assert host.driver_of(busid) == "usbip-host"
    path = vhci.USB / busid
    for name in ("usbip_status", "usbip_sockfd", "usbip_debug"):
        assert (path / name).exists()
    assert host.status(busid) == host.AVAILABLE
    assert host.configuration(busid) == ""
    assert not list(path.glob(f"{busid}:*"))
    assert host.table() == [busid]
    assert not vhci.kernel_threads(host.THREADS)


def test_s105_port_is_claimed(busid):
    """What claims ports as usbfs does finds it taken, and free again afterwards."""
    hub = os.open(vhci.devnode(vhci.USB / f"usb{busid.split('-')[0]}"), os.O_RDWR)
    try:
        assert vhci.errno_of(claim_port, hub, 1) is None
        assert vhci.errno_of(release_port, hub, 1) is None
        host.take(busid)
        assert vhci.errno_of(claim_port, hub, 1) == "EBUSY"
        host.unbind(busid)
        assert vhci.errno_of(claim_port, hub, 1) is None
        # And the other way round.
        assert vhci.errno_of(host.bind, busid) == "EBUSY"
        assert host.driver_of(busid) is None
        assert vhci.errno_of(release_port, hub, 1) is None
        host.bind(busid)
    finally:
        os.close(hub)


def _port_ioctl(fd: int, number: int, port: int):
    request = (2 << 30) | (4 << 16) | (ord("U") << 8) | number
    host_gadget.ioctl(fd, request, ctypes.addressof(ctypes.c_uint(port)))


def claim_port(fd: int, port: int):
    _port_ioctl(fd, 24, port)


def release_port(fd: int, port: int):
    _port_ioctl(fd, 25, port)


def test_s102_root_hub(gadget, busid):
    """A root hub of a controller that nobody needs for the moment."""
    name = f"usb{host_gadget.busid(1, vhci.HIGH).split('-')[0]}"
    # One that is asleep could not be configured again.
    power = vhci.USB / name / "power/control"
    power.write_text("on")
    host.add(name)
    host.unbind(name, host.GENERIC)
    try:
        assert vhci.errno_of(host.bind, name) == "ENODEV"
    finally:
        host.bind(name, host.GENERIC)
        host.delete(name)
    host.wait_own(name)
    power.write_text("auto")


def test_s102_hub(busid):
    """A device that says it is a hub."""
    one = host_gadget.Gadget(Model(device_class=(9, 0, 1)), number=1)
    try:
        host.wait_own(one.busid)
        host.add(one.busid)
        host.unbind(one.busid, host.GENERIC)
        assert vhci.errno_of(host.bind, one.busid) == "ENODEV"
        host.delete(one.busid)
    finally:
        one.close()


@beyond_c
def test_s103_attached_device(plug, host_watched):
    """B25: a device that is imported cannot be exported."""
    name = plug(FakeDevice()).path.name
    host.add(name)
    host.unbind(name, host.GENERIC)
    assert vhci.errno_of(host.bind, name) == "ENODEV"
    assert host.driver_of(name) is None
    host.delete(name)


# --- and back ---------------------------------------------------------------------------------

def test_s106_as_the_tool_does(busid):
    """unbind, del, rebind: the device is configured, its interfaces are there, the table empty."""
    for _ in range(3):
        host.take(busid)
        host.unbind(busid)
        assert host.driver_of(busid) is None
        assert host.delete(busid) == len(f"del {busid}")
        assert host.rebind(busid) == len(busid)
        host.wait_own(busid)
        assert host.configuration(busid) == "1"
        assert len(host.interface_drivers(busid)) == 2
        assert host.table() == []


@beyond_c
def test_rebind_takes_an_end_of_line(busid):
    host.take(busid)
    host.unbind(busid)
    host.rebind(f"{busid}\n")
    host.wait_own(busid)
    assert host.table() == []


def test_s107_unload(busid):
    """The driver goes, the device is back with its own."""
    host.take(busid)
    host.unload()
    host.wait_own(busid)
    assert len(host.interface_drivers(busid)) == 2


@pytest.mark.parametrize("configured", [False, True])
def test_s107_unload_while_in_use(busid, configured):
    """s134: the client is cut off."""
    host.take(busid)
    client = host.connect(busid)
    client.in_step()
    if configured:
        client.set_configuration(1)
    start = time.monotonic()
    host.unload()
    client.gone()
    assert time.monotonic() - start < vhci.TEARDOWN
    host.wait_own(busid)
    client.close()


def test_unload_after_unbind(busid):
    host.take(busid)
    host.unbind(busid)
    host.unload()
    host.wait_own(busid)


# --- in any order -----------------------------------------------------------------------------

class Steps:
    """What an administrator and whoever holds the plug may do, in any order. Each step may be
    refused, but not with everything."""

    ALLOWED = {"add": (None,), "del": (None, "ENODEV"), "bind": (None, "ENODEV", "EBUSY"),
               "unbind": (None, "ENODEV"), "rebind": (None, "ENODEV", "EBUSY"),
               "generic": (None, "ENODEV", "EBUSY"), "free": (None, "ENODEV")}

    def __init__(self, gadget):
        self.gadget, self.busid = gadget, gadget.busid
        self.plugged = True

    def run(self, steps):
        for step in steps:
            getattr(self, step, lambda step=step: self.write(step))()

    def write(self, step: str):
        error = vhci.errno_of({"add": host.add, "del": host.delete, "bind": host.bind,
                               "unbind": host.unbind, "rebind": host.rebind,
                               "generic": lambda name: host.bind(name, host.GENERIC),
                               "free": lambda name: host.unbind(name, host.GENERIC)}[step],
                              self.busid)
        assert error in self.ALLOWED[step], (step, error)

    def unplug(self):
        if self.plugged:
            self.gadget.unplug()
            vhci.wait_gone(self.busid)
            self.plugged = False

    def plug(self):
        if not self.plugged:
            self.gadget.plug()
            vhci.wait_for(lambda: (vhci.USB / self.busid).exists(), self.busid, vhci.ENUMERATION)
            host.wait_driver(self.busid, "usb")
            self.plugged = True

    def reload(self):
        host.unload()
        host.load()


ORDERS = [
    "add free bind unplug plug",
    "add free bind unplug reload plug",
    "add free bind del unplug plug add free bind",
    "add free bind unbind unplug plug rebind",
    "add free bind unbind unplug rebind plug",
    "add free bind unplug plug rebind",
    "add free bind unplug rebind plug rebind",
    "add free bind unplug del plug add free bind",
    "add free bind rebind unplug plug",
    "add free bind rebind unbind rebind",
    "add free bind rebind del unbind",
    "add free bind del add unbind bind",
    "add free bind del unbind bind",
    "add free bind del unbind rebind",
    "add free bind bind unbind unbind rebind rebind",
    "add rebind",
    "add free rebind",
    "add unplug rebind plug",
    "add unplug plug rebind",
    "free unplug plug",
]
# The C driver gets what the tools do.
C_ORDERS = ["add free bind unbind bind unbind rebind"]


@pytest.mark.parametrize("order", C_ORDERS if host.HOST == "c" else ORDERS)
def test_s108_s109_order(gadget, busid, order):
    Steps(gadget).run(order.split())
    tidy(gadget)
    works(busid)


@beyond_c
def test_s108_any_order(gadget, busid):
    """Steps drawn by lot."""
    rng = random.Random(4)
    choice = ["add", "del", "bind", "unbind", "rebind", "generic", "free"]
    steps = Steps(gadget)
    for _ in range(5):
        steps.run(rng.choices(choice, k=40))
        steps.run(rng.choices([("unplug", "plug"), ("reload",), ()])[0])
    tidy(gadget)
    works(busid)


@beyond_c
def test_s108_all_at_once(gadget, busid):
    """B4 to B6: administrators who know nothing of each other, and a plug that is loose."""
    stop = threading.Event()
    steps = Steps(gadget)
    failures = []

    def until_stopped(names):
        try:
            for step in itertools.cycle(names):
                if stop.is_set():
                    return
                steps.write(step)
        except BaseException as error:  # pylint: disable=broad-except
            failures.append(error)

    def look():
        while not stop.is_set():
            host.table()
            vhci.errno_of(host.status, busid)

    threads = [threading.Thread(target=until_stopped, args=(names,)) for names in (
        ["add", "del"], ["free", "bind", "unbind", "generic"], ["bind", "unbind"], ["rebind"],
        ["add", "free", "bind"])]
    threads.append(threading.Thread(target=look))
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            time.sleep(0.2)  # gives the threads their time; nothing depends on it
            gadget.unplug()
            vhci.wait_gone(busid)
            gadget.plug()
            vhci.wait_for(lambda: (vhci.USB / busid).exists(), busid, vhci.ENUMERATION)
    finally:
        stop.set()
        for thread in threads:
            thread.join(vhci.TEARDOWN + vhci.SOON)
    assert not any(thread.is_alive() for thread in threads), "a write does not return"
    assert not failures, failures
    tidy(gadget)
    works(busid)


@beyond_c
def test_plugged_in_anew_it_is_nobodys(gadget, busid):
    """An entry in the table is a permission: a new device goes to its own driver."""
    host.take(busid)
    gadget.unplug()
    vhci.wait_gone(busid)
    gadget.plug()
    host.wait_own(busid)
    assert host.table() == [busid]
    host.unbind(busid, host.GENERIC)
    host.bind(busid)
    assert host.status(busid) == host.AVAILABLE
