# SPDX-License-Identifier: GPL-2.0
"""Virtual devices of an independent implementation (PyPI's `usbip`): drivers bind, data flows."""

import itertools
import os
import random
import select
import struct

import pytest
from usbip.classes.device import CDCACM, HID, MSC, UAC, UVC, hid
from usbip.core import SPEED_FULL, SPEED_HIGH

import peer_serial
import peer_sound
import peer_video
import vhci
from peer_python import Memory, device, plugged
from peer_stock import settle

pytest_plugins = ("vhci_fixtures",)
pytestmark = pytest.mark.lanes("stock")

INPUT_EVENT = struct.Struct("llHHi")
EV_KEY, EV_LED, LED_CAPSL = 1, 0x11, 1
# HID usages and Linux codes of the same keys.
KEYS = {0x04: 30, 0x1D: 44, 0x28: 28}


def read_until(fd: int, count: int) -> bytes:
    """At least `count` bytes from a descriptor that does not block."""
    got = b""

    def step():
        nonlocal got
        if select.select([fd], [], [], 0)[0]:
            got += os.read(fd, 65536)
        return len(got) >= count

    vhci.wait_for(step, f"{count} bytes", vhci.ENUMERATION)
    return got


@pytest.mark.parametrize("speed", [SPEED_FULL, SPEED_HIGH])
def test_disk(speed):
    store = Memory(1 << 20)
    data = random.Random(1).randbytes(len(store.data) // (1 if speed != SPEED_FULL else 4))
    with plugged(device(MSC(store), speed=speed)) as remote:
        fd = os.open(remote.disk(), os.O_RDWR)
        try:
            os.pwrite(fd, data, 0)
            os.fsync(fd)
            assert store.data[:len(data)] == data
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(fd, len(data), 0) == data
        finally:
            os.close(fd)


def test_keyboard():
    """Input reports become key events; the lamp that is switched on reaches the device."""
    lamps = []
    board = HID(hid.keyboard_report_descriptor(), subclass=hid.SUBCLASS_BOOT,
                protocol=hid.PROTOCOL_KEYBOARD, in_mps=8, on_output=lamps.append)
    with plugged(device(board, speed=SPEED_FULL)) as remote:
        remote.bound("usbhid")
        fd = os.open(remote.node("input/event*"), os.O_RDWR | os.O_NONBLOCK)
        try:
            expected = []
            for usage, code in KEYS.items():
                board.send_report(bytes([0, 0, usage, 0, 0, 0, 0, 0]))
                board.send_report(bytes(8))
                expected += [(code, 1), (code, 0)]
            seen = []

            def typed():
                if select.select([fd], [], [], 0)[0]:
                    seen.extend((code, value) for _, _, kind, code, value in
                                INPUT_EVENT.iter_unpack(os.read(fd, 64 * INPUT_EVENT.size))
                                if kind == EV_KEY)
                return len(seen) >= len(expected)

            vhci.wait_for(typed, f"{expected}")
            assert seen == expected
            lamps.clear()
            os.write(fd, INPUT_EVENT.pack(0, 0, EV_LED, LED_CAPSL, 1))
            vhci.wait_for(lambda: lamps, "the lamp")
            assert lamps == [b"\x02"]
        finally:
            os.close(fd)


def test_raw_hid():
    """Reports both ways over interrupt endpoints."""
    got = []
    raw = HID(hid.vendor_report_descriptor(16, 16), in_mps=16, in_interval=1, out_ep=0x02,
              out_mps=16, out_interval=1, on_output=got.append)
    reports = [random.Random(seed).randbytes(16) for seed in range(50)]
    with plugged(device(raw, speed=SPEED_HIGH)) as remote:
        fd = os.open(remote.node("hidraw/hidraw*"), os.O_RDWR | os.O_NONBLOCK)
        try:
            for report in reports:
                # Report number 0: this device has one kind of report.
                assert os.write(fd, b"\0" + report) == 17
                raw.send_report(report[::-1])
                assert read_until(fd, 16) == report[::-1]
            assert got == reports
        finally:
            os.close(fd)


def test_serial():
    """An echo; the speed of the line is what stty said."""
    rates = []
    port = CDCACM(on_line_coding=lambda _, coding: rates.append(coding.baud))
    data = random.Random(7).randbytes(20000)
    with plugged(device(port, speed=SPEED_HIGH)) as remote:
        remote.bound("cdc_acm", "cdc_acm")
        fd = peer_serial.raw(remote.node("tty/ttyACM*"), "57600")
        try:
            assert rates[-1] == 57600
            got = b""
            for start in range(0, len(data), 2000):
                assert os.write(fd, data[start:start + 2000]) == 2000
                got += peer_serial.read(fd, 2000)
            assert got == data
        finally:
            os.close(fd)


@pytest.mark.parametrize("speed", [SPEED_FULL, SPEED_HIGH])
def test_speaker(speed, tmp_path):
    """Every sample that is played reaches the device, in order and without a gap."""
    heard = bytearray()
    noise = peer_sound.noise(peer_sound.RATE // 4, 2)
    sound = UAC(spk_sink=lambda _, packet: heard.extend(packet))
    with plugged(device(sound, speed=speed, paced=True)) as remote:
        remote.bound(*["snd-usb-audio"] * 3)
        peer_sound.play(remote, tmp_path, noise, 2)
        assert noise in bytes(heard)


@pytest.mark.parametrize("speed", [SPEED_FULL, SPEED_HIGH])
def test_microphone(speed):
    """Samples that are counted by the device are recorded without a gap."""
    # Made beforehand, as there is little time for a packet: one second, over and over.
    numbers = b"".join(struct.pack("<H", number) for number in range(peer_sound.RATE)) * 2

    def count(_, frames, first):
        start = first % peer_sound.RATE * 2
        return numbers[start:start + frames * 2]

    with plugged(device(UAC(mic_source=count), speed=speed, paced=True)) as remote:
        card = peer_sound.card(remote)
        settle()
        data = peer_sound.record(card, peer_sound.RATE // 4, 1)
    samples = [number for number, in struct.iter_unpack("<H", data)]
    assert len(samples) == peer_sound.RATE // 4
    assert not peer_sound.gaps(samples, peer_sound.RATE)


def test_camera():
    """Frames arrive whole, each once, in order."""
    width, height, count = 80, 60, 6

    def picture(_, kind, index):
        assert kind == "Y"
        return random.Random(index).randbytes(width * height * 2)

    camera = UVC(width, height, 15, source=picture)
    with plugged(device(camera, speed=SPEED_FULL, paced=True)) as remote:
        remote.bound("uvcvideo", "uvcvideo")
        node = remote.node("video4linux/video*")
        with peer_video.capture(node, width, height, buffers=count) as frames:
            got = list(itertools.islice(frames, count))
    assert got == [(index, picture(None, "Y", index)) for index in range(count)]
