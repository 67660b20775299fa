# SPDX-License-Identifier: GPL-2.0
"""An ssh tunnel from the server guest, where the device is, to the client guest, where it is used:
the port of usbipd is there as if it were the client's own. Keys are made for each tunnel."""

import contextlib
import subprocess
from pathlib import Path

import pair_link
import peer_stock
import vhci
from lib import pair
from peer_stock import run

SSHD = "/usr/sbin/sshd"
SSH_PORT = 22
FOLDER = Path("/run/tunnel")
# What the server guest runs, in its own process of tests/lib/pair_agent.py.
_ssh = []


@contextlib.contextmanager
def gate():
    """This guest lets the server guest in; yields the public key that shows who it is."""
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    host = make_key("host")
    (FOLDER / "authorized").write_text(pair.call(make_key, "user"))
    options = {"Port": SSH_PORT, "HostKey": FOLDER / "host", "UsePAM": "no", "PidFile": "none",
               "AuthorizedKeysFile": FOLDER / "authorized"}
    with open(FOLDER / "sshd.log", "wb") as log:
        daemon = subprocess.Popen([SSHD, "-D", "-e", "-f", "/dev/null", *(
            f"-o{name}={value}" for name, value in options.items())], stdin=subprocess.DEVNULL,
            stdout=log, stderr=log)
    try:
        vhci.wait_for(lambda: peer_stock.listening(port=SSH_PORT) or daemon.poll() is not None,
                      "sshd", vhci.ENUMERATION)
        yield host
    finally:
        daemon.terminate()
        daemon.wait(vhci.SOON)


@contextlib.contextmanager
def tunnel(host: str):
    """usbipd can be reached at this guest; `host` is of gate()."""
    assert not peer_stock.listening()
    pair.call(dig, host)
    try:
        def through():
            assert (end := pair.call(end_of_ssh)) is None, end
            return peer_stock.listening()

        vhci.wait_for(through, f"the tunnel; {log('sshd')}", vhci.ENUMERATION)
        yield
    finally:
        pair.call(kill)
    vhci.wait_for(lambda: not peer_stock.listening(), "the end of the tunnel", vhci.TEARDOWN)


def reset() -> int:
    """Gives up the connection that the tunnel leads through."""
    return pair_link.reset(SSH_PORT)


# What follows is done in the guest whose name is in the call: by either.

def make_key(name: str) -> str:
    """Makes a key; returns the public part."""
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    for file in (FOLDER / name, FOLDER / f"{name}.pub"):
        file.unlink(missing_ok=True)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(FOLDER / name))
    return (FOLDER / f"{name}.pub").read_text()


def log(name: str) -> str:
    """What one of the programs has said."""
    return (FOLDER / f"{name}.log").read_text()


def dig(host: str):
    """At the device: ssh -R, as in many a guide."""
    (FOLDER / "known").write_text(f"client {host}")
    options = {"UserKnownHostsFile": FOLDER / "known", "IdentityFile": FOLDER / "user",
               "BatchMode": "yes", "ExitOnForwardFailure": "yes"}
    port = pair_link.PORT
    with open(FOLDER / "ssh.log", "wb") as file:
        _ssh.append(subprocess.Popen(
            ["ssh", "-N", "-F", "none", "-R", f"{port}:localhost:{port}",
             *(f"-o{name}={value}" for name, value in options.items()), "root@client"],
            stdin=subprocess.DEVNULL, stdout=file, stderr=file))


def end_of_ssh():
    """What ssh has said, if it has ended."""
    return log("ssh") if _ssh[-1].poll() is not None else None


def kill():
    """Ends ssh without a word to the other side, if it has not ended."""
    _ssh[-1].kill()
    _ssh[-1].wait()
