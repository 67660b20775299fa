# SPDX-License-Identifier: GPL-2.0
"""The unmodified usbip tool against the client: statements 151-155, 157, 158, and the contract of
concurrent attaches."""

import subprocess
from pathlib import Path

import pytest

import vhci
from vhci_device import FakeDevice
from vhci_server import Server, usbip
from vhci_session import beyond_c

pytest_plugins = ("vhci_fixtures",)

RECORDS = Path("/var/run/vhci_hcd")


@pytest.fixture
def server():
    running = []

    def start(*devices):
        running.append(Server(*devices))
        return running[-1]

    yield start
    for one in running:
        one.stop()
    for port in vhci.busy_ports():
        vhci.wait_free(port.number)


def test_s151_list(server):
    one = server("null", "keyboard,busid=7-1.2")
    text = one.usbip("list", "-r", "127.0.0.1").stdout
    assert " 1-1: " in text and " 7-1.2: " in text and "(1209:0002)" in text
    number = one.attach("1-1")
    text = one.usbip("list", "-r", "127.0.0.1").stdout
    assert " 1-1: " not in text and " 7-1.2: " in text, "used devices are hidden"
    usbip("detach", "-p", str(number))


def test_s152_attach(server):
    one = server("disk,size=1M")
    done = one.usbip("attach", "-r", "127.0.0.1", "-b", "1-1")
    # The tool says which port it uses when that is not the standard one, and nothing else.
    assert (done.stdout, done.stderr) == (
        "", f'usbip: info: using port {one.port} ("{one.port}")\n')
    number, = (p.number for p in vhci.busy_ports())
    assert (RECORDS / f"port{number}").read_text() == f"127.0.0.1 {one.port} 1-1\n"
    vhci.wait_configured(number)
    text = usbip("port").stdout
    assert f"Port {number:02}: <Port in Use> at High Speed(480Mbps)" in text
    assert f"usbip://127.0.0.1:{one.port}/1-1" in text
    assert "remote bus/dev 001/002" in text
    usbip("detach", "-p", str(number))
    vhci.wait_free(number)
    assert f"Port {number:02}" not in usbip("port").stdout


def test_s153_s154_refusals(server):
    one = server("null")
    number = one.attach("1-1")
    done = one.usbip("attach", "-r", "127.0.0.1", "-b", "1-1", check=False)
    assert done.returncode != 0 and "busy" in done.stderr.lower()
    done = one.usbip("attach", "-r", "127.0.0.1", "-b", "8-8", check=False)
    assert done.returncode != 0
    usbip("detach", "-p", str(number))
    vhci.wait_free(number)


def test_s155_detach(server):
    one = server("null")
    number = one.attach("1-1")
    usbip("detach", "-p", str(number))
    vhci.wait_free(number)
    again = usbip("detach", "-p", str(number))
    assert "already detached" in again.stdout + again.stderr
    if vhci.nports() <= 255:
        done = usbip("detach", "-p", "255", check=False)
        assert done.returncode != 0 and "invalid" in (done.stdout + done.stderr).lower()


def test_s157_every_port_is_listed(server):
    """The parser of the tool indexes an array by port number: every number must appear once."""
    assert [p.number for p in vhci.ports()] == list(range(vhci.nports()))
    assert "Imported USB devices" in usbip("port").stdout


@beyond_c
def test_s157_no_window_during_attach(plug):
    """The tool gives up altogether when a port in use names a device that is not there, so a
    status line must not do that while an attach or a detach is under way."""

    def look(number) -> bool:
        """Whether the device has been seen; fails for a name without a device."""
        line = vhci.port(number)
        if line.state in (vhci.NULL, vhci.NOTASSIGNED) or (vhci.USB / line.busid).exists():
            return line.state == vhci.USED
        # It may have gone between the two looks, but then the line has changed as well.
        again = vhci.port(number)
        assert again.state in (vhci.NULL, vhci.NOTASSIGNED) or (vhci.USB / again.busid).exists(), (
            f"{line.line}: there is no such device")
        return False

    for speed in (vhci.HIGH, vhci.SUPER, vhci.FULL):
        session = plug(FakeDevice(speed), configured=False)
        vhci.wait_for(lambda s=session: look(s.port), "the device", vhci.ENUMERATION, step=0)
        session.configured()
        vhci.detach(session.port)

        def freed(number=session.port):
            look(number)
            return vhci.port(number).state == vhci.NULL

        vhci.wait_for(freed, "the port to be free", vhci.TEARDOWN, step=0)


def test_two_attaches_at_once(server):
    """Both may choose the same port: one is told EBUSY and tries again. The C tool does not look
    at the ports again before it does, so it goes on until that port is free; in the end both
    have succeeded."""
    one = server("null", "zero")
    tools = {busid: subprocess.Popen(["usbip", "--tcp-port", str(one.port), "attach", "-r",
                                      "127.0.0.1", "-b", busid]) for busid in ("1-1", "1-2")}
    seen, detached = set(), []

    def step():
        """Waits for both; makes room, once, if one spins."""
        busy = vhci.busy_ports()
        seen.update(port.devid for port in busy if port.devid)
        running = [tool for tool in tools.values() if tool.poll() is None]
        # The port of the one that is done; that of the other is not in use yet.
        if len(running) == len(seen) == len(busy) == 1 and not detached:
            vhci.wait_configured(busy[0].number)
            if running[0].poll() is None:
                vhci.detach(busy[0].number)
                detached.append(busy[0].number)
        return not running

    vhci.wait_for(step, "both tools", vhci.ENUMERATION)
    assert {tool.returncode for tool in tools.values()} == {0}
    # A device whose address is not set yet shows no number.
    used = vhci.wait_for(lambda: (busy := vhci.busy_ports())
                         and all(p.devid for p in busy) and busy, "devices with an address")
    seen |= {port.devid for port in used}
    assert seen == {0x00010002, 0x00010003}
    for port in used:
        vhci.wait_configured(port.number)
        usbip("detach", "-p", str(port.number))
    for port in used:
        vhci.wait_free(port.number)


def test_server_dies(server):
    """The server's end: devices go, the tool works, nothing is left."""
    one = server("disk,size=1M", "keyboard", "disk,size=1M,speed=super")
    numbers = [one.attach(busid) for busid in ("1-1", "1-2", "1-3")]
    one.stop()
    for number in numbers:
        vhci.wait_free(number)
    assert "Port in Use" not in usbip("port").stdout


def test_attach_cycles(server):
    """Over and over with a driver bound; s158: never a port in the error state."""
    one = server("disk,size=1M")
    for _ in range(vhci.times(15)):
        number = one.attach("1-1")
        assert all(p.state != vhci.ERROR for p in vhci.busy_ports())
        usbip("detach", "-p", str(number))
        vhci.wait_free(number)
        vhci.wait_for(lambda: " 1-1: " in one.usbip("list", "-r", "127.0.0.1").stdout,
                      "the server to have its device back")
