# SPDX-License-Identifier: GPL-2.0
"""Allocations that fail: each one of loading the module, of a connection, of a request. (Nothing of the
module allocates when a gadget is bound, but for the requests that it asks for.)"""


import pytest

import failslab
import vhci
import vudc
from host_client import Client
from test_host_failslab import each, on, test_reply, test_request  # noqa: F401  pylint: disable=unused-import
from vudc_fixtures import *  # noqa: F401,F403  pylint: disable=wildcard-import,unused-wildcard-import

pytestmark = [pytest.mark.usefixtures("host_watched"), vudc.beyond_c,
              pytest.mark.only("uml-kasan")]


def test_load(gadget, export):
    """The last allocations of loading the module, which are its own: it is there, or nothing of it
    is."""
    export.drop()
    gadget.close()
    vudc.unload()
    with failslab.sparing("kobject_add_internal"):
        for error in failslab.loads(vudc.MODULES[vudc.VUDC][-1], "num=2", last=150):
            assert (error is None) == vudc.DRIVER.exists()
            if error:
                assert not list(vudc.PLATFORM.glob("usbip-vudc*"))
                assert not list(vudc.UDCS.glob("usbip-vudc*"))
            else:
                vudc.unload()
    vudc.load("num=2")
    gadget.plug()
    vudc.wait_gadget(export.busid)


def test_connection(export):
    """usbip_sockfd: the client is served, or the gadget stays available."""
    export.drop()
    pair = []

    def write():
        pair[:] = vhci.stream_pair("tcp")
        return str(pair[0].fileno()).encode()

    def check(error):
        kernel, ours = pair
        kernel.close()
        if error:
            assert vudc.status(export.busid) == vudc.AVAILABLE
        else:
            Client(ours, 0).in_step()
        ours.close()
        vudc.wait_status(export.busid)
        vhci.wait_for(lambda: not vhci.kernel_threads(vudc.THREADS), "the threads to end")

    assert each(write, vudc.path(export.busid) / "usbip_sockfd", check) >= 5
