# SPDX-License-Identifier: GPL-2.0
"""Debian's unmodified `usbip` and `usbipd` with the server: statements 99, 106, 113, 151 to 154
from the server's side."""

import re

import pytest

import host
import peer_stock
import vhci
from vhci_server import usbip

pytest_plugins = ("vhci_fixtures", "host_fixtures")
pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml")]

HERE = "127.0.0.1"


@pytest.fixture(scope="module")
def device(request, lane):
    """The bus id of a device, with its own driver."""
    if lane.startswith("stock"):
        request.getfixturevalue("host_driver")
        return peer_stock.busid("ccid")
    return request.getfixturevalue("gadget").busid


@pytest.fixture(scope="module")
def daemon(host_driver):
    """usbipd runs."""
    one = peer_stock.Daemon()
    yield one
    one.stop()


@pytest.fixture
def bound(device):
    """A device that was bound with the tool."""
    host.wait_own(device)
    usbip("bind", "-b", device)
    host.wait_status(device)
    yield device
    if host.driver_of(device) == "usbip-host":
        host.wait_status(device)
        usbip("unbind", "-b", device)
    host.wait_own(device)
    assert host.table() == []


def offered() -> list:
    """The bus ids that usbipd offers."""
    done = usbip("list", "-r", HERE, check=False)
    return re.findall(r"^ +([0-9.-]+): ", done.stdout, re.MULTILINE)


def test_bind_and_unbind(device):
    """What the tool says, and what becomes of the device."""
    host.wait_own(device)
    before = host.interface_drivers(device)
    done = usbip("bind", "-b", device)
    assert f"bind device on busid {device}: complete" in done.stdout + done.stderr
    assert host.driver_of(device) == "usbip-host"
    assert host.table() == [device]
    done = usbip("unbind", "-b", device)
    assert f"unbind device on busid {device}: complete" in done.stdout + done.stderr
    host.wait_own(device)
    vhci.wait_for(lambda: host.interface_drivers(device) == before, f"the drivers {before}")
    assert host.table() == []


def test_bind_twice(bound):
    done = usbip("bind", "-b", bound, check=False)
    assert done.returncode != 0 and "already bound to usbip-host" in done.stderr
    assert host.status(bound) == host.AVAILABLE


def test_unbind_twice(bound):
    usbip("unbind", "-b", bound)
    done = usbip("unbind", "-b", bound, check=False)
    assert done.returncode != 0 and "not bound to usbip-host" in done.stderr


def test_bind_of_nothing(device):
    done = usbip("bind", "-b", "99-99", check=False)
    assert done.returncode != 0
    assert host.table() == []


def test_list_local(bound):
    """An exported device is still one of this machine's."""
    text = usbip("list", "-l").stdout
    assert re.search(rf"^ - busid {re.escape(bound)} \(", text, re.MULTILINE), text
    assert f"busid={bound}#" in usbip("list", "-p", "-l").stdout


def test_s151_list_remote(daemon, bound):
    """Offered while it is available, hidden while somebody has it."""
    assert offered() == [bound]
    client = host.connect(bound)
    assert offered() == []
    client.close()
    host.wait_status(bound)
    assert offered() == [bound]
    usbip("unbind", "-b", bound)
    assert offered() == []


def test_s113_import_in_between(daemon, bound):
    """Until it was reset it is busy."""
    client = host.connect(bound)
    # GET_STATUS(device); what it says is the device's own business.
    assert client.control(0x80, 0, data=2).status == 0
    host.sockfd(bound, -1)
    client.gone()
    done = usbip("attach", "-r", HERE, "-b", bound, check=False)
    if done.returncode:
        assert "busy" in done.stderr.lower()
        host.wait_status(bound)
        usbip("attach", "-r", HERE, "-b", bound)
    port, = (one for one in vhci.ports() if one.state != vhci.NULL)
    vhci.wait_configured(port.number)
    peer_stock.detach(port.number)


def test_s152_attach(daemon, bound):
    """The device is there with the same ids, over and over."""
    own = vhci.USB / bound
    ids = [(own / name).read_text() for name in ("idVendor", "idProduct", "bcdDevice", "speed")]
    for _ in range(2):
        with peer_stock.attached(bound) as remote:
            assert host.status(bound) == host.USED
            assert [(remote.path / name).read_text() for name in
                    ("idVendor", "idProduct", "bcdDevice", "speed")] == ids
            assert (remote.path / "bConfigurationValue").read_text() == host.configuration(
                bound) + "\n"
            assert set(host.interface_drivers(bound)) == {None}
        host.wait_status(bound)


def test_s153_busy(daemon, bound):
    with peer_stock.attached(bound):
        done = usbip("attach", "-r", HERE, "-b", bound, check=False)
        assert done.returncode != 0 and "busy" in done.stderr.lower()
    host.wait_status(bound)


def test_s154_not_offered(daemon, device):
    host.wait_own(device)
    done = usbip("attach", "-r", HERE, "-b", device, check=False)
    assert done.returncode != 0
    assert not [one for one in vhci.ports() if one.state != vhci.NULL]


def test_unbind_while_attached(daemon, bound):
    """The client loses the device."""
    usbip("attach", "-r", HERE, "-b", bound)
    port, = (one for one in vhci.ports() if one.state != vhci.NULL)
    there = vhci.wait_configured(port.number)
    usbip("unbind", "-b", bound)
    host.wait_own(bound)
    vhci.wait_free(port.number)
    vhci.wait_gone(there.name)


def test_s107_unload_while_attached(daemon, bound):
    """And gets it back once the server is there again."""
    usbip("attach", "-r", HERE, "-b", bound)
    port, = (one for one in vhci.ports() if one.state != vhci.NULL)
    there = vhci.wait_configured(port.number)
    host.unload()
    host.wait_own(bound)
    vhci.wait_free(port.number)
    vhci.wait_gone(there.name)
    host.load()
    usbip("bind", "-b", bound)
    with peer_stock.attached(bound):
        pass
    host.wait_status(bound)
