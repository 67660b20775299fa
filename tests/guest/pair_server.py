# SPDX-License-Identifier: GPL-2.0
"""What the tests of a pair have done in the server guest; the functions run there."""

import contextlib
import os
import signal
from pathlib import Path

import peer_stock
import vhci
from lib.guestlib import Modules
from peer_stock import run

# The module that exports devices, of each implementation.
MODULE = {"c": "usbip-host", "rust": "usbip_host_rs"}
THREADS = "(stub|vudc)_(rx|tx)"
PID_FILE = Path("/run/usbipd.pid")

_loaded = contextlib.ExitStack()


def use(implementation: str):
    """Serves with an implementation, in place of the one before."""
    stop()
    _loaded.close()
    _loaded.enter_context(Modules()).load(MODULE[implementation])
    serve()


def serve(*options: str):
    """Debian's usbipd, as a daemon."""
    run("usbipd", "-D", f"-P{PID_FILE}", *options)
    vhci.wait_for(peer_stock.listening, "usbipd")


def stop(how: int = signal.SIGTERM):
    """Ends usbipd, if it runs, by a signal."""
    if PID_FILE.exists():
        os.kill(int(PID_FILE.read_text()), how)
        vhci.wait_for(lambda: not peer_stock.listening(), "usbipd to end")
        PID_FILE.unlink(missing_ok=True)


def wait_idle():
    """Wait until no connection has a thread."""
    vhci.wait_for(lambda: not vhci.kernel_threads(THREADS), "the threads of connections to end",
                  vhci.TEARDOWN)
