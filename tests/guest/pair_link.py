# SPDX-License-Identifier: GPL-2.0
"""The network between the two guests of a pair, and what can go wrong with it."""

import contextlib
import json
import re
from pathlib import Path

import vhci
from lib import monitor, pair
from peer_stock import run

# The network card: in each guest, and of QEMU.
CARD, DEVICE = "eth0", "nic"
PORT = 3240


@contextlib.contextmanager
def disturbed(*netem: str):
    """What either end sends goes through tc's netem."""
    disturb(*netem)
    pair.call(disturb, *netem)
    try:
        yield
    finally:
        calm()
        pair.call(calm)


@contextlib.contextmanager
def cut():
    """The server has lost its carrier. The client's card does not notice."""
    pair.call(plug, False)
    try:
        yield
    finally:
        pair.call(plug, True)


# What follows is done by and to the guest that it runs in.

def disturb(*netem: str):
    """Sends through netem from now on."""
    run("tc", "qdisc", "add", "dev", CARD, "root", "netem", *netem)


def calm():
    """Sends as before."""
    run("tc", "qdisc", "del", "dev", CARD, "root")


def plug(up: bool):
    """Puts the cable in, or pulls it out."""
    monitor.qmp("set_link", name=DEVICE, up=up)
    carrier = Path("/sys/class/net", CARD, "carrier")
    vhci.wait_for(lambda: int(carrier.read_text()) == up, f"the carrier to be {up}")


def counters() -> dict:
    """What TCP and netem have counted: names of nstat, and "dropped"."""
    text = json.loads(run("nstat", "--json", "-asz"))
    qdisc, = json.loads(run("tc", "-json", "-s", "qdisc", "show", "dev", CARD, "root"))
    return text["kernel"] | {"dropped": qdisc["drops"]}


def round_trip() -> float:
    """The shortest round trip that a connection to the server has had, in ms."""
    text = run("ss", "-Htin", "dport", "=", f":{PORT}")
    return min(float(one) for one in re.findall(r"\bminrtt:([0-9.]+)", text))


def reset(port: int = PORT) -> int:
    """Gives up every connection of USB/IP, or that of another port; the other end gets a reset.
    Returns how many there were."""
    return run("ss", "-HtK", f"( sport = :{port} or dport = :{port} )").count("ESTAB")
