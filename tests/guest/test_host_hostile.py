# SPDX-License-Identifier: GPL-2.0
"""Clients that lie, flood and stop reading. A request that makes no sense fails alone, and the
stream goes on behind it; a stream that makes no sense ends, and the device works for the next
client. Never is the device lost because of what a client sent: statements 114, 115, 123 to 128."""

import errno
import random
import struct
import time

import pytest

import vhci
from host import beyond_c
from host_client import GET_DESCRIPTOR, Closed
from host_model import (BULK_IN, BULK_OUT, INT_IN, INT_OUT, ISO_IN, ISO_OUT, NOWHERE, SINK, SOURCE,
                        VENDOR_IN, VENDOR_OUT, pattern)
from host_wire import (Iso, RetUnlink, basic_header, cmd_submit, cmd_unlink, setup)
from vhci_wire import FLAG_DIR_IN, FLAG_SG, HEADER, IN, OUT, ret_submit

pytest_plugins = ("host_fixtures",)
pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml")]

KIB, MIB = 1 << 10, 1 << 20
# What a server may say to a request that makes no sense.
SENSELESS = (-errno.EINVAL, -errno.EBADR)
NO_ENDPOINT = (-errno.ENOENT, -errno.EPIPE)
TOO_MUCH = (-errno.EMSGSIZE, -errno.ENOMEM)


def refused(link, seqnum: int, allowed: tuple):
    """The request fails and moves nothing; the stream is in step."""
    reply = link.reply(seqnum)
    assert reply.status in allowed and reply.actual == 0, reply
    link.in_step()


def lost(export, link):
    """The connection ends without another word; the device is reset, and works for the next one."""
    link.gone()
    export.wait()
    vhci.wait_for(lambda: export.device.resets > export.resets, "the reset")
    export.drop()
    export.client().in_step()


# --- streams that make no sense ---------------------------------------------------------------

@pytest.mark.parametrize("wrong,unlink", [(0, False), (1, False), (1 << 16, False), (0, True),
                                          (-1, True), (0xFFFFFFFF, True)])
def test_s114_another_device(export, link, wrong, unlink):
    devid = wrong if wrong in (0, 0xFFFFFFFF) else link.devid + wrong
    if unlink:
        link.send(cmd_unlink(1, devid, 2))
    else:
        link.send(cmd_submit(1, devid, IN, 0, 18, control=setup(0x80, 6, 0x100, 0, 18)))
    lost(export, link)


@pytest.mark.parametrize("command", [0, 3, 4, 5, 0x80000001, 0xFFFFFFFF])
def test_s115_unknown_command(export, link, command):
    link.send(basic_header(command, 1, link.devid))
    lost(export, link)


def test_s115_with_requests_in_flight(export, link):
    """Those are never answered."""
    for _ in range(5):
        link.submit_in(BULK_IN, 512)
        link.submit_in(INT_IN, 8, interval=1)
    link.send(basic_header(0x7777, 1, link.devid))
    lost(export, link)


def test_nothing_after_the_end(export, link):
    """What comes behind a command that ends the stream is not obeyed."""
    since = len(export.device.requests)
    vendor = cmd_submit(2, link.devid, OUT, 0, 0, control=setup(VENDOR_OUT, SINK, 99, 0, 0))
    link.send(basic_header(0, 1, link.devid) + vendor)
    lost(export, link)
    assert 99 not in [one.value for one, _ in export.device.requests[since:]]


# --- endpoints that do not exist --------------------------------------------------------------

@beyond_c
@pytest.mark.parametrize("ep", [NOWHERE, 15, 16, 0x81, 255, 0x10001, 0x80000001, 0xFFFFFFFF])
def test_s124_no_such_endpoint(link, ep):
    """Answered; what follows the header is thrown away."""
    refused(link, link.submit_in(ep, 64), NO_ENDPOINT)
    for length in (0, 1, 512, 100000):
        refused(link, link.submit_out(ep, pattern(length)), NO_ENDPOINT)


@beyond_c
def test_s124_other_direction(link):
    refused(link, link.submit_out(BULK_IN, b"data"), NO_ENDPOINT)
    refused(link, link.submit_in(BULK_OUT, 64), NO_ENDPOINT)


@beyond_c
@pytest.mark.parametrize("direction", [2, 3, 0x80, 0x80000000, 0xFFFFFFFF])
def test_direction(export, link, direction):
    """Neither in nor out: nobody can tell what follows, so either way to say no will do."""
    link.submit(direction, 0, 0, control=setup(VENDOR_OUT, SINK, 7, 0, 0))
    since = len(export.device.requests)
    try:
        reply = link.recv()
    except Closed:
        lost(export, link)
    else:
        assert reply.status in SENSELESS
        link.in_step()
    assert 7 not in [one.value for one, _ in export.device.requests[since:]]


@beyond_c
def test_s123_before_it_is_configured(export, link):
    """Without a configuration there is endpoint 0 and no other."""
    link.set_configuration(0)
    refused(link, link.submit_in(BULK_IN, 64), NO_ENDPOINT)
    refused(link, link.submit_out(BULK_OUT, pattern(5000)), NO_ENDPOINT)
    link.set_configuration(1)


# --- lengths ----------------------------------------------------------------------------------

LENGTHS = [-1, -2, -512, -0x80000000, 0x7FFFFFFF, 0x7FFFF000, (16 * MIB) + 1, 64 * MIB, 512 * MIB]


@beyond_c
@pytest.mark.parametrize("flags", [0, FLAG_SG], ids=["linear", "sg"])
@pytest.mark.parametrize("length", LENGTHS)
def test_s127_length_in(export, link, length, flags):
    """Refused before anything is allocated, or the end where the length is none."""
    seqnum = link.submit(IN, BULK_IN, length, flags=FLAG_DIR_IN | flags)
    if length >= 0:
        refused(link, seqnum, TOO_MUCH)
        return
    try:
        reply = link.recv()
    except Closed:
        lost(export, link)
    else:
        assert reply.status in (*SENSELESS, *TOO_MUCH) and reply.actual == 0
        link.in_step()


@beyond_c
@pytest.mark.parametrize("length,flags", [(-1, 0), (-0x80000000, FLAG_SG), (0x7FFFFFFF, FLAG_SG),
                                          (64 * MIB + 1, 0)])
def test_s127_length_out(export, link, length, flags):
    """More than can be thrown away ends the connection."""
    link.submit(OUT, BULK_OUT, length, flags=flags)
    lost(export, link)


@beyond_c
def test_s127_too_long_to_send(link):
    """More than one request may have: thrown away, refused, and on it goes."""
    length = 16 * MIB + 1
    seqnum = link.submit(OUT, BULK_OUT, length)
    block = bytes(MIB)
    for _ in range(length // MIB):
        link.send(block)
    link.send(b"x")
    refused(link, seqnum, TOO_MUCH)


@beyond_c
@pytest.mark.parametrize("flags", [0, FLAG_SG], ids=["linear", "sg"])
def test_s127_five_mib(link, gadget, flags):
    """More than the kernel has in one piece; a device that answers little."""
    gadget.send(BULK_IN, b"little")
    reply = link.reply(link.submit_in(BULK_IN, 5 * MIB, flags=FLAG_DIR_IN | flags))
    assert (reply.status, reply.data) == (0, b"little")
    seqnum = link.submit_out(BULK_OUT, bytes(5 * MIB), flags=flags)
    unlink = link.unlink(seqnum)
    link.asked.pop(seqnum)
    assert link.recv() == RetUnlink(unlink, -errno.ECONNRESET)
    link.in_step()


# --- control ----------------------------------------------------------------------------------

@beyond_c
@pytest.mark.parametrize("length,announced", [(64, 18), (18, 64), (0, 18), (1, 0), (65535, 64)])
def test_s123_length_of_a_control_request(link, length, announced):
    """The setup packet and the header have to agree."""
    seqnum = link.submit(IN, 0, length, control=setup(0x80, GET_DESCRIPTOR, 0x100, 0, announced))
    refused(link, seqnum, SENSELESS)
    seqnum = link.submit(OUT, 0, length, data=pattern(length),
                         control=setup(VENDOR_OUT, SINK, 0, 0, announced))
    refused(link, seqnum, SENSELESS)


def test_largest_control_request(link):
    """All that a setup packet can ask for."""
    seqnum = link.submit_control(setup(VENDOR_IN, SOURCE, 0xFFFF, 0, 0xFFFF))
    assert link.reply(seqnum).data == pattern(0xFFFF)


@beyond_c
def test_direction_of_a_control_request(link):
    """So do the directions, where there is data."""
    seqnum = link.submit(OUT, 0, 18, data=pattern(18),
                         control=setup(0x80, GET_DESCRIPTOR, 0x100, 0, 18))
    refused(link, seqnum, SENSELESS)
    seqnum = link.submit(IN, 0, 18, control=setup(VENDOR_OUT, SINK, 0, 0, 18))
    refused(link, seqnum, SENSELESS)


@beyond_c
def test_direction_without_data(link, gadget):
    """Where there is none, it does not matter."""
    for direction in (IN, OUT):
        for kind in (VENDOR_IN, VENDOR_OUT):
            request = SOURCE if kind == VENDOR_IN else SINK
            since = len(gadget.requests)
            reply = link.reply(link.submit(direction, 0, 0, control=setup(kind, request)))
            assert (reply.status, reply.actual) == (0, 0)
            assert [one.request for one, _ in gadget.requests[since:]] == [request]
    link.in_step()


# --- isochronous requests ---------------------------------------------------------------------
# The emulated controller has no transfers of that kind: what is accepted ends with an error.
# Transfers that work are in test_host_iso.py.

@pytest.fixture
def iso(link):
    """The connection with the isochronous endpoints there."""
    link.set_interface(0, 1)
    yield link
    try:
        link.set_interface(0, 0)
    except (Closed, vhci.Timeout, OSError):
        pass  # the test has ended the connection


def packets(count: int, length: int = 192) -> list:
    """Descriptors one behind the other, as a client sends them."""
    return [Iso(number * length, length, 0, -errno.EXDEV) for number in range(count)]


@pytest.mark.parametrize("count", [1, 4, 1024])
def test_s130_iso_in_is_accepted(iso, count):
    """The descriptors come back, without data."""
    seqnum = iso.submit_in(ISO_IN, 192 * count, iso=packets(count), interval=8)
    reply = iso.reply(seqnum)
    assert (reply.status, reply.actual, reply.packets) == (-errno.EPROTO, 0, count)
    assert reply.iso == packets(count)
    iso.in_step()


@pytest.mark.parametrize("count", [1, 4, 1024])
def test_s130_iso_out_is_accepted(iso, count):
    seqnum = iso.submit_out(ISO_OUT, pattern(192 * count), iso=packets(count), interval=8)
    reply = iso.reply(seqnum)
    assert (reply.status, reply.actual, reply.packets) == (-errno.EPROTO, 0, count)
    assert reply.iso == packets(count)
    iso.in_step()


@beyond_c
@pytest.mark.parametrize("where", [(0, 193), (1, 192), (191, 2), (192, 1), (0xFFFFFFFF, 192),
                                   (0xFFFFFF40, 192), (0x80000000, 1), (0, 0xFFFFFFFF),
                                   (0, 0x80000000)])
@pytest.mark.parametrize("ep", [ISO_IN, ISO_OUT], ids=["in", "out"])
def test_iso_packet_outside_of_the_buffer(iso, ep, where):
    """Not one byte beyond the buffer is touched: the request is refused."""
    bad = [Iso(0, 64), Iso(*where), Iso(64, 64)]
    if ep == ISO_IN:
        seqnum = iso.submit_in(ep, 192, iso=bad, interval=8)
    else:
        seqnum = iso.submit_out(ep, pattern(192), iso=bad, interval=8)
    reply = iso.reply(seqnum)
    assert (reply.status, reply.actual) == (-errno.EINVAL, 0)
    # A client reads as many descriptors as it has packets, whatever the status is.
    assert (reply.packets, reply.errors) == (3, 3)
    assert reply.iso == [Iso(0, 0, 0, -errno.EINVAL)] * 3
    iso.in_step()


@beyond_c
@pytest.mark.parametrize("count", [0, -1, 1025, 100000, 0x7FFFFFFF, -0x80000000])
@pytest.mark.parametrize("ep", [ISO_IN, ISO_OUT], ids=["in", "out"])
def test_s127_number_of_iso_packets(export, iso, ep, count):
    """None, and more than the protocol has. The client sends the descriptors it announces as far as
    that can be."""
    direction = IN if ep == ISO_IN else OUT
    data = b"" if direction == IN else pattern(192)
    sent = count if 0 < count <= 100000 else 0
    seqnum, raw = iso.pack(direction, ep, 192, data=data, packets=count, is_iso=True, interval=8)
    try:
        iso.send(raw + b"".join(one.pack() for one in packets(4)) * (sent // 4) +
                 b"".join(one.pack() for one in packets(sent % 4)))
        iso.asked[seqnum].iso = False
        reply = iso.recv()
    except Closed:
        lost(export, iso)
    else:
        assert (reply.seqnum, reply.actual) == (seqnum, 0) and reply.status in SENSELESS
        iso.in_step()


@beyond_c
def test_s127_iso_scatter_gather(iso):
    """The flag means nothing there."""
    for submit in (lambda: iso.submit_in(ISO_IN, 768, iso=packets(4), flags=FLAG_SG | FLAG_DIR_IN,
                                         interval=8),
                   lambda: iso.submit_out(ISO_OUT, pattern(768), iso=packets(4), flags=FLAG_SG,
                                          interval=8)):
        reply = iso.reply(submit())
        assert (reply.status, reply.packets, reply.iso) == (-errno.EPROTO, 4, packets(4))
    iso.in_step()


@beyond_c
def test_iso_lengths_that_are_not_zero(iso):
    """A client has no results to report; what it says in their place is ignored or refused."""
    noise = [Iso(0, 64, 64, 0), Iso(64, 64, 0xFFFFFFFF, 5)]
    reply = iso.reply(iso.submit_out(ISO_OUT, pattern(128), iso=noise, interval=8))
    assert reply.status in (-errno.EPROTO, *SENSELESS) and reply.actual == 0
    assert [one.actual for one in reply.iso] in ([], [0, 0])
    iso.in_step()


@beyond_c
@pytest.mark.parametrize("interval", [0, -1, -0x80000000, 0x7FFFFFFF])
def test_s123_interval(iso, gadget, interval):
    """A periodic request with an interval that is none: done, or refused."""
    gadget.send(INT_IN, b"report")
    reply = iso.reply(iso.submit_in(INT_IN, 8, interval=interval))
    assert (reply.status, reply.data) == (0, b"report") or reply.status in SENSELESS
    gadget.cancel()
    reply = iso.reply(iso.submit_in(ISO_IN, 192, iso=packets(1), interval=interval))
    assert reply.status in (-errno.EPROTO, *SENSELESS)
    iso.in_step()


# --- numbers ----------------------------------------------------------------------------------

@beyond_c
def test_number_in_use(export, link):
    """Two requests of one number: the end, or the second is refused; never two of that number."""
    link.submit_in(BULK_IN, 64, seqnum=5)
    try:
        link.submit_in(BULK_IN, 64, seqnum=5)
        reply = link.recv()
    except Closed:
        lost(export, link)
    else:
        assert reply.seqnum == 5 and reply.status in SENSELESS
        link.in_step()


# --- too much ---------------------------------------------------------------------------------

@beyond_c
def test_more_requests_than_are_taken(export, link, gadget):
    """What is too much is answered at once; the rest stays, and can be taken back."""
    # A reply may be here before the server has taken it off its account.
    vhci.wait_for(lambda: export.statistics()["in_flight"] == 0, "the requests of the last test")
    numbers = [link.number() for _ in range(6000)]
    for start in range(0, len(numbers), 500):
        part = numbers[start:start + 500]
        link.send(b"".join(link.pack(IN, BULK_IN, 64, seqnum=one)[1] for one in part))
    found = {}
    while len(found) < 6000 - 4096:
        reply = link.recv()
        found[reply.seqnum] = reply
    assert {reply.status for reply in found.values()} == {-errno.ENOMEM}
    assert list(found) == numbers[4096:]
    link.nothing(0.05)
    # The one that makes room is not behind a stream that has stopped.
    unlink = link.unlink(numbers[0])
    link.asked.pop(numbers[0])
    assert link.recv() == RetUnlink(unlink, -errno.ECONNRESET)
    vhci.wait_for(lambda: export.statistics()["in_flight"] < 4096, "the room for another")
    link.in_step()
    gadget.send(BULK_IN, b"first")
    assert link.reply(numbers[1]).data == b"first"
    link.close()


@beyond_c
@pytest.mark.parametrize("flags", [0, FLAG_SG], ids=["linear", "sg"])
def test_more_bytes_than_are_taken(link, flags):
    """The same for their buffers: 32 MiB for one client."""
    before = available()
    numbers = [link.submit_in(BULK_IN, 5 * MIB, flags=FLAG_DIR_IN | flags) for _ in range(40)]
    for number in numbers[6:]:
        reply = link.reply(number)
        assert (reply.status, reply.actual) == (-errno.ENOMEM, 0)
    assert before - available() < 40 * MIB
    link.in_step()
    for number in numbers[:6]:
        unlink = link.unlink(number)
        link.asked.pop(number)
        assert link.recv() == RetUnlink(unlink, -errno.ECONNRESET)
    # There is room again.
    link.submit_in(BULK_IN, 16 * MIB)
    link.in_step()
    link.close()


def available() -> int:
    """Bytes that the machine could hand out."""
    text = vhci.Path("/proc/meminfo").read_text()
    return int(text.split("MemAvailable:")[1].split()[0]) * KIB


@beyond_c
@pytest.mark.parametrize("what", ["unlinks", "refusals"])
def test_replies_that_nobody_reads(export, link, what):
    """A client that asks and does not read: bounded memory, then the end."""
    before = available()
    if what == "unlinks":
        block = b"".join(cmd_unlink(one, link.devid, 1) for one in range(1000))
    else:
        block = b"".join(cmd_submit(one, link.devid, IN, NOWHERE, 64) for one in range(1000))
    with pytest.raises(Closed):
        for _ in range(1000):
            link.send(block)
    assert before - available() < 16 * MIB
    export.wait()
    export.drop()
    export.client().in_step()


@beyond_c
def test_data_that_nobody_reads(export, link, gadget):
    """A full window blocks the sender alone: the connection can be ended, and nothing hangs."""
    length = 300 * KIB
    number = link.submit_in(BULK_IN, length)
    more = [link.submit_in(BULK_IN, length) for _ in range(5)]
    for turn in range(4):
        assert gadget.send(BULK_IN, pattern(length, turn)).wait() == pattern(length, turn)
    start = time.monotonic()
    export.end()
    export.wait()
    assert time.monotonic() - start < vhci.TEARDOWN
    # What was sent before is what the device sent, as far as it goes.
    rest = link.rest()
    assert len(rest) < len(more) * length
    assert rest[:HEADER] == ret_submit(number, 0, length)
    assert pattern(length).startswith(rest[HEADER:HEADER + length])


def test_a_client_that_reads_later(link, gadget):
    """Back-pressure is no error: every byte arrives."""
    length = 300 * KIB
    numbers = [link.submit_in(BULK_IN, length) for _ in range(4)]
    for turn in range(4):
        gadget.send(BULK_IN, pattern(length, turn))
    late = [link.submit_control(setup(VENDOR_IN, SOURCE, 10, 0, 10)) for _ in range(10)]
    found = link.replies(14)
    for turn, number in enumerate(numbers):
        assert found[number].data == pattern(length, turn)
    assert all(found[number].data == pattern(10) for number in late)


# --- the log ----------------------------------------------------------------------------------

@beyond_c
def test_log_is_bounded(link, gadget, host_watched):
    """G-e: a client cannot fill the log, whatever it does wrong."""
    gadget.halt(0x80 | BULK_IN)
    before = len(host_watched.lines())
    asked = []
    for _ in range(40):
        asked += [link.submit_in(BULK_IN, 64), link.submit_in(NOWHERE, 64),
                  link.submit_control(setup(VENDOR_IN, 99, 0, 0, 4)), link.unlink(1),
                  link.submit(IN, 0, 5, control=setup(0x80, 6, 0x100, 0, 6))]
    link.replies(len(asked))
    assert len(host_watched.lines()) - before <= 10
    link.control(2, 1, 0, 0x80 | BULK_IN)


# --- anything ---------------------------------------------------------------------------------

def lie(rng, link) -> bytes:
    """An honest request with one field, or its end, from elsewhere."""
    length = rng.choice([0, 1, 64, 512, 5000])
    kind = rng.randrange(4)
    if kind == 0:
        _, raw = link.pack(IN, rng.choice([BULK_IN, INT_IN, NOWHERE]), length, interval=1)
    elif kind == 1:
        _, raw = link.pack(OUT, rng.choice([BULK_OUT, INT_OUT, NOWHERE]), length, interval=1,
                           data=rng.randbytes(length))
    elif kind == 2:
        _, raw = link.pack(IN, 0, length, control=setup(
            0x80, rng.choice([0, 6, 8]), rng.randrange(1 << 16), 0, length))
    else:
        raw = cmd_unlink(link.number(), link.devid, rng.randrange(20))
    if rng.random() < 0.5:
        at = rng.choice([0, 12, 16, 20, 24, 28, 32, 36, 40, 44])
        word = rng.choice([0, 1, 2, 0x7F, 0x80, 0x200, 0xFFFF, 0x40000, 0x7FFFFFFF, 0x80000000,
                           0xFFFFFFFF, rng.randrange(1 << 32)])
        raw = raw[:at] + struct.pack(">I", word) + raw[at + 4:]
    return raw


@beyond_c
@pytest.mark.parametrize("seed", range(6))
def test_s161_anything(export, gadget, host_watched, seed):
    """Lies drawn by lot, until the server has had enough, again and again."""
    rng = random.Random(seed)
    for _ in range(3):
        link = export.client()
        for turn in range(20):
            gadget.send(BULK_IN, pattern(100, turn))
            gadget.receive(BULK_OUT, 512)
        try:
            for _ in range(60):
                link.send(lie(rng, link))
        except Closed:
            pass
        export.check()
        export.drop()
    export.client().in_step()
