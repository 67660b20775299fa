# SPDX-License-Identifier: GPL-2.0
"""The Debian 13 root: toolchain for the modules and userland of every guest."""

import os
import re
import shutil
import subprocess

from . import cache, chroot
from .run import Failure, logged, output, say

SUITE = "trixie"
MIRROR = os.environ.get("RUSBIP_MIRROR", "http://deb.debian.org/debian")

# To build kernels, modules and the host tests. rustc is the compiler the kernels were built with.
TOOLCHAIN = """ca-certificates gcc-14 gcc make bc flex bison libelf-dev libssl-dev libdw-dev rustc
    cargo rust-src rust-clippy rustfmt bindgen libclang-19-dev clang-19 lld-19 llvm-19
    libclang-rt-19-dev pahole python3 xz-utils zstd kmod cpio rsync git perl file gawk""".split()
# What runs in guests, and QEMU itself.
USERLAND = """udev usbip usbutils usb.ids iproute2 procps mount util-linux busybox-static e2fsprogs
    dosfstools qemu-system-x86 tshark tcpdump alsa-utils strace python3-pytest python3-usb
    python3-evdev evtest fio sg3-utils socat openssl openssh-client openssh-server iperf3 mtools
    python3-pip gnuplot-nox""".split()
PACKAGES = sorted(TOOLCHAIN + USERLAND)

SOURCES = f"""deb {MIRROR} {SUITE} main
deb {MIRROR} {SUITE}-updates main
deb {MIRROR} {SUITE}-backports main
"""
NO_SERVICES = "#!/bin/sh\n# No service is started inside this root.\nexit 101\n"


def need_space(gigabytes):
    """Says early that the disk is too small."""
    cache.CACHE.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache.CACHE).free / 1e9
    if free < gigabytes:
        raise Failure(f"{cache.CACHE} has {free:.1f} GB free; about {gigabytes} GB are needed "
                      "(XDG_CACHE_HOME chooses another place)")


def prepare():
    """Makes the root, or brings an existing one to the list of packages above."""
    key = cache.digest(SOURCES, *PACKAGES)
    with cache.lock("root", lambda: say("waiting for another set-up of the Debian root")):
        if cache.stamped("root") == key and (cache.ROOT / "usr/bin/rustc").exists():
            return
        cache.unstamp("root")
        if not cache.ROOT.exists():
            bootstrap()
        (cache.ROOT / "etc/apt/sources.list").write_text(SOURCES)
        policy = cache.ROOT / "usr/sbin/policy-rc.d"
        policy.write_text(NO_SERVICES)
        policy.chmod(0o755)
        missing = [name for name in PACKAGES if name not in installed()]
        if missing:
            install("Debian root: " + " ".join(missing), missing, "root-packages.log")
        cache.stamp("root", key)


def bootstrap():
    """A minimal root, made beside its final place."""
    need_space(16)
    if not shutil.which("mmdebstrap"):
        raise Failure("mmdebstrap is missing (Debian package mmdebstrap)")
    temporary = cache.ROOT.with_name("root.tmp")
    cache.remove(temporary)
    logged(f"Debian 13 root from {MIRROR} ({len(PACKAGES)} packages and what they need)",
           # Namespaces of its own: nothing stays mounted or running when this is interrupted.
           ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
            "mmdebstrap", "--variant=minbase", "--components=main",
            "--dpkgopt=force-unsafe-io", "--include=" + ",".join(PACKAGES), SUITE, str(temporary), MIRROR],
           "root.log", env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    temporary.rename(cache.ROOT)


def installed():
    """Names of the packages that are completely installed in the root."""
    listing = output(chroot.command(["dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package}\n"]),
                     env=chroot.environment())
    return {line.split()[1] for line in listing.splitlines() if line.startswith("ii")}


def install(what, packages, log, release=None):
    """apt-get install inside the root, after repairing an interrupted earlier one."""
    options = ["-t", release] if release else []
    logged(what, chroot.shell(
        "dpkg --configure -a; apt-get -qq -f install -y; apt-get update\n"
        + chroot.quote("apt-get", "install", "-y", "--no-install-recommends",
                       "-o", "Dpkg::Options::=--force-unsafe-io", *options, *packages)
        + "\napt-get clean"), log, env=chroot.environment())


def search(pattern):
    """Package names known to apt that match a regular expression."""
    try:
        listing = output(chroot.command(["apt-cache", "pkgnames"]), env=chroot.environment())
    except subprocess.SubprocessError as error:
        raise Failure(f"apt-cache: {error}") from error
    return [name for name in listing.split() if re.fullmatch(pattern, name)]
