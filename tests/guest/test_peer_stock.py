# SPDX-License-Identifier: GPL-2.0
"""QEMU's devices through Debian's usbipd and the C usbip-host: what users do with them works.
Nothing at the other end knows this client."""

import contextlib
import hashlib
import os
import random
import select
import struct
import subprocess
from pathlib import Path

import pytest

import peer_sound
import peer_stock
import vhci
import vhci_usbfs as usbfs
from peer_stock import attached, available, exported, run

pytest_plugins = ("vhci_fixtures",)
pytestmark = pytest.mark.lanes("stock")

MIB = 1 << 20
# Where the files end up on a fresh FAT file system.
AREA_MIB = 8
# What QEMU's sound card plays.
SINK = Path("/out/usb-audio.wav")
INPUT_EVENT = struct.Struct("llHHi")
EV_KEY = 1
# Linux key codes of what is typed.
CODES = {"u": 22, "s": 31, "b": 48, "i": 23, "p": 25}


@pytest.fixture(scope="module")
def daemon():
    """usbipd runs, usbip-host is loaded."""
    one = peer_stock.Daemon()
    yield one
    one.stop()


@pytest.fixture
def remote(daemon):
    """A function that exports and attaches one of QEMU's devices."""
    with contextlib.ExitStack() as stack:
        yield lambda name: stack.enter_context(attached(stack.enter_context(exported(name))))


def checksum(node) -> str:
    """Of the file system on a disk, past all caches."""
    digest = hashlib.sha256()
    subprocess.run(["blockdev", "--flushbufs", node], check=True)
    with open(node, "rb") as disk:
        for _ in range(AREA_MIB):
            digest.update(disk.read(MIB))
    return digest.hexdigest()


def files(folder) -> dict:
    """Name → checksum of the files in a folder."""
    return {one.name: hashlib.sha256(one.read_bytes()).hexdigest()
            for one in Path(folder).iterdir() if one.is_file()}


def mounted(node, folder, look, *options):
    """The value of look(folder) with a disk mounted there."""
    run("mount", *options, node, str(folder))
    try:
        return look(folder)
    finally:
        run("umount", str(folder))


def test_storage(daemon, tmp_path):
    """Files written through vhci are the same after a new attach, and on the disk itself."""
    content = {f"{size}.bin": random.Random(size).randbytes(size)
               for size in (0, 1, 511, 4096, 65537, 2 * MIB + 17)}
    written = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}

    def fill(folder):
        for name, data in content.items():
            (folder / name).write_bytes(data)

    with exported("storage") as number:
        with attached(number) as device:
            disk = device.disk()
            mounted(disk, tmp_path, fill)
            before = checksum(disk)
        available(number)
        with attached(number) as device:
            disk = device.disk()
            assert checksum(disk) == before
            assert mounted(disk, tmp_path, files, "-o", "ro").items() >= written.items()
    # Not through vhci any more.
    local = vhci.wait_for(lambda: local_disk(number), "the disk itself", vhci.ENUMERATION)
    assert checksum(local) == before


def local_disk(number: str):
    """The node of the disk with this bus id."""
    for block in Path("/sys/block").glob("sd*"):
        if f"/{number}/" in str(block.resolve()) and int((block / "size").read_text()):
            return f"/dev/{block.name}"
    return None


def test_keyboard(remote, machine):
    """Keys pressed at QEMU's keyboard arrive as events of the device below vhci_hcd."""
    device = remote("kbd")
    device.bound("usbhid")
    fd = os.open(device.node("input/event*"), os.O_RDONLY | os.O_NONBLOCK)
    try:
        seen = []
        for key in "usbip":
            machine.press(key)
            expected = [*seen, (CODES[key], 1), (CODES[key], 0)]

            def arrived():
                if select.select([fd], [], [], 0)[0]:
                    data = os.read(fd, INPUT_EVENT.size * 64)
                    seen.extend((code, value) for _, _, kind, code, value
                                in INPUT_EVENT.iter_unpack(data) if kind == EV_KEY)
                return len(seen) >= len(expected)

            vhci.wait_for(arrived, f"key {key} after {seen}")
            assert seen == expected
    finally:
        os.close(fd)


def test_serial(remote):
    """What goes into one end of the line comes out of the other, both ways at once."""
    device = remote("serial")
    device.bound("ftdi_sio")
    node = device.node("tty/ttyUSB*")
    run("stty", "-F", node, "raw", "-echo", "115200")
    ends = {"device": os.open(node, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK),
            "port": os.open("/dev/virtio-ports/rusbip.serial", os.O_RDWR | os.O_NONBLOCK)}
    try:
        sent = {name: random.Random(name).randbytes(4000) for name in ends}
        left = dict(sent)
        got = {name: b"" for name in ends}

        def step():
            for name, fd in ends.items():
                readable, writable, _ = select.select([fd], [fd] if left[name] else [], [], 0)
                if readable:
                    got[name] += os.read(fd, 4096)
                if writable:
                    left[name] = left[name][os.write(fd, left[name][:256]):]
            return len(got["device"]) >= 4000 and len(got["port"]) >= 4000

        vhci.wait_for(step, "4000 bytes each way", vhci.ENUMERATION)
        assert got == {"device": sent["port"], "port": sent["device"]}
    finally:
        for fd in ends.values():
            os.close(fd)


# CCID, Rev 1.1, chapter 6: PC_to_RDR_GetSlotStatus and RDR_to_PC_SlotStatus.
GET_SLOT_STATUS, SLOT_STATUS = 0x65, 0x81
NO_CARD = 2


def slot_status(device, ends, sequence: int) -> bytes:
    """Asks the reader for the state of slot 0; returns the answer."""
    answer = device.submit(usbfs.bulk_in(ends["in"], 64))
    device.submit(usbfs.bulk_out(ends["out"], struct.pack("<BIBB3x", GET_SLOT_STATUS, 0, 0,
                                                          sequence)))
    urbs = device.reap_all(2, vhci.SOON)
    assert [urb.status for urb in urbs] == [0, 0]
    return answer.data()[:answer.actual]


def test_smart_card_reader(remote):
    """Commands are answered while an interrupt request waits, and that one can be taken back."""
    device = remote("ccid")
    ends = {}
    for folder in device.path.glob(f"{device.path.name}:1.0/ep_*"):
        kind = (folder / "type").read_text().strip()
        way = (folder / "direction").read_text().strip()
        ends["event" if kind == "Interrupt" else way] = int(folder.name[3:], 16) & 0x0F
    assert sorted(ends) == ["event", "in", "out"]
    with usbfs.Device(device.usbfs()) as reader:
        reader.claim()
        event = reader.submit(usbfs.interrupt_in(ends["event"], 8))
        for sequence in range(1, 21):
            assert slot_status(reader, ends, sequence) == struct.pack(
                "<BIBBBBB", SLOT_STATUS, 0, 0, sequence, NO_CARD, 0, 0)
        assert not event.reaped
        reader.discard(event)
        assert reader.reap() is event
        assert (event.status, event.actual) == (-2, 0)
        assert slot_status(reader, ends, 21)[6] == 21


def test_headset(remote, tmp_path):
    """Every sample that is played comes out of QEMU's sound card, in order and without a gap."""
    noise = peer_sound.noise(peer_sound.RATE // 2, 2)
    device = remote("audio")
    device.bound("snd-usb-audio", "snd-usb-audio")
    # QEMU scales what it plays; by one at the loudest.
    run("amixer", "-q", "-c", str(peer_sound.card(device)), "sset",
        "Audio Output Volume Control", "100%")
    peer_sound.play(device, tmp_path, noise, 2)
    vhci.wait_for(lambda: noise in SINK.read_bytes(), f"the samples in {SINK}")
