# SPDX-License-Identifier: GPL-2.0
"""The device of the sample of a host controller, here or through USB/IP: its numbers, and what its
periodic endpoints do."""

import contextlib
from pathlib import Path

import vhci
import vhci_usbfs as usbfs
from lib import guestlib

MODULE = "sample_hcd_rs"
PLATFORM = Path("/sys/devices/platform/sample_hcd")
# Numbers of endpoints. All but the echo are a source, for IN, and a sink, for OUT.
ECHO, BULK, ISO, INTERRUPT = 1, 2, 3, 4
# The setting that has all of them.
PERIODIC = 1
# The most bytes of an isochronous packet, the most packets that usbfs takes.
PACKET, PACKETS = 256, 128


@contextlib.contextmanager
def plugged(**parameters):
    """The sample is loaded; yields the bus id of its device."""
    with guestlib.Modules() as modules:
        modules.load(MODULE, **parameters)
        hub = vhci.wait_for(lambda: next(PLATFORM.glob("usb[0-9]*"), None), "the root hub")
        yield f"{hub.name[3:]}-1"


def lengths(count: int) -> list:
    """Of packets, from 1 byte to the largest."""
    return [1 + n * 53 % PACKET for n in range(count)]


def packets(urb: usbfs.Urb) -> list:
    """What an isochronous IN transfer brought, by packets; usbfs puts one behind the other."""
    found, at = [], 0
    for slot, (actual, _) in zip(urb.layout.iso, urb.iso):
        found.append(urb.data()[at:at + actual])
        at += slot.length
    return found


def check_isochronous(device: usbfs.Device, turns: int = 4):
    """Both ways at once, in setting 1. Packets are complete, in their place and in order: in each
    there is the number of its frame."""
    asked = lengths(PACKETS)
    ins = [device.submit(usbfs.iso_in(ISO, asked)) for _ in range(turns)]
    outs = [device.submit(usbfs.iso_out(ISO, asked, bytes(sum(asked)))) for _ in range(turns)]
    done = device.reap_all(2 * turns)
    assert [urb for urb in done if urb in ins] == ins
    assert [urb for urb in done if urb in outs] == outs
    for urb in done:
        assert (urb.status, urb.actual, urb.error_count) == (0, sum(asked), 0)
        assert urb.iso == [(length, 0) for length in asked]
    for urb in ins:
        found = packets(urb)
        first = found[0][0]
        assert found == [bytes([(first + n) % 256]) * length for n, length in enumerate(asked)]


def check_interrupt(device: usbfs.Device):
    """The source sends zeros, as many as asked for; the sink takes everything."""
    for length in (0, 1, 64, 1000):
        urbs = [device.submit(usbfs.interrupt_in(INTERRUPT, length)),
                device.submit(usbfs.interrupt_out(INTERRUPT, bytes(length)))]
        assert set(device.reap_all(2)) == set(urbs)
        assert [(urb.status, urb.actual) for urb in urbs] == [(0, length)] * 2
        assert urbs[0].data() == bytes(length)
