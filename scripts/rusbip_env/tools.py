# SPDX-License-Identifier: GPL-2.0
"""What guests use and no Debian package has: the kernel's USB test programs, and an independent
implementation of USB/IP from PyPI. In guests it is in /usr/local/lib/rusbip and on PATH."""

from . import cache, chroot, kernels, uml
from .run import logged, say

FOLDER = "/usr/local/lib/rusbip"
REQUIREMENTS = cache.REPO / "scripts/requirements-guest.txt"
FILES = ("tools/usb/testusb.c", "tools/usb/hcd-tests.sh",
         "tools/testing/selftests/drivers/usb/usbip/usbip_test.sh")


def prepare():
    """Builds and installs them inside the root, unless nothing changed."""
    with cache.lock("tools", lambda: say("waiting for the tools of the guests")):
        if cache.stamped("tools") == (key := cache.digest(REQUIREMENTS, *FILES)):
            return
        cache.unstamp("tools")
        source = kernels.source(uml.SERIES)
        logged("tools for the guests", chroot.shell(
            f"rm -rf {FOLDER}.tmp; mkdir -p {FOLDER}.tmp\n"
            f"cd {source}; cp {' '.join(FILES)} {FOLDER}.tmp\n"
            f"gcc -O2 -pthread -o {FOLDER}.tmp/testusb tools/usb/testusb.c\n"
            f"chmod +x {FOLDER}.tmp/*.sh\n"
            f"python3 -m pip install -q --root-user-action=ignore --no-deps --require-hashes "
            f"--target {FOLDER}.tmp/python -r /rusbip/{REQUIREMENTS.relative_to(cache.REPO)}\n"
            f"rm -rf {FOLDER}; mv {FOLDER}.tmp {FOLDER}\n"
            f"ln -sf {FOLDER}/testusb /usr/local/bin/testusb"), "tools.log",
            env=chroot.environment())
        cache.stamp("tools", key)
