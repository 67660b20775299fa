# SPDX-License-Identifier: GPL-2.0
"""A network card of an attached device, at the other end of whose cable is an interface of this
machine: what passes between the two. The card is in a network namespace of its own."""

import contextlib
import json
import random
import socket
import struct
import subprocess
from pathlib import Path

import pytest

import vhci
from peer_stock import Remote, run

SPACE = "rusbip-card"
# The kernel's network functions keep a reference to their gadget for good, which is a leak where leaks
# are looked for.
LANES = pytest.mark.lanes("uml-lockdep", "stock-7.2")
DRIVERS = {"ncm": "cdc_ncm", "ecm": "cdc_ether"}
HERE, THERE = "10.55.0.1", "10.55.0.2"
ECHO_REQUEST, ECHO_REPLY = 8, 0
PINGS = Path("/proc/sys/net/ipv4/ping_group_range")
INSIDE = ("ip", "netns", "exec", SPACE)
# Sends a file and stores what comes back.
MIRROR = f"""
import socket, sys
sock = socket.create_connection(("{HERE}", int(sys.argv[1])), 60)
sock.sendall(open(sys.argv[2], "rb").read())
sock.shutdown(socket.SHUT_WR)
with open(sys.argv[3], "wb") as file:
    while data := sock.recv(65536):
        file.write(data)
"""


def check(device: Remote, interface: str, kind: str, folder: Path):
    """Packets come back; streams pass. No streams through NCM: the kernel's function starts its timer
    with the first packet of a transfer only, and if that finds no request free the packets stay where
    they are until others fill the transfer."""
    device.bound(*[DRIVERS[kind]] * 2)
    with joined(device, interface):
        check_ping()
        if kind == "ecm":
            check_stream(folder)
            check_iperf()


@contextlib.contextmanager
def joined(device: Remote, interface: str):
    """Both ends have an address."""
    card = vhci.wait_for(lambda: next(device.path.glob("*/net/*"), None), "the card").name
    run("ip", "netns", "add", SPACE)
    try:
        run("ip", "link", "set", card, "netns", SPACE)
        for inside, name, address in ((("-n", SPACE), card, THERE), ((), interface, HERE)):
            run("ip", *inside, "addr", "add", f"{address}/24", "dev", name)
            run("ip", *inside, "link", "set", name, "up")
        connect(interface, card)
        yield
    finally:
        run("ip", "netns", "del", SPACE)


def connect(interface: str, card: str):
    """The card has got to know that its other end is up. The kernel's usbnet forgets what the device
    says of that while it works on what was said before (__handle_link_change() clears the event last):
    then it is said once more."""
    def is_up() -> bool:
        return json.loads(run("ip", "-n", SPACE, "-j", "link", "show", card))[0]["operstate"] == "UP"

    for _ in range(3):
        with contextlib.suppress(vhci.Timeout):
            return vhci.wait_for(is_up, "the card's carrier")
        for state in ("down", "up"):
            run("ip", "link", "set", interface, state)
    raise vhci.Timeout(f"{card} has no carrier")


def check_ping():
    """Packets of any size come back, also those in more than one frame."""
    PINGS.write_text("0 0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as sock:
        sock.settimeout(vhci.SOON)
        for number, size in enumerate((0, 1, 56, 470, 1472, 1473, 9000)):
            data = random.Random(size).randbytes(size)
            sock.sendto(struct.pack(">BBHHH", ECHO_REQUEST, 0, 0, 0, number) + data, (THERE, 0))
            reply = sock.recv(65536)
            kind, code, _, _, of = struct.unpack_from(">BBHHH", reply)
            assert (kind, code, of, reply[8:]) == (ECHO_REPLY, 0, number, data)


def check_stream(folder: Path):
    """A stream of a MiB each way."""
    data = random.Random(3).randbytes(1 << 20)
    (folder / "data").write_bytes(data)
    with socket.create_server((HERE, 0)) as listener:
        listener.settimeout(vhci.ENUMERATION)
        with subprocess.Popen([*INSIDE, "python3", "-c", MIRROR, str(listener.getsockname()[1]),
                               folder / "data", folder / "back"]) as far:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(vhci.ENUMERATION)
                got = b"".join(iter(lambda: sock.recv(65536), b""))
                assert got == data
                sock.sendall(got[::-1])
            assert far.wait(vhci.ENUMERATION) == 0
    assert (folder / "back").read_bytes() == data[::-1]


def check_iperf():
    """iperf3 moves a MiB one way, while there is traffic the other way."""
    with subprocess.Popen(["iperf3", "-s", "-1", "-B", HERE], stdout=subprocess.DEVNULL) as server:
        try:
            vhci.wait_for(lambda: HERE in run("ss", "-Hltn", "sport", "=", ":5201"), "iperf3")
            found = json.loads(run(*INSIDE, "iperf3", "-c", HERE, "-n", "1M", "--bidir", "-J"))
            assert server.wait(vhci.SOON) == 0
        finally:
            server.kill()
    # It stops when one of the two streams has come to its end.
    sent, received = (found["end"][one]["bytes"] for one in
                      ("sum_sent", "sum_received_bidir_reverse"))
    assert max(sent, received) >= 1 << 20 and min(sent, received) > 0, (sent, received)
