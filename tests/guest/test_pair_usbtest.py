# SPDX-License-Identifier: GPL-2.0
"""Two machines: `usbtest` and `testusb` on a source and sink that the other machine has."""

import contextlib

import pytest

import pair_gadget
import vhci
from lib import pair
from test_vhci_devices import BULK, UNLINK, run_cases

pytest_plugins = ("vhci_fixtures", "pair_fixtures")
pytestmark = [pytest.mark.lanes("pair"), pytest.mark.usefixtures("watched_server"),
              pytest.mark.pairs("rust-rust")]


@contextlib.contextmanager
def exported(speed: int):
    """The source and sink on offer; yields its bus id."""
    number = pair.call(pair_gadget.export_source_and_sink, speed)
    try:
        yield number
    finally:
        pair.call(pair_gadget.unexport, number)


def test_usbtest(server):
    """Every case that a source and sink can do whose controller has no isochronous transfers."""
    with exported(vhci.HIGH) as number, server.attached(number) as device:
        device.bound("usbtest")
        run_cases(device.usbfs(), BULK, count=5)
        if server.implementation != "c" and vhci.CLIENT != "c":  # which do not survive it
            run_cases(device.usbfs(), UNLINK, count=50)
