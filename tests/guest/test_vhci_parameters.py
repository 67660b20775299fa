# SPDX-License-Identifier: GPL-2.0
"""The module's parameters: number of controllers and of ports, lanes of SuperSpeedPlus."""

import os
import subprocess

import pytest

import vhci
from vhci_device import FakeDevice
from vhci_server import usbip

pytest_plugins = ("vhci_fixtures",)

pytestmark = pytest.mark.skipif(vhci.CLIENT == "c", reason="parameters of this project")


@pytest.fixture(scope="module", autouse=True)
def as_before(client):
    """After these tests the client is as it was. Once, as the default of 8 controllers takes long."""
    yield
    reload()


def reload(*parameters: str):
    """The client with these parameters."""
    vhci.unload()
    vhci.load(*parameters)


@pytest.mark.parametrize("controllers, ports", [(1, 1), (2, 3)])
def test_geometry(plug, controllers, ports):
    """Files and numbers follow the parameters, and the tools follow the files."""
    reload(f"nr_hcs={controllers}", f"hc_ports={ports}")
    assert vhci.controllers() == controllers
    assert vhci.nports() == 2 * controllers * ports
    assert [port.number for port in vhci.ports()] == list(range(vhci.nports()))
    assert [port.hub for port in vhci.ports()] == (["hs"] * ports + ["ss"] * ports) * controllers
    names = sorted(file.name for file in vhci.VHCI.glob("status*"))
    assert names == ["status"] + [f"status.{n}" for n in range(1, controllers)]
    for hub in vhci.PLATFORM.glob("vhci_hcd.*/usb[0-9]*"):
        assert int((hub / "maxchild").read_text()) == ports
    last = vhci.nports() - 1
    session = plug(FakeDevice(vhci.SUPER), port=last)
    assert vhci.port(last).busid == session.path.name
    assert f"Port {last:02d}: <Port in Use> at Super Speed" in usbip("port").stdout
    assert vhci.errno_of(vhci.detach, last + 1) == "EINVAL"


@pytest.mark.parametrize("lanes, speed", [(1, "10000"), (2, "20000")])
def test_ssp_lanes(plug, lanes, speed):
    reload("nr_hcs=1", f"ssp_lanes={lanes}")
    path = plug(FakeDevice(vhci.SUPER_PLUS)).path
    for name, expected in (("speed", speed), ("rx_lanes", lanes), ("tx_lanes", lanes)):
        assert (path / name).read_text() == f"{expected}\n"


@pytest.mark.parametrize("parameter, range_", [
    ("nr_hcs", (0, 33)), ("hc_ports", (0, 16)), ("ssp_lanes", (0, 3))])
def test_out_of_range(watched, parameter, range_):
    """A clear message, and nothing is left of the attempt."""
    module = vhci.modules()[-1]
    vhci.unload()
    try:
        vhci.load_modules(vhci.modules()[:1], True)
        for value in range_:
            with pytest.raises(subprocess.CalledProcessError):
                vhci.load_modules([module], True, f"{parameter}={value}")
            assert not vhci.loaded(module)
            assert not list(vhci.PLATFORM.glob("vhci_hcd*"))
            assert not os.path.exists("/sys/bus/platform/drivers/vhci_hcd")
            assert watched.grep(rf"^{module}: {parameter}={value}: must be ")
    finally:
        vhci.load("nr_hcs=1")
