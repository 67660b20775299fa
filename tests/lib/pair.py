# SPDX-License-Identifier: GPL-2.0
"""In the client guest of a pair: has things done in the server guest, by tests/lib/pair_agent.py.

What goes over the line is JSON: so arguments and values are numbers, strings, lists and the like.
"""

import json
import os
import select
import subprocess
import threading
import time
from pathlib import Path

LINE = Path("/dev/virtio-ports/rusbip.agent")
# Longer than any function waits by itself, and than the server takes to boot.
CALL_SECONDS = 240

_one_at_a_time = threading.Lock()
_numbers = iter(range(1 << 62))
_unanswered = []


class ServerFailed(AssertionError):
    """What a function raised in the server guest, or that it did not return."""


def available():
    """Whether this guest has another one at its side."""
    return LINE.exists()


def call(function, *args, **kwargs):
    """Calls a function in the server guest, which imports the module that it is from, and returns
    its value. One call after the other: a second thread waits."""
    with _one_at_a_time:
        if _unanswered:
            raise ServerFailed(f"the server has not come back from {_unanswered[0]}")
        name = f"{function.__module__}:{function.__qualname__}"
        reply = exchange({"id": f"{os.getpid()}-{next(_numbers)}", "function": name,
                          "args": args, "kwargs": kwargs})
        if reply is None:
            _unanswered.append(name)
            raise ServerFailed(f"{name}: no answer in {CALL_SECONDS} s")
    if "error" in reply:
        raise ServerFailed(f"in the server guest, {name}: {reply['error']}")
    return reply["value"]


def exchange(request):
    """Sends a request and returns its answer, None if there is none in time."""
    deadline = time.monotonic() + CALL_SECONDS
    fd = os.open(LINE, os.O_RDWR | os.O_NONBLOCK)
    try:
        left = json.dumps(request).encode() + b"\n"
        received = b""
        while (now := time.monotonic()) < deadline:
            readable, writable, _ = select.select([fd], [fd] if left else [], [], deadline - now)
            if writable:
                left = left[os.write(fd, left):]
            if readable:
                if not (data := os.read(fd, 65536)):
                    raise ServerFailed("the server guest has gone")
                *lines, received = (received + data).split(b"\n")
                for reply in map(json.loads, lines):
                    # An earlier caller may have given up before its answer came.
                    if reply["id"] == request["id"]:
                        return reply
        return None
    finally:
        os.close(fd)


def shell(command):
    """Runs a shell command; returns its exit status and its output. To be called in the server."""
    done = subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout
