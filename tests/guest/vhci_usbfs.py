# SPDX-License-Identifier: GPL-2.0
"""URBs from userspace: a thin layer over /dev/bus/usb (x86-64 and other 64-bit layouts)."""

import ctypes
import errno
import os
import select

from vhci import SOON, wait_for

ISO, INTERRUPT, CONTROL, BULK = 0, 1, 2, 3

SHORT_NOT_OK, ISO_ASAP, ZERO_PACKET = 0x01, 0x02, 0x40


def _ioc(direction: int, number: int, size: int) -> int:
    return (direction << 30) | (size << 16) | (ord("U") << 8) | number


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]


def _ioctl(fd: int, request: int, address=0) -> int:
    """ioctl(2) with an address. fcntl.ioctl() hands the kernel a temporary copy of a structure,
    but usbfs remembers the address of a URB and writes to it later."""
    done = _libc.ioctl(fd, request, address)
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return done


class _UrbHead(ctypes.Structure):
    _fields_ = [("type", ctypes.c_ubyte), ("endpoint", ctypes.c_ubyte),
                ("status", ctypes.c_int), ("flags", ctypes.c_uint),
                ("buffer", ctypes.c_void_p), ("buffer_length", ctypes.c_int),
                ("actual_length", ctypes.c_int), ("start_frame", ctypes.c_int),
                ("number_of_packets", ctypes.c_int), ("error_count", ctypes.c_int),
                ("signr", ctypes.c_uint), ("usercontext", ctypes.c_void_p)]


class _IsoPacket(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint), ("actual_length", ctypes.c_uint),
                ("status", ctypes.c_uint)]


class _Control(ctypes.Structure):
    _fields_ = [("request_type", ctypes.c_uint8), ("request", ctypes.c_uint8),
                ("value", ctypes.c_uint16), ("index", ctypes.c_uint16),
                ("length", ctypes.c_uint16), ("timeout", ctypes.c_uint32),
                ("data", ctypes.c_void_p)]


_CONTROL = _ioc(3, 0, ctypes.sizeof(_Control))
_SETINTERFACE = _ioc(2, 4, 8)
_SETCONFIGURATION = _ioc(2, 5, 4)
_SUBMITURB = _ioc(2, 10, ctypes.sizeof(_UrbHead))
_DISCARDURB = _ioc(0, 11, 0)
_REAPURBNDELAY = _ioc(1, 13, ctypes.sizeof(ctypes.c_void_p))
_CLAIMINTERFACE = _ioc(2, 15, 4)
_RELEASEINTERFACE = _ioc(2, 16, 4)
_RESET = _ioc(0, 20, 0)
_CLEAR_HALT = _ioc(2, 21, 4)
_GET_SPEED = _ioc(0, 31, 0)


class Urb:
    """One asynchronous transfer. After it was reaped, the result is in its attributes."""

    def __init__(self, kind: int, endpoint: int, length: int, *, data=None, flags: int = 0,
                 iso_lengths=()):
        count = len(iso_lengths)

        class Layout(ctypes.Structure):
            _fields_ = [("head", _UrbHead), ("iso", _IsoPacket * count)]

        self.buffer = ctypes.create_string_buffer(max(length, 1))
        if data is not None:
            assert len(data) <= length
            ctypes.memmove(self.buffer, bytes(data), len(data))
        self.layout = Layout()
        head = self.layout.head
        head.type, head.endpoint, head.flags = kind, endpoint, flags
        head.buffer = ctypes.addressof(self.buffer)
        head.buffer_length = length
        head.number_of_packets = count
        for slot, size in zip(self.layout.iso, iso_lengths):
            slot.length = size
        self.length = length
        self.reaped = False

    @property
    def address(self) -> int:
        return ctypes.addressof(self.layout)

    @property
    def status(self) -> int:
        return self.layout.head.status

    @property
    def actual(self) -> int:
        return self.layout.head.actual_length

    @property
    def error_count(self) -> int:
        return self.layout.head.error_count

    @property
    def start_frame(self) -> int:
        return self.layout.head.start_frame

    @property
    def iso(self) -> list:
        """(actual_length, status) per packet; the status as a signed number."""
        return [(p.actual_length, ctypes.c_int(p.status).value) for p in self.layout.iso]

    def data(self) -> bytes:
        """The whole buffer, whatever the length that was reported."""
        return self.buffer.raw[:self.length]


def bulk_in(endpoint: int, length: int, flags: int = 0, fill: int = 0xEE) -> Urb:
    return Urb(BULK, endpoint | 0x80, length, data=bytes([fill]) * length, flags=flags)


def bulk_out(endpoint: int, data, flags: int = 0) -> Urb:
    return Urb(BULK, endpoint & 0x7F, len(data), data=data, flags=flags)


def interrupt_in(endpoint: int, length: int) -> Urb:
    return Urb(INTERRUPT, endpoint | 0x80, length, data=b"\xee" * length)


def interrupt_out(endpoint: int, data) -> Urb:
    return Urb(INTERRUPT, endpoint & 0x7F, len(data), data=data)


def iso_in(endpoint: int, lengths, flags: int = ISO_ASAP) -> Urb:
    total = sum(lengths)
    return Urb(ISO, endpoint | 0x80, total, data=b"\xee" * total, flags=flags,
               iso_lengths=lengths)


def iso_out(endpoint: int, lengths, data, flags: int = ISO_ASAP) -> Urb:
    return Urb(ISO, endpoint & 0x7F, len(data), data=data, flags=flags, iso_lengths=lengths)


def control_urb(setup: bytes, data_length: int, data: bytes = b"") -> Urb:
    """An asynchronous control transfer: usbfs wants the setup packet in front of the data."""
    return Urb(CONTROL, 0, 8 + data_length, data=setup + data)


class Device:
    """An open usbfs node."""

    def __init__(self, node: str):
        self.fd = os.open(node, os.O_RDWR)
        self.finished = select.poll()
        self.finished.register(self.fd, select.POLLOUT)
        self.pending = {}

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self.pending.clear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _int(self, request: int, value: int):
        _ioctl(self.fd, request, ctypes.byref(ctypes.c_uint(value)))

    def claim(self, interface: int = 0):
        self._int(_CLAIMINTERFACE, interface)

    def release(self, interface: int = 0):
        self._int(_RELEASEINTERFACE, interface)

    def set_interface(self, interface: int, alternate: int):
        _ioctl(self.fd, _SETINTERFACE, (ctypes.c_uint * 2)(interface, alternate))

    def set_configuration(self, value: int):
        self._int(_SETCONFIGURATION, value)

    def clear_halt(self, endpoint: int):
        self._int(_CLEAR_HALT, endpoint)

    def reset(self):
        _ioctl(self.fd, _RESET)

    def speed(self) -> int:
        return _ioctl(self.fd, _GET_SPEED)

    def control(self, request_type: int, request: int, value: int, index: int, data=0,
                timeout_ms: int = 5000):
        """A synchronous control transfer. `data` is bytes for OUT, a length for IN; returns
        what came in (IN) or the count (OUT)."""
        incoming = bool(request_type & 0x80)
        length = data if incoming else (len(data) if data else 0)
        buffer = ctypes.create_string_buffer(max(length, 1))
        if not incoming and data:
            ctypes.memmove(buffer, bytes(data), length)
        call = _Control(request_type, request, value, index, length, timeout_ms,
                        ctypes.addressof(buffer))
        done = _ioctl(self.fd, _CONTROL, ctypes.byref(call))
        return buffer.raw[:done] if incoming else done

    def submit(self, urb: Urb) -> Urb:
        """Submit; raises OSError with the errno of the submission."""
        urb.reaped = False
        self.pending[urb.address] = urb
        try:
            _ioctl(self.fd, _SUBMITURB, urb.address)
        except OSError:
            del self.pending[urb.address]
            raise
        return urb

    def discard(self, urb: Urb):
        """Unlink and wait for it, as usbfs does."""
        _ioctl(self.fd, _DISCARDURB, urb.address)

    def reap_now(self):
        """One finished URB, or None. Raises ENODEV when the device is gone and none is left."""
        pointer = ctypes.c_void_p()
        try:
            _ioctl(self.fd, _REAPURBNDELAY, ctypes.byref(pointer))
        except BlockingIOError:
            return None
        except OSError as error:
            # The device is marked as gone before its URBs are taken back.
            if error.errno == errno.ENODEV and self.pending:
                return None
            raise
        urb = self.pending.pop(pointer.value)
        urb.reaped = True
        return urb

    def reap(self, timeout: float = SOON) -> Urb:
        """The next finished URB."""
        def look():
            # Comes back at once when there is one, but also when the device is gone.
            self.finished.poll(100)
            return self.reap_now()

        return wait_for(look, "a URB to finish", timeout, step=0.002)

    def reap_all(self, count: int, timeout: float = SOON) -> list:
        return [self.reap(timeout) for _ in range(count)]
