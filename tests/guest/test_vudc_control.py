# SPDX-License-Identifier: GPL-2.0
"""What a virtual controller answers itself, and how endpoints stall: statements 138, 139 and 141."""

import errno

import pytest

import vhci
import vudc
from host_client import CLEAR_FEATURE, GET_STATUS, SET_CONFIGURATION, SET_FEATURE
from host_model import BULK_IN, BULK_OUT, INT_IN, NOWHERE, SINK, SOURCE, VENDOR_IN, VENDOR_OUT, pattern
from host_wire import RetUnlink, setup
from vudc_fixtures import *  # noqa: F401,F403  pylint: disable=wildcard-import,unused-wildcard-import

pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml")]

SET_ADDRESS = 5
DEVICE, INTERFACE, ENDPOINT = 0, 1, 2
STALL = -errno.EPIPE


def ask(link, gadget, *request, **more):
    """A request that the gadget driver must not see."""
    before = len(gadget.requests)
    reply = link.control(*request, **more)
    assert len(gadget.requests) == before
    return reply.status, reply.data


@pytest.mark.parametrize("address", [1, 127, 0])
def test_s138_address(link, gadget, address):
    assert ask(link, gadget, DEVICE, SET_ADDRESS, address) == (0, b"")
    state = (vudc.UDCS / gadget.busid / "state").read_text().strip()
    assert state == ("addressed" if address else "default")


def test_s138_status(link, gadget):
    assert ask(link, gadget, 0x80, GET_STATUS, data=2) == (0, b"\0\0")
    assert ask(link, gadget, 0x81, GET_STATUS, data=2) == (0, b"\0\0")
    assert ask(link, gadget, 0x82, GET_STATUS, 0, 0x80 | BULK_IN, data=2) == (0, b"\0\0")
    assert ask(link, gadget, 0x82, GET_STATUS, 0, 0, data=2) == (0, b"\0\0")
    assert ask(link, gadget, 0x82, GET_STATUS, 0, NOWHERE, data=2) == (STALL, b"")
    # No more than the host has room for.
    assert ask(link, gadget, 0x80, GET_STATUS, data=1) == (0, b"\0")
    assert ask(link, gadget, 0x80, GET_STATUS, data=64) == (0, b"\0\0")


def test_s138_remote_wakeup(link, gadget):
    assert ask(link, gadget, DEVICE, SET_FEATURE, 1) == (0, b"")
    assert ask(link, gadget, 0x80, GET_STATUS, data=2) == (0, b"\2\0")
    assert ask(link, gadget, DEVICE, CLEAR_FEATURE, 1) == (0, b"")
    assert ask(link, gadget, 0x80, GET_STATUS, data=2) == (0, b"\0\0")


@pytest.mark.parametrize("feature", [3, 4, 5])
def test_s138_on_the_go(export, link, gadget, feature):
    """These are remembered, and cannot be cleared."""
    assert ask(link, gadget, DEVICE, SET_FEATURE, feature) == (0, b"")
    assert ask(link, gadget, 0x80, GET_STATUS, data=2) == (0, bytes([1 << feature, 0]))
    assert ask(link, gadget, DEVICE, CLEAR_FEATURE, feature) == (STALL, b"")
    # The next client finds the device as it was.
    export.drop()
    export.client().in_step()


@pytest.mark.parametrize("feature", [0, 2, 6, 48, 49, 0x100, 0xFFFF])
def test_s138_other_features(link, gadget, feature):
    for request in (SET_FEATURE, CLEAR_FEATURE):
        assert ask(link, gadget, DEVICE, request, feature) == (STALL, b"")


def test_s138_features_of_an_interface(link, gadget):
    """The gadget driver's business."""
    gadget.model.refused = {(SET_FEATURE, 1, 0)}
    for feature, status in ((0, 0), (1, STALL)):
        before = len(gadget.requests)
        assert link.control(INTERFACE, SET_FEATURE, feature, 0).status == status
        assert len(gadget.requests) == before + 1
    gadget.model.refused = set()


@pytest.mark.parametrize("index", [0, 0x80, NOWHERE, 0x80 | NOWHERE, BULK_IN])
def test_s138_no_endpoint_to_halt(link, gadget, index):
    assert ask(link, gadget, ENDPOINT, SET_FEATURE, 0, index) == (STALL, b"")
    link.in_step()


@pytest.mark.parametrize("index", [0x80 | BULK_IN, BULK_OUT, 0x80 | INT_IN])
@pytest.mark.parametrize("feature", [0, 7])
def test_s139_the_host_halts(link, gadget, index, feature):
    """Every transfer stalls until the host clears it; then what waits is transferred. Which feature it
    is does not matter."""
    def transfer():
        if index & 0x80:
            return link.submit_in(index & 0x7f, 64)
        return link.submit_out(index, b"data")

    waiting = transfer()
    assert ask_halted(link, gadget, index) == 0
    number = link.submit_control(setup(ENDPOINT, SET_FEATURE, feature, index))
    found = link.replies(2)
    assert (found[number].status, found[waiting].status) == (0, STALL)
    assert link.reply(transfer()).status == STALL
    assert ask_halted(link, gadget, index) == 1
    assert ask(link, gadget, ENDPOINT, CLEAR_FEATURE, feature, index) == (0, b"")
    assert ask_halted(link, gadget, index) == 0
    if index & 0x80:
        gadget.send(index & 0x7f, b"data")
        assert link.reply(transfer()).data == b"data"
    else:
        taken = gadget.receive(index, 64)
        assert link.reply(transfer()).actual == 4
        assert taken.wait() == b"data"


def ask_halted(link, gadget, index: int) -> int:
    """The halt bit of an endpoint."""
    status, data = ask(link, gadget, 0x82, GET_STATUS, 0, index, data=2)
    assert status == 0 and data in (b"\0\0", b"\1\0")
    return data[0]


def test_s139_the_gadget_halts(link, gadget):
    gadget.halt(0x80 | BULK_IN)
    assert link.reply(link.submit_in(BULK_IN, 64)).status == STALL
    assert ask(link, gadget, ENDPOINT, CLEAR_FEATURE, 0, 0x80 | BULK_IN) == (0, b"")
    gadget.send(BULK_IN, b"data")
    assert link.reply(link.submit_in(BULK_IN, 64)).data == b"data"


def test_s139_wedge(export, link, gadget):
    """The host cannot clear it; the next client finds it cleared."""
    gadget.wedge(0x80 | BULK_IN)
    assert link.reply(link.submit_in(BULK_IN, 64)).status == STALL
    assert ask(link, gadget, ENDPOINT, CLEAR_FEATURE, 0, 0x80 | BULK_IN) == (0, b"")
    assert link.reply(link.submit_in(BULK_IN, 64)).status == STALL
    assert ask_halted(link, gadget, 0x80 | BULK_IN) == 1
    export.drop()
    link = export.client()
    gadget.send(BULK_IN, b"data")
    assert link.reply(link.submit_in(BULK_IN, 64)).data == b"data"


@pytest.mark.parametrize("request_", [setup(VENDOR_IN, SOURCE, 40, 0, 64),
                                      setup(VENDOR_OUT, SINK, 0, 0, 0),
                                      setup(0, SET_CONFIGURATION, 1)],
                         ids=["in", "out", "configuration"])
def test_s141_delayed(link, gadget, request_):
    """The gadget driver answers later; meanwhile other endpoints go on, and control requests queue."""
    gadget.hold = lambda one: (one.request_type, one.request) == tuple(request_[:2])
    late = link.submit_control(request_)
    held = gadget.held.get(timeout=vhci.SOON)
    gadget.send(BULK_IN, b"bulk")
    assert link.reply(link.submit_in(BULK_IN, 64)).data == b"bulk"
    behind = link.submit_control(setup(0x80, GET_STATUS, 0, 0, 2))
    link.nothing()
    held.answer()
    reply = link.reply(late)
    assert reply.status == 0
    assert reply.data == (pattern(40) if request_[0] == VENDOR_IN else b"")
    assert link.reply(behind).status == 0


def test_s141_refused_late(link, gadget):
    gadget.hold = lambda one: one.request == SOURCE
    number = link.submit_control(setup(VENDOR_IN, SOURCE, 40, 0, 64))
    gadget.held.get(timeout=vhci.SOON).stall()
    assert link.reply(number).status == STALL
    gadget.hold = lambda one: False
    link.in_step()


def test_given_up_and_asked_again(link, gadget):
    """An answer that comes too late is nobody's: not the next request's either."""
    gadget.hold = lambda one: one.request == SOURCE
    number = link.submit_control(setup(VENDOR_IN, SOURCE, 40, 0, 64))
    held = gadget.held.get(timeout=vhci.SOON)
    unlink = link.unlink(number)
    link.asked.pop(number)
    assert link.recv() == RetUnlink(unlink, -errno.ECONNRESET)
    held.answer()
    gadget.hold = lambda one: False
    reply = link.control(VENDOR_IN, SOURCE, 10, data=64)
    assert (reply.status, reply.data) == (0, pattern(10))
