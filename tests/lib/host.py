# SPDX-License-Identifier: GPL-2.0
"""The host lane: tests that need no kernel, run with the toolchain of the Debian root.

Besides the fixed steps it runs every executable tests/host/check-*, each one check.
"""

import re
import shutil

from rusbip_env import cache, chroot, root
from rusbip_env.run import Failure, logged

from .results import FAILED, PASSED, SKIPPED, Result, from_progress

RUST_TEST = re.compile(r"^test (\S+)(?: - .*)? \.\.\. (ok|FAILED|ignored)", re.MULTILINE)
OUTCOME = {"ok": PASSED, "FAILED": FAILED, "ignored": SKIPPED}


def run(options):
    """All steps; one that fails does not keep the others from running."""
    root.prepare()
    results = self_tests(options)
    if options.expression:
        return results  # a choice among the tests of pytest
    if (cache.REPO / "Cargo.toml").exists():
        results += cargo()
    checks = [("unsafe code only under rust/", "scripts/check-unsafe")]
    checks += [(path.name.removeprefix("check-"), str(path.relative_to(cache.REPO)))
               for path in sorted((cache.REPO / "tests/host").glob("check-*"))]
    for name, program in checks:
        if (cache.REPO / program).exists():
            results.append(check(name, ["./" + program]))
    return results


def self_tests(options):
    """The tests of the runner itself: that the oracle can fail, to begin with."""
    out = cache.CACHE / "out/lane-host"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    done = step("tests of the runner", [
        "python3", "-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=short",
        "-c", "/dev/null", "--rootdir=/rusbip/tests/lib", "-p", "lib.progress", *options.pytest,
        "/rusbip/tests/lib"], binds=[(out, "/run/out", "rw")],
        env={"PYTHONPATH": "/rusbip/tests:/rusbip/scripts",
             "RUSBIP_PROGRESS": "/run/out/progress.jsonl"})
    results = from_progress(out / "progress.jsonl")
    if done.outcome == FAILED and not any(one.outcome == FAILED for one in results):
        results.append(done)
    return results


def cargo():
    """Unit, property and model tests of what needs no kernel: the cargo workspace."""
    done = step("cargo test", ["cargo", "test", "--workspace", "--locked", "--no-fail-fast"],
                directory="/rusbip", env={"CARGO_TARGET_DIR": "/build/cargo"})
    log = (cache.LOGS / "host-cargo-test.log").read_text(errors="replace")
    results = [Result(name, OUTCOME[outcome])
               for name, outcome in RUST_TEST.findall(log)]
    if done.outcome == FAILED:
        results.append(done)
    return results


def check(name, argv):
    """One program that passes with exit status 0."""
    return step(name, argv, directory="/rusbip", env={"CARGO_TARGET_DIR": "/build/cargo"})


def step(name, argv, *, directory="/", binds=(), env=None):
    """Runs a program in the Debian root; its log is the detail of a failure."""
    log = "host-" + re.sub(r"\W+", "-", name) + ".log"
    try:
        logged(f"host: {name}", chroot.command(argv, directory=directory, binds=binds), log,
               env=chroot.environment(env))
    except Failure as failure:
        return Result(name, FAILED, str(failure))
    return Result(name, PASSED)
