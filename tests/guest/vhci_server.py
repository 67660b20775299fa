# SPDX-License-Identifier: GPL-2.0
"""The test server as a process, and the unmodified usbip tool. Needs $RUSBIP_BIN."""

import os
import subprocess
import threading
from pathlib import Path

import pytest

import vhci

BIN = Path(os.environ.get("RUSBIP_BIN", "/nonexistent"))


def need(name: str) -> str:
    """The path of one of our programs; skips without it."""
    path = BIN / name
    if not path.exists():
        pytest.skip(f"{path} does not exist (RUSBIP_BIN)")
    return str(path)


class Server:
    """usbip-test-server with the given devices, listening on a port of its own."""

    def __init__(self, *devices: str):
        command = [need("usbip-test-server"), "--control", "--listen", "127.0.0.1:0"]
        for device in devices:
            command += ["--device", device]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, bufsize=1)
        self.port = int(self._line().rsplit(":", 1)[1])

    def _line(self) -> str:
        watchdog = threading.Timer(vhci.SOON, self.process.kill)
        watchdog.start()
        try:
            line = self.process.stdout.readline()
        finally:
            watchdog.cancel()
        assert line, "the server died or does not answer"
        return line.rstrip("\n")

    def command(self, text: str) -> str:
        """Give a control command; returns what follows `ok`."""
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        answer = self._line()
        assert answer.startswith("ok"), answer
        return answer[3:]

    def stop(self):
        """End the server; its connections end with it."""
        self.process.kill()
        self.process.wait(vhci.SOON)
        self.process.stdin.close()
        self.process.stdout.close()

    def usbip(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run the tool against this server's port."""
        return usbip("--tcp-port", str(self.port), *arguments, check=check)

    def attach(self, busid: str) -> int:
        """`usbip attach`; returns the number of the port that was free before."""
        before = {p.number for p in vhci.busy_ports()}
        self.usbip("attach", "-r", "127.0.0.1", "-b", busid)
        number, = {p.number for p in vhci.busy_ports()} - before
        vhci.wait_configured(number)
        return number


def usbip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    """The unmodified tool; with `check` it must succeed."""
    done = subprocess.run(["usbip", *arguments], capture_output=True, text=True,
                          timeout=vhci.ENUMERATION, check=False)
    if check:
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done
