# SPDX-License-Identifier: GPL-2.0
"""Two machines: the device is pulled out of the server, in phases of its use. The client loses it in
bounded time, and what is plugged in again works.

No disk that is being read or written: QEMU 10.0 does not always survive device_del of its
usb-storage then. The debug kernels have a device of our own for that (test_host_unplug.py)."""

import contextlib
import errno
import os
import threading
from pathlib import Path

import pytest

import pair_link
import pair_server
import pair_unplug
import peer_ccid
import peer_keyboard
import peer_stock
import vhci
import vhci_usbfs as usbfs
from lib import monitor, pair
from vhci_server import usbip

pytest_plugins = ("vhci_fixtures", "pair_fixtures")
pytestmark = [pytest.mark.lanes("pair"), pytest.mark.usefixtures("watched_server")]

# Of everything that the two say to each other while the device is enumerated, which takes more than
# ten round trips.
DELAY = ["delay", "100ms"]
# What comes back with a request whose device is gone; in C whichever end is faster says it.
LOST = {"rust": [errno.ESHUTDOWN], "c": [errno.ESHUTDOWN, errno.ENODEV]}
RUST = pytest.mark.pairs("rust-rust")


@contextlib.contextmanager
def pulled_out(server, name: str):
    """One of QEMU's devices on offer, which the test pulls out; yields its bus id. Afterwards
    nothing is on offer, and then the device again, as before."""
    number, before = pair.call(peer_stock.export, name)
    try:
        server.available(number)
        yield number
        pair.call(pair_server.wait_idle)
        assert server.offers() == {}
    finally:
        pair.call(pair_unplug.restore, name, number, before)


def gone(device):
    """The client has nothing left of a device."""
    vhci.wait_free(device.port)
    vhci.wait_gone(device.path.name)


@contextlib.contextmanager
def again(server, name: str):
    """The device that was plugged in again, exported and attached."""
    with server.exported(name) as number, server.attached(number) as device:
        yield device


def check_keyboard(server):
    """Keys of the one that is there now arrive."""
    with again(server, "kbd") as device:
        peer_keyboard.check(device, lambda key: pair.call(monitor.press, key))


def test_idle(server):
    """Nothing but the driver's request for the next key waits."""
    with pulled_out(server, "kbd") as number:
        with server.attached(number) as device:
            device.bound("usbhid")
            pair.call(monitor.unplug, "kbd")
            gone(device)
    check_keyboard(server)


# What the client's kernel says when it comes to a phase of enumeration, and what it would say in
# the next but one.
PHASES = {"address": (r"vhci_hcd", r"usb \S+: New USB device found"),
          "descriptors": (r"usb \S+: new \S+ USB device number", r"usb \S+: SerialNumber: "),
          "configuration": (r"usb \S+: SerialNumber: ", r"input: ")}


@RUST
@pytest.mark.parametrize("phase", PHASES)
def test_while_enumerated(server, watched, phase):
    """Before it has an address; while its descriptors are read; while it is configured."""
    begin, end = PHASES[phase]
    with pulled_out(server, "kbd") as number, pair_link.disturbed(*DELAY):
        usbip("attach", "-r", server.HOST, "-b", number)
        port, = vhci.busy_ports()
        vhci.wait_for(lambda: watched.grep(begin), f"the phase {phase}", vhci.ENUMERATION)
        pair.call(monitor.unplug, "kbd")
        vhci.wait_free(port.number)
        vhci.wait_for(lambda: not list(vhci.root_hub(port.number).glob("[0-9]*-[0-9]")),
                      "the device to be removed", vhci.TEARDOWN)
        assert not watched.grep(end)
    check_keyboard(server)


@pytest.mark.pairs("rust-rust", "rust-c")
def test_while_an_interrupt_is_awaited(server):
    """A program's own request comes back with an error."""
    with pulled_out(server, "ccid") as number:
        with server.attached(number) as device, usbfs.Device(device.usbfs()) as reader:
            event = peer_ccid.await_event(reader, peer_ccid.endpoints(device))
            pair.call(monitor.unplug, "ccid")
            assert reader.reap(vhci.TEARDOWN) is event
            assert (-event.status, event.actual) in [(one, 0) for one in LOST[vhci.CLIENT]]
            gone(device)
    with again(server, "ccid") as device:
        peer_ccid.check(device)


@RUST
def test_while_an_unlink_is_outstanding(server):
    """The server is gone before it hears that the client takes a request back."""
    with pulled_out(server, "ccid") as number:
        with server.attached(number) as device, usbfs.Device(device.usbfs()) as reader:
            event = peer_ccid.await_event(reader, peer_ccid.endpoints(device))
            with pair_link.cut():
                taking = threading.Thread(target=reader.discard, args=(event,))
                taking.start()
                vhci.wait_for(lambda: waits(taking), "the client to wait for the server")
                pair.call(monitor.unplug, "ccid")
                pair.call(pair_server.wait_idle)
                assert waits(taking)
            gone(device)
            taking.join(vhci.SOON)
            assert reader.reap() is event
            assert (-event.status, event.actual) == (errno.ENOENT, 0)
    with again(server, "ccid") as device:
        peer_ccid.check(device)


def waits(thread: threading.Thread) -> bool:
    """Whether a thread sleeps in the kernel and no signal would wake it."""
    stat = Path("/proc", str(os.getpid()), "task", str(thread.native_id), "stat").read_text()
    return stat.rpartition(") ")[2][0] == "D"
