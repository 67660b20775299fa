# SPDX-License-Identifier: GPL-2.0
"""The small initramfs of the QEMU guests: busybox, the modules for a 9p root, and an init."""

import gzip
import lzma
from pathlib import Path

from . import cache, chroot, kernels
from .run import output

MODULES = ("9p", "9pnet_virtio", "overlay")
INIT = cache.REPO / "scripts/guest-initramfs"
# What tests start again and again. For each file that a program and its libraries are, the guest asks
# the host several times before the program runs, so it keeps these in its memory.
PROGRAMS = ("bash", "cat", "dash", "dmesg", "id", "ip", "kmod", "ln", "ls", "mkdir", "mount", "rm",
            "rmdir", "sleep", "ss", "testusb", "udevadm", "umount", "usbip", "usbipd")
INSTALLED = cache.ROOT / "var/lib/dpkg/status"


def ensure(series):
    """Builds it if an input changed; returns its path below the cache's build folder."""
    folder = kernels.modules_folder(series)
    path = cache.BUILD / f"initramfs-{series}.gz"
    key = cache.digest(kernels.release(series), INIT, Path(__file__), INSTALLED,
                       cache.stamped("tools"), cache.digest(cache.ROOT / "bin/busybox"))
    with cache.lock(path.name):
        if cache.stamped(path.name) != key or not path.exists():
            temporary = path.with_suffix(".tmp")
            temporary.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(gzip.compress(archive(folder, INIT.read_bytes()), 1))
            temporary.rename(path)
            cache.stamp(path.name, key)
    return path


def often(folder):
    """The files of the programs, the libraries that they need, and what modprobe reads: paths from
    the root on, one a line."""
    found = output(chroot.shell(
        f"ldd $(which {' '.join(PROGRAMS)}) | grep -o '/[^ :]*' | xargs readlink -f"),
        env=chroot.environment())
    files = {one.lstrip("/") for one in found.split()}
    files |= {str(one.relative_to(cache.ROOT)) for kind in ("*.bin", "softdep", "weakdep")
              for one in folder.glob(f"modules.{kind}")}
    return "".join(f"{path}\n" for path in sorted(files))


def load_order(folder, names):
    """Files of the named modules and all they depend on, dependencies first."""
    needs = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        file, _, rest = line.partition(":")
        needs[file] = rest.split()
    by_name = {file.rsplit("/", 1)[-1].split(".ko")[0].replace("-", "_"): file for file in needs}
    order = []
    for name in names:
        # modules.dep lists the dependencies of a file completely, the deepest last.
        if file := by_name.get(name):
            order += [one for one in (*reversed(needs[file]), file) if one not in order]
    return order


def archive(folder, init):
    """The cpio image ("newc")."""
    entries = [("init", 0o100755, init)]
    busybox = (cache.ROOT / "bin/busybox").read_bytes()
    entries += [("bin", 0o040755, b""), ("bin/busybox", 0o100755, busybox), ("m", 0o040755, b"")]
    names = []
    for number, file in enumerate(load_order(folder, MODULES)):
        data = (folder / file).read_bytes()
        data = lzma.decompress(data) if file.endswith(".xz") else data
        names.append(f"/m/{number:02}.ko")
        entries.append((names[-1][1:], 0o100644, data))
    entries.append(("often", 0o100644, often(folder).encode()))
    entries.append(("order", 0o100644, "\n".join(names).encode() + b"\n"))
    return b"".join(record(*entry) for entry in entries) + record("TRAILER!!!", 0, b"")


def record(name, mode, data):
    """One file of the archive."""
    encoded = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return pad(head) + pad(data)


def pad(data):
    """To a multiple of four bytes."""
    return data + b"\0" * (-len(data) % 4)


def probe():
    """An initramfs whose init says that it runs and powers off."""
    path = cache.BUILD / "initramfs-probe.gz"
    script = (b"#!/bin/busybox sh\n/bin/busybox mount -t devtmpfs d /dev\n"
              b"echo 'rusbip: init runs' > /dev/ttyS0\n/bin/busybox poweroff -f\n")
    image = b"".join(record(*entry) for entry in (
        ("bin", 0o040755, b""), ("dev", 0o040755, b""),
        ("bin/busybox", 0o100755, (cache.ROOT / "bin/busybox").read_bytes()),
        ("init", 0o100755, script), ("TRAILER!!!", 0, b"")))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(gzip.compress(image, 1))
    temporary.rename(path)
    return path
