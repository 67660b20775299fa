# SPDX-License-Identifier: GPL-2.0
"""Taking requests back, at every moment: statements 91 to 96. A client relies on exactly one answer
to each number, and on their order."""

import errno
import random
import time

import pytest

import vhci
from host import beyond_c, controller_too
from host_model import BULK_IN, BULK_OUT, INT_IN, INT_OUT, SOURCE, VENDOR_IN, pattern
from host_wire import RetSubmit, RetUnlink, cmd_unlink, setup
from vhci_wire import FLAG_DIR_IN, FLAG_SG, IN

pytest_plugins = ("host_fixtures",)
pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml")]

GONE = -errno.ECONNRESET


def taken_back(link, victim: int) -> int:
    """A request that is in flight is unlinked; returns the number of the unlink."""
    unlink = link.unlink(victim)
    link.asked.pop(victim)
    return unlink


HELD = {
    "bulk in": lambda link: link.submit_in(BULK_IN, 512),
    "bulk in sg": lambda link: link.submit_in(BULK_IN, 100000, flags=FLAG_DIR_IN | FLAG_SG),
    "bulk out": lambda link: link.submit_out(BULK_OUT, pattern(512)),
    "bulk out sg": lambda link: link.submit_out(BULK_OUT, pattern(100000), flags=FLAG_SG),
    "interrupt in": lambda link: link.submit_in(INT_IN, 8, interval=1),
    "interrupt out": lambda link: link.submit_out(INT_OUT, b"report", interval=1),
}


# Interrupt transfers to usbredir are done as soon as they are sent.
@pytest.mark.parametrize("what", [
    *(pytest.param(one, marks=controller_too) for one in HELD if one != "interrupt out"),
    "interrupt out"])
def test_s91_in_flight(link, what):
    """Exactly one answer, that of the unlink."""
    number = HELD[what](link)
    unlink = taken_back(link, number)
    assert link.recv() == RetUnlink(unlink, GONE)
    link.nothing(0.05)
    link.in_step()


@controller_too
def test_s91_control(link, gadget):
    """A control request that the device has got and not answered."""
    gadget.hold = lambda one: True
    number = link.submit_control(setup(VENDOR_IN, SOURCE, 64, 0, 64))
    request = gadget.held.get(timeout=vhci.SOON)
    gadget.hold = lambda one: False
    unlink = taken_back(link, number)
    assert link.recv() == RetUnlink(unlink, GONE)
    request.stall()
    link.in_step()


@controller_too
def test_s91_partly_done(link, gadget):
    """A transfer of which the device has taken a part."""
    received = gadget.receive(BULK_OUT, 1024)
    number = link.submit_out(BULK_OUT, pattern(100 * 512))
    assert received.wait() == pattern(1024)
    unlink = taken_back(link, number)
    assert link.recv() == RetUnlink(unlink, GONE)
    gadget.unasked(BULK_OUT)
    # The next one starts from its beginning.
    received = gadget.receive(BULK_OUT, 5)
    assert link.reply(link.submit_out(BULK_OUT, b"fresh")).actual == 5
    assert received.wait() == b"fresh"


@pytest.mark.parametrize("victim", [0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_s92_unknown(link, victim):
    """Status 0 for a number that nobody has."""
    unlink = link.unlink(victim)
    # The C driver says so no sooner than something else.
    number = link.submit_control(setup(VENDOR_IN, SOURCE, 4, 0, 4))
    found = link.replies(2)
    assert found[unlink] == RetUnlink(unlink, 0)
    assert found[number].data == pattern(4)


@beyond_c
@pytest.mark.parametrize("victim", [0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_s93_unknown_promptly(link, victim):
    """B2: without other traffic."""
    start = time.monotonic()
    unlink = link.unlink(victim)
    assert link.recv() == RetUnlink(unlink, 0)
    assert time.monotonic() - start < 0.1 * vhci.SLACK


@controller_too
@beyond_c
def test_s92_finished(link, gadget):
    gadget.send(BULK_IN, b"data")
    number = link.submit_in(BULK_IN, 64)
    assert link.reply(number).data == b"data"
    for _ in range(3):
        unlink = link.unlink(number)
        assert link.recv() == RetUnlink(unlink, 0)


@controller_too
@beyond_c
def test_s94_twice(link):
    """The second unlink finds nothing any more; neither does one of the unlink itself."""
    number = link.submit_in(BULK_IN, 64)
    first, second = link.number(), link.number()
    link.send(cmd_unlink(first, link.devid, number) + cmd_unlink(second, link.devid, number))
    link.asked.pop(number)
    assert link.replies(2) == {first: RetUnlink(first, GONE), second: RetUnlink(second, 0)}
    unlink = link.unlink(first)
    assert link.recv() == RetUnlink(unlink, 0)
    link.in_step()


@pytest.mark.parametrize("order", ["first", "last", "random"])
def test_out_of_a_queue(link, gadget, order):
    """Whichever of a queue is taken back, the others are done in order."""
    numbers = [link.submit_in(BULK_IN, 64) for _ in range(24)]
    victims = {"first": numbers[:16], "last": numbers[:7:-1],
               "random": random.Random(3).sample(numbers, 16)}[order]
    for victim in victims:
        unlink = taken_back(link, victim)
        assert link.recv() == RetUnlink(unlink, GONE)
    for turn, number in enumerate(one for one in numbers if one not in victims):
        gadget.send(BULK_IN, pattern(64, turn))
        assert link.reply(number).data == pattern(64, turn)


@controller_too
def test_all_at_once(link):
    """A client that takes back everything in one segment."""
    numbers = [link.submit_in(BULK_IN, 64) for _ in range(50)]
    numbers += [link.submit_in(INT_IN, 8, interval=1) for _ in range(50)]
    unlinks = [link.number() for _ in numbers]
    link.send(b"".join(cmd_unlink(unlink, link.devid, victim)
                       for unlink, victim in zip(unlinks, numbers)))
    for number in numbers:
        link.asked.pop(number)
    found = link.replies(len(unlinks))
    assert found == {unlink: RetUnlink(unlink, GONE) for unlink in unlinks}
    link.in_step()


@controller_too
def test_submitted_and_taken_back_at_once(link):
    """Submit and unlink in one segment."""
    for _ in range(30):
        number, pdu = link.pack(IN, BULK_IN, 64)
        unlink = link.number()
        link.send(pdu + cmd_unlink(unlink, link.devid, number))
        link.asked.pop(number)
        assert link.recv() == RetUnlink(unlink, GONE)
    link.in_step()


@controller_too
def test_a_number_may_be_used_again(link, gadget):
    """Once it is answered, or taken back, it is free."""
    for _ in range(3):
        gadget.send(BULK_IN, b"data")
        assert link.reply(link.submit_in(BULK_IN, 64, seqnum=77)).data == b"data"
        link.submit_in(BULK_IN, 64, seqnum=77)
        unlink = taken_back(link, 77)
        assert link.recv() == RetUnlink(unlink, GONE)


@beyond_c
def test_s95_s96_race_with_completion(link, gadget):
    """B11, B13: the device answers while the client takes back. One answer to the request, or none
    and its unlink says so; never the answer after the unlink's 0."""
    rng = random.Random(11)
    lost = done = 0
    for turn in range(120):
        sent = gadget.send(BULK_IN, pattern(64, turn))
        number, pdu = link.pack(IN, BULK_IN, 64)
        unlink = link.number()
        if turn % 2:
            link.send(pdu)
            time.sleep(rng.random() * 0.004)  # spreads the race; nothing depends on it
            link.send(cmd_unlink(unlink, link.devid, number))
        else:
            link.send(pdu + cmd_unlink(unlink, link.devid, number))
        first = link.recv()
        if isinstance(first, RetSubmit):
            assert (first.seqnum, first.status, first.data) == (number, 0, pattern(64, turn))
            assert link.recv() == RetUnlink(unlink, 0)
            done += 1
        elif first.status == GONE:
            # The data is still there for the next one.
            assert first.seqnum == unlink
            link.asked.pop(number)
            assert link.reply(link.submit_in(BULK_IN, 64)).data == pattern(64, turn)
            lost += 1
        else:
            # Completed while it was being unlinked: its data went with it.
            assert first == RetUnlink(unlink, 0) and sent.wait()
            link.asked.pop(number)
        assert sent.wait() == pattern(64, turn)
    assert lost and done, "one side always won"
    link.in_step()


@beyond_c
def test_s96_storm(link, gadget):
    """Many requests, many unlinks, many completions at once."""
    rng = random.Random(12)
    asked, unlinks = [], {}
    for _ in range(250):
        asked.append(link.submit_in(BULK_IN, 64) if rng.random() < 0.5
                     else link.submit_out(BULK_OUT, b"x" * 64))
        if rng.random() < 0.3:
            gadget.send(BULK_IN, b"y" * 64)
            gadget.receive(BULK_OUT, 64)
        if rng.random() < 0.6:
            victim = rng.choice(asked)
            unlinks[link.unlink(victim)] = victim
    left = set(asked)
    while left or unlinks:
        if not unlinks:
            victim = min(left)
            unlinks[link.unlink(victim)] = victim
        reply = link.recv()
        if isinstance(reply, RetSubmit):
            assert reply.status == 0 and reply.actual == 64
            left.remove(reply.seqnum)
        else:
            victim = unlinks.pop(reply.seqnum)
            if reply.status == GONE:
                left.remove(victim)
                link.asked.pop(victim)
                continue
            assert reply.status == 0
            if victim in left and victim not in unlinks.values():
                # Completed while it was unlinked; nothing more is said of it.
                left.remove(victim)
                link.asked.pop(victim)
    link.nothing(0.05)
    link.in_step()
