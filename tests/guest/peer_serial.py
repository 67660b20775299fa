# SPDX-License-Identifier: GPL-2.0
"""Both ends of a serial line: QEMU's USB adapter, and the port of the guest that it leads to."""

import contextlib
import os
import random
import select
from concurrent.futures import ThreadPoolExecutor

import vhci
from peer_stock import Remote, run

# The end that is no USB device, in the guest that has the adapter.
PORT = "/dev/virtio-ports/rusbip.serial"
LENGTH = 4000


def raw(node: str, *settings: str) -> int:
    """Opens a terminal, which is to change nothing of what passes, when it is there; with what else
    stty is to set."""
    vhci.wait_for(lambda: os.path.exists(node), node)
    fd = os.open(node, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        run("stty", "-F", node, "raw", "-echo", *settings)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read(fd: int, count: int) -> bytes:
    """Exactly so many bytes."""
    got = b""

    def step():
        nonlocal got
        if select.select([fd], [], [], 0)[0]:
            got += os.read(fd, count - len(got))
        return len(got) == count

    vhci.wait_for(step, f"{count} bytes", vhci.ENUMERATION)
    return got


@contextlib.contextmanager
def adapter(device: Remote):
    """The node of an attached adapter, set up to change nothing that passes. It is kept open: when it
    is opened the driver resets the adapter, and what has come in by then is gone."""
    device.bound("ftdi_sio")
    node = device.node("tty/ttyUSB*")
    fd = raw(node, "115200")
    try:
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


def check_both_ways(node: str, far: str):
    """What goes into one end of a line comes out of the other, both ways at once."""
    with ThreadPoolExecutor() as pool:
        done = pool.submit(talk, far, "port", "adapter")
        talk(node, "adapter", "port")
        done.result()


def check_lines(*lines: tuple):
    """The same for several lines at a time, each given by the terminals at its ends."""
    # Kept open: a terminal that nobody has open may forget what stty has told it.
    ends = [raw(node) for line in lines for node in line]
    try:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda line: check_both_ways(*line), lines))
    finally:
        for fd in ends:
            os.close(fd)


def check_modem(device: Remote, far: str):
    """The line of an attached modem whose other end is a terminal of a gadget."""
    device.bound("cdc_acm", "cdc_acm")
    check_lines((device.node("tty/ttyACM*"), far))
