# SPDX-License-Identifier: GPL-2.0
"""Both ends of a serial line: QEMU's USB adapter, and the port of the guest that it leads to."""

import contextlib
import os
import random
import select

import vhci
from peer_stock import Remote, run

# The end that is no USB device, in the guest that has the adapter.
PORT = "/dev/virtio-ports/rusbip.serial"
LENGTH = 4000


@contextlib.contextmanager
def adapter(device: Remote):
    """The node of an attached adapter, set up to change nothing that passes. It is kept open: when it
    is opened the driver resets the adapter, and what has come in by then is gone."""
    device.bound("ftdi_sio")
    node = device.node("tty/ttyUSB*")
    fd = os.open(node, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        run("stty", "-F", node, "raw", "-echo", "115200")
        yield node
    finally:
        os.close(fd)


def said(name: str) -> bytes:
    """What one end sends."""
    return random.Random(name).randbytes(LENGTH)


def talk(node: str, own: str, other: str):
    """One end, `own`: sends and at the same time receives, which has to be what `other` sends."""
    fd = os.open(node, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        left, got = said(own), b""

        def step():
            nonlocal left, got
            readable, writable, _ = select.select([fd], [fd] if left else [], [], 0)
            if readable:
                got += os.read(fd, LENGTH)
            if writable:
                left = left[os.write(fd, left[:256]):]
            return len(got) >= LENGTH and not left

        vhci.wait_for(step, f"{LENGTH} bytes each way at {own}", vhci.ENUMERATION)
        assert got == said(other)
    finally:
        os.close(fd)
