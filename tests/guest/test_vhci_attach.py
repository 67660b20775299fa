# SPDX-License-Identifier: GPL-2.0
"""The grammar and the errors of attach and detach: conformance statements 16-34."""

import os
import socket
import threading

import pytest

import vhci
from vhci_device import FakeDevice
from vhci_peer import Peer
from vhci_session import DEVID, attach_pair, beyond_c

pytest_plugins = ("vhci_fixtures",)

ATTACH = vhci.VHCI / "attach"
DETACH = vhci.VHCI / "detach"


@pytest.fixture
def pair():
    kernel, ours = vhci.stream_pair()
    yield kernel, ours
    kernel.close()
    ours.close()


def refused(path, text) -> str:
    return vhci.errno_of(vhci.write_raw, path, text)


# --- attach -----------------------------------------------------------------------------------

@pytest.mark.parametrize("text", ["{port} {fd} 65538", "{port} {fd}", "{port}", "x", "\n",
                                  "0x0 {fd} 65538 3", "{port} {fd} 65538 high", "-"])
def test_s16_too_few_numbers(pair, text):
    text = text.format(port=vhci.hs(), fd=pair[0].fileno())
    assert refused(ATTACH, text) == "EINVAL"


def test_s17_s18_port_out_of_range(pair):
    fd = pair[0].fileno()
    for port in (vhci.nports(), 99999, 4294967295):
        assert refused(ATTACH, f"{port} {fd} {DEVID} 3") == "EINVAL", port


def test_s19_speed_out_of_range(pair):
    for speed in (0, 7, 8, 255, 4294967295):
        assert refused(ATTACH, f"{vhci.hs()} {pair[0].fileno()} {DEVID} {speed}") == "EINVAL"


@pytest.mark.parametrize("speed", [1, 2, 3, 4, 5, 6])
def test_s20_speeds_accepted(pair, speed):
    number = vhci.port_for(speed, 1)
    vhci.attach(number, pair[0].fileno(), DEVID, speed)
    assert vhci.port(number).state == vhci.NOTASSIGNED
    vhci.detach(number)
    vhci.wait_free(number)


def test_s21_not_a_stream(pair, tmp_path):
    number = vhci.hs()
    (tmp_path / "file").write_text("x")
    closed = os.dup(0)
    os.close(closed)
    with open(tmp_path / "file", encoding="ascii") as file, \
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        unix = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        seq = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        r, w = os.pipe()
        try:
            for fd in (closed, 1000000, file.fileno(), udp.fileno(), unix[0].fileno(),
                       seq[0].fileno(), r, 4294967295):
                assert refused(ATTACH, f"{number} {fd} {DEVID} 3") == "EINVAL", fd
        finally:
            for sock in unix + seq:
                sock.close()
            os.close(r)
            os.close(w)
    assert vhci.port(number).state == vhci.NULL


@pytest.mark.parametrize("kind", ["unix", "tcp", "tcp6"])
def test_s22_families(plug, kind):
    assert plug(FakeDevice(), kind=kind).path.exists()


def test_s23_busy(plug, pair):
    number = vhci.hs()
    session = plug(FakeDevice(), configured=False, auto=False)
    assert vhci.port(number).state == vhci.NOTASSIGNED
    text = f"{number} {pair[0].fileno()} {DEVID} 3"
    assert refused(ATTACH, text) == "EBUSY"
    session.peer.auto()
    session.configured()
    assert vhci.port(number).state == vhci.USED
    assert refused(ATTACH, text) == "EBUSY"
    # A refused attach has no effect on the socket it was given.
    pair[0].send(b"x")
    assert pair[1].recv(1) == b"x"


def test_s24_busy_and_bad_fd(plug):
    plug(FakeDevice())
    for fd in (1000000, os.open("/dev/null", os.O_RDONLY)):
        assert refused(ATTACH, f"{vhci.hs()} {fd} {DEVID} 3") == "EINVAL"
    os.close(fd)


def test_s25_hub_follows_speed(pair):
    half = vhci.hub_ports()
    if half < 3:
        pytest.skip("needs three ports")
    for given, speed, lands in ((2, 6, half + 2), (half + 1, 3, 1), (half, 2, 0), (1, 5, half + 1)):
        vhci.attach(given, pair[0].fileno(), DEVID, speed)
        assert vhci.port(lands).state == vhci.NOTASSIGNED
        assert [p.number for p in vhci.busy_ports()] == [lands]
        vhci.detach(lands)
        vhci.wait_free(lands)
        pair[0].close()
        pair[1].close()
        pair = vhci.stream_pair()
    for sock in pair:
        sock.close()


def test_s25_other_controllers(pair):
    if vhci.controllers() < 2:
        pytest.skip("one controller")
    half = vhci.hub_ports()
    last = vhci.controllers() - 1
    base = last * 2 * half
    vhci.attach(base + half - 1, pair[0].fileno(), DEVID, 3)
    assert vhci.port(base + half - 1).state == vhci.NOTASSIGNED
    assert [p.number for p in vhci.busy_ports()] == [base + half - 1]
    vhci.detach(base + half - 1)
    vhci.wait_free(base + half - 1)


def test_s26_count_and_fd(pair):
    number = vhci.hs()
    text = f"{number} {pair[0].fileno()} {DEVID} 3"
    assert vhci.write_raw(ATTACH, text) == len(text)
    pair[0].close()
    # The kernel has its own reference: the connection lives on and speaks first.
    assert Peer(pair[1]).recv_pdu().ep == 0
    vhci.detach(number)
    vhci.wait_free(number)


def test_s26_grammar_is_scanf(pair):
    """Leading white space, line ends and trailing text are fine, as with scanf."""
    number = vhci.hs()
    text = f"  {number}\n{pair[0].fileno()}\t {DEVID}  3 trailing\n"
    assert vhci.write_raw(ATTACH, text) == len(text)
    assert vhci.port(number).state == vhci.NOTASSIGNED
    vhci.detach(number)
    vhci.wait_free(number)


# --- detach -----------------------------------------------------------------------------------

def test_s27_detach_grammar():
    for text in ("0", f"{vhci.nports()}", "-1", "abc", "0 ", " 0", "", "\n", "0\n\n", "0 1",
                 "99999999999", "0x0"):
        if text:
            assert refused(DETACH, text) == "EINVAL", text


def test_s27_newline(plug):
    session = plug(FakeDevice(), configured=False, auto=False)
    assert vhci.write_raw(DETACH, f"{session.port}\n") == len(f"{session.port}\n")
    vhci.wait_free(session.port)


def test_s28_detach_unaddressed(plug):
    session = plug(FakeDevice(), configured=False, auto=False)
    assert vhci.port(session.port).state == vhci.NOTASSIGNED
    vhci.detach(session.port)
    session.gone()
    session.peer.wait_closed()


def test_s29_s32_detach_used(plug):
    for _ in range(3):
        session = plug(FakeDevice())
        assert vhci.port(session.port).state == vhci.USED
        vhci.detach(session.port)
        session.peer.wait_closed()
        session.gone()
        free = vhci.port(session.port)
        assert free.line == f"hs  {session.port:04} 004 000 00000000 000000 0-0"


def test_s31_detach_by_range(plug):
    """The same index on both hubs: detach takes the one its number names."""
    two = plug(FakeDevice(vhci.HIGH))
    three = plug(FakeDevice(vhci.SUPER))
    vhci.detach(three.port)
    three.gone()
    assert vhci.port(two.port).state == vhci.USED
    vhci.detach(two.port)
    two.gone()


def test_s33_detach_twice(plug):
    for _ in range(vhci.times(5)):
        session = plug(FakeDevice())
        vhci.detach(session.port)
        assert refused(DETACH, f"{session.port}") in (None, "EINVAL")
        session.gone()


def test_s33_detach_from_many(plug):
    session = plug(FakeDevice())
    outcomes = []
    gate = threading.Barrier(4)

    def run():
        gate.wait()
        outcomes.append(refused(DETACH, f"{session.port}"))

    workers = [threading.Thread(target=run) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert None in outcomes and set(outcomes) <= {None, "EINVAL"}
    session.gone()


@beyond_c
def test_s34_reattach_at_once(plug):
    """As soon as a port takes a new connection, nothing of the old device appears on it."""
    number = vhci.hs()
    for turn in range(vhci.times(10)):
        devid = 0x10000 + turn
        device = FakeDevice(strings=("Test maker", f"turn {turn}", f"{turn:04}"))
        kernel, ours = vhci.stream_pair()
        peer = Peer(ours, device)
        text = f"{number} {kernel.fileno()} {devid} 3"
        vhci.wait_for(lambda: refused(ATTACH, text) is None, "the port to take a connection",
                      step=0.0005)
        kernel.close()
        peer.auto()
        path = vhci.wait_configured(number)
        assert (path / "serial").read_text() == f"{turn:04}\n"
        assert {pdu.devid for pdu in peer.log} == {devid}
        assert peer.log[0].setup[:4] == bytes((0x80, 6, 0, 1))
        vhci.detach(number)
        peer.wait_closed()
        peer.close()
    vhci.wait_free(number)


def test_attach_two_at_once(plug):
    """Two writers on one port: one wins, the other is told EBUSY and its socket is untouched."""
    number = vhci.hs()
    for _ in range(5):
        pairs = [vhci.stream_pair() for _ in range(2)]
        outcomes = [None, None]
        gate = threading.Barrier(2)

        def run(me, pairs=pairs, outcomes=outcomes, gate=gate):
            gate.wait()
            outcomes[me] = refused(ATTACH, f"{number} {pairs[me][0].fileno()} {DEVID} 3")

        workers = [threading.Thread(target=run, args=(n,)) for n in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert sorted(outcomes, key=str) == ["EBUSY", None]
        loser = pairs[outcomes.index("EBUSY")]
        loser[0].send(b"x")
        assert loser[1].recv(1) == b"x"
        vhci.detach(number)
        vhci.wait_free(number)
        for sock in pairs[0] + pairs[1]:
            sock.close()


@pytest.mark.lanes("uml", "stock-7.2")
def test_attach_all_ports():
    """Every port of the first controller at the same time."""
    count = 2 * vhci.hub_ports()
    peers = []
    for number in range(count):
        speed = vhci.HIGH if number < vhci.hub_ports() else vhci.SUPER
        kernel, ours = vhci.stream_pair()
        attach_pair(kernel, number, 0x10000 + number, speed)
        peers.append(Peer(ours, FakeDevice(speed)).auto())
    for number in range(count):
        vhci.wait_configured(number, timeout=4 * vhci.ENUMERATION)
    assert {pdu.devid for peer in peers for pdu in peer.log} == {0x10000 + n for n in range(count)}
    for number, peer in enumerate(peers):
        assert {pdu.devid for pdu in peer.log} == {0x10000 + number}
        vhci.detach(number)
    for number, peer in enumerate(peers):
        peer.wait_closed()
        peer.close()
        vhci.wait_free(number)
