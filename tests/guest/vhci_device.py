# SPDX-License-Identifier: GPL-2.0
"""A made-up USB device for the raw peer: descriptors and the answers on endpoint 0."""

import errno
import struct

from vhci import FULL, HIGH, LOW, SUPER, SUPER_PLUS, WIRELESS
from vhci_wire import Setup

BULK_ATTR, INT_ATTR, ISO_ATTR = 2, 3, 1


class Endpoint:
    """An endpoint: address with direction bit, transfer type, packet size, bInterval."""

    def __init__(self, address: int, attributes: int, packet: int, interval: int = 0):
        self.address, self.attributes = address, attributes
        self.packet, self.interval = packet, interval

    def pack(self, superspeed: bool) -> bytes:
        raw = struct.pack("<BBBBHB", 7, 5, self.address, self.attributes, self.packet,
                          self.interval)
        if superspeed:
            periodic = self.attributes & 3 in (INT_ATTR, ISO_ATTR)
            raw += struct.pack("<BBBBH", 6, 0x30, 0, 0, self.packet if periodic else 0)
        return raw


def vendor_endpoints(speed: int) -> list:
    """Every kind of endpoint the speed allows, in both directions: the default test device.

    1/2 bulk, 3/4 interrupt; 5/6 isochronous exist in alternate setting 1 only.
    """
    if speed == LOW:
        return [[Endpoint(0x83, INT_ATTR, 8, 10), Endpoint(0x04, INT_ATTR, 8, 10)]]
    bulk = {FULL: 64, WIRELESS: 64, HIGH: 512}.get(speed, 1024)
    microframes = speed >= HIGH and speed != WIRELESS
    interrupt = [Endpoint(0x83, INT_ATTR, 64, 4 if microframes else 1),
                 Endpoint(0x04, INT_ATTR, 64, 4 if microframes else 1)]
    base = [Endpoint(0x81, BULK_ATTR, bulk), Endpoint(0x02, BULK_ATTR, bulk)] + interrupt
    iso = [Endpoint(0x85, ISO_ATTR, 512, 1), Endpoint(0x06, ISO_ATTR, 512, 1)]
    return [base, base + iso]


class FakeDevice:
    """Chapter 9 for a device with one configuration and one interface.

    `alternates` is a list of alternate settings, each a list of :class:`Endpoint`. Requests
    the device does not know are handed to `vendor(setup, data)`, which returns bytes (answer),
    b"" (accept) or a negative errno; without it they stall.
    """

    def __init__(self, speed: int = HIGH, *, alternates=None, vendor_id: int = 0x1209,
                 product_id: int = 0x0001, cls=(0xFF, 0xFF, 0xFF), device_class=(0, 0, 0),
                 bcd_usb: int | None = None, vendor=None,
                 strings=("Test maker", "Test device", "0001")):
        self.speed = speed
        self.superspeed = speed >= SUPER
        self.alternates = alternates if alternates is not None else vendor_endpoints(speed)
        self.ids = (vendor_id, product_id)
        self.cls, self.device_class = cls, device_class
        self.bcd_usb = bcd_usb or {SUPER: 0x0300, SUPER_PLUS: 0x0310}.get(speed, 0x0200)
        self.vendor = vendor
        self.strings = strings
        self.requests = []
        self.configuration = 0
        self.alternate = 0
        self.halted = set()

    # --- descriptors --------------------------------------------------------------------------

    def device_descriptor(self) -> bytes:
        packet = 9 if self.superspeed else (8 if self.speed == LOW else 64)
        return struct.pack("<BBHBBBBHHHBBBB", 18, 1, self.bcd_usb, *self.device_class, packet,
                           *self.ids, 0x0100, 1, 2, 3, 1)

    def config_descriptor(self) -> bytes:
        body = b""
        for number, endpoints in enumerate(self.alternates):
            body += struct.pack("<BBBBBBBBB", 9, 4, 0, number, len(endpoints), *self.cls, 0)
            body += self.interface_extra()
            body += b"".join(e.pack(self.superspeed) for e in endpoints)
        return struct.pack("<BBHBBBBB", 9, 2, 9 + len(body), 1, 1, 0, 0x80, 50) + body

    def interface_extra(self) -> bytes:
        """Class descriptors between an interface and its endpoints."""
        return b""

    def bos_descriptor(self) -> bytes:
        capabilities = [struct.pack("<BBBI", 7, 0x10, 2, 2),
                        struct.pack("<BBBBHBBH", 10, 0x10, 3, 0, 0x000E, 3, 10, 0x0100)]
        if self.speed == SUPER_PLUS:
            # One symmetric lane pair at 10 Gb/s, in the form of USB 3.1, table 9-19.
            capabilities.append(struct.pack("<BBBBIHHII", 20, 0x10, 0x0A, 0, 0x00000001, 0x1100,
                                            0, 0x000A4030, 0x000A40B0))
        body = b"".join(capabilities)
        return struct.pack("<BBHB", 5, 0x0F, 5 + len(body), len(capabilities)) + body

    def qualifier(self):
        if self.speed != HIGH:
            return None
        return struct.pack("<BBHBBBBBB", 10, 6, 0x0200, *self.device_class, 64, 1, 0)

    def string(self, index: int):
        if index == 0:
            return struct.pack("<BBH", 4, 3, 0x0409)
        if index <= len(self.strings):
            text = self.strings[index - 1].encode("utf-16-le")
            return struct.pack("<BB", 2 + len(text), 3) + text
        return None

    def descriptor(self, kind: int, index: int):
        """Descriptor bytes, or None to stall."""
        if kind == 1:
            return self.device_descriptor()
        if kind == 2:
            return self.config_descriptor() if index == 0 else None
        if kind == 3:
            return self.string(index)
        if kind == 6:
            return self.qualifier()
        if kind == 0x0F:
            return self.bos_descriptor() if self.bcd_usb > 0x0200 else None
        return None

    # --- endpoint 0 ---------------------------------------------------------------------------

    def control(self, raw: bytes, data: bytes):
        """Answer a control request: (status, data). Data is cut to wLength."""
        setup = Setup.parse(raw)
        self.requests.append(setup)
        answer = self.standard(setup)
        if answer is None and self.vendor:
            answer = self.vendor(setup, data)
        if answer is None:
            return -errno.EPIPE, b""
        if isinstance(answer, int):
            return answer, b""
        return 0, answer[:setup.length]

    def standard(self, setup: Setup):
        """Chapter 9; None for what is not standard or not supported."""
        kind, request = setup.request_type, setup.request
        if kind & 0x60:
            return None
        if request == 6 and kind == 0x80:
            return self.descriptor(setup.value >> 8, setup.value & 0xFF)
        if request == 9 and kind == 0:
            self.configuration = setup.value
            self.alternate = 0
            return b"" if setup.value <= 1 else None
        if request == 8:
            return bytes([self.configuration])
        if request == 11:
            if setup.value >= len(self.alternates):
                return None
            self.alternate = setup.value
            return b""
        if request == 10:
            return bytes([self.alternate])
        if request == 0:
            halted = kind == 0x82 and setup.index in self.halted
            return struct.pack("<H", 1 if halted else 0)
        if request in (1, 3):
            if kind == 2 and setup.value == 0:
                (self.halted.add if request == 3 else self.halted.discard)(setup.index)
            return b""
        if request in (0x30, 0x31):
            return b""
        return None
