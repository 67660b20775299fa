# SPDX-License-Identifier: GPL-2.0
"""Allocations that fail: each one of loading the module, of a connection, of a request. (Nothing of the
module allocates when a gadget is bound, but for the requests that it asks for.)"""

import ctypes
import errno
import os

import pytest

import failslab
import vhci
import vudc
from failslab import NEVER, Failing
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
    path = f"{os.environ['RUSBIP_MODULES']}/{vudc.MODULES[-1]}.ko"
    libc = ctypes.CDLL(None, use_errno=True)

    def insert(nth: int) -> tuple:
        """finit_module(2): the error, and how many allocations were left."""
        with open(path, "rb") as file:
            failing = Failing(nth)
            done = libc.syscall(313, file.fileno(), b"num=2", 0)
            error = ctypes.get_errno() if done else None
            return error, failing.left()

    vudc.unload()
    error, left = insert(NEVER)
    assert error is None
    used = NEVER - left
    with failslab.sparing("kobject_add_internal"):
        for nth in range(max(1, used - 150), used + 2):
            if vudc.DRIVER.exists():
                vudc.unload()
            error, _ = insert(nth)
            assert error in (None, errno.ENOMEM, errno.EINVAL), os.strerror(error)
            assert (error is None) == vudc.DRIVER.exists()
            if error:
                assert not list(vudc.PLATFORM.glob("usbip-vudc*"))
                assert not list(vudc.UDCS.glob("usbip-vudc*"))
    if vudc.DRIVER.exists():
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
