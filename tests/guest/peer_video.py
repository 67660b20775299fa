# SPDX-License-Identifier: GPL-2.0
"""Frames from a camera."""

import contextlib
import os
import sys

import vhci
from host_configfs import SCRIPTS

sys.path.append(str(SCRIPTS))

import v4l2  # noqa: E402  pylint: disable=wrong-import-position  (the path above makes it importable)


@contextlib.contextmanager
def capture(node: str, width: int, height: int, buffers: int):
    """Streams from a camera; yields an iterator of (sequence number, bytes of the frame).

    The driver has `buffers` frames to fill: it leaves out those that come while it has none, so
    a reader that is late loses none of as many frames.
    """
    fd = os.open(node, os.O_RDWR | os.O_NONBLOCK)
    try:
        stream = v4l2.Stream(fd, v4l2.CAPTURE, width, height, buffers)
        for index in range(len(stream.maps)):
            stream.queue(index)
        stream.start()
        try:
            yield _frames(stream)
        finally:
            stream.stop()
            stream.close()
    finally:
        os.close(fd)


def _frames(stream: v4l2.Stream):
    """Frames as they come; each buffer goes back to the driver at once."""
    while True:
        index, sequence, data = vhci.wait_for(stream.dequeue, "a frame", vhci.ENUMERATION)
        stream.queue(index)
        yield sequence, data
