# SPDX-License-Identifier: GPL-2.0
"""Gadgets that the kernel implements, behind dummy_hcd or of a virtual controller: a device as it is,
with a driver of the client's at the other end. The scripts of samples/gadget make them."""

import contextlib
import signal
import subprocess
from pathlib import Path

import host
import host_gadget
import vhci
from peer_stock import run

CONFIGFS = Path("/sys/kernel/config")
SCRIPTS = Path(__file__).resolve().parents[2] / "samples/gadget"
SPEEDS = {vhci.FULL: "full", vhci.HIGH: "high", vhci.SUPER: "super"}


class Gadget:
    """A gadget that a script has made, e.g. Gadget("disk", image); `said` is what that has printed."""

    def __init__(self, script: str, *arguments, speed: int = vhci.HIGH, udc: str = "dummy_udc.0"):
        self.udc, self.speed = udc, speed
        self.folder = CONFIGFS / "usb_gadget" / udc
        if self.is_dummy():
            host_gadget.load_controllers()
        self.said = self.make(str(SCRIPTS / script), "--udc", udc, "--name", udc, "--speed",
                              SPEEDS[speed], *map(str, arguments)).split()

    def make(self, *command: str) -> str:
        """Runs the script."""
        return run(*command)

    def is_dummy(self) -> bool:
        """Whether it appears as a device of this machine."""
        return self.udc.startswith("dummy")

    def bind(self):
        """Plug it in."""
        (self.folder / "UDC").write_text(self.udc)

    def unbind(self):
        """Unplug it."""
        (self.folder / "UDC").write_text("\n")

    @property
    def busid(self) -> str:
        """The bus id of the device, at a controller that makes it one of this machine."""
        return host_gadget.busid(0, self.speed)

    def close(self):
        """Unplug and forget it."""
        busid = self.busid if self.is_dummy() else None
        self.remove()
        assert not self.folder.exists()
        if busid:
            vhci.wait_gone(busid)

    def remove(self):
        """Runs the script that takes it away."""
        run(str(SCRIPTS / "remove"), self.udc)


class Played(Gadget):
    """One that a program plays as long as the script runs."""

    process = None

    def make(self, *command: str) -> str:
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        said = self.process.stdout.readline()
        assert said, f"{command} has ended"
        return said

    def remove(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(vhci.SOON)
        self.process.stdout.close()


@contextlib.contextmanager
def plugged(gadget: Gadget):
    """A gadget behind dummy_hcd; yields its bus id once its own driver has it."""
    try:
        host.wait_own(gadget.busid)
        yield gadget.busid
    finally:
        gadget.close()
