# SPDX-License-Identifier: GPL-2.0
"""Builds the project's own test programs (tests/server) for guests, with the Debian root's cargo."""

from . import cache, chroot
from .run import logged, say

CRATE = "tests/server"
SOURCES = (CRATE, "drivers/usb/usbip/protocol")
FOLDER = cache.BUILD / "programs"
# Where cargo keeps what it built, inside the root.
ENVIRONMENT = {"CARGO_TARGET_DIR": "/build/cargo-programs"}
# Every tree is in the same place when it is built, and cargo goes by times: what it built of another
# tree would do for an older one.
COMMAND = ("cargo clean --release --locked -p usbip-test-server -p usbip_protocol && "
           "cargo build --release --locked --bins")


def build():
    """Builds, if anything changed; returns the folder of the programs, None if there are none."""
    if not (cache.REPO / CRATE / "Cargo.toml").exists():
        return None
    with cache.lock("programs", lambda: say("waiting for another build of the test programs")):
        key = cache.digest(cache.stamped("root") or "", *(cache.REPO / one for one in SOURCES))
        if cache.stamped("programs") == key and FOLDER.exists():
            return FOLDER
        cache.unstamp("programs")
        logged("test programs", chroot.command(
            ["sh", "-c", COMMAND], directory=f"/rusbip/{CRATE}"),
            "programs.log", env=chroot.environment(ENVIRONMENT))
        built = (cache.BUILD / "cargo-programs/release").iterdir()
        chroot.publish([file for file in built
                        if file.is_file() and file.stat().st_mode & 0o111], FOLDER)
        cache.stamp("programs", key)
    return FOLDER


def last():
    """The programs as they were built last, None if they never were."""
    return FOLDER if FOLDER.exists() else None
