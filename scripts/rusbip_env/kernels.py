# SPDX-License-Identifier: GPL-2.0
"""The distribution's kernels: images, modules, and a tree to build modules against.

Point releases of a series come and go in the archive; the newest of which everything is there is
taken when a series is set up, and kept until `scripts/setup --upgrade`.
"""

import re
import struct
import subprocess

from . import cache, chroot
from . import root as debian
from .run import Failure, logged, say

SERIES = ("7.2", "7.3")
FLAVOUR = "+deb13-amd64"
BACKPORTS = debian.SUITE + "-backports"
# Sources of drivers that no kernel here builds: more than half of the tree. Their Kconfig files and
# Makefiles are needed all the same.
UNUSED = [f"--exclude=*/{folder}/*.{kind}" for kind in "ch" for folder in (
    "drivers/gpu/drm", "drivers/net/ethernet", "drivers/net/wireless", "drivers/media",
    "sound/soc", "arch/arm", "arch/arm64", "arch/mips", "arch/powerpc", "arch/s390")]
UNUSED += ["--exclude=*/Documentation/*.rst", "--exclude=*/Documentation/*.yaml",
           "--exclude=*.dts", "--exclude=*.dtsi"]
# How data compressed with zstd begins.
ZSTD = b"\x28\xb5\x2f\xfd"
COMPILER = "CC=x86_64-linux-gnu-gcc-14"


def stamp_name(series):
    return f"kernel-{series}"


def release(series):
    """The chosen kernel release of a series, e.g. 7.2.12+deb13-amd64."""
    value = cache.stamped(stamp_name(series))
    if not value:
        raise Failure(f"no kernel of the series {series} is set up (scripts/setup kernels)")
    return value


def modules_folder(series):
    return cache.ROOT / "usr/lib/modules" / release(series)


def image(series):
    """The kernel image: the signed one where the archive has it, else the unsigned."""
    for name in ("vmlinuz", "vmlinuz.unsigned"):
        path = modules_folder(series) / name
        if path.exists():
            return path
    raise Failure(f"{modules_folder(series)} holds no kernel image (scripts/setup kernels)")


def unpacked(series):
    """The same kernel without the bzImage around it, which takes seconds to decompress itself in
    emulation; QEMU starts it at its PVH entry."""
    packed = image(series)
    path = cache.BUILD / f"vmlinux-{series}"
    key = cache.digest("zstd", release(series), packed.name)
    with cache.lock(path.name):
        if cache.stamped(path.name) == key and path.exists():
            return path
        data = packed.read_bytes()
        # Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length.
        offset, length = struct.unpack_from("<II", data, 0x248)
        start = ((data[0x1f1] or 4) + 1) * 512 + offset
        if not data.startswith(ZSTD, start):
            raise Failure(f"{packed}: its kernel is not compressed with zstd")
        temporary = path.with_suffix(".tmp")
        with open(temporary, "wb") as file:
            # The last four bytes are the length of the result.
            subprocess.run(chroot.command(["zstd", "-dcq"]), check=True, stdout=file,
                           input=data[start:start + length - 4], env=chroot.environment())
        temporary.rename(path)
        cache.stamp(path.name, key)
    return path


def build_tree(name):
    """The prepared tree of a kernel, as seen inside the root."""
    return f"/usr/src/kb-{name}"


def inside(path):
    """A path inside the root as seen from the host."""
    return cache.ROOT / str(path).lstrip("/")


def choose(series, names):
    """From package names: the newest release of a series of which headers, modules and an image
    are there, and the packages to install for it."""
    pattern = re.compile(rf"linux-headers-({re.escape(series)}\.(\d+){re.escape(FLAVOUR)})")
    found = sorted(((int(match[2]), match[1]) for name in names if (match := pattern.fullmatch(name))),
                   reverse=True)
    if not found:
        raise Failure(f"{BACKPORTS} of {debian.MIRROR} has no linux-headers-{series}.*{FLAVOUR}: "
                      f"the series {series} left the archive or has not reached this mirror")
    reasons = []
    for _, candidate in found:
        images = [f"linux-binary-{candidate}", f"linux-binary-unsigned-{candidate}"]
        chosen = next((name for name in images if name in names), None)
        needed = [f"linux-headers-{candidate}", f"linux-modules-{candidate}",
                  f"linux-base-{candidate}", f"linux-source-{series}"]
        lost = [name for name in needed if name not in names]
        if chosen and not lost:
            return candidate, [*needed, chosen]
        reasons.append(f"{candidate} lacks " + ", ".join(lost or images))
    raise Failure(f"no complete kernel of the series {series} in {BACKPORTS}: "
                  + "; ".join(reasons))


def prepare(series, upgrade=False):
    """Kernel image, modules, headers and source packages of a series."""
    with cache.lock("root", lambda: say("waiting for another set-up of the Debian root")):
        if cache.stamped(stamp_name(series)) and not upgrade and image(series):
            return
        logged(f"package lists for Linux {series}", chroot.command(["apt-get", "update"]),
               "apt-update.log", env=chroot.environment())
        candidate, packages = choose(series, set(debian.search(r"linux-[a-z]+-.*")))
        missing = sorted(set(packages) - debian.installed())
        if missing:
            debian.need_space(9)
            debian.install(f"Linux {candidate}", missing, f"kernel-{series}.log", BACKPORTS)
        cache.stamp(stamp_name(series), candidate)
        say(f"Linux {series}: {candidate}")


def source(series):
    """Extracts the source of a series inside the root; returns its path there."""
    path = f"/usr/src/linux-source-{series}"
    with cache.lock(f"source-{series}", lambda: say(f"waiting for the source of Linux {series}")):
        if not inside(path).exists():
            debian.need_space(6)
            cache.remove(inside(path + ".tmp"))
            tar = chroot.quote("tar", "xf", f"{path}.tar.xz", "-C", f"{path}.tmp",
                               "--strip-components=1", *UNUSED)
            logged(f"source of Linux {series}", chroot.shell(
                f"mkdir {path}.tmp\n{tar}\nmv {path}.tmp {path}"), f"source-{series}.log",
                env=chroot.environment())
    return path


def source_version(series):
    """The point release of the extracted source, e.g. 7.2.12."""
    fields = dict(re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL) = (\d+)$",
                             (inside(source(series)) / "Makefile").read_text(), re.MULTILINE))
    return f"{fields['VERSION']}.{fields['PATCHLEVEL']}.{fields['SUBLEVEL']}"


def prepare_tree(series):
    """A tree to build modules against: full source with the distribution's configuration and
    symbol versions, which gives the very Rust symbol names of the stock kernel."""
    chosen = release(series)
    with cache.lock(f"tree-{series}", lambda: say(f"waiting for the tree of Linux {series}")):
        if cache.stamped(f"tree-{series}") == chosen:
            return
        cache.unstamp(f"tree-{series}")
        tree = build_tree(series)
        path = source(series)
        if not chosen.startswith(source_version(series) + "+"):
            cache.remove(inside(path))
            cache.remove(inside(tree))
            source(series)
        if not chosen.startswith(source_version(series) + "+"):
            raise Failure(f"linux-source-{series} holds {source_version(series)}, the kernel is "
                          f"{chosen}: the mirror is between two releases, try again later")
        # An interrupted preparation is resumed in place: make itself sees what is missing.
        logged(f"tree to build modules for Linux {chosen}", chroot.shell(
            f"mkdir -p {tree}\n"
            f"cp /usr/src/linux-headers-{chosen}/.config {tree}/.config.tmp\n"
            f"cmp -s {tree}/.config.tmp {tree}/.config.stock || "
            f"cp {tree}/.config.tmp {tree}/.config; mv {tree}/.config.tmp {tree}/.config.stock\n"
            f"cp /usr/src/linux-headers-{chosen}/Module.symvers {tree}/\n"
            f"make -C {path} O={tree} LOCALVERSION={FLAVOUR} {COMPILER} "
            f"-j$(nproc) olddefconfig modules_prepare"),
            f"tree-{series}.log", env=chroot.environment())
        found = (inside(tree) / "include/config/kernel.release").read_text().strip()
        if found != chosen:
            raise Failure(f"the tree says {found}, the kernel {chosen}: modules would not load")
        cache.stamp(f"tree-{series}", chosen)
