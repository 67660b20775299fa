# SPDX-License-Identifier: GPL-2.0
"""The client's direction of the URB phase as bytes: requests to send, replies to read.

Like :mod:`vhci_wire`, written from the field tables alone and shared with nothing under test.
"""

import struct
from dataclasses import dataclass, field

from vhci_wire import (CMD_SUBMIT, CMD_UNLINK, HEADER, ISO_DESC, Iso, RET_SUBMIT, RET_UNLINK,
                       basic_header)

__all__ = ("HEADER", "ISO_DESC", "Iso", "RetSubmit", "RetUnlink", "basic_header", "cmd_submit",
           "cmd_unlink", "parse_descriptors", "parse_reply", "setup")

_BASIC = struct.Struct(">5I")
_RET_SUBMIT = struct.Struct(">5i8s")
_RET_UNLINK = struct.Struct(">i24s")


def _u32(value: int) -> int:
    return value & 0xFFFFFFFF


def setup(request_type: int, request: int, value: int = 0, index: int = 0,
          length: int = 0) -> bytes:
    """The eight bytes of a control request."""
    return struct.pack("<BBHHH", request_type, request, value, index, length)


def cmd_submit(seqnum: int, devid: int, direction: int, ep: int, length: int = 0, *,
               flags: int = 0, start_frame: int = 0, packets: int = 0, interval: int = 0,
               control: bytes = bytes(8), data: bytes = b"", iso=()) -> bytes:
    """A CMD_SUBMIT; nothing is checked, so that every lie can be told."""
    words = (CMD_SUBMIT, seqnum, devid, direction, ep, flags, length, start_frame, packets,
             interval)
    return (struct.pack(">10I", *map(_u32, words)) + control + data
            + b"".join(one.pack() for one in iso))


def cmd_unlink(seqnum: int, devid: int, victim: int, direction: int = 0, ep: int = 0) -> bytes:
    """A CMD_UNLINK."""
    return struct.pack(">6I", *map(_u32, (CMD_UNLINK, seqnum, devid, direction, ep, victim))) \
        + bytes(24)


@dataclass
class RetSubmit:
    """A RET_SUBMIT with what follows it."""

    seqnum: int
    status: int
    actual: int
    start_frame: int
    packets: int
    errors: int
    data: bytes = b""
    iso: list = field(default_factory=list)


@dataclass
class RetUnlink:
    """A RET_UNLINK."""

    seqnum: int
    status: int


def parse_reply(raw: bytes):
    """A reply's header. ValueError unless it is exactly what a server may send: no device id,
    direction or endpoint, nothing in the unused bytes."""
    command, seqnum, *rest = _BASIC.unpack_from(raw)
    if rest != [0, 0, 0]:
        raise ValueError(f"a reply names a device or an endpoint: {raw.hex()}")
    if command == RET_SUBMIT:
        *fields, tail = _RET_SUBMIT.unpack_from(raw, _BASIC.size)
        if tail != bytes(8):
            raise ValueError(f"bytes after a RET_SUBMIT: {raw.hex()}")
        return RetSubmit(seqnum, *fields)
    if command == RET_UNLINK:
        status, tail = _RET_UNLINK.unpack_from(raw, _BASIC.size)
        if tail != bytes(24):
            raise ValueError(f"bytes after a RET_UNLINK: {raw.hex()}")
        return RetUnlink(seqnum, status)
    raise ValueError(f"a server must not send command {command}: {raw.hex()}")


def parse_descriptors(raw: bytes) -> list:
    """The isochronous descriptors of a reply, with signed status."""
    return [Iso(*struct.unpack_from(">IIIi", raw, at)) for at in range(0, len(raw), ISO_DESC)]
