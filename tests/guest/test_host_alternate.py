# SPDX-License-Identifier: GPL-2.0
"""A device on which an alternate setting puts an endpoint of another type at the same address, and a
client whose requests for it are on their way at that moment."""

import errno

import pytest

import host
import host_gadget
import vhci
from host_client import SET_INTERFACE
from host_export import Export
from host_model import Model, PACKET
from host_wire import Iso, setup
from vhci_device import BULK_ATTR, Endpoint, INT_ATTR, ISO_ATTR
from vhci_wire import FLAG_ISO_ASAP, OUT

pytest_plugins = ("host_fixtures",)
pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml")]

BULK, ISO, INTERRUPT = range(3)
ADDRESS, LENGTH = 2, 64


class Changing(Model):
    """One interface, one endpoint: its type follows the setting."""

    def __init__(self):
        super().__init__()
        self.configurations = {1: [[[Endpoint(ADDRESS, BULK_ATTR, PACKET[vhci.HIGH])],
                                    [Endpoint(ADDRESS, ISO_ATTR, LENGTH, 4)],
                                    [Endpoint(ADDRESS, INT_ATTR, LENGTH, 4)]]]}


@pytest.fixture(scope="module")
def device(host_driver):
    """The device in the hands of the server."""
    host_gadget.load()
    one = host_gadget.Gadget(Changing(), number=1)
    vhci.wait_for(lambda: (vhci.USB / one.busid).exists(), one.busid, vhci.ENUMERATION)
    with host.exported(one.busid):
        yield one
    one.close()
    vhci.wait_gone(one.busid)


@pytest.fixture
def link(device, host_watched):
    """A connection to it, in configuration 1."""
    export = Export(device)
    yield export.client()
    export.close()


def request(kind: int) -> dict:
    """What a request to an endpoint of this type looks like, with all flags that suit it."""
    if kind == ISO:
        return {"iso": [Iso(0, LENGTH)], "flags": FLAG_ISO_ASAP, "interval": 4}
    return {"flags": 0x40, "interval": 4}


@pytest.mark.parametrize("before,after", [(BULK, ISO), (ISO, BULK), (ISO, INTERRUPT),
                                          (INTERRUPT, BULK), (BULK, INTERRUPT)])
def test_changed_while_the_data_arrives(device, link, before, after):
    """The request was for what is there no more: it fails, and usbcore has nothing to complain
    of."""
    link.set_interface(0, before)
    device.hold = lambda one: (one.request_type, one.request) == (1, SET_INTERFACE)
    change = link.submit_control(setup(1, SET_INTERFACE, after, 0))
    held = device.held.get(timeout=vhci.SOON)
    number, raw = link.pack(OUT, ADDRESS, LENGTH, data=bytes(LENGTH), **request(before))
    # The header is looked at, and the data waited for, while the old setting is there.
    link.send(raw[:48 + LENGTH // 2])
    statistics = f"/sys/kernel/debug/usbip-host/{device.busid}"
    vhci.wait_for(lambda: "in_flight 2\n" in open(statistics, encoding="ascii").read(),
                  "the request to be accepted")
    held.answer()
    assert link.reply(change).status == 0
    link.send(raw[48 + LENGTH // 2:])
    assert link.reply(number).status == -errno.ENOENT
    device.hold = lambda one: False
    link.in_step()
    link.set_interface(0, BULK)
    received = device.receive(ADDRESS, 5)
    assert link.reply(link.submit_out(ADDRESS, b"works")).status == 0
    assert received.wait() == b"works"


def test_changed_without_waiting(link):
    """A client that goes on while the setting changes: each request is for the one setting or the
    other, and usbcore has nothing to complain of. (Isochronous ones look different on the wire.)"""
    changes, requests = [], []
    for kind in (INTERRUPT, BULK) * 20:
        changes.append(link.submit_control(setup(1, SET_INTERFACE, kind, 0)))
        requests += [link.submit(OUT, ADDRESS, LENGTH, data=bytes(LENGTH), **request(kind))
                     for _ in range(3)]
    # The last ones are with the device, which does not take them.
    changes.append(link.submit_control(setup(1, SET_INTERFACE, BULK, 0)))
    found = link.replies(len(changes) + len(requests))
    assert {found[number].status for number in changes} == {0}
    assert {found[number].status for number in requests} <= {-errno.ENOENT, -errno.ESHUTDOWN}
    link.in_step()
