# SPDX-License-Identifier: GPL-2.0
"""Devices of the Python package `usbip`, an independent implementation of the server's side.

They run in threads of the test; a test looks at what a device got, and lets it send.
"""

import contextlib
import socket

from usbip import USBDevice
from usbip.transport import USBIP

from peer_stock import attached

VENDOR, PRODUCT = 0x1209, 0x0001


def device(*functions, speed: int, paced: bool = False) -> USBDevice:
    """A device made of one or more functions; `paced`: isochronous transfers take their time."""
    one = USBDevice(VENDOR, PRODUCT, product="Python")
    one.set_speed(speed)
    one.set_iso_pacing(paced)
    for function in functions:
        one.add(function)
    return one


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def plugged(one: USBDevice):
    """A device served and attached; yields its :class:`peer_stock.Remote`."""
    port = free_port()
    with one.plug(via=USBIP("127.0.0.1", port)), attached("1-1", port=port) as remote:
        yield remote


class Memory:
    """The medium of a disk."""

    block_size = 512

    def __init__(self, size: int):
        self.data = bytearray(size)
        self.num_blocks = size // self.block_size

    def read(self, block: int, count: int) -> bytes:
        start = block * self.block_size
        return bytes(self.data[start:start + count * self.block_size])

    def write(self, block: int, count: int, data: bytes):
        start = block * self.block_size
        self.data[start:start + count * self.block_size] = data
