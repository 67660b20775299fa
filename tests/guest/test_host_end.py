# SPDX-License-Identifier: GPL-2.0
"""The end of a connection, at any moment and from any side: the device is reset and works for the
next client, who gets nothing of the last one's. Statements 112, 113, 131 to 134."""

import itertools
import socket
import struct
import threading
import time

import pytest

import host
import vhci
from host import beyond_c
from host_client import Client, Closed
from host_gadget import Call, Worker
from host_model import BULK_IN, BULK_OUT, INT_IN, SOURCE, VENDOR_IN, pattern
from host_wire import HEADER, cmd_submit, cmd_unlink, setup
from vhci_wire import FLAG_SG, IN, OUT

pytest_plugins = ("host_fixtures",)
pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml")]

TRANSPORTS = {"unix": ("unix", False), "fin": ("tcp", False), "rst": ("tcp", True)}


def end(client: Client, reset: bool):
    if reset:
        client.reset()
    else:
        client.close()


def next_client(export):
    """The device is available in bounded time; the next client finds it as after a reset."""
    start = time.monotonic()
    export.drop()
    host.wait_status(export.busid)
    assert time.monotonic() - start < host.RECOVERY
    client = export.client(configured=False)
    client.in_step()
    client.set_configuration(1)
    client.nothing(0.02)
    export.device.cancel()
    export.device.send(BULK_IN, b"fresh")
    reply = client.reply(client.submit_in(BULK_IN, 64))
    assert (reply.status, reply.data) == (0, b"fresh")


# --- wherever the stream ends -----------------------------------------------------------------

DATA = pattern(600)
# Before and in a header, behind it, in the data. Each one costs a reset of the device.
PLACES = [*(("unix", at) for at in (0, 1, 4, 40, HEADER - 1, HEADER, HEADER + 1, HEADER + 599)),
          *(("fin", at) for at in (20, HEADER + 1)), *(("rst", at) for at in (0, 20, HEADER + 1))]


@pytest.mark.parametrize("transport,at", PLACES)
def test_s133_end_at_a_byte(export, transport, at):
    """Inside a header, inside the data, between two requests."""
    kind, reset = TRANSPORTS[transport]
    client = export.client(kind)
    raw = cmd_submit(100, client.devid, OUT, BULK_OUT, len(DATA), data=DATA)
    client.send(raw[:at])
    end(client, reset)
    next_client(export)


@pytest.mark.parametrize("transport", ["fin", "rst"])
def test_s133_end_inside_a_big_one(export, transport):
    """While the server takes in a scatter list."""
    kind, reset = TRANSPORTS[transport]
    client = export.client(kind)
    raw = cmd_submit(100, client.devid, OUT, BULK_OUT, 1 << 20, flags=FLAG_SG,
                     data=pattern(300001))
    client.send(raw)
    end(client, reset)
    next_client(export)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_s133_end_with_requests_in_flight(export, gadget, transport):
    """Of every kind, some of them half done."""
    kind, reset = TRANSPORTS[transport]
    client = export.client(kind)
    gadget.receive(BULK_OUT, 1024)
    for _ in range(5):
        client.submit_in(BULK_IN, 512)
        client.submit_in(INT_IN, 8, interval=1)
        client.submit_out(BULK_OUT, pattern(100 * 512), flags=FLAG_SG)
    client.submit_control(setup(VENDOR_IN, SOURCE, 10, 0, 10))
    end(client, reset)
    next_client(export)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_s133_end_with_replies_under_way(export, gadget, transport):
    """The client does not wait for them; the next one gets none of them."""
    kind, reset = TRANSPORTS[transport]
    client = export.client(kind)
    for turn in range(20):
        gadget.send(BULK_IN, b"old" * 100)
        client.submit_in(BULK_IN, 512)
        client.submit_control(setup(VENDOR_IN, SOURCE, 100, 0, 100))
    end(client, reset)
    next_client(export)


def test_s133_end_with_unlinks_under_way(export, gadget):
    client = export.client()
    for turn in range(30):
        number = client.submit_in(BULK_IN, 512)
        client.send(cmd_unlink(1000 + turn, client.devid, number))
    client.close()
    next_client(export)


def test_half_closed(export, gadget):
    """A client that says it will send no more has left."""
    client = export.client()
    client.submit_in(BULK_IN, 64)
    client.sock.shutdown(socket.SHUT_WR)
    client.rest()
    next_client(export)


def test_many_clients(export):
    """One after the other, each for one request."""
    for turn in range(3):
        client = export.client(configured=False)
        client.seqnum = turn << 28
        client.in_step()
        export.drop()


@beyond_c
@pytest.mark.parametrize("when", ["header", "between"])
def test_receive_timeout(export, when):
    """A timeout that was set on the socket does not end a connection that is merely idle, nor lose
    what was read of a header."""
    export.drop()
    kernel, ours = vhci.stream_pair("unix")
    kernel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 50_000))
    client = export.connection = host.hand_over(export.busid, kernel, ours)
    number, raw = client.pack(IN, 0, 4, control=setup(VENDOR_IN, SOURCE, 4, 0, 4))
    cut = 20 if when == "header" else 0
    client.send(raw[:cut])
    client.nothing(0.3)
    client.send(raw[cut:])
    assert client.reply(number).data == pattern(4)


# --- unbinding --------------------------------------------------------------------------------

class Traffic:
    """A client that is never idle, until its connection ends."""

    def __init__(self, link, gadget):
        self.link, self.gadget = link, gadget
        self.error = None
        self.rounds = 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            for turn in itertools.count():
                self.gadget.send(BULK_IN, pattern(64, turn & 0xFF))
                number = self.link.submit_in(BULK_IN, 512)
                other = self.link.submit_in(INT_IN, 8, interval=1)
                unlink = self.link.unlink(other)
                assert set(self.link.replies(2)) == {number, unlink}
                self.link.asked.pop(other)
                self.rounds = turn + 1
        except (Closed, OSError, AssertionError) as error:
            self.error = error

    def running(self):
        """Wait until requests are going back and forth."""
        before = self.rounds
        vhci.wait_for(lambda: self.rounds > before + 3, f"traffic ({self.error!r})")

    def over(self):
        """The connection has ended."""
        self.thread.join(vhci.TEARDOWN)
        assert not self.thread.is_alive(), "the connection goes on"


@beyond_c
def test_s134_unbind_under_traffic(export, gadget):
    for _ in range(3):
        traffic = Traffic(export.client(), gadget)
        traffic.running()
        start = time.monotonic()
        host.unbind(export.busid)
        assert time.monotonic() - start < vhci.TEARDOWN
        traffic.over()
        export.connection.close()
        export.connection = None
        assert host.driver_of(export.busid) is None
        host.bind(export.busid)
        assert host.status(export.busid) == host.AVAILABLE
    next_client(export)


def test_s134_unbind_with_requests_in_flight(export, gadget):
    """Nobody resets a device that goes back to its driver, but nothing is left at it either."""
    client = export.client()
    for _ in range(5):
        client.submit_in(BULK_IN, 512)
        client.submit_out(BULK_OUT, pattern(5000))
    host.unbind(export.busid)
    client.rest()
    client.close()
    export.connection = None
    host.rebind(export.busid)
    host.wait_own(export.busid)
    host.take(export.busid)
    next_client(export)


@beyond_c
def test_s134_unload_under_traffic(export, gadget):
    """And the device is with its own driver."""
    traffic = Traffic(export.client(), gadget)
    traffic.running()
    start = time.monotonic()
    host.unload()
    assert time.monotonic() - start < vhci.TEARDOWN
    traffic.over()
    export.connection.close()
    export.connection = None
    host.wait_own(export.busid)
    host.load()
    host.take(export.busid)
    next_client(export)


@beyond_c
def test_s134_signal_while_unbinding(export, gadget):
    """Whoever unbinds waits for the end, whatever signals it gets."""
    client = export.client()
    for _ in range(20):
        client.submit_in(BULK_IN, 512)
    writer = Worker("unbind")
    call = Call(lambda: host.unbind(export.busid))
    writer.jobs.put(call)
    writer.interrupt(call.done.is_set)
    writer.end()
    client.rest()
    client.close()
    export.connection = None
    assert host.driver_of(export.busid) is None
    host.bind(export.busid)
    next_client(export)


# --- from all sides at once -------------------------------------------------------------------

def test_ends_that_meet(export, gadget):
    """-1, a wrong command and the client's end at the same time."""
    for _ in range(3):
        client = export.client()
        client.submit_in(BULK_IN, 64)
        start = threading.Barrier(3)

        def down():
            start.wait()
            vhci.errno_of(host.sockfd, export.busid, -1)

        def lie():
            start.wait()
            vhci.errno_of(client.sock.send, bytes(HEADER))

        threads = [threading.Thread(target=one) for one in (down, lie)]
        for thread in threads:
            thread.start()
        start.wait()
        # Where the others were faster there is no connection any more.
        vhci.errno_of(client.sock.shutdown, socket.SHUT_RDWR)
        for thread in threads:
            thread.join(vhci.SOON)
        client.close()
        export.connection = None
        host.wait_status(export.busid)
    next_client(export)


@beyond_c
def test_clients_that_meet(export, gadget):
    """Many come and go at the same time; each has the device alone or not at all."""
    stop = time.monotonic() + host.RECOVERY
    turns, failures = [], []
    busid, devid = export.busid, host.devid(export.busid)
    export.drop()

    def one(name: int):
        try:
            while len(turns) < 5 and time.monotonic() < stop:
                kernel, ours = vhci.stream_pair()
                with kernel, ours:
                    if vhci.errno_of(host.sockfd, busid, kernel.fileno()):
                        continue
                    kernel.close()
                    client = Client(ours, devid)
                    client.seqnum = name << 16
                    client.in_step()
                    if name % 2:
                        client.set_configuration(1)
                        client.submit_in(BULK_IN, 64)
                    turns.append(name)
        except BaseException as error:  # pylint: disable=broad-except
            failures.append(error)

    threads = [threading.Thread(target=one, args=(name,)) for name in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(vhci.SOON + vhci.TEARDOWN)
    assert not failures and not any(thread.is_alive() for thread in threads), failures
    assert len(turns) >= 5
    next_client(export)


# --- a client that vanishes -------------------------------------------------------------------

@beyond_c
def test_a_client_that_stops(export, host_watched):
    """In a header: the device is available again when the time is over that is set."""
    export.drop()
    with vhci.parameter(host.MODULES[-1], "client_timeout", 6):
        client = export.client("tcp")
    client.in_step()
    start = time.monotonic()
    client.send(cmd_unlink(7, 5, client.devid)[:20])
    host.wait_status(export.busid, timeout=6 + host.RECOVERY)
    assert time.monotonic() - start > 5.5
    assert host_watched.grep(r" lost the device: the peer stopped within a message \(URBs: 2, errors: "
                             r"0, unlinks: 0, bytes in: \d+, out: \d+\)$")
    next_client(export)


@beyond_c
def test_vanished_clients_are_looked_for(export):
    """TCP asks whether the client is still there, and gives up within the time that is set."""
    export.drop()
    kernel, ours = vhci.stream_pair("tcp")
    copy = kernel.dup()
    with copy:
        export.connection = host.hand_over(export.busid, kernel, ours)
        export.connection.in_step()

        def option(level, name) -> int:
            return copy.getsockopt(level, name)

        assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert option(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        limit = 30
        assert 0 < option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= limit * 1000
        assert (option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                + option(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
                * option(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)) <= limit
        export.drop()
