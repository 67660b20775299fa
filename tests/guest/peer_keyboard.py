# SPDX-License-Identifier: GPL-2.0
"""Keys pressed at a keyboard, motions of a mouse or on a tablet, and the events that they make."""

import contextlib
import os
import select
import struct

import vhci
from peer_stock import Remote

INPUT_EVENT = struct.Struct("llHHi")
EV_KEY, EV_REL, EV_ABS = 1, 2, 3
ABS_X, ABS_Y = 0, 1
# The wheel makes two events, the second in finer units.
REL_X, REL_Y, REL_WHEEL, REL_WHEEL_HI_RES = 0, 1, 8, 11
BTN_LEFT, BTN_MIDDLE = 0x110, 0x112
# Linux key codes of what is typed.
CODES = {"u": 22, "s": 31, "b": 48, "i": 23, "p": 25}


@contextlib.contextmanager
def listening(device: Remote, *kinds: int):
    """Yields expect(what, events): waits for so many more events of these kinds, which have to be
    exactly those: (kind, code, value)."""
    device.bound("usbhid")
    fd = os.open(device.node("input/event*"), os.O_RDONLY | os.O_NONBLOCK)
    seen = []

    def expect(what: str, events: list):
        wanted = len(seen) + len(events)

        def arrived():
            if select.select([fd], [], [], 0)[0]:
                data = os.read(fd, INPUT_EVENT.size * 64)
                seen.extend((kind, code, value) for _, _, kind, code, value
                            in INPUT_EVENT.iter_unpack(data) if kind in kinds)
            return len(seen) >= wanted

        vhci.wait_for(arrived, f"{what} after {seen}")
        assert seen[wanted - len(events):] == events, f"{what}: {seen}"

    try:
        yield expect
    finally:
        os.close(fd)


def check(device: Remote, press):
    """What press(key) does arrives as events of an attached keyboard, and nothing else."""
    with listening(device, EV_KEY) as expect:
        for key in "usbip":
            press(key)
            expect(f"key {key}", [(EV_KEY, CODES[key], 1), (EV_KEY, CODES[key], 0)])


def check_gadget(device: Remote, node: str):
    """Reports of a gadget's keyboard become key presses."""
    fd = os.open(node, os.O_RDWR)
    try:
        def press(key):
            os.write(fd, struct.pack("BBB5x", 0, 0, 4 + ord(key) - ord("a")))
            os.write(fd, bytes(8))

        check(device, press)
    finally:
        os.close(fd)


def check_mouse(device: Remote, node: str):
    """Reports of a gadget's mouse become motions and buttons."""
    fd = os.open(node, os.O_RDWR)
    try:
        with listening(device, EV_KEY, EV_REL) as expect:
            for report, events in (
                    ((0, 5, -7, 0), [(EV_REL, REL_X, 5), (EV_REL, REL_Y, -7)]),
                    ((1, 0, 0, 0), [(EV_KEY, BTN_LEFT, 1)]),
                    ((5, -127, 127, -1), [(EV_KEY, BTN_MIDDLE, 1), (EV_REL, REL_X, -127),
                                          (EV_REL, REL_Y, 127), (EV_REL, REL_WHEEL, -1),
                                          (EV_REL, REL_WHEEL_HI_RES, -120)]),
                    ((0, 0, 0, 0), [(EV_KEY, BTN_LEFT, 0), (EV_KEY, BTN_MIDDLE, 0)])):
                os.write(fd, struct.pack("Bbbb", *report))
                expect(f"report {report}", events)
    finally:
        os.close(fd)


def check_tablet(device: Remote, machine):
    """Where QEMU's tablet is touched arrives as it is, from one corner to the other."""
    with listening(device, EV_KEY, EV_ABS) as expect:
        for x, y in ((1, 0x7fff), (0x4321, 2), (0x7fff, 0x1234)):
            machine.point(x, y)
            expect(f"{x}, {y}", [(EV_ABS, ABS_X, x), (EV_ABS, ABS_Y, y)])
        for down in (True, False):
            machine.button("left", down)
            expect(f"button {down}", [(EV_KEY, BTN_LEFT, int(down))])
