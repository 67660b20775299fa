# SPDX-License-Identifier: GPL-2.0
"""A security key and who asks it: CTAPHID, the packets of FIDO keys (FIDO CTAP 2.1, 11.2), and the one
U2F command that needs no touch (FIDO U2F raw messages 1.2, 6)."""

import contextlib
import os
import select
import struct
import threading

import vhci
from peer_stock import Remote

REPORT = 64
FIRST, NEXT = struct.Struct(">IBH57s"), struct.Struct(">IB59s")
PING, MSG, INIT, ERROR = 0x81, 0x83, 0x86, 0xBF
EVERYBODY, CHANNEL = 0xFFFFFFFF, 0x12345678
INVALID_COMMAND = 1
# The APDU of U2F_VERSION, and the answer: success.
VERSION, U2F_V2 = bytes([0, 3, 0, 0, 0, 0, 0]), b"U2F_V2\x90\x00"
# A message of as many packets as hidraw keeps of those that nobody has read yet (HIDRAW_BUFFER_SIZE, less
# one); it drops what is more. In FIDO a message can be twice as long.
MOST = 57 + 62 * 59


def packets(channel: int, command: int, data: bytes) -> list:
    """The packets of a message."""
    found = [FIRST.pack(channel, command, len(data), data[:57])]
    return found + [NEXT.pack(channel, number, data[at:at + 59])
                    for number, at in enumerate(range(57, len(data), 59))]


class Line:
    """A file of reports, of a key or of who asks one."""

    def __init__(self, node: str, numbered: bool):
        self.fd = os.open(node, os.O_RDWR)
        # Who writes to hidraw says which report it is.
        self.prefix = b"\0" if numbered else b""

    def send(self, channel: int, command: int, data: bytes = b""):
        for packet in packets(channel, command, data):
            os.write(self.fd, self.prefix + packet)

    def receive(self, end: int | None = None) -> tuple | None:
        """(channel, command, data) of the next message; None when there is something at `end`."""
        packet = self.packet(end)
        if packet is None:
            return None
        channel, command, length, data = FIRST.unpack(packet)
        for number in range(128):
            if len(data) >= length:
                break
            its_channel, its_number, more = NEXT.unpack(self.packet())
            assert (its_channel, its_number) == (channel, number)
            data += more
        return channel, command, data[:length]

    def packet(self, end: int | None = None) -> bytes | None:
        wait = [self.fd] if end is None else [self.fd, end]
        ready, _, _ = select.select(wait, [], [], vhci.SOON if end is None else None)
        assert ready, "nothing comes"
        if end in ready:
            return None
        packet = os.read(self.fd, REPORT)
        assert len(packet) == REPORT
        return packet

    def close(self):
        os.close(self.fd)


@contextlib.contextmanager
def answered(node: str):
    """Plays the key, whose reports go through this file."""
    key = Line(node, numbered=False)
    end = os.pipe()

    def answer(channel: int, command: int, data: bytes):
        if (channel, command) == (EVERYBODY, INIT):
            # Nonce, the new channel, version of the protocol and of the device, no capabilities.
            key.send(channel, INIT, data + struct.pack(">IBBBBB", CHANNEL, 2, 1, 0, 0, 0))
        elif command == PING:
            key.send(channel, PING, data)
        elif (command, data) == (MSG, VERSION):
            key.send(channel, MSG, U2F_V2)
        else:
            key.send(channel, ERROR, bytes([INVALID_COMMAND]))

    def play():
        while message := key.receive(end[0]):
            answer(*message)

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield
    finally:
        os.write(end[1], b".")
        thread.join(vhci.SOON)
        assert not thread.is_alive()
        for fd in end:
            os.close(fd)
        key.close()


def check(device: Remote, node: str):
    """An attached key is asked what browsers ask one first. `node` is the file of the key itself."""
    device.bound("usbhid")
    host = Line(device.node("hidraw/hidraw*"), numbered=True)
    try:
        with answered(node):
            nonce = os.urandom(8)
            host.send(EVERYBODY, INIT, nonce)
            channel, command, data = host.receive()
            assert (channel, command, data[:12]) == (
                EVERYBODY, INIT, nonce + struct.pack(">I", CHANNEL))
            for length in (0, 1, 57, 58, 1024, MOST):
                data = os.urandom(length)
                host.send(CHANNEL, PING, data)
                assert host.receive() == (CHANNEL, PING, data)
            host.send(CHANNEL, MSG, VERSION)
            assert host.receive() == (CHANNEL, MSG, U2F_V2)
            host.send(CHANNEL, MSG, b"?")
            assert host.receive() == (CHANNEL, ERROR, bytes([INVALID_COMMAND]))
    finally:
        host.close()
