# SPDX-License-Identifier: GPL-2.0
"""Keys pressed at QEMU's keyboard, and the events that they make."""

import os
import select
import struct

import vhci
from peer_stock import Remote

INPUT_EVENT = struct.Struct("llHHi")
EV_KEY = 1
# Linux key codes of what is typed.
CODES = {"u": 22, "s": 31, "b": 48, "i": 23, "p": 25}


def check(device: Remote, press):
    """What press(key) does arrives as events of an attached keyboard, and nothing else."""
    device.bound("usbhid")
    fd = os.open(device.node("input/event*"), os.O_RDONLY | os.O_NONBLOCK)
    try:
        seen = []
        for key in "usbip":
            press(key)
            expected = [*seen, (CODES[key], 1), (CODES[key], 0)]

            def arrived():
                if select.select([fd], [], [], 0)[0]:
                    data = os.read(fd, INPUT_EVENT.size * 64)
                    seen.extend((code, value) for _, _, kind, code, value
                                in INPUT_EVENT.iter_unpack(data) if kind == EV_KEY)
                return len(seen) >= len(expected)

            vhci.wait_for(arrived, f"key {key} after {seen}")
            assert seen == expected
    finally:
        os.close(fd)
