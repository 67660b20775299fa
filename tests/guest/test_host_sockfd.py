# SPDX-License-Identifier: GPL-2.0
"""The files of an exported device: statements 105, 110 to 113."""

import os
import socket
import stat
import subprocess
import threading

import pytest

import host
import vhci
from host import beyond_c
from host_client import Client, Closed

pytest_plugins = ("host_fixtures",)
pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml")]


@pytest.fixture
def idle(export):
    """The bus id of the exported device, which nobody uses."""
    export.drop()
    host.wait_status(export.busid)
    return export.busid


@pytest.fixture
def used(export, idle):
    """The bus id of the exported device, and the client that uses it."""
    return idle, export.client(configured=False)


def refused(busid: str, text) -> str | None:
    """The errno of a write to usbip_sockfd that must not change the state."""
    before = host.status(busid)
    error = vhci.errno_of(host.sockfd, busid, text)
    assert host.status(busid) == before
    return error


def test_s105_modes(idle):
    for name, mode in (("usbip_status", 0o444), ("usbip_sockfd", 0o200), ("usbip_debug", 0o644)):
        path = vhci.USB / idle / name
        assert stat.S_IMODE(path.stat().st_mode) == mode, name
    assert vhci.errno_of(os.open, vhci.USB / idle / "usbip_sockfd", os.O_RDONLY) == "EACCES"
    assert vhci.errno_of(os.open, vhci.USB / idle / "usbip_status", os.O_WRONLY) == "EACCES"


@beyond_c
def test_root_without_capability(idle, export):
    """What the mode of a file allows is not enough, to give the device away or to take it back."""
    kernel, ours = vhci.stream_pair()
    with kernel, ours:
        assert vhci.errno_of(vhci.write_without_admin, vhci.USB / idle / "usbip_sockfd",
                             str(kernel.fileno()), kernel.fileno()) == "EPERM"
    assert host.status(idle) == host.AVAILABLE
    client = export.client()
    assert vhci.errno_of(vhci.write_without_admin, vhci.USB / idle / "usbip_sockfd", "-1") == "EPERM"
    client.in_step()


@beyond_c
def test_require_tls(idle, export, host_watched):
    """A client without encryption does not get the device if an administrator says so."""
    with vhci.parameter("usbip_core_rs", "require_tls", "Y"):
        kernel, ours = vhci.stream_pair("tcp")
        with kernel, ours:
            assert refused(idle, kernel.fileno()) == "EACCES"
        assert host_watched.grep(rf"{idle}: descriptor \d+ is not encrypted by kernel TLS")
        subprocess.run(["modprobe", "tls"], check=True)
        export.client("tls").in_step()
    export.drop()


def test_s110_status(idle, export):
    path = vhci.USB / idle / "usbip_status"
    assert path.read_bytes() == b"1\n"
    export.client(configured=False)
    assert path.read_bytes() == b"2\n"


def test_usbip_debug(idle):
    """Hexadecimal, and the same as the parameter of the core."""
    path = vhci.USB / idle / "usbip_debug"
    parameter = vhci.Path("/sys/module", host.MODULES[0], "parameters/usbip_debug_flag")
    before = path.read_text()
    try:
        for text in ("0xff", "ff"):
            vhci.write_raw(path, text)
            assert (path.read_text(), parameter.read_text()) == ("ff\n", "255\n")
            vhci.write_raw(parameter, "16")
            assert path.read_text() == "10\n"
        for garbage in ("zz", "-"):
            assert vhci.errno_of(vhci.write_raw, path, garbage) == "EINVAL"
        assert path.read_text() == "10\n"
    finally:
        vhci.write_raw(path, before)


# --- what is not a connection -----------------------------------------------------------------

@pytest.mark.parametrize("text", ["\n", "abc", "-", "x1", "+", "0x3", "-2", "-2147483648",
                                  "999999", "2147483647"])
def test_s111_no_socket(idle, text):
    assert refused(idle, text) == "EINVAL"


def test_s111_not_a_socket(idle, tmp_path):
    with open(tmp_path / "file", "wb") as file:
        assert refused(idle, file.fileno()) == "EINVAL"
    reading, writing = os.pipe()
    assert refused(idle, reading) == "EINVAL"
    os.close(reading)
    os.close(writing)
    # Closed again.
    assert refused(idle, reading) == "EINVAL"


@pytest.mark.parametrize("family,kind", [(socket.AF_UNIX, socket.SOCK_DGRAM),
                                         (socket.AF_UNIX, socket.SOCK_SEQPACKET),
                                         (socket.AF_INET, socket.SOCK_DGRAM),
                                         (socket.AF_INET6, socket.SOCK_DGRAM)])
def test_s111_no_stream(idle, family, kind):
    if family == socket.AF_UNIX:
        one, other = socket.socketpair(family, kind)
        other.close()
    else:
        one = socket.socket(family, kind)
    with one:
        assert refused(idle, one.fileno()) == "EINVAL"


NOT_CONNECTED = ("EINVAL", "ENOTCONN")


@beyond_c
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_not_connected(idle, family):
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        assert refused(idle, sock.fileno()) in NOT_CONNECTED
        address = {socket.AF_INET: ("127.0.0.1", 0), socket.AF_INET6: ("::1", 0)}.get(family, "")
        sock.bind(address)
        sock.listen(1)
        assert refused(idle, sock.fileno()) in NOT_CONNECTED


@beyond_c
@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_shut_down(idle, kind):
    kernel, ours = vhci.stream_pair(kind)
    with kernel, ours:
        kernel.shutdown(socket.SHUT_RDWR)
        assert refused(idle, kernel.fileno()) in NOT_CONNECTED


# --- what is ----------------------------------------------------------------------------------

@pytest.mark.parametrize("form", ["{}", "{}\n", " {}", "\t{} \n", "{} and more", "0{}"])
def test_s111_forms(export, idle, form):
    """As scanf reads a decimal number: blanks before it, anything after it."""
    kernel, ours = vhci.stream_pair()
    with kernel:
        text = form.format(kernel.fileno())
        host.sockfd(idle, text)
    export.connection = Client(ours, host.devid(idle))
    export.connection.in_step()


def test_s111_no_plus(idle):
    """The kernel's scanf knows a minus sign only."""
    kernel, ours = vhci.stream_pair()
    with kernel, ours:
        assert refused(idle, f"+{kernel.fileno()}") == "EINVAL"


def test_s26_returns_what_was_written(export, idle):
    kernel, ours = vhci.stream_pair()
    text = f"{kernel.fileno()}\n"
    with kernel:
        assert host.sockfd(idle, text) == len(text)
    export.connection = Client(ours, host.devid(idle))
    # Our copy of the socket is closed.
    export.connection.in_step()


def test_socket_that_lives_on(export, idle):
    """The writer may keep its copy; the end of the connection is one all the same."""
    kernel, ours = vhci.stream_pair()
    with kernel:
        host.sockfd(idle, kernel.fileno())
        client = Client(ours, host.devid(idle))
        client.in_step()
        host.sockfd(idle, -1)
        client.gone()
        client.close()
        host.wait_status(idle)


# --- one client at a time ---------------------------------------------------------------------

def test_s111_in_use(used):
    busid, client = used
    kernel, ours = vhci.stream_pair()
    with kernel, ours:
        assert refused(busid, kernel.fileno()) == "EINVAL"
        ours.settimeout(0.05)
        with pytest.raises(TimeoutError):
            ours.recv(1)
    client.in_step()


@beyond_c
def test_both_ends_of_a_pair(export, idle):
    """A connection of the device with itself ends, and hurts nobody."""
    kernel, ours = vhci.stream_pair()
    with kernel, ours:
        host.sockfd(idle, kernel.fileno())
        assert refused(idle, ours.fileno()) == "EINVAL"
    # Nobody holds the other end any more.
    host.wait_status(idle)
    export.client(configured=False).in_step()


def test_exactly_one_of_many(export, idle):
    """Many hand over a socket at once; one client has the device."""
    pairs = [vhci.stream_pair() for _ in range(8)]
    errors = [None] * len(pairs)
    start = threading.Barrier(len(pairs))

    def hand_over(turn: int):
        start.wait()
        errors[turn] = vhci.errno_of(host.sockfd, idle, pairs[turn][0].fileno())

    threads = [threading.Thread(target=hand_over, args=(turn,)) for turn in range(len(pairs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(vhci.SOON)
    assert sorted(filter(None, errors)) == ["EINVAL"] * 7
    for (kernel, ours), error in zip(pairs, errors):
        kernel.close()
        if error:
            ours.close()
        else:
            export.connection = Client(ours, host.devid(idle))
    export.connection.in_step()


# --- -1 ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("text", ["-1", "-1\n", " -1"])
def test_s112_s113_down(export, used, text):
    """The client is cut off at once; the device is in use until it was reset, then available."""
    busid, client = used
    resets = export.device.resets
    assert host.sockfd(busid, text) == len(text)
    client.gone()
    seen = set()

    def available():
        seen.add(host.status(busid))
        return host.AVAILABLE in seen

    vhci.wait_for(available, "the device to be available", host.RECOVERY, step=0)
    assert seen <= {host.USED, host.AVAILABLE}
    assert export.device.resets > resets
    export.client(configured=False).in_step()


def test_s111_down_while_idle(idle):
    assert refused(idle, -1) == "EINVAL"


def test_s113_not_yet(export, used):
    """Who comes while the device is being reset is refused or waits; the reset comes first."""
    busid, client = used
    resets = export.device.resets
    kernel, ours = vhci.stream_pair()
    with kernel:
        host.sockfd(busid, -1)
        error = vhci.errno_of(host.sockfd, busid, kernel.fileno())
        if error is not None:
            assert error == "EINVAL"
            host.wait_status(busid)
            host.sockfd(busid, kernel.fileno())
        assert export.device.resets > resets
    client.gone()
    export.connection = Client(ours, host.devid(busid))
    export.connection.in_step()


def test_down_again_and_again(export, used):
    """-1 while it goes down already: taken, or refused because nobody uses the device."""
    busid, client = used
    host.sockfd(busid, -1)
    for _ in range(20):
        assert vhci.errno_of(host.sockfd, busid, -1) in (None, "EINVAL")
    with pytest.raises(Closed):
        client.recv()
    host.wait_status(busid)
    export.client(configured=False).in_step()
