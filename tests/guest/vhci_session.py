# SPDX-License-Identifier: GPL-2.0
"""An attached fake device as one object, and what test modules share besides fixtures."""

import time

import pytest

import vhci
from vhci_device import FakeDevice
from vhci_peer import Peer
from vhci_usbfs import Device

DEVID = 0x00010002


class Session:
    """One attached fake device: the peer, the port, and usbfs on the client side."""

    def __init__(self, device: FakeDevice, peer: Peer, port: int, devid: int):
        self.device, self.peer, self.port, self.devid = device, peer, port, devid
        self._usbfs = []
        self.path = None

    def configured(self) -> "Session":
        """Wait until usbcore has configured the device."""
        try:
            self.path = vhci.wait_configured(self.port)
        except vhci.Timeout as error:
            raise vhci.Timeout(f"{error}; {vhci.port(self.port).line}; the peer saw "
                               f"{self.peer.log}, failed with {self.peer.failure!r}") from None
        return self

    def usbfs(self, interface: int | None = 0) -> Device:
        """Open the device and claim its interface."""
        device = Device(vhci.devnode(self.path))
        self._usbfs.append(device)
        if interface is not None:
            device.claim(interface)
        return device

    def gone(self, timeout: float = vhci.TEARDOWN) -> float:
        """Wait until port and device are gone; returns the seconds it took."""
        start = time.monotonic()
        vhci.wait_free(self.port, timeout)
        if self.path:
            vhci.wait_gone(self.path.name, timeout)
        return time.monotonic() - start

    def close(self):
        """Unplug, whatever state things are in."""
        for device in self._usbfs:
            device.close()
        if vhci.port(self.port).state != vhci.NULL:
            # The peer may have closed in this moment, which frees the port by itself.
            assert vhci.errno_of(vhci.detach, self.port) in (None, "EINVAL")
        self.peer.close()
        self.gone()


def attach_pair(kernel, number: int, devid: int, speed: int):
    """Hand one end of a pair to the kernel and close our copy of it, as the tool does."""
    try:
        vhci.attach(number, kernel.fileno(), devid, speed)
    finally:
        kernel.close()


# A test of a property that this client has and the contract with the C driver does not ask for.
beyond_c = pytest.mark.skipif(vhci.CLIENT == "c", reason="a property of this client")
