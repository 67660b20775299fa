# SPDX-License-Identifier: GPL-2.0
"""User-Mode Linux: the debug kernels, one built for KASAN and one for lockdep, and one without any
checks to measure with."""

import re

from . import cache, chroot, kernels
from .run import Failure, logged, say

SERIES = "7.2"
FRAGMENTS = cache.REPO / "scripts/kernels"
# What the test lanes need, and what only the benchmark does.
DEBUG, BENCH = ("uml-kasan", "uml-lockdep"), "uml-bench"
# clang, because RUST excludes KASAN with gcc; gcc, because lockdep cannot work in a clang build, or
# because Debian's kernels are built with it.
MAKE = {"uml-kasan": "ARCH=um LLVM=-19", "uml-lockdep": "ARCH=um", BENCH: "ARCH=um"}
# What uml-fast.c puts itself in front of.
WRAPPED = ("clock_gettime", "timer_create", "timer_settime", "signalfd", "poll", "pthread_sigqueue",
           "read", "write", "sigaction", "os_local_ipi_disable", "os_local_ipi_enable",
           "queued_spin_lock_slowpath")
FAST = " ".join([*(f"-Wl,--wrap={name}" for name in WRAPPED), "uml-fast.o"])
# LINK-y: what the kernel's Makefile would make of the configuration, and uml-fast.c.
# clang, for KASAN: the frame pointer it would push in the stub's signal return is in the way of
# rt_sigreturn; and the data of -mcmodel=large code has to lie in .data and .bss, because kmemleak
# looks nowhere else for references (nor does lockdep for static locks).
# To measure with: ARCH=um counts run time in ticks, as its sched_clock() does. The linker puts the
# host's clock in its place, for which ARCH=um has a function of the same type.
KERNEL_MAKE = {"uml-lockdep": f"'LINK-y=-static {FAST}'", "uml-kasan":
               f"'LINK-y=-no-pie {FAST}' "
               "'CFLAGS_stub.o=-fno-PIC -fno-pic -fno-stack-protector -fomit-frame-pointer' "
               "'CFLAGS_KERNEL=-mlarge-data-threshold=2147483647 -Wno-unused-command-line-argument'",
               BENCH: f"KBUILD_KCONFIG={kernels.build_tree(BENCH)}/Kconfig.first "
               "'LINK-y=-static -Wl,--defsym=sched_clock=os_nsecs'"}
# The module loader of ARCH=um knows no relocation of position-independent code.
MODULE_FLAGS = "--cfg MODULE -Crelocation-model=static -Ccode-model=large"


def fragments(name):
    """The configuration of a kernel on top of tinyconfig; what comes later counts."""
    return [FRAGMENTS / "uml-common.config", FRAGMENTS / f"{name}.config"]


def release(name):
    """The kernel release, e.g. 7.2.12-uml-bench."""
    tree = kernels.inside(kernels.build_tree(name))
    return (tree / "include/config/kernel.release").read_text().strip()


def inputs(name):
    """What a build depends on besides the source."""
    return [MAKE[name], KERNEL_MAKE[name], *fragments(name), *first(name), *linked(name)]


def first(name):
    """Kconfig declarations that come before the kernel's own, so that their defaults count."""
    return [FRAGMENTS / "uml-bench.Kconfig"] if name == BENCH else []


def linked(name):
    """What is linked into the kernel besides its own source."""
    return [FRAGMENTS / "uml-fast.c"] if name in DEBUG else []


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
    """Configures and builds one kernel with its modules."""
    with cache.lock(f"build-{name}", lambda: say(f"waiting for the build of {name}")):
        path = kernels.source(SERIES)
        key = cache.digest(kernels.source_version(SERIES), *inputs(name))
        if cache.stamped(name) == key:
            return
        cache.unstamp(name)
        tree = kernels.build_tree(name)
        make = f"make -C {path} O={tree} {MAKE[name]} {KERNEL_MAKE[name]}"
        configure(name, key, make)
        logged(f"{name}, Linux {kernels.source_version(SERIES)} (6 to 15 minutes on two cores)",
               chroot.shell(
                   f"{compile_linked(name)}{make} -j$(nproc) linux modules\n"
                   f"{make} -s modules_install INSTALL_MOD_PATH=/"), f"{name}.log",
               env=chroot.environment())
        cache.stamp(name, key)


def compile_linked(name):
    """Commands for that. make does not know of it, so the kernel is linked anew."""
    tree = kernels.build_tree(name)
    return "".join(f"gcc -O2 -Wall -Werror -fno-pie -c -o {tree}/{file.stem}.o "
                   f"/rusbip/{file.relative_to(cache.REPO)}\nrm -f {tree}/vmlinux.unstripped\n"
                   for file in linked(name))


def configure(name, key, make):
    """Writes .config, unless a build with this very configuration is to be resumed."""
    tree = kernels.inside(kernels.build_tree(name))
    if cache.stamped(f"{name}-config") == key and (tree / ".config").exists():
        return
    place = kernels.build_tree(name)

    def put_together(files):
        return "cat " + " ".join(f"/rusbip/{one.relative_to(cache.REPO)}" for one in files)
    # Only the very first file may name the main menu, and none has to.
    logged(f"{name}: configuration", chroot.shell(
        f"mkdir -p {place}\n"
        f"{{ {put_together(first(name))} /dev/null; sed '/^mainmenu /d' "
        f"{kernels.source(SERIES)}/Kconfig; }} > {place}/Kconfig.first\n"
        f"{make} -s tinyconfig\n{put_together(fragments(name))} >> {place}/.config\n"
        f"{make} -s olddefconfig"),
        f"{name}-config.log", env=chroot.environment())
    if lost := lost_options(wanted(name), (tree / ".config").read_text()):
        raise Failure(f"{name}: options did not survive olddefconfig: " + "; ".join(lost))
    cache.stamp(f"{name}-config", key)
