# SPDX-License-Identifier: GPL-2.0
"""Gadgets that the kernel implements, behind dummy_hcd or of a virtual controller: a device as it is,
with a driver of the client's at the other end."""

import contextlib
import os
import subprocess
from pathlib import Path

import host
import host_gadget
import vhci

CONFIGFS = Path("/sys/kernel/config")


class Gadget:
    """A gadget with one configuration for each list of functions.

    Functions have the names that configfs has for them, e.g. "mass_storage.0"; `setup` gets the
    folder of each before it is linked.
    """

    def __init__(self, *configurations: list, vendor: int = 0x1209, product: int = 0x0001,
                 speed: int = vhci.HIGH, setup=lambda folder: None, udc: str = "dummy_udc.0"):
        self.udc = udc
        if self.is_dummy():
            host_gadget.load_controllers()
        if not (CONFIGFS / "usb_gadget").exists():
            subprocess.run(["modprobe", "libcomposite"], check=False)
            subprocess.run(["mount", "-t", "configfs", "none", str(CONFIGFS)], check=False)
        self.speed = speed
        self.folder = CONFIGFS / "usb_gadget" / udc
        self.folder.mkdir()
        names = {vhci.FULL: "full-speed", vhci.HIGH: "high-speed", vhci.SUPER: "super-speed"}
        for name, value in (("idVendor", vendor), ("idProduct", product),
                            ("max_speed", names[speed])):
            (self.folder / name).write_text(f"{value}")
        self.links = []
        for number, functions in enumerate(configurations, 1):
            configuration = self.folder / f"configs/c.{number}"
            configuration.mkdir()
            for function in functions:
                folder = self.folder / "functions" / function
                folder.mkdir()
                setup(folder)
                link = configuration / function
                link.symlink_to(folder)
                self.links.append(link)
        self.bind()

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
        if (self.folder / "UDC").read_text().strip():
            self.unbind()
        if self.is_dummy():
            vhci.wait_gone(self.busid)
        for link in self.links:
            link.unlink()
        for folder in [*self.folder.glob("configs/*"), *self.folder.glob("functions/*")]:
            os.rmdir(folder)
        os.rmdir(self.folder)


@contextlib.contextmanager
def plugged(*configurations: list, **options):
    """A gadget that is plugged in; yields its bus id once its own driver has it."""
    gadget = Gadget(*configurations, **options)
    try:
        host.wait_own(gadget.busid)
        yield gadget.busid
    finally:
        gadget.close()
