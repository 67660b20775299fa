# SPDX-License-Identifier: GPL-2.0
"""Streams of frames (YUYV) to or from a Video4Linux device, with buffers mapped into this process:
64-bit layouts of linux/videodev2.h."""

import fcntl
import mmap
import struct

CAPTURE, OUTPUT = 1, 2
MMAP, NO_FIELD = 1, 1
YUYV = int.from_bytes(b"YUYV", "little")
# struct v4l2_format with the single-planar part of its union, struct v4l2_requestbuffers,
# struct v4l2_buffer: index, type, bytesused, flags, field, (timestamps), sequence, memory, offset,
# length, (request).
FORMAT = struct.Struct("=I4xIIIIII176x")
REQUEST = struct.Struct("=III8x")
BUFFER = struct.Struct("=IIIII4x16x16xIIQI12x")


def number(nr: int, size: int, way: int = 3) -> int:
    """The number of an ioctl: 1 writes, 2 reads, 3 both."""
    return (way << 30) | (size << 16) | (ord("V") << 8) | nr


S_FMT, REQBUFS = number(5, FORMAT.size), number(8, REQUEST.size)
QUERYBUF, QBUF, DQBUF = (number(nr, BUFFER.size) for nr in (9, 15, 17))
STREAMON, STREAMOFF = number(18, 4, 1), number(19, 4, 1)


class Stream:
    """One direction of a device that is open and does not block."""

    def __init__(self, fd: int, kind: int, width: int, height: int, buffers: int = 4):
        self.fd, self.kind, self.maps = fd, kind, []
        answer = fcntl.ioctl(fd, S_FMT, FORMAT.pack(kind, width, height, YUYV, NO_FIELD, 0, 0))
        if FORMAT.unpack(answer)[1:4] != (width, height, YUYV):
            raise ValueError(f"no frames of {width}x{height}")
        answer = fcntl.ioctl(fd, REQBUFS, REQUEST.pack(buffers, kind, MMAP))
        for index in range(REQUEST.unpack(answer)[0]):
            *_, offset, length = BUFFER.unpack(fcntl.ioctl(fd, QUERYBUF, self._buffer(index)))
            self.maps.append(mmap.mmap(fd, length, offset=offset))

    def _buffer(self, index: int = 0, used: int = 0) -> bytes:
        return BUFFER.pack(index, self.kind, used, 0, NO_FIELD, 0, MMAP, 0, 0)

    def queue(self, index: int, frame: bytes = b""):
        """Give a buffer to the device, with a frame in it if it is for output."""
        self.maps[index][:len(frame)] = frame
        fcntl.ioctl(self.fd, QBUF, self._buffer(index, len(frame)))

    def dequeue(self):
        """A buffer that the device has done with: (index, sequence number, bytes). None if there is
        none."""
        try:
            answer = fcntl.ioctl(self.fd, DQBUF, self._buffer())
        except BlockingIOError:
            return None
        index, _, used, _, _, sequence, *_ = BUFFER.unpack(answer)
        return index, sequence, self.maps[index][:used]

    def start(self):
        fcntl.ioctl(self.fd, STREAMON, struct.pack("I", self.kind))

    def stop(self):
        fcntl.ioctl(self.fd, STREAMOFF, struct.pack("I", self.kind))

    def close(self):
        """Gives the buffers back."""
        for one in self.maps:
            one.close()
        fcntl.ioctl(self.fd, REQBUFS, REQUEST.pack(0, self.kind, MMAP))
