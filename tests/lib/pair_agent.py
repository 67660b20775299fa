# SPDX-License-Identifier: GPL-2.0
"""Runs in the server guest of a pair (scripts/rusbip_env/pair.py) and calls Python functions for
the client guest, until that has gone.

Each request is a line of JSON on the serial line, {"id", "function": "module:name", "args",
"kwargs"}; the answer is a line with the same id and either the "value" that the function returned
or, as "error", the traceback of what it raised. Modules are those of tests/, of tests/guest/, and
Python's own.
"""

import importlib
import json
import os
import select
import sys
import time
import traceback
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
LINE = Path("/dev/virtio-ports/rusbip.agent")


def wait_connected(fd):
    """Returns when the client's machine is there."""
    poll = select.poll()
    poll.register(fd, 0)  # nothing but a hang-up is reported
    while poll.poll(0):
        time.sleep(0.05)


def answer(line):
    """The answer to one line."""
    request = json.loads(line)
    try:
        module, name = request["function"].split(":")
        function = getattr(importlib.import_module(module), name)
        value = function(*request["args"], **request["kwargs"])
        return json.dumps({"id": request["id"], "value": value})
    except Exception:  # whatever it is, it is the client's affair
        return json.dumps({"id": request["id"], "error": traceback.format_exc()})


def main():
    sys.path[:0] = [str(TESTS / "guest"), str(TESTS)]
    fd = os.open(LINE, os.O_RDWR)
    wait_connected(fd)
    with open(fd, "rb", closefd=False) as requests, open(fd, "wb", closefd=False) as replies:
        for line in requests:
            replies.write(answer(line).encode() + b"\n")
            replies.flush()


main()
