# SPDX-License-Identifier: GPL-2.0
"""Devices of QEMU's that are pulled out of the server guest and plugged in again; the functions run
there."""

import itertools

import peer_stock
import vhci
from lib import monitor

DRIVERS = {"kbd": ("usb-kbd", {"serial": "RUSBIP0002"}), "ccid": ("usb-ccid", {}),
           "storage": ("usb-storage", {"serial": "RUSBIP0001", "removable": True})}

_sticks = (f"stick{number}" for number in itertools.count(1))
# The drive of the disk; one goes with the disk that it was in.
_stick = "stick"


def slow_down(rate: int):
    """The drive moves so many bytes a second, so that long requests are in flight all the time."""
    monitor.qmp("block_set_io_throttle", device=_stick, bps=rate, bps_rd=0, bps_wr=0, iops=0,
                iops_rd=0, iops_wr=0)


def restore(name: str, number: str, before: list):
    """Plugs a device in again where it was, and waits until it has the drivers that it had. One
    that was not pulled out, because a test has failed, is given back."""
    if (vhci.USB / number).exists():
        peer_stock.unexport(number, before)
    else:
        plug(name, number)
        peer_stock.has_drivers(number, before)


def plug(name: str, number: str):
    """Plugs it in; a disk is as it was at the start."""
    global _stick
    driver, properties = DRIVERS[name]
    if name == "storage":
        _stick = next(_sticks)
        monitor.add_stick(_stick)
        properties = properties | {"drive": _stick}
    monitor.plug(driver, name, port=number.split("-")[1], **properties)
    vhci.wait_for(lambda: (vhci.USB / number).exists(), f"{name} to be {number} again",
                  vhci.ENUMERATION)
