# SPDX-License-Identifier: GPL-2.0
"""Helpers for tests inside a guest: polling, modules, the kernel log, vhci's sysfs."""

import dataclasses
import os
import re
import select
import socket
import subprocess
import time
from pathlib import Path

# How much slower than real hardware this guest is; deadlines are stretched by it.
SLACK = float(os.environ.get("RUSBIP_TEST_SLACK", "1"))
MODULES = Path(os.environ.get("RUSBIP_MODULES", "/modules"))
VHCI = Path("/sys/devices/platform/vhci_hcd.0")


def wait_for(cond, deadline_s, what):
    """Polls until cond() returns something true and returns that; AssertionError naming `what`
    after deadline_s seconds (stretched for slow guests)."""
    end = time.monotonic() + deadline_s * SLACK
    while True:
        value = cond()
        if value:
            return value
        assert time.monotonic() < end, f"after {deadline_s * SLACK:.1f} s still waiting for {what}"
        time.sleep(0.02)


def run(*argv, **options):
    """A program that must succeed; returns its standard output."""
    done = subprocess.run(argv, text=True, capture_output=True, check=False, **options)
    assert done.returncode == 0, f"{argv}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def loaded(name):
    """Whether a module is loaded."""
    return (Path("/sys/module") / name.replace("-", "_") / "refcnt").exists()


class Modules:
    """Loads modules and unloads, in reverse, what it loaded itself."""

    def __enter__(self):
        self.own = []
        return self

    def load(self, name, **parameters):
        """One of ours from /modules with what it uses, or else one of the kernel's."""
        file = MODULES / f"{name}.ko"
        if loaded(name):
            return
        arguments = [f"{key}={value}" for key, value in parameters.items()]
        if not file.exists():
            run("modprobe", name, *arguments)
        else:
            depends = run("modinfo", "-F", "depends", str(file)).strip()
            for needed in filter(None, depends.split(",")):
                self.load(needed)
            run("insmod", str(file), *arguments)
        self.own.append(name)

    def __exit__(self, *exception):
        for name in reversed(self.own):
            run("rmmod", name)


class KernelLog:
    """Follows /dev/kmsg from the moment it is opened."""

    def __enter__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)
        self.seen = []
        return self

    def __exit__(self, *exception):
        os.close(self.fd)

    def lines(self):
        """All messages since the start, without prefix."""
        while select.select([self.fd], [], [], 0)[0]:
            try:
                record = os.read(self.fd, 16384).decode(errors="replace")
            except BlockingIOError:
                break
            except BrokenPipeError:
                continue  # overwritten before it was read; the next record follows
            self.seen.append(record.partition(";")[2].split("\n")[0])
        return self.seen

    def wait(self, pattern, deadline_s=5):
        """The first message that matches a regular expression."""
        return wait_for(lambda: next((line for line in self.lines() if re.search(pattern, line)),
                                     None), deadline_s, f"a kernel message {pattern!r}")


@dataclasses.dataclass(frozen=True)
class Port:
    """One line of vhci's status files."""
    hub: str        # "hs" or "ss"
    number: int
    status: int     # 4 free, 5 not assigned, 6 in use, 7 error
    speed: int
    devid: int
    sockfd: int
    busid: str      # "0-0" while free

    @property
    def free(self):
        return self.status == 4


def ports():
    """All ports of all controllers."""
    found = []
    for file in sorted(VHCI.glob("status*")):
        for line in file.read_text().splitlines()[1:]:
            hub, number, status, speed, devid, sockfd, busid = line.split()
            found.append(Port(hub, int(number), int(status), int(speed), int(devid, 16),
                              int(sockfd), busid))
    return found


def port(number):
    """One port by number."""
    return next(one for one in ports() if one.number == number)


def free_port(hub="hs"):
    """The first free port of the USB 2 ("hs") or USB 3 ("ss") hubs."""
    return next(one.number for one in ports() if one.hub == hub and one.free)


def attach(fd, devid=0x10002, speed=3, number=None):
    """Hands a connected socket to a port; returns the port's number. speed: 1 low, 2 full, 3
    high, 5 super, 6 super plus."""
    if number is None:
        number = free_port("ss" if speed >= 5 else "hs")
    (VHCI / "attach").write_text(f"{number} {fd} {devid} {speed}")
    return number


def attach_pair(devid=0x10002, speed=3):
    """Attaches one end of a socket pair; returns (port number, the peer's end)."""
    ours, kernel = socket.socketpair()
    with kernel:
        return attach(kernel.fileno(), devid, speed), ours


def detach(number, deadline_s=10):
    """Unplugs and waits until the port is free."""
    (VHCI / "detach").write_text(str(number))
    wait_for(lambda: port(number).free, deadline_s, f"port {number} to be free")
