# SPDX-License-Identifier: GPL-2.0
"""Fixtures of the vhci tests.

Test modules name this file in `pytest_plugins`. Only pytest itself is needed; what a runner's
conftest.py adds comes on top.
"""

import pytest

import vhci
from vhci_device import FakeDevice
from vhci_peer import Peer
from vhci_session import DEVID, Session, attach_pair


@pytest.fixture(scope="session", autouse=True)
def client():
    """The client module is loaded and has its root hubs."""
    vhci.load()


@pytest.fixture(autouse=True)
def watched(request, client):
    """No test may leave a busy port, a stuck task or a kernel report behind."""
    with vhci.watching(request.node.nodeid) as log:
        yield log
        busy = vhci.busy_ports()
        for port in busy:
            try:
                vhci.detach(port.number)
            except OSError:
                pass
        for port in busy:
            vhci.wait_free(port.number)
    assert not busy, [p.line for p in busy]


@pytest.fixture
def plug():
    """A function that attaches a fake device and returns its :class:`Session`."""
    sessions = []

    def attach(device: FakeDevice | None = None, *, kind: str = "", index: int = 0,
               port: int | None = None, devid: int = DEVID, configured: bool = True,
               auto: bool = True, **model) -> Session:
        device = device or FakeDevice(**model)
        kernel, ours = vhci.stream_pair(kind)
        peer = Peer(ours, device)
        number = vhci.port_for(device.speed, index) if port is None else port
        attach_pair(kernel, number, devid, device.speed)
        session = Session(device, peer, number, devid)
        sessions.append(session)
        if auto:
            peer.auto()
            if configured:
                session.configured()
        return session

    yield attach
    failures = []
    for session in sessions:
        try:
            session.close()
        except AssertionError as error:
            failures.append(error)
    assert not failures, failures
