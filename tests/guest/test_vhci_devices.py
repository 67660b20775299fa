# SPDX-License-Identifier: GPL-2.0
"""The kernel's own drivers on the test server's devices: storage, keyboard, audio, usbtest."""

import hashlib
import os
import random
import re
import select
import struct
import subprocess
import time
from pathlib import Path

import pytest

import peer_sound
import vhci
from vhci_server import Server, need, usbip
from vhci_session import beyond_c

pytest_plugins = ("vhci_fixtures",)


# The debug kernels are slow and see the same code at each speed: there one speed is enough for what
# takes long.
STOCK = pytest.mark.lanes("stock")


def modprobe(*names: str):
    for name in names:
        done = subprocess.run(["modprobe", name], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this kernel has no {name}")


def run(*command: str, timeout: float = 60, **more) -> subprocess.CompletedProcess:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout * vhci.SLACK,
                          check=False, **more)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done


@pytest.fixture
def attach():
    """attach(device, …) → (server, [sysfs directories]); everything ends with the test."""
    servers = []

    def start(*devices):
        need("usbip-test-server")
        server = Server(*devices)
        servers.append(server)
        numbers = [server.attach(f"1-{n + 1}") for n in range(len(devices))]
        server.numbers = numbers
        return server, [vhci.USB / vhci.port(number).busid for number in numbers]

    yield start
    for server in servers:
        for number in server.numbers:
            if vhci.port(number).state != vhci.NULL:
                usbip("detach", "-p", str(number))
            vhci.wait_free(number)
        server.stop()


def interface_driver(path: Path) -> str:
    link = path / f"{path.name}:1.0" / "driver"
    return vhci.wait_for(lambda: link.exists() and link.resolve().name, f"a driver for {path}")


# --- storage ----------------------------------------------------------------------------------

def disk_of(path: Path) -> str:
    """The block device of a disk, once it can be read."""
    def find():
        for block in path.glob("*/host*/target*/*/block/*"):
            try:
                with open(f"/dev/{block.name}", "rb") as disk:
                    return disk.read(512) and disk.name
            except OSError:
                pass
        return None

    return vhci.wait_for(find, f"the disk of {path}", vhci.ENUMERATION)


@pytest.fixture
def storage():
    modprobe("usb_storage", "sd_mod")


@pytest.mark.parametrize("speed", [pytest.param("full", marks=STOCK),
                                   pytest.param("high", marks=STOCK), "super", "super-plus"])
def test_disk_content(attach, storage, tmp_path, speed):
    """What is written is in the image, and what is in the image is read."""
    image = tmp_path / "image"
    size = 1 << 20 if speed == "full" else 4 << 20
    content = random.Random(speed).randbytes(size)
    image.write_bytes(content)
    _, (path,) = attach(f"disk,file={image},speed={speed}")
    # s59: streams are not offered, so never uas.
    assert interface_driver(path) == "usb-storage"
    disk = disk_of(path)
    with open(disk, "rb") as block:
        assert hashlib.sha256(block.read()).digest() == hashlib.sha256(content).digest()
    new = random.Random(9).randbytes(300 * 1024)
    with open(disk, "r+b") as block:
        block.seek(123 * 512)
        block.write(new)
        block.flush()
        os.fsync(block.fileno())
    content = content[:123 * 512] + new + content[123 * 512 + len(new):]
    assert image.read_bytes() == content
    # The next read is not answered from memory.
    run("blockdev", "--flushbufs", disk)
    with open(disk, "rb") as block:
        assert block.read() == content


@pytest.mark.parametrize("speed", ["high", pytest.param("super", marks=STOCK)])
def test_filesystem_survives_reattach(attach, storage, tmp_path, speed):
    server, (path,) = attach(f"disk,size=24M,speed={speed}")
    disk = disk_of(path)
    run("mke2fs", "-q", "-F", disk)
    mount = tmp_path / "mnt"
    mount.mkdir()
    data = random.Random(4).randbytes(6 << 20)
    run("mount", disk, str(mount))
    try:
        (mount / "file").write_bytes(data)
    finally:
        run("umount", str(mount))
    usbip("detach", "-p", str(server.numbers[0]))
    vhci.wait_free(server.numbers[0])
    vhci.wait_for(lambda: not path.exists(), "the device to go")
    vhci.wait_for(lambda: " 1-1: " in server.usbip("list", "-r", "127.0.0.1").stdout,
                  "the server to have its device back")
    server.numbers[0] = server.attach("1-1")
    disk = disk_of(vhci.USB / vhci.port(server.numbers[0]).busid)
    run("mount", "-o", "ro", disk, str(mount))
    try:
        assert (mount / "file").read_bytes() == data
    finally:
        run("umount", str(mount))
    run("e2fsck", "-fn", disk)


def test_disk_peer_liberties(attach, storage, tmp_path):
    """Echoed headers, -1 packets and tiny segments change nothing."""
    image = tmp_path / "image"
    image.write_bytes(random.Random(1).randbytes(1 << 20))
    _, (path,) = attach(f"disk,file={image},echo,packets=-1,segment=1000")
    with open(disk_of(path), "rb") as block:
        assert block.read() == image.read_bytes()


def test_write_protected(attach, storage):
    _, (path,) = attach("disk,size=1M,ro")
    disk = disk_of(path)
    assert Path(f"/sys/block/{Path(disk).name}/ro").read_text() == "1\n"
    assert vhci.errno_of(os.open, disk, os.O_RDWR) in ("EACCES", "EROFS")


def test_detach_while_writing(attach, storage):
    """Unplugging in full flow ends writers with an error, in bounded time."""
    server, (path,) = attach("disk,size=64M,speed=super")
    disk = disk_of(path)
    writer = subprocess.Popen(["dd", "if=/dev/zero", f"of={disk}", "bs=1M", "oflag=direct"],
                              stderr=subprocess.DEVNULL)
    stat = Path(f"/sys/block/{Path(disk).name}/stat")
    vhci.wait_for(lambda: int(stat.read_text().split()[4]) > 20, "some writes")
    vhci.detach(server.numbers[0])
    assert writer.wait(vhci.ENUMERATION) != 0
    vhci.wait_free(server.numbers[0])
    vhci.wait_for(lambda: not path.exists(), "the device to go")


# --- keyboard ---------------------------------------------------------------------------------

EVENT = struct.Struct("llHHi")
KEYS = {30: "a", 48: "b", 46: "c", 2: "1", 57: " ", 42: "shift", 28: "\n"}


@pytest.mark.parametrize("speed", ["low", "full", "high", "super"])
def test_s82_keyboard(attach, speed):
    """Keys arrive in order. usbhid submits the request for the next one within the completion of the
    last: a lock that is held there would be taken twice."""
    modprobe("usbhid", "evdev")
    server, (path,) = attach(f"keyboard,speed={speed}")
    assert interface_driver(path) == "usbhid"
    node = vhci.wait_for(lambda: next(iter(path.glob("*/*/input/input*/event*")), None),
                         "the input device")
    fd = os.open(vhci.wait_for(lambda: (p := f"/dev/input/{node.name}") and os.path.exists(p) and p,
                               "its node"), os.O_RDONLY)
    try:
        server.command("type 1-1 abC 1\\n")
        pressed = []
        end = time.monotonic() + vhci.ENUMERATION
        while KEYS.get(pressed[-1] if pressed else 0) != "\n":
            assert select.select([fd], [], [], end - time.monotonic())[0], pressed
            for at in range(0, len(raw := os.read(fd, 4096)), EVENT.size):
                _, _, kind, code, value = EVENT.unpack_from(raw, at)
                if kind == 1 and value == 1:
                    pressed.append(code)
        assert [KEYS[code] for code in pressed] == ["a", "b", "shift", "c", " ", "1", "\n"]
        assert server.command("waiting 1-1") in ("0", "1")
    finally:
        os.close(fd)


# --- audio ------------------------------------------------------------------------------------

@pytest.fixture(params=[pytest.param("full", marks=STOCK), "high",
                        pytest.param("super", marks=STOCK)])
def headset(attach, request):
    modprobe("snd_usb_audio")
    server, (path,) = attach(f"audio,speed={request.param}")
    card = vhci.wait_for(lambda: next(iter(path.glob("*/sound/card*")), None), "the sound card")
    vhci.wait_for(lambda: Path(f"/dev/snd/pcmC{card.name[4:]}D0p").exists(), "its node")
    return server, int(card.name[4:])


# ALSA gives up on a device that takes longer for a period than the whole buffer lasts; an
# emulated machine may be that slow with the buffer it would choose.
FORMAT = ("-f", "S16_LE", "-r", "48000", "-c", "2", "-t", "raw", "-q",
          "--buffer-time=2000000", "--period-time=50000")


def test_playback(headset, tmp_path):
    """Everything that arrives is what was played, from the first sample on."""
    server, card = headset
    data = random.Random(6).randbytes(48000 * 4 * 2)
    (tmp_path / "sound").write_bytes(data)
    server.command("clear 1-1")
    run("aplay", "-D", f"hw:{card}", *FORMAT, str(tmp_path / "sound"))
    server.command(f"recorded 1-1 {tmp_path}/played")
    played = (tmp_path / "played").read_bytes()
    # The driver may start with silence while it fills its queue, and stops its last URBs.
    start = played.find(data[:64])
    assert 0 <= start <= 48000 * 4 // 5 and not any(played[:start])
    body = played[start:]
    assert len(body) > len(data) * 0.9
    assert body[:len(data)] == data[:len(body)]


def test_capture(headset):
    """The device counts samples; none may be missing, doubled or misplaced."""
    _, card = headset
    raw = peer_sound.record(card, 48000 * 2, 2)
    samples = struct.unpack(f"<{len(raw) // 2}H", raw)
    left, right = samples[::2], samples[1::2]
    assert len(left) == 48000 * 2 and left == right
    assert not peer_sound.gaps(left, 0x10000)


# --- usbtest ----------------------------------------------------------------------------------

def usb_case(node: str, number: int, *, count=20, size=1024, vary=512, sglen=8) -> str:
    """Run one case; returns "pass", "skip" or the errno text that testusb prints."""
    done = subprocess.run([path_of_testusb(), "-D", node, "-t", str(number), "-c", str(count), "-s",
                           str(size), "-v", str(vary), "-g", str(sglen)], capture_output=True,
                          text=True, timeout=120 * vhci.SLACK, check=False)
    text = done.stdout + done.stderr
    if re.search(rf"test {number},\s+[\d.]+ secs", text):
        return "pass"
    failed = re.search(rf"test {number} --> (\d+)", text)
    return failed.group(1) if failed else "skip"


def path_of_testusb() -> str:
    for directory in (os.environ.get("RUSBIP_BIN", ""), "/usr/local/bin",
                      "/usr/local/lib/rusbip/bin"):
        path = Path(directory) / "testusb"
        if directory and path.exists():
            return str(path)
    pytest.skip("testusb has not been built")


@pytest.fixture
def usbtest(attach, request):
    """A source and sink bound to usbtest: (server, node)."""
    path_of_testusb()
    speed, alternate = request.param
    modprobe("usbtest")
    setting = Path("/sys/module/usbtest/parameters/alt")
    subprocess.run(["rmmod", "usbtest"], check=False, capture_output=True)
    run("modprobe", "usbtest", f"alt={alternate}" if setting or alternate >= 0 else "")
    server, (path,) = attach(f"zero,speed={speed}")
    assert interface_driver(path) == "usbtest"
    yield server, vhci.devnode(path)
    for number in server.numbers:
        if vhci.port(number).state != vhci.NULL:
            usbip("detach", "-p", str(number))
        vhci.wait_free(number)
    subprocess.run(["rmmod", "usbtest"], check=False, capture_output=True)


# Cases of usbtest by what they need. 11 and 12 unlink as fast as they can.
BULK = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 17, 18, 19, 20, 21, 24, 27, 28, 29]
UNLINK = [11, 12]
ISO = [15, 16, 22, 23]
INTERRUPT = [25, 26]


def run_cases(node, cases, **options):
    results = {number: usb_case(node, number, **options) for number in cases}
    assert not {number: result for number, result in results.items() if result != "pass"}


def run_every_case(node):
    """At a device of high speed with endpoints of every type."""
    assert sorted([*BULK, *UNLINK, *ISO, *INTERRUPT]) == list(range(30))
    run_cases(node, [*BULK, *INTERRUPT], count=5)
    # The last packet of a transfer is shorter than the others.
    run_cases(node, ISO, size=1000)
    run_cases(node, UNLINK, count=100)


@pytest.mark.parametrize("usbtest", [pytest.param(("full", -1), marks=STOCK),
                                     pytest.param(("high", -1), marks=STOCK), ("super", -1)],
                         indirect=True, ids=["full", "high", "super"])
def test_usbtest_bulk_and_control(usbtest):
    run_cases(usbtest[1], BULK)


@beyond_c
@pytest.mark.parametrize("usbtest", [("high", -1), ("super", -1)], indirect=True,
                         ids=["high", "super"])
def test_usbtest_unlink(usbtest):
    run_cases(usbtest[1], UNLINK, count=100)


@pytest.mark.parametrize("usbtest", [pytest.param(("full", 1), marks=STOCK), ("high", 1),
                                     pytest.param(("super", 1), marks=STOCK)],
                         indirect=True, ids=["full", "high", "super"])
def test_usbtest_iso(usbtest):
    run_cases(usbtest[1], ISO)


@pytest.mark.parametrize("usbtest", [("high", 2), ("super", 2)], indirect=True,
                         ids=["high", "super"])
def test_usbtest_interrupt(usbtest):
    run_cases(usbtest[1], INTERRUPT, size=64, vary=32)


@pytest.mark.parametrize("usbtest", [("super", -1)], indirect=True, ids=["super"])
def test_usbtest_large(usbtest):
    """1 MiB transfers, in one piece and as scatter lists."""
    run_cases(usbtest[1], [1, 2, 27, 28], count=5, size=1 << 20)
    run_cases(usbtest[1], [5, 6], count=3, size=1 << 16, sglen=16)
