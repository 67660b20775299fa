# SPDX-License-Identifier: GPL-2.0
"""Carries monitor commands of a guest to its own QEMU.

The guest writes one JSON object per line to /dev/virtio-ports/rusbip.monitor, either a QMP command
or {"hmp": "COMMAND LINE"}, and reads one line of JSON back: {"return": …} or {"error": …}. So a
test inside the guest can press keys on the USB keyboard or pull a device out. To {"host": "cpu"} the
answer is how much time the processors of this machine had, and how much of that others took that
share them: [all, taken], in ticks. User-Mode Linux is answered that and no more, on /dev/ttyS0.
"""

import contextlib
import json
import socket
import threading
import time
from pathlib import Path

CONNECT_SECONDS = 20


class Qmp:
    """A client of QEMU's machine protocol."""

    def __init__(self, path):
        self.stream = connect(path).makefile("rwb")
        self.stream.readline()
        self.execute({"execute": "qmp_capabilities"})

    def execute(self, request):
        """Sends one command and returns its reply, skipping events."""
        self.stream.write(json.dumps(request).encode() + b"\n")
        self.stream.flush()
        while line := self.stream.readline():
            reply = json.loads(line)
            if "return" in reply or "error" in reply:
                return reply
        return {"error": {"desc": "QEMU closed its monitor"}}


def connect(path):
    """Connects as soon as QEMU listens."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(str(path))
            return link
        except OSError:
            link.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def relay(folder):
    """Serves the guest until QEMU ends."""
    try:
        qmp = Qmp(folder / "qmp")
        guest = connect(folder / "monitor").makefile("rwb")
        while line := guest.readline():
            guest.write(json.dumps(answer(qmp, line)).encode() + b"\n")
            guest.flush()
    except OSError:
        pass  # QEMU is gone, or never came: the runner sees that by itself.


def answer(qmp, line):
    """The reply to one line of the guest. Without `qmp` it does not run in QEMU."""
    try:
        request = json.loads(line)
        if "host" in request:
            return {"return": processors()}
        if not qmp:
            return {"error": {"desc": "only QEMU has a monitor"}}
        if "hmp" in request:
            request = {"execute": "human-monitor-command",
                       "arguments": {"command-line": request["hmp"]}}
        return qmp.execute(request)
    except (ValueError, TypeError) as error:
        return {"error": {"desc": f"not a command: {error}"}}


def processors():
    """[all, taken] ticks since this machine was started: proc_stat(5)."""
    with Path("/proc/stat").open() as file:
        # user, nice, system, idle, iowait, irq, softirq, steal; guests are counted as users.
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return [sum(ticks), ticks[7]]


def serve_line():
    """Serves a guest of User-Mode Linux in the background; returns the end of its serial line, for
    the guest alone to keep."""
    ours, guests = socket.socketpair()
    threading.Thread(target=relay_line, args=(ours,), daemon=True).start()
    return guests


def relay_line(ours):
    """Serves until the guest ends."""
    with ours, ours.makefile("rwb") as guest, contextlib.suppress(OSError):
        while line := guest.readline():
            guest.write(json.dumps(answer(None, line)).encode() + b"\n")
            guest.flush()


def start(folder):
    """Relays in the background; the thread ends with QEMU or with this process."""
    threading.Thread(target=relay, args=(folder,), daemon=True).start()
