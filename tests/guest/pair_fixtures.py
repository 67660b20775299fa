# SPDX-License-Identifier: GPL-2.0
"""A server guest as an object, and the fixtures of the tests with two guests."""

import contextlib
import os
import re

import pytest

import pair_link
import pair_server
import peer_stock
import vhci
from lib import pair
from vhci_server import usbip

# Who serves and who attaches, in an order in which one of the two stays. RUSBIP_PAIR=c-c looks
# whether the tests ask too much. Those that are slow, and that see little of one end, are marked
# `pairs` with the combinations that they run with by default.
COMBINATIONS = os.environ.get("RUSBIP_PAIR", "c-rust rust-rust rust-c").split()


class Server:
    """The server guest with one implementation of the server, and the client that goes with it."""

    HOST = "server"

    def __init__(self, combination: str):
        self.implementation, client = combination.split("-")
        vhci.use(client)
        pair.call(pair_server.use, self.implementation)

    @contextlib.contextmanager
    def exported(self, name: str):
        """One of its devices on offer; yields the bus id."""
        number, before = pair.call(peer_stock.export, name)
        try:
            self.available(number)
            yield number
        finally:
            pair.call(peer_stock.unexport, number, before)

    def available(self, number: str):
        """Wait until the server would give a device to a client."""
        pair.call(peer_stock.available, number)

    def attached(self, number: str):
        """A context in which this device is attached: a :class:`peer_stock.Remote`."""
        return peer_stock.attached(number, host=self.HOST)

    def offers(self) -> dict:
        """Bus id → vendor and product of what `usbip list` shows."""
        done = usbip("list", "-r", self.HOST, check=False)
        if done.returncode:  # as the tool puts it when the list is empty
            assert f"no exportable devices found on {self.HOST}" in done.stderr
        return dict(re.findall(r"^ +([0-9.-]+): .* \(([0-9a-f:]{9})\)$", done.stdout, re.MULTILINE))

    def has_noticed(self, number: str):
        """Wait until a device is free whose client has gone without a word. The C server has to be
        told."""
        if self.implementation == "c":
            pair.call(pair_link.reset)
        self.available(number)


@pytest.fixture(scope="session", params=COMBINATIONS)
def server(request, client):
    """The server, with every combination that the test does not leave out."""
    return Server(request.param)


@pytest.fixture
def watched_server(request, server):
    """No test may leave a connection at the server."""
    pair.call(vhci.log_marker, request.node.nodeid)
    yield
    pair.call(pair_server.wait_idle)


@pytest.fixture
def remote(server):
    """A function that has the server export one of its devices and attaches it."""
    with contextlib.ExitStack() as stack:
        yield lambda name: stack.enter_context(
            server.attached(stack.enter_context(server.exported(name))))
