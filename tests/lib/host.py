# SPDX-License-Identifier: GPL-2.0
"""The host lane: what needs no kernel to run on, with the toolchain of the Debian root."""

import re
import shutil

from rusbip_env import cache, chroot, kernels, root
from rusbip_env.run import Failure, logged

from .results import FAILED, PASSED, SKIPPED, Result, from_progress

SUMMARY = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.MULTILINE)
CARGO = re.compile(r"^test result: \S+ (\d+) passed; (\d+) failed; (\d+) ignored", re.MULTILINE)
# Of a log, what says which test failed.
FAILURE = re.compile(r"^.*(?:FAILED|panicked at|error(?:\[E\d+\])?:).*$", re.MULTILINE)
SERIES = kernels.SERIES[0]


def run(options):
    """All steps; one that fails does not keep the others from running."""
    root.prepare()
    results = self_tests(options)
    if options.expression:
        return results  # a choice among the tests of pytest
    if exists("scripts/check-unsafe"):
        results.append(step("no unsafe code under drivers/", ["scripts/check-unsafe"])[0])
    if exists("Kbuild"):
        results += lints()
    if exists("tests/host/run"):
        results += counted("protocol", ["tests/host/run"], SUMMARY)
    if exists("tests/server/Cargo.toml"):
        results += counted("test server", [
            "cargo", "test", "--locked", "--no-fail-fast", "--manifest-path",
            "tests/server/Cargo.toml"], CARGO, {"CARGO_TARGET_DIR": "/build/cargo-programs"})
    return results


def exists(path):
    return (cache.REPO / path).exists()


def lints():
    """The format of the Rust sources, and clippy without a warning on all modules."""
    found = [step("rustfmt", ["make", "-s", "rustfmt"])[0]]
    kernels.prepare(SERIES)
    kernels.prepare_tree(SERIES)
    result, log = step("clippy", ["make", f"KDIR={kernels.build_tree(SERIES)}",
                                  f"MO=/build/host-{SERIES}", kernels.COMPILER, "clippy"])
    warnings = [line for line in log.splitlines() if line.startswith("warning")]
    if result.outcome == PASSED and warnings:
        result = Result("clippy", FAILED, log[-4000:])
    return [*found, result]


def self_tests(options):
    """The tests of the runner itself: that the oracle can fail, to begin with."""
    out = cache.CACHE / "out/lane-host"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    done, _ = step("tests of the runner", [
        "python3", "-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=short",
        "-c", "/dev/null", "--rootdir=/rusbip/tests/lib", "-p", "lib.progress", *options.pytest,
        "/rusbip/tests/lib"], binds=[(out, "/run/out", "rw")],
        env={"PYTHONPATH": "/rusbip/tests:/rusbip/scripts",
             "RUSBIP_PROGRESS": "/run/out/progress.jsonl"})
    results = from_progress(out / "progress.jsonl")
    if done.outcome == FAILED and not any(one.outcome == FAILED for one in results):
        results.append(done)
    return results


def counted(name, argv, pattern, env=None):
    """A program that runs many tests and prints how many passed, failed and were skipped."""
    done, log = step(name, argv, env={"CARGO_TARGET_DIR": "/build/cargo"} | (env or {}))
    counts = [tuple(map(int, match)) for match in pattern.findall(log)]
    if pattern is SUMMARY:
        counts = counts[-1:]  # the last one sums up the others
    passed, failed, skipped = (sum(column) for column in zip(*counts)) if counts else (0, 0, 0)
    results = [Result(name, PASSED)] * passed + [Result(name, SKIPPED, "see its log")] * skipped
    if done.outcome == FAILED or failed or not counts:
        why = "\n".join(FAILURE.findall(log)[:40])
        results += [Result(name, FAILED, f"{why}\n{done.detail}")]
        results += [Result(name, FAILED)] * (failed - 1)
    return results


def step(name, argv, *, binds=(), env=None):
    """Runs a program of the repository in the Debian root; returns its result and its log."""
    file = "host-" + re.sub(r"\W+", "-", name) + ".log"
    try:
        logged(f"host: {name}", chroot.command(argv, directory="/rusbip", binds=binds), file,
               env=chroot.environment(env))
        result = Result(name, PASSED)
    except Failure as failure:
        result = Result(name, FAILED, str(failure))
    return result, (cache.LOGS / file).read_text(errors="replace")
