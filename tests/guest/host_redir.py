# SPDX-License-Identifier: GPL-2.0
"""The scripted device on QEMU's xHCI controller: this guest plays it itself, in the protocol of
QEMU's `usb-redir` (usbredir 0.7), over a virtio port that leads back to the emulator. Unlike a
gadget behind dummy_hcd it has isochronous transfers, and the driver of a real controller."""

import os
import queue
import select
import struct
import threading
from pathlib import Path

import vhci
from host_model import Transfer
from lib import monitor
from vhci_wire import Setup

PORT = Path("/dev/virtio-ports/rusbip.redir")
SOCKET = "/run/ctl/redir"
# Of the controller's eight; QEMU's own devices take the first ones.
PORT_NUMBER = 8

# Types of packets.
(HELLO, CONNECT, DISCONNECT, RESET, INTERFACE_INFO, EP_INFO, SET_CONFIGURATION, GET_CONFIGURATION,
 CONFIGURATION_STATUS, SET_ALT, GET_ALT, ALT_STATUS, START_ISO, STOP_ISO, ISO_STATUS,
 START_INTERRUPT, STOP_INTERRUPT, INTERRUPT_STATUS) = range(18)
CANCEL, DISCONNECT_ACK = 21, 24
CONTROL, BULK, ISO, INTERRUPT = range(100, 104)
# Capabilities, as bits: version of the device, packet sizes, long ids, long bulk transfers.
CAPABILITIES = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6
SUCCESS, CANCELLED, INVALID, IO_ERROR, STALL, TIMEOUT, BABBLE = range(7)
SPEEDS = {vhci.LOW: 0, vhci.FULL: 1, vhci.HIGH: 2, vhci.SUPER: 3}

# The header of the first packet, and of all others.
_SHORT_HEADER = struct.Struct("<III")
_HEADER = struct.Struct("<IIQ")
_CONTROL = struct.Struct("<BBBBHHH")
_BULK = struct.Struct("<BBHIH")
_SHORT = struct.Struct("<BBH")


class Request:
    """Something the host wants of an endpoint, until it is answered."""

    def __init__(self, kind: int, ident: int, address: int, length: int, data: bytes = b""):
        self.kind, self.ident, self.address = kind, ident, address
        self.length, self.data = length, data
        # IN: what was gathered so far, and from which transfers; OUT: how much was taken so far.
        self.gathered = b""
        self.parts = []
        self.taken = 0


class Ready(Transfer):
    """What the device has ready on an endpoint."""

    def __init__(self, *what):
        super().__init__(*what)
        # IN: how much has gone; OUT: what has come.
        self.gone = 0
        self.got = b""

    def finish(self, error=None):
        """Nothing more will happen to it."""
        self.error = error
        self.done.set()

    def moved(self) -> bytes:
        return self.got if self.data is None else self.data


class Held:
    """A control request that the device does not answer yet."""

    def __init__(self, device: "Redirected", ident: int, setup: Setup, kind: int):
        self.device, self.ident, self.setup, self.kind = device, ident, setup, kind

    def answer(self):
        """Answer it as the model does."""
        with self.device.lock:
            self.device.control(self.ident, self.setup, self.kind)

    def stall(self):
        """Refuse it, unless the host has taken it back."""
        with self.device.lock:
            self.device.answer_control(self.ident, self.setup, self.kind, None)


class Redirected:
    """The device."""

    def __init__(self, model, name: str = "redir"):
        self.model, self.name = model, name
        self.requests, self.resets = [], 0
        self.held, self.hold = queue.Queue(), lambda setup: False
        self.waiting = {}
        self.ready = {}
        # Requests that were answered not long ago, by number.
        self.answered = {}
        self.isochronous = {}
        self.iso_out = queue.Queue()
        self.interrupts = set()
        self.lock = threading.RLock()
        self.plug()

    # --- the line to QEMU ---------------------------------------------------------------------

    def plug(self):
        """Plug the device in."""
        ends = {"type": "unix", "data": {"path": SOCKET}}
        monitor.qmp("chardev-add", id=self.name, backend={
            "type": "socket", "data": {"addr": ends, "server": True, "wait": False}})
        monitor.qmp("chardev-add", id=f"{self.name}-port", backend={
            "type": "socket", "data": {"addr": ends, "server": False}})
        monitor.qmp("device_add", driver="virtserialport", id=f"{self.name}-line",
                    chardev=f"{self.name}-port", name="rusbip.redir")
        vhci.wait_for(PORT.exists, str(PORT), vhci.ENUMERATION)
        self.fd = os.open(PORT, os.O_RDWR | os.O_NONBLOCK)
        self.wake = os.pipe()
        # Always the same port, so always the same bus id.
        monitor.plug("usb-redir", self.name, chardev=self.name, port=str(PORT_NUMBER))
        hello = struct.pack("<64sI", b"rusbip tests", CAPABILITIES)
        self.send_raw(_SHORT_HEADER.pack(HELLO, len(hello), 0) + hello)
        self.thread = threading.Thread(target=self._run, daemon=True, name="usbredir")
        self.thread.start()

    def close(self):
        """The end of the device and of the line."""
        self.cancel()
        os.write(self.wake[1], b"x")
        self.thread.join(vhci.SOON)
        assert not self.thread.is_alive()
        for end in (*self.wake, self.fd):
            os.close(end)
        for ident in (self.name, f"{self.name}-line"):
            monitor.unplug(ident)
        vhci.wait_for(lambda: not PORT.exists(), f"{PORT} to go", vhci.ENUMERATION)
        for ident in (f"{self.name}-port", self.name):
            vhci.wait_for(lambda ident=ident: self.forgotten(ident), f"{ident} to be free")

    @staticmethod
    def forgotten(ident: str) -> bool:
        """Remove a character device; it is in use for a moment longer than what used it."""
        try:
            monitor.qmp("chardev-remove", id=ident)
        except RuntimeError as error:
            return "not found" in str(error)
        return True

    def _run(self):
        data = bytearray()
        greeted = False
        while True:
            ready, _, _ = select.select([self.fd, self.wake[0]], [], [])
            if self.wake[0] in ready:
                return
            data += os.read(self.fd, 1 << 16)
            while True:
                head = _HEADER if greeted else _SHORT_HEADER
                size = head.size
                if len(data) < size:
                    break
                kind, length, ident = head.unpack_from(data)
                if len(data) < size + length:
                    break
                body = bytes(data[size:size + length])
                del data[:size + length]
                with self.lock:
                    if not greeted:
                        assert kind == HELLO
                        greeted = True
                        self.introduce()
                    else:
                        self.packet(kind, ident, body)

    @staticmethod
    def pack(kind: int, ident: int, body: bytes) -> bytes:
        """A packet."""
        return _HEADER.pack(kind, len(body), ident) + body

    def write(self, kind: int, ident: int, body: bytes):
        """Send a packet."""
        self.send_raw(self.pack(kind, ident, body))

    def send_raw(self, data: bytes):
        """Send bytes, all of them."""
        while data:
            select.select([], [self.fd], [])
            data = data[os.write(self.fd, data):]

    # --- what the device is -------------------------------------------------------------------

    def introduce(self):
        """Interfaces and endpoints, and then the plug."""
        self.describe()
        vendor, product = self.model.ids
        self.write(CONNECT, 0, struct.pack("<BBBBHHH", SPEEDS[self.model.speed],
                                           *self.model.device_class, vendor, product, 0x0100))

    def describe(self):
        """Interfaces and endpoints of the configuration that is active."""
        interfaces = self.model.configurations.get(self.model.configuration, [])
        table = [bytes(range(len(interfaces))), *(bytes([one] * len(interfaces))
                                                  for one in self.model.cls)]
        self.write(INTERFACE_INFO, 0, struct.pack("<I32s32s32s32s", len(interfaces), *table))
        kinds, intervals, owners, sizes = [255] * 32, [0] * 32, [0] * 32, [0] * 32
        kinds[0] = kinds[16] = 0
        for number, alternates in enumerate(interfaces):
            for one in alternates[self.model.settings.get(number, 0)]:
                at = (one.address & 15) + (16 if one.address & 0x80 else 0)
                kinds[at], intervals[at] = one.attributes, one.interval
                owners[at], sizes[at] = number, one.packet
        self.write(EP_INFO, 0, struct.pack("<32B32B32B32H", *kinds, *intervals, *owners, *sizes))

    def endpoint(self, address: int):
        """The endpoint with this address."""
        return next((one for one in self.model.endpoints(self.model.configuration,
                                                         self.model.settings)
                     if one.address == address), None)

    # --- packets of the host ------------------------------------------------------------------

    def packet(self, kind: int, ident: int, body: bytes):
        """What QEMU wants."""
        if kind == RESET:
            self.resets += 1
            self.model.configuration, self.model.settings = 0, {}
            self.forget()
        elif kind in (SET_CONFIGURATION, GET_CONFIGURATION, SET_ALT, GET_ALT):
            self.asked(ident, kind, self.standard(kind, body), b"")
        elif kind == CONTROL:
            _, request, request_type, _, value, index, length = _CONTROL.unpack_from(body)
            setup = Setup(request_type, request, value, index, length)
            self.asked(ident, kind, setup, body[_CONTROL.size:])
        elif kind == BULK:
            address, _, low, _, high = _BULK.unpack_from(body)
            self.enqueue(Request(kind, ident, address, high << 16 | low, body[_BULK.size:]))
        elif kind == INTERRUPT:
            address, _, length = _SHORT.unpack_from(body)
            self.enqueue(Request(kind, ident, address, length, body[_SHORT.size:]))
        elif kind == ISO:
            self.iso_out.put(body[_SHORT.size:])
        elif kind in (START_ISO, STOP_ISO):
            address = body[0]
            self.isochronous[address] = kind == START_ISO
            self.write(ISO_STATUS, ident, bytes([SUCCESS, address]))
        elif kind in (START_INTERRUPT, STOP_INTERRUPT):
            address = body[0]
            (self.interrupts.add if kind == START_INTERRUPT else self.interrupts.discard)(address)
            self.write(INTERRUPT_STATUS, ident, bytes([SUCCESS, address]))
            self.match(address)
        elif kind == CANCEL:
            self.cancelled(ident)

    @staticmethod
    def standard(kind: int, body: bytes) -> Setup:
        """Requests that have packets of their own, as they are on the bus."""
        return {SET_CONFIGURATION: lambda: Setup(0, 9, body[0], 0, 0),
                GET_CONFIGURATION: lambda: Setup(0x80, 8, 0, 0, 1),
                SET_ALT: lambda: Setup(1, 11, body[1], body[0], 0),
                GET_ALT: lambda: Setup(0x81, 10, 0, body[0], 1)}[kind]()

    def asked(self, ident: int, kind: int, setup: Setup, data: bytes):
        """A control request: recorded, then answered or held."""
        self.requests.append((setup, data))
        if self.hold(setup):
            self.held.put(Held(self, ident, setup, kind))
        else:
            self.control(ident, setup, kind)

    def control(self, ident: int, setup: Setup, kind: int):
        """Answer a control request as the model does."""
        answer = self.model.answer(setup)
        if answer is not None and (setup.request_type, setup.request) == (0, 9):
            self.model.configuration, self.model.settings = setup.value, {}
            self.forget()
            self.describe()
        elif answer is not None and (setup.request_type, setup.request) == (1, 11):
            self.model.settings = self.model.settings | {setup.index: setup.value}
            self.describe()
        self.answer_control(ident, setup, kind, answer)
        if (setup.request_type, setup.request, setup.value) == (2, 1, 0):
            self.match(setup.index)

    def answer_control(self, ident: int, setup: Setup, kind: int, answer):
        """A control request is done; None stalls it."""
        status = STALL if answer is None else SUCCESS
        if kind in (SET_CONFIGURATION, GET_CONFIGURATION):
            self.write(CONFIGURATION_STATUS, ident, bytes([status, self.model.configuration]))
        elif kind in (SET_ALT, GET_ALT):
            self.write(ALT_STATUS, ident, bytes([
                status, setup.index, self.model.settings.get(setup.index, 0)]))
        else:
            length = setup.length if answer is not None else 0
            if setup.request_type & 0x80:
                length = len(answer or b"")
            self.write(CONTROL, ident, _CONTROL.pack(
                0x80 if setup.request_type & 0x80 else 0, setup.request, setup.request_type, status,
                setup.value, setup.index, length)
                + (answer or b"" if setup.request_type & 0x80 else b""))

    # --- endpoints ----------------------------------------------------------------------------

    def enqueue(self, request: Request):
        """The host wants something of an endpoint."""
        self.waiting.setdefault(request.address, []).append(request)
        self.match(request.address)

    def _ready(self, transfer: Ready) -> Ready:
        with self.lock:
            self.ready.setdefault(transfer.address, []).append(transfer)
            self.match(transfer.address)
        return transfer

    def send(self, ep: int, data: bytes, zero: bool = False) -> Ready:
        """As :meth:`host_gadget.Gadget.send`."""
        return self._ready(Ready(0x80 | ep, len(data), bytes(data), zero))

    def receive(self, ep: int, length: int) -> Ready:
        """As :meth:`host_gadget.Gadget.receive`."""
        return self._ready(Ready(ep, length, None, False))

    def unasked(self, ep: int):
        """Wait until the device knows that the host wants nothing of an OUT endpoint. What QEMU
        takes back for the host is on the line to here when the host has its answer already: what
        the device got ready in between would still take from the old request."""
        vhci.wait_for(lambda: not self.waiting.get(ep), f"endpoint {ep} to have no request")

    def send_iso(self, ep: int, packets: list):
        """Isochronous packets for the host, which takes one for each of its own. They are on the
        line together: QEMU does not wait for one that is late."""
        with self.lock:
            self.send_raw(b"".join(
                self.pack(ISO, 0, _SHORT.pack(0x80 | ep, SUCCESS, len(data)) + data)
                for data in packets))

    def halt(self, address: int):
        """Halt an endpoint."""
        with self.lock:
            self.model.halted.add(address)
            self.match(address)

    def match(self, address: int):
        """Move what can be moved on an endpoint."""
        waiting, ready = (table.setdefault(address, []) for table in (self.waiting, self.ready))
        if address in self.model.halted:
            while waiting:
                self.answer(waiting.pop(0), STALL)
            return
        if address in self.interrupts:
            while ready:
                one = ready.pop(0)
                self.write(INTERRUPT, 0, _SHORT.pack(address, SUCCESS, one.length) + one.data)
                one.finish()
            return
        endpoint = self.endpoint(address)
        while waiting and ready and endpoint:
            (self.move_in if address & 0x80 else self.move_out)(waiting, ready, endpoint.packet)

    def move_in(self, waiting: list, ready: list, packet: int):
        """From the first that is ready to the first that waits, by the rules of the bus: a short
        packet ends both."""
        request, one = waiting[0], ready[0]
        room = request.length - len(request.gathered)
        left = one.data[one.gone:]
        request.gathered += left[:room]
        request.parts.append((one, min(room, len(left))))
        one.gone += min(room, len(left))
        if len(left) > room and room % packet:
            # The last packet was longer than what the host has room for.
            self.answer(waiting.pop(0), BABBLE)
            ready.pop(0).finish()
            return
        over = one.gone == one.length
        short = over and (one.length % packet or not one.length or one.zero)
        if len(request.gathered) == request.length or short:
            self.answer(waiting.pop(0), SUCCESS)
            short = short and (one.length % packet or len(request.gathered) < request.length
                               or not one.length)
        if over and (short or not one.zero):
            ready.pop(0).finish()

    def move_out(self, waiting: list, ready: list, packet: int):
        """The same in the other direction."""
        request, one = waiting[0], ready[0]
        room = one.length - len(one.got)
        left = request.data[request.taken:]
        one.got += left[:room]
        request.taken += min(room, len(left))
        if request.taken == len(request.data):
            self.answer(waiting.pop(0), SUCCESS)
            short = len(request.data) % packet or not request.data
            if short or len(one.got) == one.length:
                ready.pop(0).finish()
        elif len(one.got) == one.length:
            ready.pop(0).finish()

    def answer(self, request: Request, status: int):
        """A request of the host is done."""
        data = request.gathered if request.address & 0x80 else b""
        length = len(data) if request.address & 0x80 else request.taken
        if request.kind == BULK:
            head = _BULK.pack(request.address, status, length & 0xFFFF, 0, length >> 16)
        else:
            head = _SHORT.pack(request.address, status, length)
        self.write(request.kind, request.ident, head + data)
        self.answered[request.ident] = request
        for ident in list(self.answered)[:-64]:
            del self.answered[ident]

    def cancelled(self, ident: int):
        """The host takes something back, which has to be answered all the same. If it was answered
        already, the answer came too late: nothing has left the device."""
        if (late := self.answered.pop(ident, None)) is not None:
            self.put_back(late)
        for waiting in self.waiting.values():
            for request in [one for one in waiting if one.ident == ident]:
                waiting.remove(request)
                self.put_back(request)
                request.gathered = b""
                self.answer(request, CANCELLED)
        if late is not None:
            self.match(late.address)

    def put_back(self, request: Request):
        """What a request had got is the next one's."""
        ready = self.ready.setdefault(request.address, [])
        for one, count in reversed(request.parts):
            one.gone -= count
            if one not in ready:
                one.done.clear()
                ready.insert(0, one)
        request.parts = []

    def forget(self):
        """The endpoints start anew."""
        self.waiting, self.answered, self.interrupts = {}, {}, set()
        self.isochronous = {}
        self.model.halted.clear()

    def cancel(self, addresses=None):
        """Take back what is ready on these endpoints, or on all."""
        with self.lock:
            for address in list(self.ready) if addresses is None else addresses:
                for one in self.ready.pop(address, []):
                    one.finish(InterruptedError("cancelled"))

    def taken(self) -> tuple:
        """The last control request and the data that came with it."""
        return self.requests[-1]

    @property
    def busid(self) -> str:
        """The bus id of the device; it has to be plugged in."""
        return vhci.wait_for(self.find, "the device on QEMU's controller", vhci.ENUMERATION)

    def find(self):
        """Its bus id, or None."""
        wanted = tuple(f"{one:04x}" for one in self.model.ids)
        for path in vhci.USB.glob("[0-9]*-*"):
            try:
                ids = tuple((path / name).read_text().strip() for name in ("idVendor", "idProduct"))
            except OSError:
                continue
            if ids == wanted and "/pci" in str(path.resolve()):
                return path.name
        return None
