# SPDX-License-Identifier: GPL-2.0
"""The server's end of a URB connection, played PDU by PDU.

A thread answers endpoint 0 from a :class:`FakeDevice`, so that enumeration just happens, and
puts everything else into an inbox for the test. :meth:`Peer.manual` stops the thread at a PDU
boundary and hands the bare socket to the test.
"""

import errno
import os
import queue
import select
import socket
import struct
import threading

from vhci import ENUMERATION, SOON, Timeout
from vhci_wire import HEADER, ISO_DESC, OUT, Submit, Unlink, parse_header, parse_iso, ret_submit
from vhci_wire import ret_unlink


class Closed(Exception):
    """The other end closed the connection (between PDUs or inside one)."""


class Peer:
    """One end of a stream socket that speaks the server's part."""

    def __init__(self, sock: socket.socket, device=None):
        self.sock = sock
        # For the middle of a PDU and for tests that read by themselves; an idle thread waits
        # in select() for as long as it takes.
        self.sock.settimeout(ENUMERATION)
        self.device = device
        self.log = []
        self.inbox = queue.Queue()
        self.closed = threading.Event()
        self.failure = None
        self.handler = None
        # Unlinks of anything the test has not answered are answered with -ECONNRESET.
        self.auto_unlink = False
        # Bytes of each send; None sends whole PDUs.
        self.segment = None
        self._send_lock = threading.Lock()
        self._wake_r, self._wake_w = os.pipe()
        self._stop = False
        self._thread = None

    # --- the thread ---------------------------------------------------------------------------

    def auto(self) -> "Peer":
        """Start (again) to answer endpoint 0 by itself."""
        assert self._thread is None
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def manual(self) -> "Peer":
        """Stop the thread between two PDUs; the test now owns the socket."""
        if self._thread:
            self._stop = True
            os.write(self._wake_w, b"x")
            self._thread.join(SOON)
            assert not self._thread.is_alive(), "the peer's thread is inside a PDU"
            self._thread = None
            os.read(self._wake_r, 1)
        return self

    def _run(self):
        try:
            while True:
                ready, _, _ = select.select([self.sock, self._wake_r], [], [])
                if self._stop:
                    return
                if ready == [self._wake_r]:
                    continue
                self.dispatch(self.recv_pdu())
        except Closed:
            self.closed.set()
        except OSError as error:
            self.failure = error
            self.closed.set()
        except BaseException as error:  # pylint: disable=broad-except
            # A malformed PDU: the test finds it in `failure` (see check()).
            self.failure = error
            self.closed.set()
            raise

    def dispatch(self, pdu):
        """What the thread does with one PDU; a test in manual mode may call it too."""
        if self.handler and self.handler(pdu):
            return
        if isinstance(pdu, Submit) and pdu.ep == 0 and self.device:
            self.answer_control(pdu)
        elif isinstance(pdu, Unlink) and self.auto_unlink:
            self.send(ret_unlink(pdu.seqnum, -errno.ECONNRESET))
        else:
            self.inbox.put(pdu)

    def answer_control(self, pdu: Submit):
        """Answer a control request from the device model."""
        status, data = self.device.control(pdu.setup, pdu.data)
        actual = pdu.length if pdu.direction == OUT and status == 0 else len(data)
        self.send(ret_submit(pdu.seqnum, status, actual, data=data))

    # --- receiving ----------------------------------------------------------------------------

    def recv_exact(self, count: int) -> bytes:
        """Exactly `count` bytes; Closed at EOF or reset."""
        chunks = bytearray()
        while len(chunks) < count:
            try:
                chunk = self.sock.recv(min(count - len(chunks), 1 << 20))
            except ConnectionResetError:
                raise Closed("reset") from None
            if not chunk:
                raise Closed(f"end of stream after {len(chunks)} of {count} bytes")
            chunks += chunk
        return bytes(chunks)

    def recv_header(self):
        """One header, without what follows it."""
        pdu = parse_header(self.recv_exact(HEADER))
        self.log.append(pdu)
        return pdu

    def recv_pdu(self):
        """One whole PDU."""
        pdu = self.recv_header()
        if isinstance(pdu, Submit):
            pdu.data = self.recv_exact(pdu.expects())
            pdu.iso = parse_iso(self.recv_exact(ISO_DESC * pdu.iso_count()))
        return pdu

    def next(self, timeout: float = SOON):
        """The next PDU that is not for endpoint 0."""
        try:
            return self.inbox.get(timeout=timeout)
        except queue.Empty:
            raise Timeout(f"no PDU within {timeout:.0f} s (failure: {self.failure!r})") from None

    def nothing(self, duration: float = 0.3):
        """Check that no PDU arrives for a while."""
        try:
            pdu = self.inbox.get(timeout=duration)
        except queue.Empty:
            return
        raise AssertionError(f"unexpected {pdu}")

    def wait_closed(self, timeout: float = SOON):
        """Wait until the kernel has closed the connection."""
        if self._thread is None:
            self.drain_to_eof(timeout)
            return
        if not self.closed.wait(timeout):
            raise Timeout("the connection was not closed")

    def drain_to_eof(self, timeout: float = SOON) -> bytes:
        """In manual mode: read until EOF or reset; returns what was still in the pipe."""
        rest = bytearray()
        self.sock.settimeout(timeout)
        try:
            while True:
                chunk = self.sock.recv(1 << 20)
                if not chunk:
                    break
                rest += chunk
        except ConnectionResetError:
            pass
        except TimeoutError:
            raise Timeout(f"no end of stream; {len(rest)} more bytes were read") from None
        finally:
            self.sock.settimeout(ENUMERATION)
        self.closed.set()
        return bytes(rest)

    # --- sending ------------------------------------------------------------------------------

    def send(self, data: bytes):
        """Send bytes, in segments if so told; a closed connection is not an error here."""
        try:
            with self._send_lock:
                if not self.segment:
                    self.sock.sendall(data)
                    return
                for at in range(0, len(data), self.segment):
                    self.sock.sendall(data[at:at + self.segment])
        except (BrokenPipeError, ConnectionResetError) as error:
            self.failure = self.failure or error

    def complete(self, pdu: Submit, status: int = 0, data: bytes = b"", actual=None, **more):
        """An honest RET_SUBMIT unless told otherwise."""
        if actual is None:
            actual = pdu.length if pdu.direction == OUT else len(data)
        self.send(ret_submit(pdu.seqnum, status, actual, data=data, **more))

    def unlinked(self, pdu: Unlink, status: int = -errno.ECONNRESET):
        self.send(ret_unlink(pdu.seqnum, status))

    def reset(self):
        """Close with RST (TCP only): no shutdown before, or it would be a FIN."""
        self.manual()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        self.close()

    def close(self):
        """Close this end; the thread, if any, ends."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        if self._thread:
            self._thread.join(SOON)
            self._thread = None
        self.sock.close()
        for fd in (self._wake_r, self._wake_w):
            if fd >= 0:
                os.close(fd)
        self._wake_r = self._wake_w = -1
        self.closed.set()

    # --- looking back -------------------------------------------------------------------------

    def submits(self, ep=None) -> list:
        return [p for p in self.log if isinstance(p, Submit) and ep in (None, p.ep)]

    def unlinks(self) -> list:
        return [p for p in self.log if isinstance(p, Unlink)]
