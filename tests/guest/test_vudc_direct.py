# SPDX-License-Identifier: GPL-2.0
"""Requests that a virtual controller takes in where they arrive, and replies that it sends there: the
tests of the server, and what is different."""

import pytest

import vhci
from host_model import BULK_IN, BULK_OUT, pattern
from test_host_direct import *  # noqa: F401,F403  pylint: disable=wildcard-import,unused-wildcard-import
from vudc_fixtures import *  # noqa: F401,F403  pylint: disable=wildcard-import,unused-wildcard-import

pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.only("uml")]

# It is carried out by the controller or the gadget, whoever takes it in.
del test_what_is_left_to_the_thread  # noqa: F821


def test_a_reply_is_sent_at_once(export, link, gadget):
    """If the data is there already, nobody is woken up for it."""
    def once() -> bool:
        before = export.statistics()["direct_sends"]
        gadget.send(BULK_IN, pattern(100))
        reply = link.reply(link.submit_in(BULK_IN, 100))
        assert (reply.status, reply.data) == (0, pattern(100))
        return export.statistics()["direct_sends"] == before + 1
    vhci.wait_for(once, "a reply that is sent at once")


@pytest.mark.parametrize("length", [16385, 100000, 1 << 20])
def test_much_is_copied_once(export, link, gadget, length):
    """What is long stays where it has arrived until the gadget takes it."""
    # Behind a long request the thread reads little more than a header at a time.
    gadget.receive(BULK_OUT, 20000)
    link.reply(link.submit_out(BULK_OUT, bytes(20000)))
    before = export.statistics()["held"]
    received = gadget.receive(BULK_OUT, length)
    assert link.reply(link.submit_out(BULK_OUT, pattern(length))).actual == length
    assert received.wait() == pattern(length)
    assert length // 2 <= export.statistics()["held"] - before <= length
