# SPDX-License-Identifier: GPL-2.0
"""Talks from inside a guest to the QEMU it runs in, or of User-Mode Linux to the host alone
(scripts/rusbip_env/monitor.py answers)."""

import json
import os
import tty
from pathlib import Path

PORT = Path("/dev/virtio-ports/rusbip.monitor")
LINE = Path("/dev/ttyS0")


def available():
    """Whether this guest runs in QEMU."""
    return PORT.exists()


def command(request):
    """Sends one request and returns the value of its answer; raises RuntimeError on an error."""
    fd = os.open(PORT if available() else LINE, os.O_RDWR | os.O_NOCTTY)
    try:
        if os.isatty(fd):
            tty.setraw(fd)
        os.write(fd, json.dumps(request).encode() + b"\n")
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(fd, 65536)
    finally:
        os.close(fd)
    reply = json.loads(line)
    if "error" in reply:
        raise RuntimeError(f"{request}: {reply['error'].get('desc', reply['error'])}")
    return reply["return"]


def qmp(name, /, **arguments):
    """A QMP command, e.g. qmp("send-key", keys=[{"type": "qcode", "data": "a"}])."""
    return command({"execute": name, "arguments": arguments})


def hmp(line):
    """A command line of the human monitor, e.g. hmp("sendkey a"); returns what it prints."""
    return command({"hmp": line})


def host_processors():
    """How much time the processors of the host had, and how much of that was taken by others that
    share them, in ticks since it was started."""
    return command({"host": "cpu"})


def press(key):
    """Presses and releases a key of the USB keyboard (qcode name, e.g. "a", "ret", "f1")."""
    qmp("send-key", keys=[{"type": "qcode", "data": key}])


def point(x, y):
    """Moves the pointer of the USB tablet to a place, each from 0 to 0x7fff."""
    qmp("input-send-event", events=[{"type": "abs", "data": {"axis": axis, "value": value}}
                                    for axis, value in (("x", x), ("y", y))])


def button(name, down):
    """Presses or releases a button of the USB tablet (e.g. "left")."""
    qmp("input-send-event",
        events=[{"type": "btn", "data": {"button": name, "down": down}}])


def unplug(device):
    """Pulls a device out (ids: storage, kbd, audio, serial, ccid, or what plug() was given)."""
    qmp("device_del", id=device)


def plug(driver, device, **properties):
    """Plugs a device into the xHCI controller, e.g. plug("usb-mouse", "mouse")."""
    qmp("device_add", driver=driver, id=device, bus="xhci.0", **properties)
