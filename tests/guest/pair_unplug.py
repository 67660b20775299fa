# SPDX-License-Identifier: GPL-2.0
"""Devices of QEMU's that are pulled out of the server guest and plugged in again; the functions run
there."""

import peer_stock
import vhci
from lib import monitor

DRIVERS = {"kbd": ("usb-kbd", {"serial": "RUSBIP0002"}), "ccid": ("usb-ccid", {})}


def restore(name: str, number: str, before: list):
    """Plugs a device in again where it was, and waits until it has the drivers that it had. One
    that was not pulled out, because a test has failed, is given back."""
    if (vhci.USB / number).exists():
        peer_stock.unexport(number, before)
    else:
        plug(name, number)
        peer_stock.has_drivers(number, before)


def plug(name: str, number: str):
    """Plugs it in."""
    driver, properties = DRIVERS[name]
    monitor.plug(driver, name, port=number.split("-")[1], **properties)
    vhci.wait_for(lambda: (vhci.USB / number).exists(), f"{name} to be {number} again",
                  vhci.ENUMERATION)
