# SPDX-License-Identifier: GPL-2.0
"""Exported devices: the scripted one, with one connection for as many tests as it survives; any, in
the hands of the client of this kernel."""

import contextlib

import host
import peer_stock
import vhci
from host_client import Client, Closed

SPEEDS = {"1.5": vhci.LOW, "12": vhci.FULL, "480": vhci.HIGH, "5000": vhci.SUPER}


@contextlib.contextmanager
def attached(busid: str):
    """A device that the server has, attached again by the client; yields it there."""
    speed = SPEEDS[(vhci.USB / busid / "speed").read_text().strip()]
    with joined(host, busid, host.devid(busid), speed) as remote:
        yield remote


@contextlib.contextmanager
def joined(server, busid: str, devid: int, speed: int):
    """What a server (a module with the names of :mod:`host`) has, attached by the client of this
    kernel; yields it there."""
    one, other = vhci.stream_pair("tcp")
    with one, other:
        server.sockfd(busid, one.fileno())
        number = vhci.free_port(speed)
        vhci.attach(number, other.fileno(), devid, speed)
    try:
        yield peer_stock.Remote(number)
    finally:
        peer_stock.detach(number)
        server.wait_status(busid)


class Export:
    """An exported device and the client that uses it."""

    # Who exports it: a module with the names of :mod:`host`.
    server = host
    # What the names of the connection's threads begin with.
    threads = "stub"
    # Where the statistics are.
    folder = "usbip-host"

    def __init__(self, device):
        self.device = device
        self.busid = device.busid
        self.connection, self.kind = None, ""
        # Resets of the device before this connection.
        self.resets = 0

    def client(self, kind: str = "", configured: bool = True) -> Client:
        """The connection, a new one if there is none of a kind that will do; in configuration 1 unless
        told otherwise."""
        kind = kind or vhci.stream_kind()
        if self.connection is None or kind != self.kind or not configured:
            self.drop()
            self.wait()
            self.resets = self.device.resets
            self.connection, self.kind = self.server.connect(self.busid, kind), kind
            if configured:
                self.connection.set_configuration(1)
        return self.connection

    def check(self):
        """After a test: whoever comes next finds what this test found, or starts anew."""
        self.device.hold = lambda setup: False
        self.device.cancel()
        if self.connection is None:
            return
        usable = False
        try:
            if self.connection.sock.fileno() >= 0 and not self.connection.asked:
                self.connection.in_step()
                usable = self.is_configured() and not self.device.model.settings.get(0)
        except (Closed, AssertionError):
            pass
        if not usable:
            self.drop()

    def is_configured(self) -> bool:
        """Whether the device is in configuration 1."""
        return host.configuration(self.busid) == "1"

    def statistics(self) -> dict:
        """The counters of the connection."""
        return host.statistics(self.busid, self.folder)

    def wait(self):
        """Wait until the device is available."""
        self.server.wait_status(self.busid)

    def end(self):
        """End the connection as an administrator does."""
        self.server.sockfd(self.busid, -1)

    def drop(self):
        """End the connection, if there is one, and wait until the device is available."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
            self.wait()

    def close(self):
        """End whatever there is, before the device is given back."""
        self.device.hold = lambda setup: False
        self.device.cancel()
        self.drop()
        vhci.wait_for(lambda: not vhci.kernel_threads(self.server.THREADS), "the threads to end")
