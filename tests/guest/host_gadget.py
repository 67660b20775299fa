# SPDX-License-Identifier: GPL-2.0
"""The scripted device as a gadget behind dummy_hcd or of a virtual controller, through
/dev/raw-gadget: each answer, and when it comes, is the test's decision. For kernels that have
raw_gadget (the debug kernels)."""

import ctypes
import errno
import os
import queue
import signal
import struct
import subprocess
import threading
from pathlib import Path

import vhci
from host_model import Transfer
from vhci_device import ISO_ATTR
from vhci_wire import Setup

UDCS = Path("/sys/class/udc")
PLATFORM = Path("/sys/devices/platform")
# Of linux/usb/raw_gadget.h.
CONNECT, CONTROL, SUSPEND, RESUME, RESET, DISCONNECT = 1, 2, 3, 4, 5, 6
_EVENT = struct.Struct("=II")
_IO = struct.Struct("=HHI")
_INIT = struct.Struct("=128s128sB")
IO_ZERO = 1


def _ioc(direction: int, number: int, size: int) -> int:
    return (direction << 30) | (size << 16) | (ord("U") << 8) | number


INIT = _ioc(1, 0, _INIT.size)
RUN = _ioc(0, 1, 0)
EVENT_FETCH = _ioc(2, 2, _EVENT.size)
EP0_WRITE = _ioc(1, 3, _IO.size)
EP0_READ = _ioc(3, 4, _IO.size)
EP_ENABLE = _ioc(1, 5, 9)
EP_DISABLE = _ioc(1, 6, 4)
EP_WRITE = _ioc(1, 7, _IO.size)
EP_READ = _ioc(3, 8, _IO.size)
CONFIGURE = _ioc(0, 9, 0)
EP0_STALL = _ioc(0, 12, 0)
EPS_INFO = _ioc(2, 11, 960)
EP_SET_HALT = _ioc(1, 13, 4)
EP_SET_WEDGE = _ioc(1, 15, 4)

# What ends a transfer on endpoint 0 when the host has gone on; the controllers differ.
GIVEN_UP = (errno.ESHUTDOWN, errno.EBUSY, errno.EINTR, errno.EOVERFLOW, errno.ECONNRESET)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ioctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p]
# Only there to end a system call.
WAKE = signal.SIGUSR2


def ioctl(fd: int, request: int, argument=None) -> int:
    """ioctl(2) that is ended by a signal; with an integer or the address of a buffer."""
    done = _libc.ioctl(fd, request, argument)
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return done


class Worker:
    """A thread that does blocking system calls, one after the other, and can be interrupted."""

    def __init__(self, name: str):
        self.jobs = queue.Queue()
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self):
        while (job := self.jobs.get()) is not None:
            job.run()

    def interrupt(self, done):
        """Wake the thread until `done()`: a signal before the system call would be lost."""
        def poke():
            if not done():
                signal.pthread_kill(self.thread.ident, WAKE)
            return done()

        vhci.wait_for(poke, f"{self.thread.name} to give up", step=0.002)

    def end(self):
        """End the thread, and what it is doing."""
        self.jobs.put(None)
        self.interrupt(lambda: not self.thread.is_alive())


class Queued(Transfer):
    """One request that the device has queued on an endpoint."""

    def __init__(self, gadget: "Gadget", *what):
        super().__init__(*what)
        self.gadget, self.cancelled = gadget, False

    def run(self):
        """In the thread of the endpoint: do it, and wait for the host."""
        try:
            if self.cancelled:
                raise OSError(errno.EINTR, "cancelled")
            handle = self.gadget.handles[self.address]
            buffer = ctypes.create_string_buffer(_IO.size + max(self.length, 1))
            _IO.pack_into(buffer, 0, handle, IO_ZERO if self.zero else 0, self.length)
            if self.data is not None:
                ctypes.memmove(ctypes.addressof(buffer) + _IO.size, self.data, self.length)
                self.length = ioctl(self.gadget.fd, EP_WRITE, ctypes.addressof(buffer))
            else:
                self.length = ioctl(self.gadget.fd, EP_READ, ctypes.addressof(buffer))
                self.data = buffer.raw[_IO.size:_IO.size + self.length]
        except (OSError, KeyError) as error:
            self.error = error
        self.done.set()

    def moved(self) -> bytes:
        return self.data[:self.length]


class Held:
    """A control request that the device does not answer yet."""

    def __init__(self, gadget: "Gadget", setup: Setup):
        self.gadget, self.setup = gadget, setup
        self.over = False

    def answer(self):
        """Answer it as the model does, unless a reset came first."""
        self.gadget.ask(lambda: self.finish(lambda: self.gadget.reply(self.setup)))

    def stall(self):
        """Refuse it; also for a request that the host has given up."""
        self.gadget.ask(lambda: self.finish(self.gadget.stall))

    def finish(self, how):
        """In the thread of answers: once."""
        if not self.over:
            self.over = True
            how()


class Gadget:
    """The device. Events are handled in a thread of its own; what is held waits for the test."""

    # The controllers that it can be plugged into.
    udc = "dummy_udc"
    # dummy_hcd has no isochronous transfers; such an endpoint is there in name only.
    has_iso = False

    def __init__(self, model, number: int = 0):
        self.model, self.number = model, number
        self.name = f"{self.udc}.{number}"
        self.requests = []
        self.resets = 0
        self.held = queue.Queue()
        self.hold = lambda setup: False
        self.queued = []
        self.fd = -1
        self.plug()

    # --- the thread of events -----------------------------------------------------------------

    def run(self):
        """Fetch events until the device is closed."""
        buffer = ctypes.create_string_buffer(_EVENT.size + 8)
        while not self.closing:
            _EVENT.pack_into(buffer, 0, 0, 8)
            try:
                ioctl(self.fd, EVENT_FETCH, ctypes.addressof(buffer))
            except InterruptedError:
                continue
            except OSError as error:
                self.failure = error
                return
            kind, _ = _EVENT.unpack_from(buffer)
            if kind == CONTROL:
                self.control(Setup.parse(buffer.raw[_EVENT.size:]))
            elif kind in (RESET, DISCONNECT):
                self.resets += kind == RESET
                self.model.configuration, self.model.settings = 0, {}
                if self.holding is not None:
                    # raw_gadget takes no other request before it is told what becomes of this one.
                    held = self.holding
                    self.answers.jobs.put(Call(lambda held=held: held.finish(self.stall)))

    def control(self, setup: Setup):
        """A control request: recorded, then answered or held."""
        self.requests.append((setup, b""))
        self.holding = None
        if self.hold(setup):
            self.holding = Held(self, setup)
            self.held.put(self.holding)
        else:
            self.answers.jobs.put(Call(lambda: self.reply(setup)))

    def ask(self, function):
        """Let the thread of answers do something, and wait for it."""
        call = Call(function)
        self.answers.jobs.put(call)
        assert call.done.wait(vhci.SOON), "endpoint 0 does not answer"

    def reply(self, setup: Setup):
        """Answer as the model does; the host may have gone on meanwhile."""
        answer = self.model.answer(setup)
        if answer is None:
            self.stall()
            return
        try:
            if setup.request_type & 0x80 and setup.length:
                self.ep0(EP0_WRITE, answer, len(answer))
                return
            if setup.request_type == 0 and setup.request == 9:
                self.configure(setup.value)
            elif setup.request_type == 1 and setup.request == 11:
                self.select(setup.index, setup.value)
            data = self.ep0(EP0_READ, b"", setup.length)
            if data:
                self.requests[-1] = (setup, data)
        except OSError as error:
            if error.errno not in GIVEN_UP:
                raise
            if error.errno == errno.ESHUTDOWN:
                self.stall()

    def ep0(self, request: int, data: bytes, length: int) -> bytes:
        """Transfer on endpoint 0; returns what came in."""
        buffer = ctypes.create_string_buffer(_IO.size + max(length, 1))
        _IO.pack_into(buffer, 0, 0, 0, length)
        ctypes.memmove(ctypes.addressof(buffer) + _IO.size, data, len(data))
        done = ioctl(self.fd, request, ctypes.addressof(buffer))
        return buffer.raw[_IO.size:_IO.size + done] if request == EP0_READ else b""

    def taken(self) -> tuple:
        """The last control request and the data that came with it, once it is dealt with."""
        self.ask(lambda: None)
        return self.requests[-1]

    def stall(self):
        """Refuse the request that waits, if there is one."""
        try:
            ioctl(self.fd, EP0_STALL)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ESHUTDOWN):
                raise

    # --- endpoints ----------------------------------------------------------------------------

    def configure(self, value: int):
        """SET_CONFIGURATION: the endpoints of the new one, all settings 0."""
        self.model.configuration, self.model.settings = value, {}
        self.enable()
        if value:
            ioctl(self.fd, CONFIGURE)

    def select(self, interface: int, alternate: int):
        """SET_INTERFACE: only this interface's endpoints start anew."""
        old = self.model.settings.get(interface, 0)
        alternates = self.model.configurations[self.model.configuration][interface]
        self.disable([one.address for one in alternates[old]])
        self.model.settings = self.model.settings | {interface: alternate}
        self.enable(alternates[alternate])

    def enable(self, endpoints=None):
        """These endpoints; without a list, those of the configuration after all others ended."""
        if endpoints is None:
            self.disable(list(self.handles))
            endpoints = self.model.endpoints(self.model.configuration, self.model.settings)
        for one in endpoints:
            if self.has_iso or one.attributes != ISO_ATTR:
                raw = ctypes.create_string_buffer(one.pack(False) + bytes(2), 9)
                self.handles[one.address] = ioctl(self.fd, EP_ENABLE, ctypes.addressof(raw))

    def disable(self, addresses: list):
        """End these endpoints, with what they have queued."""
        self.cancel(addresses)
        for address in addresses:
            if (handle := self.handles.pop(address, None)) is not None:
                ioctl(self.fd, EP_DISABLE, handle)

    def cancel(self, addresses=None):
        """Take back what is queued on these endpoints, or on all."""
        mine = [one for one in self.queued
                if not one.done.is_set() and (addresses is None or one.address in addresses)]
        for one in mine:
            one.cancelled = True
        for one in mine:
            self.workers[one.address].interrupt(one.done.is_set)
        self.queued = [one for one in self.queued if not one.done.is_set()]

    def _queue(self, transfer: Queued) -> Queued:
        worker = self.workers.get(transfer.address)
        if worker is None:
            worker = self.workers[transfer.address] = Worker(f"endpoint {transfer.address:#04x}")
        self.queued.append(transfer)
        worker.jobs.put(transfer)
        return transfer

    def send(self, ep: int, data: bytes, zero: bool = False) -> Queued:
        """Have data ready for the host on an IN endpoint; `zero` ends it with an empty packet if
        the last one is full."""
        return self._queue(Queued(self, 0x80 | ep, len(data), bytes(data), zero))

    def receive(self, ep: int, length: int) -> Queued:
        """Be ready to take so much from the host on an OUT endpoint."""
        return self._queue(Queued(self, ep, length, None, False))

    def unasked(self, ep: int):
        """As :meth:`host_redir.Redirected.unasked`. dummy_hcd moves nothing of a request once the
        host was told that it is taken back."""

    def halt(self, address: int):
        """Halt an endpoint that has nothing queued."""
        ioctl(self.fd, EP_SET_HALT, self.handles[address])

    def wedge(self, address: int):
        """Halt an endpoint until the device has it otherwise."""
        ioctl(self.fd, EP_SET_WEDGE, self.handles[address])

    def controller_endpoints(self) -> list:
        """The names of the endpoints that the controller has but endpoint 0, in its order."""
        buffer = ctypes.create_string_buffer(960)
        count = ioctl(self.fd, EPS_INFO, ctypes.addressof(buffer))
        return [buffer.raw[at:at + 16].split(b"\0")[0].decode()
                for at in range(0, count * 32, 32)]

    # --- the plug -----------------------------------------------------------------------------

    def plug(self):
        """Put the plug in; if it was pulled, what the device had queued is gone."""
        self.close()
        self.closing, self.failure, self.holding = False, None, None
        self.handles, self.workers = {}, {}
        self.model.configuration, self.model.settings = 0, {}
        signal.signal(WAKE, lambda *_: None)
        self.fd = os.open("/dev/raw-gadget", os.O_RDWR)
        argument = ctypes.create_string_buffer(
            _INIT.pack(self.udc.encode(), self.name.encode(), self.model.speed), _INIT.size)
        ioctl(self.fd, INIT, ctypes.addressof(argument))
        ioctl(self.fd, RUN)
        self.answers = Worker("ep0 answers")
        self.events = Worker("gadget events")
        self.events.jobs.put(self)

    def unplug(self):
        """Pull the plug, whatever is going on."""
        vhci.write_raw(UDCS / self.name / "soft_connect", "disconnect")

    def close(self):
        """The end of the device."""
        if self.fd < 0:
            return
        self.closing = True
        self.cancel()
        for worker in (self.events, self.answers, *self.workers.values()):
            worker.end()
        os.close(self.fd)
        self.fd = -1

    @property
    def busid(self) -> str:
        """The bus id that the device has, plugged in or not."""
        return busid(self.number, self.model.speed)


class Call:
    """A function for a worker's thread."""

    def __init__(self, function):
        self.function = function
        self.done = threading.Event()

    def run(self):
        """Call it."""
        try:
            self.function()
        finally:
            self.done.set()


def busid(number: int, speed: int) -> str:
    """The bus id of what is plugged into an emulated controller."""
    hubs = sorted(int(one.name[3:]) for one in
                  (PLATFORM / f"dummy_hcd.{number}").glob("usb[0-9]*"))
    return f"{hubs[1 if speed >= vhci.SUPER else 0]}-1"


def load_controllers():
    """Two emulated controllers with a USB 2 and a USB 3 port each."""
    if not vhci.loaded("dummy_hcd"):
        subprocess.run(["modprobe", "dummy_hcd", "is_super_speed=1", "num=2"], check=True)


def load():
    """The controllers, and what a scripted device needs.

    The controllers are new ones: composite gadgets of SuperSpeed leave a freed companion descriptor
    behind in their endpoints (`comp_desc`), and enabling one for a scripted device reads it."""
    subprocess.run(["modprobe", "-r", "dummy_hcd"], check=True)
    load_controllers()
    subprocess.run(["modprobe", "raw_gadget"], check=True)
    vhci.wait_for(lambda: Path("/dev/raw-gadget").exists(), "/dev/raw-gadget")
