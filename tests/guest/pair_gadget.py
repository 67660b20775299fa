# SPDX-License-Identifier: GPL-2.0
"""A gadget in the server guest, for what QEMU's devices cannot do; the functions run there."""

import contextlib
import hashlib
import random
from pathlib import Path

import host_configfs
import pair_server
import peer_stock
import vudc
from vhci_server import usbip

# What is in the image of the disk, and where that is.
CONTENT = random.Random(4).randbytes(2 << 20)
IMAGE = Path("/tmp/gadget.image")

_plugged = contextlib.ExitStack()


def export_source_and_sink(speed: int) -> str:
    """Plugs in what `usbtest` takes for a tester's device and binds it to the server; returns its
    bus id."""
    number = _plugged.enter_context(host_configfs.plugged(
        host_configfs.Gadget("source-sink", speed=speed)))
    peer_stock.settle()
    usbip("bind", "-b", number)
    peer_stock.available(number)
    return number


def unexport(number: str):
    """Gives it back and pulls it out."""
    try:
        usbip("unbind", "-b", number)
    finally:
        _plugged.close()


def export_disk(implementation: str) -> str:
    """A disk at a virtual controller of this implementation, and usbipd for gadgets in place of that
    for devices; returns its bus id."""
    IMAGE.write_bytes(CONTENT)
    with contextlib.ExitStack() as stack:
        pair_server.stop()
        stack.callback(pair_server.serve)
        vudc.use(implementation)
        stack.callback(vudc.unload)
        gadget = stack.enter_context(vudc.gadget("disk", IMAGE))
        peer_stock.settle()
        pair_server.serve("--device")
        stack.callback(pair_server.stop)
        _plugged.push(stack.pop_all())
    return gadget.udc


def unexport_disk() -> str:
    """Takes it away again; returns the checksum of what is in the image."""
    vudc.wait_status("usbip-vudc.0")
    _plugged.close()
    return hashlib.sha256(IMAGE.read_bytes()).hexdigest()
