# SPDX-License-Identifier: GPL-2.0
"""What the scripted device says about itself: two configurations, several interfaces, every type of
endpoint. Who presents it to the kernel is another matter: :mod:`host_gadget`, :mod:`host_redir`."""

import struct
import threading

import vhci
from vhci_device import BULK_ATTR, Endpoint, FakeDevice, INT_ATTR, ISO_ATTR

# Addresses of the endpoints. In configuration 1, interface 0 has the bulk endpoints in each of its
# settings and the isochronous ones in setting 1 only, interface 1 has the interrupt endpoints.
BULK_IN, BULK_OUT = 1, 2
ISO_IN, ISO_OUT = 3, 9
INT_IN, INT_OUT = 5, 4
# Of configuration 2, which has one interface.
OTHER_IN, OTHER_OUT = 6, 7
# An address that no endpoint has.
NOWHERE = 13

# Vendor requests: send so many bytes of a pattern; take data; stall.
VENDOR_IN, VENDOR_OUT = 0xC0, 0x40
SOURCE, SINK, STALL = 1, 2, 3

PACKET = {vhci.FULL: 64, vhci.HIGH: 512, vhci.SUPER: 1024}
ISO_PACKET = 192
INT_PACKET = 64


def pattern(length: int, seed: int = 0) -> bytes:
    """Bytes whose place can be told: no two within 64 KiB look the same."""
    words = (length + 3) // 4
    return struct.pack(f">{words}I", *((seed << 24) + n for n in range(words)))[:length]


class Transfer:
    """What the device has for the host on an endpoint, or without data is ready to take from it,
    until the host has done so or given it up."""

    def __init__(self, address: int, length: int, data: bytes | None, zero: bool):
        self.address, self.length, self.data, self.zero = address, length, data, zero
        self.done = threading.Event()
        self.error = None

    def moved(self) -> bytes:
        """What was transferred in the end."""
        raise NotImplementedError

    def wait(self, timeout: float = vhci.SOON) -> bytes:
        """What was transferred; raises what kept it from that."""
        if not self.done.wait(timeout):
            raise vhci.Timeout(f"endpoint {self.address:#04x}: {self.length} bytes wait")
        if self.error:
            raise self.error
        return self.moved()


class Model(FakeDevice):
    """Chapter 9 of the scripted device."""

    def __init__(self, speed: int = vhci.HIGH, *, product_id: int = 0x0001, **more):
        super().__init__(speed, product_id=product_id, **more)
        bulk = [Endpoint(0x80 | BULK_IN, BULK_ATTR, PACKET[speed]),
                Endpoint(BULK_OUT, BULK_ATTR, PACKET[speed])]
        interval = 1 if speed == vhci.FULL else 4
        iso = [Endpoint(0x80 | ISO_IN, ISO_ATTR, ISO_PACKET, interval),
               Endpoint(ISO_OUT, ISO_ATTR, ISO_PACKET, interval)]
        interrupt = [Endpoint(0x80 | INT_IN, INT_ATTR, INT_PACKET, interval),
                     Endpoint(INT_OUT, INT_ATTR, INT_PACKET, interval)]
        other = [Endpoint(0x80 | OTHER_IN, BULK_ATTR, PACKET[speed]),
                 Endpoint(OTHER_OUT, BULK_ATTR, PACKET[speed])]
        # Configuration value → interfaces → alternate settings → endpoints.
        self.configurations = {1: [[bulk, bulk + iso], [interrupt]], 2: [[other]]}
        # Requests that the device refuses although they look right: (request, value, index).
        self.refused = set()

    def device_descriptor(self) -> bytes:
        return super().device_descriptor()[:-1] + bytes([len(self.configurations)])

    def config_descriptor(self, index: int = 0) -> bytes:
        value, interfaces = list(self.configurations.items())[index]
        body = b""
        for number, alternates in enumerate(interfaces):
            for alternate, endpoints in enumerate(alternates):
                body += struct.pack("<BBBBBBBBB", 9, 4, number, alternate, len(endpoints),
                                    *self.cls, 0)
                body += b"".join(one.pack(self.superspeed) for one in endpoints)
        return struct.pack("<BBHBBBBB", 9, 2, 9 + len(body), len(interfaces), value, 0, 0x80,
                           50) + body

    def qualifier(self):
        short = super().qualifier()
        return short and short[:8] + bytes([len(self.configurations), 0])

    def descriptor(self, kind: int, index: int):
        if kind == 2:
            return self.config_descriptor(index) if index < len(self.configurations) else None
        return super().descriptor(kind, index)

    def endpoints(self, configuration: int, settings: dict) -> list:
        """The endpoints of a configuration with these alternate settings (0 by default)."""
        return [endpoint for number, alternates
                in enumerate(self.configurations.get(configuration, []))
                for endpoint in alternates[settings.get(number, 0)]]

    def answer(self, setup):
        """Bytes for an IN request, b"" to take an OUT request, None to stall."""
        if (setup.request, setup.value, setup.index) in self.refused:
            return None
        if setup.request_type == VENDOR_IN and setup.request == SOURCE:
            return pattern(setup.value)[:setup.length]
        if setup.request_type == VENDOR_OUT and setup.request == SINK:
            return b""
        if (setup.request_type, setup.request) == (0, 9):
            return b"" if setup.value in (0, *self.configurations) else None
        if (setup.request_type, setup.request) in ((1, 11), (0x81, 10)):
            return self.of_interface(setup)
        if setup.request_type == 2 and not self.exists(setup.index):
            return None
        answer = self.standard(setup)
        return None if answer is None else answer[:setup.length]

    def exists(self, address: int) -> bool:
        """Whether there is such an endpoint at the moment."""
        return not address & 15 or address in [
            one.address for one in self.endpoints(self.configuration, self.settings)]

    def of_interface(self, setup):
        """SET_INTERFACE and GET_INTERFACE."""
        interfaces = self.configurations.get(self.configuration, [])
        if setup.index >= len(interfaces):
            return None
        if setup.request == 10:
            return bytes([self.settings.get(setup.index, 0)])
        return b"" if setup.value < len(interfaces[setup.index]) else None

    # What the host has chosen; kept by who presents the device.
    settings: dict = {}
