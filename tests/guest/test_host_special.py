# SPDX-License-Identifier: GPL-2.0
"""Control requests that the USB core of the server has to know of: statements 119 to 122."""

import errno

import pytest

import host
import vhci
from host import beyond_c, controller_too
from host_client import (CLEAR_FEATURE, ENDPOINT_HALT, GET_CONFIGURATION, GET_INTERFACE,
                         GET_STATUS, PORT_RESET, SET_CONFIGURATION, SET_FEATURE, SET_INTERFACE)
from host_model import BULK_IN, BULK_OUT, INT_IN, INT_OUT, NOWHERE, OTHER_IN, OTHER_OUT
from host_wire import RetSubmit, RetUnlink, setup
from vhci_wire import Setup

pytest_plugins = ("host_fixtures",)
pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml")]


def asked(gadget, since: int) -> list:
    """(request type, request, value, index) of what the device was asked since then."""
    return [(one.request_type, one.request, one.value, one.index)
            for one, _ in gadget.requests[since:]]


def alternate(busid: str, interface: int) -> int:
    """The setting of an interface, as the USB core has it."""
    folder = vhci.USB / f"{busid}:{host.configuration(busid)}.{interface}"
    return int((folder / "bAlternateSetting").read_text())


def moves(link, gadget, inward: int, outward: int):
    """A pair of endpoints works."""
    gadget.send(inward, b"in")
    reply = link.reply(link.submit_in(inward, 64, interval=1))
    assert (reply.status, reply.data) == (0, b"in")
    received = gadget.receive(outward, 3)
    reply = link.reply(link.submit_out(outward, b"out", interval=1))
    assert (reply.status, reply.actual) == (0, 3)
    assert received.wait() == b"out"


def replied(reply, status: int) -> bool:
    """A reply without data."""
    return (reply.status, reply.actual) == (status, 0)


# --- SET_CONFIGURATION ------------------------------------------------------------------------

@controller_too
def test_s119_set_configuration(export, link, gadget):
    """The core sends it once, and knows the interfaces of the new configuration."""
    for value, inward, outward in ((2, OTHER_IN, OTHER_OUT), (1, BULK_IN, BULK_OUT)):
        since = len(gadget.requests)
        assert replied(link.control(0, SET_CONFIGURATION, value), 0)
        assert asked(gadget, since)[0] == (0, SET_CONFIGURATION, value, 0)
        assert [one[:2] for one in asked(gadget, since)].count((0, SET_CONFIGURATION)) == 1
        assert host.configuration(export.busid) == str(value)
        assert link.control(0x80, GET_CONFIGURATION, data=1).data == bytes([value])
        moves(link, gadget, inward, outward)
    moves(link, gadget, INT_IN, INT_OUT)


@controller_too
def test_s119_set_configuration_again(export, link, gadget):
    """The configuration that is active already is set anew."""
    since = len(gadget.requests)
    assert replied(link.control(0, SET_CONFIGURATION, 1), 0)
    assert asked(gadget, since)[0] == (0, SET_CONFIGURATION, 1, 0)
    assert host.configuration(export.busid) == "1"
    moves(link, gadget, BULK_IN, BULK_OUT)


@controller_too
def test_s119_unconfigured(export, link, gadget):
    """Configuration 0: no endpoint is left but 0."""
    assert replied(link.control(0, SET_CONFIGURATION, 0), 0)
    assert host.configuration(export.busid) == ""
    assert asked(gadget, -1) == [(0, SET_CONFIGURATION, 0, 0)]
    link.in_step()
    assert link.control(0x80, GET_CONFIGURATION, data=1).data == b"\0"
    link.set_configuration(1)
    moves(link, gadget, BULK_IN, BULK_OUT)


@controller_too
def test_s120_configuration_unknown_to_the_core(export, link, gadget):
    """The device has the last word."""
    since = len(gadget.requests)
    assert replied(link.control(0, SET_CONFIGURATION, 9), -errno.EPIPE)
    assert asked(gadget, since) == [(0, SET_CONFIGURATION, 9, 0)]
    assert host.configuration(export.busid) == "1"
    moves(link, gadget, BULK_IN, BULK_OUT)


@controller_too
def test_configuration_refused_by_the_device(export, link, gadget):
    """The status is the device's, and the next configuration works."""
    gadget.model.refused = {(SET_CONFIGURATION, 2, 0)}
    try:
        assert replied(link.control(0, SET_CONFIGURATION, 2), -errno.EPIPE)
    finally:
        gadget.model.refused = set()
    link.in_step()
    link.set_configuration(1)
    assert host.configuration(export.busid) == "1"
    moves(link, gadget, BULK_IN, BULK_OUT)


@controller_too
def test_requests_wait_for_the_configuration(link, gadget):
    """A client need not wait for replies: requests to endpoint 0 are done in order."""
    pdus = [link.pack(0, 0, 0, control=setup(0, SET_CONFIGURATION, value)) for value in (2, 0, 1)]
    asks = [link.pack(1, 0, 1, control=setup(0x80, GET_CONFIGURATION, 0, 0, 1)) for _ in pdus]
    link.send(b"".join(first[1] + then[1] for first, then in zip(pdus, asks)))
    found = link.replies(6)
    assert all(replied(found[number], 0) for number, _ in pdus)
    assert [found[number].data for number, _ in asks] == [b"\x02", b"\0", b"\x01"]
    moves(link, gadget, BULK_IN, BULK_OUT)


# --- SET_INTERFACE ----------------------------------------------------------------------------

@controller_too
def test_s119_set_interface(export, link, gadget):
    since = len(gadget.requests)
    for value in (1, 1, 0):
        assert replied(link.control(1, SET_INTERFACE, value, 0), 0)
        assert alternate(export.busid, 0) == value
        assert link.control(0x81, GET_INTERFACE, 0, 0, 1).data == bytes([value])
        moves(link, gadget, BULK_IN, BULK_OUT)
    assert [one for one in asked(gadget, since) if one[1] == SET_INTERFACE] == [
        (1, SET_INTERFACE, value, 0) for value in (1, 1, 0)]


@controller_too
@pytest.mark.parametrize("value,index", [(2, 0), (0, 2), (255, 0), (0, 255)])
def test_s120_setting_unknown_to_the_core(export, link, gadget, value, index):
    """What the core refuses is put to the device."""
    since = len(gadget.requests)
    assert replied(link.control(1, SET_INTERFACE, value, index), -errno.EPIPE)
    assert asked(gadget, since) == [(1, SET_INTERFACE, value, index)]
    moves(link, gadget, BULK_IN, BULK_OUT)


@controller_too
def test_setting_refused_by_the_device(export, link, gadget):
    gadget.model.refused = {(SET_INTERFACE, 1, 0)}
    try:
        assert replied(link.control(1, SET_INTERFACE, 1, 0), -errno.EPIPE)
    finally:
        gadget.model.refused = set()
    link.in_step()
    link.set_configuration(1)
    assert alternate(export.busid, 0) == 0


@controller_too
def test_setting_ends_transfers_of_its_interface(link, gadget):
    """Those of the interface come back, those of others stay."""
    ending = [link.submit_in(BULK_IN, 64) for _ in range(3)]
    staying = link.submit_in(INT_IN, 64, interval=1)
    changing = link.submit_control(setup(1, SET_INTERFACE, 1, 0))
    found = link.replies(4)
    assert replied(found[changing], 0)
    for number in ending:
        assert isinstance(found[number], RetSubmit) and found[number].actual == 0
        assert found[number].status in (-errno.ESHUTDOWN, -errno.ENOENT, -errno.ECONNRESET)
    gadget.send(INT_IN, b"still here")
    assert link.reply(staying).data == b"still here"
    link.set_interface(0, 0)


# --- CLEAR_FEATURE(ENDPOINT_HALT) -------------------------------------------------------------

# usbredir has no halt of interrupt endpoints.
@pytest.mark.parametrize("address", [
    pytest.param(0x80 | BULK_IN, marks=controller_too, id="bulk in"),
    pytest.param(BULK_OUT, marks=controller_too, id="bulk out"),
    pytest.param(0x80 | INT_IN, id="interrupt in"), pytest.param(INT_OUT, id="interrupt out")])
def test_s119_clear_halt(link, gadget, address):
    ep = address & 15
    gadget.halt(address)
    ask = ((lambda: link.submit_in(ep, 64, interval=1)) if address & 0x80
           else (lambda: link.submit_out(ep, b"data", interval=1)))
    assert replied(link.reply(ask()), -errno.EPIPE)
    assert link.control(0x82, GET_STATUS, 0, address, 2).data == b"\x01\0"
    assert replied(link.control(2, CLEAR_FEATURE, ENDPOINT_HALT, address), 0)
    assert link.control(0x82, GET_STATUS, 0, address, 2).data == b"\0\0"
    if address & 0x80:
        gadget.send(ep, b"data")
        assert link.reply(ask()).data == b"data"
    else:
        gadget.receive(ep, 4)
        assert link.reply(ask()).actual == 4


@controller_too
@pytest.mark.parametrize("address", [NOWHERE, 0x80 | NOWHERE])
def test_s120_clear_halt_of_no_endpoint(link, address):
    assert replied(link.control(2, CLEAR_FEATURE, ENDPOINT_HALT, address), -errno.EPIPE)
    link.in_step()


@controller_too
def test_s119_set_halt_is_nothing_special(link, gadget):
    """SET_FEATURE(ENDPOINT_HALT) is for the device alone."""
    address = 0x80 | BULK_IN
    assert replied(link.control(2, SET_FEATURE, ENDPOINT_HALT, address), 0)
    assert replied(link.reply(link.submit_in(BULK_IN, 64)), -errno.EPIPE)
    assert replied(link.control(2, CLEAR_FEATURE, ENDPOINT_HALT, address), 0)
    moves(link, gadget, BULK_IN, BULK_OUT)


# --- SET_FEATURE(PORT_RESET) ------------------------------------------------------------------

@controller_too
def test_s121_port_reset(export, link, gadget):
    """The device is reset and configured as before; the connection stays."""
    resets = gadget.resets
    since = len(gadget.requests)
    assert replied(link.control(0x23, SET_FEATURE, PORT_RESET, 1), 0)
    assert gadget.resets > resets
    assert (0, SET_CONFIGURATION, 1, 0) in asked(gadget, since)
    assert (0x23, SET_FEATURE, PORT_RESET, 1) not in asked(gadget, since)
    assert host.status(export.busid) == host.USED
    assert host.configuration(export.busid) == "1"
    moves(link, gadget, BULK_IN, BULK_OUT)


@controller_too
def test_s121_port_reset_ends_transfers(link, gadget):
    """What was in flight comes back with an error, each once."""
    ending = [link.submit_in(BULK_IN, 64), link.submit_in(INT_IN, 8, interval=1),
              link.submit_out(BULK_OUT, b"never taken")]
    resetting = link.submit_control(setup(0x23, SET_FEATURE, PORT_RESET, 1))
    found = link.replies(4)
    assert replied(found[resetting], 0)
    for number in ending:
        assert found[number].status in (-errno.ESHUTDOWN, -errno.ENOENT, -errno.EPROTO)
        assert found[number].actual == 0
    moves(link, gadget, BULK_IN, BULK_OUT)


@controller_too
@pytest.mark.parametrize("control", [setup(0x23, SET_FEATURE, 8, 1), setup(0x20, SET_FEATURE, 4, 1),
                                     setup(0x23, CLEAR_FEATURE, 4, 1)])
def test_s121_only_the_reset_is_special(link, gadget, control):
    """Other requests of hubs are for the device, which is none."""
    resets = gadget.resets
    since = len(gadget.requests)
    assert replied(link.reply(link.submit_control(control)), -errno.EPIPE)
    one = Setup.parse(control)
    assert asked(gadget, since) == [(one.request_type, one.request, one.value, one.index)]
    assert gadget.resets == resets


# --- no driver of the server's ----------------------------------------------------------------

def test_s122_no_interface_driver(export, link):
    """Interfaces of an exported device stay without a driver."""
    for value in (2, 1):
        link.set_configuration(value)
        found = host.interface_drivers(export.busid)
        assert len(found) == {1: 2, 2: 1}[value] and set(found) == {None}


# --- while one of them takes its time ---------------------------------------------------------

@pytest.fixture
def held(link, gadget):
    """A SET_INTERFACE that the device has got and not answered: (its number, the request)."""
    gadget.hold = lambda one: one.request == SET_INTERFACE
    number = link.submit_control(setup(1, SET_INTERFACE, 1, 0))
    request = gadget.held.get(timeout=vhci.SOON)
    gadget.hold = lambda one: False
    return number, request


@controller_too
@beyond_c
def test_nobody_else_waits(link, gadget, held):
    """Other endpoints, and unlinks of anything, are served meanwhile."""
    number, request = held
    moves(link, gadget, INT_IN, INT_OUT)
    waiting = link.submit_in(INT_IN, 8, interval=1)
    unlink = link.unlink(waiting)
    assert link.recv() == RetUnlink(unlink, -errno.ECONNRESET)
    unlink = link.unlink(4711)
    assert link.recv() == RetUnlink(unlink, 0)
    link.asked.pop(waiting)
    request.answer()
    assert replied(link.reply(number), 0)
    link.set_interface(0, 0)


@controller_too
def test_unlink_while_it_runs(link, gadget, held):
    """The request or its unlink is answered, in bounded time; the stream goes on."""
    number, request = held
    unlink = link.unlink(number)
    request.answer()
    first = link.recv()
    if isinstance(first, RetSubmit):
        assert first.seqnum == number and replied(first, 0)
        assert link.recv() == RetUnlink(unlink, 0)
    else:
        assert first.seqnum == unlink and first.status in (0, -errno.ECONNRESET)
        link.asked.pop(number)
    link.in_step()
    link.set_interface(0, 0)


@beyond_c
@pytest.mark.lanes("uml-lockdep")
def test_never_answered(link, gadget, held):
    """A device that does not answer ends the request after usbcore's five seconds, not more."""
    number, request = held
    assert link.nothing(0.5) is None
    link.sock.settimeout(15 * vhci.SLACK)
    reply = link.reply(number)
    request.stall()
    assert reply.status in (-errno.ETIMEDOUT, -errno.EPIPE) and reply.actual == 0
    link.in_step()


@beyond_c
@pytest.mark.parametrize("how", ["close", "-1", "unbind"])
def test_s132_teardown_meanwhile(export, link, gadget, held, how):
    """B18: whoever ends the connection does not wait for the device for long."""
    if how == "close":
        link.close()
    elif how == "-1":
        host.sockfd(export.busid, -1)
    else:
        host.unbind(export.busid)
    if how != "close":
        link.rest(vhci.TEARDOWN + 5)
    held[1].stall()
    link.close()
    export.connection = None
    if how == "unbind":
        assert host.driver_of(export.busid) is None
        host.bind(export.busid)
    host.wait_status(export.busid)
