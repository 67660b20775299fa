# SPDX-License-Identifier: GPL-2.0
"""Builds the modules for one kernel, outside the source tree."""

import os

from . import cache, chroot, kernels, uml
from .run import Failure, logged, say

# What a module build reads of the repository.
SOURCES = ("Kbuild", "Makefile", "rust", "drivers", "samples", "scripts/bindgen.awk")


def prepare(kernel):
    """Has a kernel and a tree to build modules for it, made or fetched if not in the cache."""
    if kernel in uml.MAKE:
        kernels.prepare(uml.SERIES)
        uml.prepare(kernel)
    else:
        kernels.prepare(kernel)
        kernels.prepare_tree(kernel)


def make_arguments(kernel):
    """Variables that the kernel's own make needs."""
    if kernel in uml.MAKE:
        return [*uml.MAKE[kernel].split(), f"RUSTFLAGS_MODULE={uml.MODULE_FLAGS}"]
    return [kernels.COMPILER]


def version(kernel):
    """What the build depends on besides the sources; fails where the tree is missing."""
    name = kernel if kernel in uml.MAKE else f"tree-{kernel}"
    value = cache.stamped(name)
    if not value:
        raise Failure(f"no tree to build modules for {kernel}: scripts/setup --only {kernel}")
    return value


def build(kernel, source=None, extra=()):
    """Builds, if anything changed; returns (folder of the modules, build log).

    source: another tree than this repository, for trying things out."""
    place = source or cache.REPO
    name = f"{kernel}-{cache.digest(str(source))[:8]}" if source else kernel
    inputs = [place / one for one in SOURCES] if not source else [place]
    folder = cache.BUILD / "ko" / name
    log = cache.LOGS / f"modules-{name}.log"
    with cache.lock(f"modules-{name}", lambda: say(f"waiting for another build for {kernel}")):
        key = cache.digest(version(kernel), *make_arguments(kernel), *extra, *inputs)
        if cache.stamped(f"modules-{name}") == key and folder.exists():
            return folder, log
        cache.unstamp(f"modules-{name}")
        inside = f"/build/modules/{name}"
        (cache.BUILD / "modules" / name).mkdir(parents=True, exist_ok=True)
        binds = [(source, "/run/source", "ro")] if source else []
        logged(f"modules for {kernel}", chroot.command(
            ["make", "-C", kernels.build_tree(kernel), f"M={'/run/source' if source else '/rusbip'}",
             f"MO={inside}", *make_arguments(kernel), *extra, f"-j{jobs()}", "modules"],
            binds=binds), log.name, env=chroot.environment())
        chroot.publish((cache.BUILD / "modules" / name).rglob("*.ko"), folder)
        cache.stamp(f"modules-{name}", key)
    return folder, log


def jobs():
    """As many as this process may use."""
    return len(os.sched_getaffinity(0))
