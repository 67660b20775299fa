# SPDX-License-Identifier: GPL-2.0
"""A gadget in the server guest, for what QEMU's devices cannot do; the functions run there."""

import contextlib

import host_configfs
import peer_stock
from vhci_server import usbip

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
