# SPDX-License-Identifier: GPL-2.0
"""Frames from a Video4Linux device, with buffers mapped into this process (64-bit layouts)."""

import contextlib
import fcntl
import mmap
import os
import struct

import vhci

CAPTURE, MMAP, NO_FIELD = 1, 1, 1
YUYV = int.from_bytes(b"YUYV", "little")
# struct v4l2_format with the single-planar part of its union, struct v4l2_requestbuffers,
# struct v4l2_buffer: index, type, bytesused, flags, field, (timestamps), sequence, memory, offset,
# length, (request).
FORMAT = struct.Struct("=I4xIIIIII176x")
REQUEST = struct.Struct("=III8x")
BUFFER = struct.Struct("=IIIII4x16x16xIIQI12x")


def _call(number: int, size: int, way: int = 3) -> int:
    return (way << 30) | (size << 16) | (ord("V") << 8) | number


S_FMT, REQBUFS = _call(5, FORMAT.size), _call(8, REQUEST.size)
QUERYBUF, QBUF, DQBUF = (_call(number, BUFFER.size) for number in (9, 15, 17))
STREAMON, STREAMOFF = _call(18, 4, 1), _call(19, 4, 1)


@contextlib.contextmanager
def capture(node: str, width: int, height: int, buffers: int = 4):
    """Streams from a camera; yields an iterator of (sequence number, bytes of the frame)."""
    fd = os.open(node, os.O_RDWR | os.O_NONBLOCK)
    maps = []
    try:
        answer = fcntl.ioctl(fd, S_FMT, FORMAT.pack(CAPTURE, width, height, YUYV, NO_FIELD, 0, 0))
        assert FORMAT.unpack(answer)[1:4] == (width, height, YUYV)
        answer = fcntl.ioctl(fd, REQBUFS, REQUEST.pack(buffers, CAPTURE, MMAP))
        for index in range(REQUEST.unpack(answer)[0]):
            blank = BUFFER.pack(index, CAPTURE, 0, 0, 0, 0, MMAP, 0, 0)
            *_, offset, length = BUFFER.unpack(fcntl.ioctl(fd, QUERYBUF, blank))
            maps.append(mmap.mmap(fd, length, offset=offset))
            fcntl.ioctl(fd, QBUF, blank)
        fcntl.ioctl(fd, STREAMON, struct.pack("I", CAPTURE))
        try:
            yield _frames(fd, maps)
        finally:
            fcntl.ioctl(fd, STREAMOFF, struct.pack("I", CAPTURE))
    finally:
        for one in maps:
            one.close()
        os.close(fd)


def _frames(fd: int, maps: list):
    """Frames as they come; each buffer goes back to the driver at once."""

    def dequeue():
        try:
            return fcntl.ioctl(fd, DQBUF, BUFFER.pack(0, CAPTURE, 0, 0, 0, 0, MMAP, 0, 0))
        except BlockingIOError:
            return None

    while True:
        index, _, used, _, _, sequence, *_ = BUFFER.unpack(
            vhci.wait_for(dequeue, "a frame", vhci.ENUMERATION))
        data = maps[index][:used]
        fcntl.ioctl(fd, QBUF, BUFFER.pack(index, CAPTURE, 0, 0, 0, 0, MMAP, 0, 0))
        yield sequence, data
