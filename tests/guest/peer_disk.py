# SPDX-License-Identifier: GPL-2.0
"""Files on a disk: written, looked at, and the checksum of the whole, on either machine."""

import hashlib
import random
import subprocess
from pathlib import Path

import vhci
from peer_stock import run

MIB = 1 << 20
# Where the files end up on a fresh FAT file system.
AREA_MIB = 8
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


def checksum(node: str) -> str:
    """Of the file system on a disk, past all caches."""
    digest = hashlib.sha256()
    subprocess.run(["blockdev", "--flushbufs", node], check=True)
    with open(node, "rb") as disk:
        for _ in range(AREA_MIB):
            digest.update(disk.read(MIB))
    return digest.hexdigest()


def local_checksum(number: str) -> str:
    """The same of the disk with this bus id, on the machine that it is plugged into."""
    return checksum(vhci.wait_for(lambda: local_disk(number), "the disk itself", vhci.ENUMERATION))


def local_disk(number: str):
    """The node of the disk with this bus id."""
    for block in Path("/sys/block").glob("sd*"):
        if f"/{number}/" in str(block.resolve()) and int((block / "size").read_text()):
            return f"/dev/{block.name}"
    return None
