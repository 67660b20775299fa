# SPDX-License-Identifier: GPL-2.0
"""Isochronous transfers that take place, on QEMU's controller: statements 129 and 130. Most of what
is refused is tested in test_host_hostile.py."""

import errno

import pytest

import host
import vhci
import vhci_usbfs as usbfs
from host import beyond_c
from host_export import attached
from host_model import BULK_IN, ISO_IN, ISO_OUT, ISO_PACKET, pattern
from host_wire import Iso, RetUnlink, cmd_unlink, setup
from vhci_wire import IN, OUT

pytest_plugins = ("vhci_fixtures", "host_fixtures")
pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("stock")]

# QEMU begins to hand packets of this endpoint to the controller when it has so many, the 60 ms of
# its buffer; when it has run out, it waits for as many again. So this is what can be counted on.
SENT = 120


@pytest.fixture
def iso(link, gadget):
    """The connection with the isochronous endpoints there."""
    link.set_interface(0, 1)
    drain(gadget)
    yield link
    link.set_interface(0, 0)


def drain(gadget):
    """Forget what arrived before; the setting has changed since, so all of it has."""
    while not gadget.iso_out.empty():
        gadget.iso_out.get()


def taken(gadget, count: int) -> list:
    """The next packets that arrive at the device."""
    return [gadget.iso_out.get(timeout=vhci.SOON) for _ in range(count)]


def descriptors(count: int, length: int = ISO_PACKET, step: int = ISO_PACKET) -> list:
    """Packets of a request, with gaps between them if the step is longer than they are."""
    return [Iso(number * step, length, 0, -errno.EXDEV) for number in range(count)]


def lengths(count: int) -> list:
    """Of packets, from 1 byte to the largest."""
    return [1 + n * 53 % ISO_PACKET for n in range(count)]


def checked(reply, asked: list) -> list:
    """The data of the packets of a reply whose every field is as it should be."""
    assert reply.packets == len(reply.iso) == len(asked)
    assert [(one.offset, one.length) for one in reply.iso] == [
        (one.offset, one.length) for one in asked]
    assert reply.actual == sum(one.actual for one in reply.iso)
    assert reply.errors == sum(one.status != 0 for one in reply.iso)
    found, at = [], 0
    for one in reply.iso:
        # The emulated frames may run away from a slow machine.
        assert one.status == 0 or (one.status == -errno.EXDEV and one.actual == 0)
        assert one.actual <= one.length
        found.append(reply.data[at:at + one.actual])
        at += one.actual
    return found


@pytest.mark.parametrize("step", [ISO_PACKET, 256], ids=["dense", "gaps"])
def test_s129_in(iso, gadget, step):
    """Packets of all lengths arrive in order, without what is between them in the buffer."""
    sent = [pattern(one, n) for n, one in enumerate(lengths(SENT))]
    asked = descriptors(32, step=step)
    pending = [iso.submit_in(ISO_IN, 32 * step, iso=asked, interval=8) for _ in range(4)]
    vhci.wait_for(lambda: gadget.isochronous.get(0x80 | ISO_IN), "the stream")
    gadget.send_iso(ISO_IN, sent)
    found = []
    for _ in range(200):
        reply = iso.reply(pending.pop(0))
        assert reply.status == 0
        found += filter(None, checked(reply, asked))
        if len(found) >= SENT:
            break
        pending.append(iso.submit_in(ISO_IN, 32 * step, iso=asked, interval=8))
    assert found == sent
    for number in pending:
        assert not any(checked(iso.reply(number), asked))


@pytest.mark.parametrize("count", [1, 8, 64])
def test_s129_out(iso, gadget, count):
    """The gaps of the buffer travel to the server and no further."""
    data = pattern(count * 256)
    asked = [Iso(n * 256, length, 0, -errno.EXDEV) for n, length in enumerate(lengths(count))]
    reply = iso.reply(iso.submit_out(ISO_OUT, data, iso=asked, interval=8))
    assert reply.status == 0 and reply.actual == sum(lengths(count)) and reply.errors == 0
    assert reply.packets == count
    assert reply.iso == [Iso(one.offset, one.length, one.length, 0) for one in asked]
    assert taken(gadget, count) == [data[one.offset:one.offset + one.length] for one in asked]
    assert gadget.iso_out.empty()


def test_out_stream(iso, gadget):
    """Many requests one behind the other: nothing is lost, nothing overtakes."""
    rounds, count = 12, 16
    numbers = [iso.submit_out(ISO_OUT, pattern(count * ISO_PACKET, turn),
                              iso=descriptors(count), interval=8) for turn in range(rounds)]
    for number in numbers:
        reply = iso.reply(number)
        assert (reply.status, reply.actual) == (0, count * ISO_PACKET)
    for turn in range(rounds):
        assert b"".join(taken(gadget, count)) == pattern(count * ISO_PACKET, turn)


def test_s130_the_most_packets(iso, gadget):
    reply = iso.reply(iso.submit_out(ISO_OUT, pattern(1024 * 8),
                                     iso=descriptors(1024, 8, 8), interval=8))
    assert (reply.status, reply.actual, reply.packets) == (0, 1024 * 8, 1024)
    assert b"".join(taken(gadget, 1024)) == pattern(1024 * 8)


@beyond_c
def test_packets_in_any_order(iso, gadget):
    """Offsets need not rise, and packets may share bytes."""
    asked = [Iso(64, 64), Iso(0, 64), Iso(32, 64), Iso(128, 0)]
    reply = iso.reply(iso.submit_out(ISO_OUT, pattern(128), iso=asked, interval=8))
    assert (reply.status, reply.actual) == (0, 192)
    assert taken(gadget, 4) == [pattern(128)[one.offset:one.offset + one.length] for one in asked]


@beyond_c
@pytest.mark.parametrize("ep", [ISO_IN, ISO_OUT], ids=["in", "out"])
def test_refused(iso, gadget, ep):
    """One with a packet outside of its buffer, between two others: the reply has a descriptor for
    each packet all the same, and the stream goes on."""
    bad = [Iso(0, 64), Iso(129, 64), Iso(64, 64)]
    before = iso.submit_out(ISO_OUT, pattern(8 * ISO_PACKET, 1), iso=descriptors(8), interval=8)
    refused = (iso.submit_in(ep, 192, iso=bad, interval=8) if ep == ISO_IN else
               iso.submit_out(ep, pattern(192), iso=bad, interval=8))
    after = iso.submit_out(ISO_OUT, pattern(8 * ISO_PACKET, 2), iso=descriptors(8), interval=8)
    found = iso.replies(3)
    reply = found[refused]
    assert (reply.status, reply.actual, reply.packets, reply.errors) == (-errno.EINVAL, 0, 3, 3)
    assert reply.iso == [Iso(0, 0, 0, -errno.EINVAL)] * 3
    for number in (before, after):
        assert (found[number].status, found[number].actual) == (0, 8 * ISO_PACKET)
    assert b"".join(taken(gadget, 16)) == pattern(8 * ISO_PACKET, 1) + pattern(8 * ISO_PACKET, 2)
    assert gadget.iso_out.empty()


def at_once(iso, direction: int) -> tuple:
    """Requests for a second of stream: their numbers, and the bytes, to be sent with what ends it.
    One after the other, a slow machine might be done with the first before it has sent the last."""
    ep, data = (ISO_IN, b"") if direction == IN else (ISO_OUT, bytes(128 * ISO_PACKET))
    pdus = [iso.pack(direction, ep, 128 * ISO_PACKET, iso=descriptors(128), data=data, interval=8)
            for _ in range(8)]
    return [number for number, _ in pdus], b"".join(raw for _, raw in pdus)


@pytest.mark.parametrize("direction", [IN, OUT], ids=["in", "out"])
def test_unlink(iso, direction):
    """A stream is stopped: each request is done, or was taken back."""
    numbers, raw = at_once(iso, direction)
    unlinks = {iso.number(): number for number in reversed(numbers)}
    iso.send(raw + b"".join(cmd_unlink(one, iso.devid, victim) for one, victim in unlinks.items()))
    left, back = set(numbers), 0
    while unlinks:
        reply = iso.recv()
        if isinstance(reply, RetUnlink):
            victim = unlinks.pop(reply.seqnum)
            assert reply.status in (0, -errno.ECONNRESET)
            if victim in left:
                left.remove(victim)
                iso.asked.pop(victim)
                back += 1
        else:
            left.remove(reply.seqnum)
    assert not left and back
    iso.in_step()


def test_beside_other_transfers(iso, gadget):
    number = iso.submit_out(ISO_OUT, bytes(64 * ISO_PACKET), iso=descriptors(64), interval=8)
    gadget.send(BULK_IN, b"bulk")
    bulk = iso.submit_in(BULK_IN, 64)
    found = iso.replies(2)
    assert found[bulk].data == b"bulk"
    assert found[number].actual == 64 * ISO_PACKET


def test_setting_ends_a_stream(iso):
    """SET_INTERFACE takes the endpoints away under it."""
    numbers, raw = at_once(iso, IN)
    change, more = iso.pack(OUT, 0, 0, control=setup(1, 11))
    iso.send(raw + more)
    found = iso.replies(9)
    assert found[change].status == 0
    assert all(found[number].actual == 0 for number in numbers)
    assert found[numbers[-1]].status in (-errno.ESHUTDOWN, -errno.ENOENT, -errno.ECONNRESET)
    iso.in_step()


# --- through server and client ----------------------------------------------------------------

@pytest.fixture
def few(export):
    """The device at a server that takes no more requests of a client than it must, 16."""
    def restart(*parameters):
        host.unload()
        host.wait_own(export.busid)
        host.load(*parameters)
        host.take(export.busid)
        host.wait_status(export.busid)

    export.drop()
    restart("connection_urbs=16")
    yield export.busid
    restart()


@pytest.fixture
def far(few, gadget):
    """The device attached again by the client, through usbfs."""
    with attached(few) as remote, usbfs.Device(remote.usbfs()) as device:
        device.claim(0)
        device.set_interface(0, 1)
        drain(gadget)
        yield device


@beyond_c
def test_refused_at_the_client(far, gadget):
    """More at once than the server takes: what it refuses fails, packet by packet, the rest is done
    and the device stays."""
    count = 128
    urbs = [usbfs.iso_out(ISO_OUT, [ISO_PACKET] * count, pattern(count * ISO_PACKET, turn))
            for turn in range(24)]
    for urb in urbs:
        far.submit(urb)
    far.reap_all(len(urbs))
    done = [turn for turn, urb in enumerate(urbs) if urb.status == 0]
    assert 16 <= len(done) < len(urbs)
    for turn, urb in enumerate(urbs):
        status, actual, errors = (0, ISO_PACKET, 0) if turn in done else (-errno.EPROTO, 0, count)
        assert (urb.status, urb.error_count) == (status, errors)
        assert urb.iso == [(actual, status)] * count
    for turn in done:
        assert b"".join(taken(gadget, count)) == pattern(count * ISO_PACKET, turn)
    far.submit(urb := usbfs.iso_out(ISO_OUT, [5, 3], b"works!!!"))
    assert far.reap() is urb and urb.iso == [(5, 0), (3, 0)]
    assert taken(gadget, 2) == [b"works", b"!!!"]
    assert gadget.iso_out.empty()


@beyond_c
def test_in_at_the_client(far, gadget):
    """Compacted by the server, and back in the place of each packet at the client."""
    sent = [pattern(one, n) for n, one in enumerate(lengths(SENT))]
    for _ in range(4):
        far.submit(usbfs.iso_in(ISO_IN, [ISO_PACKET] * 32))
    vhci.wait_for(lambda: gadget.isochronous.get(0x80 | ISO_IN), "the stream")
    gadget.send_iso(ISO_IN, sent)
    found = []
    while len(found) < SENT:
        urb = far.reap()
        assert urb.status == 0
        data = urb.data()
        found += [data[n * ISO_PACKET:][:actual] for n, (actual, _) in enumerate(urb.iso) if actual]
        far.submit(usbfs.iso_in(ISO_IN, [ISO_PACKET] * 32))
    assert found == sent
