# SPDX-License-Identifier: GPL-2.0
"""What is written to a disk and read from it, by files and by blocks, and the checksum of that on
either machine."""

import contextlib
import hashlib
import mmap
import os
import random
import subprocess
import threading
from pathlib import Path

import vhci
from peer_stock import Remote, run

MIB = 1 << 20
# Where the files end up on a fresh FAT file system; beyond this nothing is in use.
AREA = 8 * MIB
CONTENT = {f"{size}.bin": random.Random(size).randbytes(size)
           for size in (0, 1, 511, 4096, 65537, 2 * MIB + 17)}
# Name → checksum of each.
WRITTEN = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}


def fill(folder: Path):
    """Writes CONTENT."""
    for name, data in CONTENT.items():
        (folder / name).write_bytes(data)


def files(folder: Path) -> dict:
    """Name → checksum of the files in a folder."""
    return {one.name: hashlib.sha256(one.read_bytes()).hexdigest()
            for one in folder.iterdir() if one.is_file()}


def mounted(node: str, folder: Path, look, *options: str):
    """The value of look(folder) with a disk mounted there."""
    run("mount", *options, node, str(folder))
    try:
        return look(folder)
    finally:
        run("umount", str(folder))


def write(node: str, offset: int, data: bytes):
    """Writes to a disk, and returns when it is there."""
    fd = os.open(node, os.O_WRONLY)
    try:
        assert os.pwrite(fd, data, offset) == len(data)
        os.fsync(fd)
    finally:
        os.close(fd)


def checksum(node: str, offset: int = 0, length: int = AREA) -> str:
    """Of a part of a disk, past all caches; that of the file system unless told otherwise."""
    digest = hashlib.sha256()
    subprocess.run(["blockdev", "--flushbufs", node], check=True)
    with open(node, "rb") as disk:
        disk.seek(offset)
        for left in range(length, 0, -MIB):
            digest.update(disk.read(min(left, MIB)))
    return digest.hexdigest()


def local_checksum(number: str, *part: int) -> str:
    """The same of the disk with this bus id, on the machine that it is plugged into."""
    node = vhci.wait_for(lambda: local_disk(number), "the disk itself", vhci.ENUMERATION)
    return checksum(node, *part)


def local_disk(number: str):
    """The node of the disk with this bus id."""
    for block in Path("/sys/block").glob("sd*"):
        if f"/{number}/" in str(block.resolve()) and int((block / "size").read_text()):
            return f"/dev/{block.name}"
    return None


def check_image(device: Remote, content: bytes) -> bytes:
    """A disk has what is in its image, and takes something new; returns what the image should have
    in the end."""
    disk = device.disk()
    with open(disk, "rb") as block:
        assert hashlib.sha256(block.read()).digest() == hashlib.sha256(content).digest()
    new, offset = random.Random(9).randbytes(200 * 1024), 100 * 512
    write(disk, offset, new)
    return content[:offset] + new + content[offset + len(new):]


class Traffic:
    """Reads a block of a disk over and over, past all caches, until that fails or the context
    ends."""

    BLOCK = 1 << 16

    def __init__(self, node: str):
        self.done, self.stop = 0, False
        self.node = node
        self.fd = os.open(node, os.O_RDONLY | os.O_DIRECT)
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        buffer = mmap.mmap(-1, self.BLOCK)  # aligned, as O_DIRECT wants it
        with contextlib.suppress(OSError):
            while not self.stop and os.preadv(self.fd, [buffer], AREA) == self.BLOCK:
                self.done += 1

    def __enter__(self):
        self.thread.start()
        self.wait_flowing()
        return self

    def __exit__(self, *exception):
        self.stop = True
        self.thread.join()
        os.close(self.fd)

    def wait_flowing(self):
        """Wait until some more blocks have been read."""
        enough = self.done + 3
        vhci.wait_for(lambda: self.done >= enough, f"traffic with {self.node}", vhci.ENUMERATION)

    def wait_over(self, timeout: float = vhci.TEARDOWN):
        """Wait until it has failed."""
        vhci.wait_for(lambda: not self.thread.is_alive(), f"traffic with {self.node} to fail",
                      timeout)
