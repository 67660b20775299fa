# SPDX-License-Identifier: GPL-2.0
"""The sample of a kernel thread with a socket: what is sent on it comes back."""

import os
import socket
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from lib import guestlib
from vhci import errno_of, kernel_threads, stream_pair, write_raw

# On 7.3 the sample is loaded by test_environment.
pytestmark = pytest.mark.lanes("uml", "stock-7.2")

MODULE = "sample_echo_rs"
PLATFORM = Path("/sys/devices/platform/sample_echo")
THREAD = "sample_echo"
# Longer than the module takes for anything, on any machine.
LONG = 10 * guestlib.SLACK


@pytest.fixture(autouse=True)
def sample(module):
    module(MODULE)
    assert status() == ("idle", 0)
    assert kernel_threads(THREAD) == []


def status():
    """(state, bytes echoed so far)"""
    state, count = (PLATFORM / "status").read_text().split()
    return state, int(count)


def idle(count):
    guestlib.wait_for(lambda: status() == ("idle", count), 5, f"idle with {count} bytes")
    guestlib.wait_for(lambda: kernel_threads(THREAD) == [], 5, "the thread to end")


def serve(kind=""):
    """A connection that is served: our end of it."""
    theirs, ours = stream_pair(kind)
    with theirs:
        write_raw(PLATFORM / "sockfd", f"{theirs.fileno()}\n")
    ours.settimeout(LONG)
    return ours


def receive(peer, count):
    data = b""
    while len(data) < count:
        part = peer.recv(count - len(data))
        assert part, f"the end after {len(data)} of {count} bytes"
        data += part
    return data


@pytest.mark.parametrize("kind", ["unix", "tcp", "tcp6"])
def test_echo(kind):
    with serve(kind) as peer:
        assert status() == ("busy", 0)
        assert kernel_threads(THREAD) == [THREAD]
        for message in (b"h", b"ello", b"x" * 1000):
            peer.sendall(message)
            assert receive(peer, len(message)) == message
        guestlib.wait_for(lambda: status() == ("busy", 1005), 5, "the count")
    idle(1005)


@pytest.mark.parametrize("size", [1, 4096, 1 << 20])
def test_size_of_the_buffer(size):
    parameter = Path(f"/sys/module/{MODULE}/parameters/buffer")
    assert parameter.read_text() == "4096\n"
    parameter.write_text(str(size))
    data = os.urandom(5000 if size == 1 else 300000)
    with serve() as peer:
        sender = threading.Thread(target=peer.sendall, args=(data,))
        sender.start()
        assert receive(peer, len(data)) == data
        sender.join()
    idle(len(data))


def test_what_was_sent_before_the_end_comes_back():
    with serve() as peer:
        peer.sendall(b"last words")
        peer.shutdown(socket.SHUT_WR)
        assert receive(peer, 10) == b"last words"
        assert peer.recv(1) == b""
        idle(10)


def test_the_next_connection():
    for count in (1, 2, 3):
        with serve() as peer:
            peer.sendall(b"x")
            assert receive(peer, 1) == b"x"
        idle(count)


def test_one_connection_at_a_time():
    with serve() as peer:
        theirs, ours = stream_pair()
        with theirs, ours:
            assert errno_of(write_raw, PLATFORM / "sockfd", str(theirs.fileno())) == "EBUSY"
        peer.sendall(b"still there")
        assert receive(peer, 11) == b"still there"


def test_a_reset_is_logged(kernel_log):
    with serve("tcp") as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        _, port = peer.getsockname()
    kernel_log.wait(rf"^{MODULE}: 127\.0\.0\.1:{port}: error -104$")
    idle(0)


@pytest.mark.parametrize("text, error", [
    ("\n", "EINVAL"), ("x", "EINVAL"), ("-1", "EBADF"), ("3 4", "EINVAL"), ("4294967296", "EINVAL"),
    ("1000000", "EBADF"), (b"\xff", "EINVAL")])
def test_no_number_of_a_socket(text, error):
    assert errno_of(write_raw, PLATFORM / "sockfd", text) == error
    assert status() == ("idle", 0)


def test_no_connected_stream_socket():
    def store(one):
        return errno_of(write_raw, PLATFORM / "sockfd", str(one.fileno()))
    with open("/dev/null", "rb") as file:
        assert store(file) == "ENOTSOCK"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        assert store(datagram) == "EPROTOTYPE"
    with socket.socket() as unconnected:
        assert store(unconnected) == "ENOTCONN"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert store(listener) == "ENOTCONN"
    assert status() == ("idle", 0)


def test_files():
    assert sorted(one.name for one in PLATFORM.iterdir() if one.name in ("sockfd", "status")) == [
        "sockfd", "status"]
    assert (PLATFORM / "sockfd").stat().st_mode & 0o777 == 0o200
    assert (PLATFORM / "status").stat().st_mode & 0o777 == 0o444


def unload():
    subprocess.run(["rmmod", MODULE], check=True, timeout=LONG)
    assert not PLATFORM.exists()
    assert kernel_threads(THREAD) == []


def reload():
    """For the fixture, which unloads what it has loaded."""
    guestlib.run("insmod", str(guestlib.MODULES / f"{MODULE}.ko"))


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_unload_with_a_connection(kind):
    with serve(kind) as peer:
        peer.sendall(b"x")
        assert receive(peer, 1) == b"x"
        unload()
        assert peer.recv(1) == b""
    reload()


def test_unload_while_the_peer_does_not_read():
    with serve() as peer:
        peer.setblocking(False)
        # Until it is stuck in sending, as nothing is read, and takes no more.
        before = -1
        while status()[1] != before:
            before = status()[1]
            try:
                while True:
                    peer.send(bytes(65536))
            except BlockingIOError:
                pass
        unload()
    reload()
