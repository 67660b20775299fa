# SPDX-License-Identifier: GPL-2.0
"""The URB phase of USB/IP as bytes: what a test needs to play one end of a connection.

Written from the field tables alone and shared with nothing under test, so that a mistake in
the modules' own wire code cannot hide behind the same mistake here.
"""

import errno
import struct
from dataclasses import dataclass, field

CMD_SUBMIT, CMD_UNLINK, RET_SUBMIT, RET_UNLINK = 1, 2, 3, 4
OUT, IN = 0, 1
HEADER = 48
ISO_DESC = 16

FLAG_SHORT_NOT_OK = 0x0001
FLAG_ISO_ASAP = 0x0002
FLAG_NO_DMA_MAP = 0x0004
FLAG_ZERO_PACKET = 0x0040
FLAG_DIR_IN = 0x0200
FLAG_SG = 0x00040000

_BASIC = struct.Struct(">5I")
_SUBMIT = struct.Struct(">I4i8s")
_RET_SUBMIT = struct.Struct(">5i8s")
_UNLINK = struct.Struct(">I24s")
_RET_UNLINK = struct.Struct(">i24s")
_ISO = struct.Struct(">IIIi")

assert _BASIC.size + _SUBMIT.size == HEADER
assert _BASIC.size + _RET_SUBMIT.size == HEADER
assert _BASIC.size + _UNLINK.size == HEADER
assert _BASIC.size + _RET_UNLINK.size == HEADER
assert _ISO.size == ISO_DESC


@dataclass
class Iso:
    """One isochronous packet descriptor."""

    offset: int
    length: int
    actual: int = 0
    status: int = 0

    def pack(self) -> bytes:
        """The 16 bytes on the wire; values are reduced to 32 bits so that tests may lie."""
        return struct.pack(">IIII", *(v & 0xFFFFFFFF for v in
                                      (self.offset, self.length, self.actual, self.status)))


@dataclass
class Setup:
    """The eight bytes of a control request."""

    request_type: int
    request: int
    value: int
    index: int
    length: int

    @classmethod
    def parse(cls, raw: bytes) -> "Setup":
        return cls(*struct.unpack("<BBHHH", raw))


@dataclass
class Submit:
    """A CMD_SUBMIT with everything that belongs to it."""

    seqnum: int
    devid: int
    direction: int
    ep: int
    flags: int
    length: int
    start_frame: int
    packets: int
    interval: int
    setup: bytes
    data: bytes = b""
    iso: list = field(default_factory=list)
    raw: bytes = b""

    @property
    def control(self) -> Setup:
        return Setup.parse(self.setup)

    def expects(self) -> int:
        """Bytes of data that follow the header."""
        return self.length if self.direction == OUT else 0

    def iso_count(self) -> int:
        """Iso descriptors that follow the data: 0 and -1 both mean "not isochronous"."""
        return self.packets if self.packets > 0 else 0


@dataclass
class Unlink:
    """A CMD_UNLINK."""

    seqnum: int
    devid: int
    direction: int
    ep: int
    victim: int
    raw: bytes = b""


def parse_header(raw: bytes):
    """A request header as :class:`Submit` or :class:`Unlink`; ValueError for anything else."""
    command, seqnum, devid, direction, ep = _BASIC.unpack_from(raw)
    if command == CMD_SUBMIT:
        flags, length, start, packets, interval, setup = _SUBMIT.unpack_from(raw, _BASIC.size)
        return Submit(seqnum, devid, direction, ep, flags, length, start, packets, interval,
                      setup, raw=raw)
    if command == CMD_UNLINK:
        victim, rest = _UNLINK.unpack_from(raw, _BASIC.size)
        if rest != bytes(24):
            raise ValueError(f"CMD_UNLINK with a non-zero tail: {raw.hex()}")
        return Unlink(seqnum, devid, direction, ep, victim, raw=raw)
    raise ValueError(f"a client must not send command {command}: {raw.hex()}")


def parse_iso(raw: bytes) -> list:
    """The descriptors of a CMD_SUBMIT."""
    return [Iso(*_ISO.unpack_from(raw, at)) for at in range(0, len(raw), ISO_DESC)]


def _s32(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value & 0x80000000 else value


def ret_submit(seqnum: int, status: int = 0, actual: int = 0, *, data: bytes = b"",
               start_frame: int = 0, packets: int = 0, errors: int = 0, iso=(),
               basic=(0, 0, 0)) -> bytes:
    """A RET_SUBMIT; nothing is checked, so that every lie can be told. `basic` is the
    (devid, direction, ep) that honest servers leave zero or echo."""
    head = _BASIC.pack(RET_SUBMIT, seqnum & 0xFFFFFFFF, *basic)
    head += _RET_SUBMIT.pack(_s32(status), _s32(actual), _s32(start_frame), _s32(packets),
                             _s32(errors), bytes(8))
    return head + data + b"".join(i.pack() for i in iso)


def ret_unlink(seqnum: int, status: int = -errno.ECONNRESET, basic=(0, 0, 0)) -> bytes:
    """A RET_UNLINK."""
    return (_BASIC.pack(RET_UNLINK, seqnum & 0xFFFFFFFF, *basic) +
            _RET_UNLINK.pack(_s32(status), bytes(24)))


def basic_header(command: int, seqnum: int, devid: int = 0, direction: int = 0,
                 ep: int = 0) -> bytes:
    """A 48-byte header with a zero tail, for commands that do not exist."""
    return _BASIC.pack(command & 0xFFFFFFFF, seqnum & 0xFFFFFFFF, devid, direction,
                       ep) + bytes(28)
