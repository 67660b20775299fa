# SPDX-License-Identifier: GPL-2.0
"""The debug kernels: User-Mode Linux, one built for KASAN and one for lockdep."""

import re

from . import cache, chroot, kernels
from .run import Failure, logged, say

SERIES = "7.2"
FRAGMENTS = cache.REPO / "scripts/kernels"
# clang, because RUST excludes KASAN with gcc; gcc, because lockdep cannot work in a clang build.
MAKE = {"uml-kasan": "ARCH=um LLVM=-19", "uml-lockdep": "ARCH=um"}
# clang, for KASAN: the frame pointer it would push in the stub's signal return is in the way of
# rt_sigreturn; and the data of -mcmodel=large code has to lie in .data and .bss, because kmemleak
# looks nowhere else for references (nor does lockdep for static locks).
KERNEL_MAKE = {"uml-lockdep": "", "uml-kasan":
               "'CFLAGS_stub.o=-fno-PIC -fno-pic -fno-stack-protector -fomit-frame-pointer' "
               "'CFLAGS_KERNEL=-mlarge-data-threshold=2147483647 -Wno-unused-command-line-argument'"}
# The module loader of ARCH=um knows no relocation of position-independent code.
MODULE_FLAGS = "--cfg MODULE -Crelocation-model=static -Ccode-model=large"


def fragments(name):
    """The configuration of a debug kernel on top of tinyconfig."""
    return [FRAGMENTS / "uml-common.config", FRAGMENTS / f"{name}.config"]


def wanted(name):
    """Option → exact line in .config; None where the option must be off or absent."""
    options = {}
    for file in fragments(name):
        for line in file.read_text().splitlines():
            if match := re.fullmatch(r"# (CONFIG_\w+) is not set", line):
                options[match[1]] = None
            elif match := re.fullmatch(r"(CONFIG_\w+)=.+", line):
                options[match[1]] = line
            elif line and not line.startswith("#"):
                raise Failure(f"{file.name}: not a configuration line: {line}")
    return options


def lost_options(options, config):
    """What olddefconfig changed or dropped silently."""
    have = {line.split("=")[0]: line for line in config.splitlines() if line.startswith("CONFIG_")}
    return [f"{name}: wanted {line or 'off'}, have {have.get(name, 'off')}"
            for name, line in options.items() if have.get(name) != line]


def prepare(name):
    """Configures and builds one debug kernel with its modules."""
    with cache.lock(f"build-{name}", lambda: say(f"waiting for the build of {name}")):
        path = kernels.source(SERIES)
        key = cache.digest(kernels.source_version(SERIES), MAKE[name], KERNEL_MAKE[name],
                           *fragments(name))
        if cache.stamped(name) == key:
            return
        cache.unstamp(name)
        tree = kernels.build_tree(name)
        make = f"make -C {path} O={tree} {MAKE[name]} {KERNEL_MAKE[name]}"
        configure(name, key, make)
        logged(f"{name}, Linux {kernels.source_version(SERIES)} (6 to 15 minutes on two cores)",
               chroot.shell(
                   f"{make} -j$(nproc) linux modules\n"
                   f"{make} -s modules_install INSTALL_MOD_PATH=/"), f"{name}.log",
               env=chroot.environment())
        cache.stamp(name, key)


def configure(name, key, make):
    """Writes .config, unless a build with this very configuration is to be resumed."""
    tree = kernels.inside(kernels.build_tree(name))
    if cache.stamped(f"{name}-config") == key and (tree / ".config").exists():
        return
    logged(f"{name}: configuration", chroot.shell(
        f"mkdir -p {kernels.build_tree(name)}; {make} -s tinyconfig\n"
        f"cat {' '.join('/rusbip/' + str(f.relative_to(cache.REPO)) for f in fragments(name))}"
        f" >> {kernels.build_tree(name)}/.config\n{make} -s olddefconfig"),
        f"{name}-config.log", env=chroot.environment())
    if lost := lost_options(wanted(name), (tree / ".config").read_text()):
        raise Failure(f"{name}: options did not survive olddefconfig: " + "; ".join(lost))
    cache.stamp(f"{name}-config", key)
