# SPDX-License-Identifier: GPL-2.0
"""The client's end of a URB connection, driven by the test: it sends exact bytes, and reads
replies one by one. Replies carry no direction, so it remembers what it asked for."""

import contextlib
import socket
import struct
from dataclasses import dataclass

import vhci
from host_wire import (HEADER, ISO_DESC, RetSubmit, cmd_submit, cmd_unlink, parse_descriptors,
                       parse_reply, setup)
from vhci_wire import FLAG_DIR_IN, FLAG_ISO_ASAP, IN, OUT

GET_STATUS, CLEAR_FEATURE, SET_FEATURE, GET_DESCRIPTOR = 0, 1, 3, 6
GET_CONFIGURATION, SET_CONFIGURATION, GET_INTERFACE, SET_INTERFACE = 8, 9, 10, 11
ENDPOINT_HALT, PORT_RESET = 0, 4


class Closed(Exception):
    """The server has closed the connection."""


@dataclass
class Asked:
    """What is known of a request whose reply is still to come."""

    direction: int
    iso: bool


class Client:
    """One end of a stream socket that speaks the client's part."""

    def __init__(self, sock: socket.socket, devid: int):
        self.sock, self.devid = sock, devid
        self.sock.settimeout(vhci.SOON)
        self.seqnum = 0
        self.asked = {}
        # Bytes of each send; None sends what there is at once.
        self.segment = None

    # --- sending ------------------------------------------------------------------------------

    def send(self, data: bytes):
        """Send bytes as they are, in segments if so told. Closed if nobody is there."""
        try:
            if not self.segment:
                self.sock.sendall(data)
            else:
                for at in range(0, len(data), self.segment):
                    self.sock.sendall(data[at:at + self.segment])
        except (BrokenPipeError, ConnectionResetError):
            raise Closed("while sending") from None

    def number(self) -> int:
        """The next sequence number."""
        self.seqnum = (self.seqnum + 1) & 0xFFFFFFFF
        return self.seqnum

    def pack(self, direction: int, ep: int, length: int, *, iso=(), is_iso: bool | None = None,
             flags: int | None = None, seqnum: int | None = None, devid: int | None = None,
             **more):
        """A CMD_SUBMIT of an honest client unless told otherwise: (number, bytes). From here on
        its reply is expected."""
        seqnum = self.number() if seqnum is None else seqnum
        is_iso = bool(iso) if is_iso is None else is_iso
        if flags is None:
            flags = (FLAG_DIR_IN if direction == IN else 0) | (FLAG_ISO_ASAP if is_iso else 0)
        if is_iso:
            more.setdefault("packets", len(iso))
        self.asked[seqnum] = Asked(direction, is_iso)
        return seqnum, cmd_submit(seqnum, self.devid if devid is None else devid, direction, ep,
                                  length, flags=flags, iso=iso, **more)

    def submit(self, direction: int, ep: int, length: int, **more) -> int:
        """Send a CMD_SUBMIT as :meth:`pack` makes it; returns its number."""
        seqnum, raw = self.pack(direction, ep, length, **more)
        self.send(raw)
        return seqnum

    def submit_in(self, ep: int, length: int, **more) -> int:
        """An IN transfer."""
        return self.submit(IN, ep, length, **more)

    def submit_out(self, ep: int, data: bytes, **more) -> int:
        """An OUT transfer."""
        return self.submit(OUT, ep, len(data), data=data, **more)

    def submit_control(self, control: bytes, data: bytes = b"", **more) -> int:
        """A control transfer; direction and length follow from the setup packet."""
        length, = struct.unpack_from("<H", control, 6)
        if control[0] & 0x80 and length:
            return self.submit(IN, 0, length, control=control, **more)
        return self.submit(OUT, 0, length, control=control, data=data, **more)

    def unlink(self, victim: int, seqnum: int | None = None) -> int:
        """Send a CMD_UNLINK; returns its own number."""
        seqnum = self.number() if seqnum is None else seqnum
        self.send(cmd_unlink(seqnum, self.devid, victim))
        return seqnum

    # --- receiving ----------------------------------------------------------------------------

    def recv_exact(self, count: int) -> bytes:
        """Exactly `count` bytes. Closed at the end of the stream, Timeout after a while."""
        data = bytearray()
        while len(data) < count:
            try:
                chunk = self.sock.recv(min(count - len(data), 1 << 20))
            except ConnectionResetError:
                raise Closed("reset") from None
            except TimeoutError:
                raise vhci.Timeout(f"{len(data)} of {count} bytes of a reply") from None
            if not chunk:
                raise Closed(f"after {len(data)} of {count} bytes")
            data += chunk
        return bytes(data)

    def recv(self):
        """The next reply, whole."""
        reply = parse_reply(self.recv_exact(HEADER))
        if isinstance(reply, RetSubmit):
            assert reply.seqnum in self.asked, f"nobody asked: {reply}"
            asked = self.asked.pop(reply.seqnum)
            if asked.direction == IN:
                assert reply.actual >= 0, reply
                reply.data = self.recv_exact(reply.actual)
            if asked.iso:
                reply.iso = parse_descriptors(self.recv_exact(ISO_DESC * reply.packets))
        return reply

    def reply(self, seqnum: int) -> RetSubmit:
        """The next reply, which has to be the RET_SUBMIT of this request."""
        reply = self.recv()
        assert isinstance(reply, RetSubmit) and reply.seqnum == seqnum, (seqnum, reply)
        return reply

    def replies(self, count: int) -> dict:
        """As many replies in any order: number → reply."""
        found = {}
        for _ in range(count):
            reply = self.recv()
            assert reply.seqnum not in found, f"answered twice: {reply}"
            found[reply.seqnum] = reply
        return found

    def nothing(self, duration: float = 0.1):
        """Check that no byte arrives for a while."""
        self.sock.settimeout(duration)
        try:
            data = self.sock.recv(1 << 16)
        except TimeoutError:
            return
        finally:
            self.sock.settimeout(vhci.SOON)
        raise AssertionError(f"unexpected {data.hex()}" if data else "unexpected end")

    def rest(self, timeout: float = vhci.TEARDOWN) -> bytes:
        """What comes until the server closes; Timeout if it does not."""
        rest = bytearray()
        self.sock.settimeout(timeout)
        try:
            while chunk := self.sock.recv(1 << 20):
                rest += chunk
        except ConnectionResetError:
            pass
        except TimeoutError:
            raise vhci.Timeout(f"no end of stream; {len(rest)} more bytes were read") from None
        finally:
            self.sock.settimeout(vhci.SOON)
        return bytes(rest)

    def gone(self, timeout: float = vhci.TEARDOWN):
        """The server closes the connection, and says nothing more before."""
        assert self.rest(timeout) == b""

    # --- requests with their replies ----------------------------------------------------------

    def control(self, request_type: int, request: int, value: int = 0, index: int = 0,
                data=b"", **more) -> RetSubmit:
        """A control transfer and its reply. `data` is bytes for OUT, a length for IN."""
        length = data if isinstance(data, int) else len(data)
        return self.reply(self.submit_control(setup(request_type, request, value, index, length),
                                              b"" if isinstance(data, int) else data, **more))

    def in_step(self):
        """The stream is in step and the device answers: GET_STATUS(device) is as it is after a
        reset."""
        reply = self.control(0x80, GET_STATUS, data=2)
        assert (reply.status, reply.actual, reply.data) == (0, 2, b"\0\0"), reply

    def set_configuration(self, value: int):
        """SET_CONFIGURATION, which has to succeed."""
        done = self.control(0, SET_CONFIGURATION, value)
        assert (done.status, done.actual) == (0, 0), done

    def set_interface(self, interface: int, alternate: int):
        """SET_INTERFACE, which has to succeed."""
        done = self.control(1, SET_INTERFACE, alternate, interface)
        assert (done.status, done.actual) == (0, 0), done

    # --- the end ------------------------------------------------------------------------------

    def reset(self):
        """Close with RST (TCP only)."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        """Close in an orderly way."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
