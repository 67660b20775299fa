# SPDX-License-Identifier: GPL-2.0
"""The lanes: what each runs and how its results are judged."""

import json
import shlex
import shutil

from rusbip_env import (cache, chroot, guest, kernels, modules, pair, programs, root, tools,
                        uml)
from rusbip_env.run import Failure, logged

from . import host, oracle, package
from .results import FAILED, PASSED, Result, from_progress

# The kernel of a lane's guest; of a pair the client's and the server's.
KERNELS = {"uml-kasan": ("uml-kasan",), "uml-lockdep": ("uml-lockdep",),
           "stock-7.2": ("7.2",), "stock-7.3": ("7.3",), "pair": ("7.2", "7.3"),
           "pair-7.3-7.2": ("7.3", "7.2"), "pair-7.2-7.2": ("7.2", "7.2"),
           "pair-7.3-7.3": ("7.3", "7.3")}
ALL = ("host", *KERNELS, "package")
WITHOUT_TESTS_IN_GUESTS = {"host": host, "package": package}
# What is run when nothing is named. One pair has each kernel at one end.
LANES = ("host", "uml-kasan", "uml-lockdep", "stock-7.2", "stock-7.3", "pair")
# Guests that share the tests of a lane in a run of all lanes, so that less is left alone at the end.
PARTS = {"uml-kasan": 2, "uml-lockdep": 2}
# Seconds until a guest counts as stuck: about three times what a lane takes on two processors. All
# of them still fit into the time that continuous integration has.
TIMEOUT = {"uml": 1800, "stock": 1800, "pair": 1200}
PYTHON = {"PYTHONPATH": "/rusbip/tests:/usr/local/lib/rusbip/python"}
PYTEST = ("python3", "-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=short", "-ra",
          "-p", "lib.progress", "--junitxml=/out/junit.xml")
LANE_END = "python3 /rusbip/tests/lib/lane_end.py"


def parts(lane):
    """The parts of a lane in a run of all lanes, as for `options.part`."""
    count = PARTS.get(lane, 1)
    return [f"{one}/{count}" for one in range(1, count + 1)] if count > 1 else [""]


def is_emulated(lane):
    """Whether its guests run in QEMU."""
    return lane.startswith(("stock", "pair"))


def schedule(chosen):
    """What is to be run of these lanes, as (lane, part), in the order in which it is to start.
    Emulated guests take longest together, as one runs after the other. The host lane is last because
    a compiler makes use of processors that nothing else does."""
    def rank(lane):
        return 0 if is_emulated(lane) else 1 if lane in KERNELS else 2
    return [(lane, part) for lane in sorted(chosen, key=rank) for part in parts(lane)]


def next_to_run(waiting, running, cores):
    """Which of those that wait starts now, None for none. Each has a processor; only one emulates
    at a time, because two slow each other down by as much as there is to win."""
    if len(running) >= cores:
        return None
    emulating = any(is_emulated(lane) for lane, _ in running)
    return next((one for one in waiting if not (emulating and is_emulated(one[0]))), None)


def priority(lane):
    """How a lane's process is started in a run of all. An emulated guest, whose time passes while it
    waits for a processor, gets one at once: a low priority of the others is not enough, as it would
    often have to wait for the end of a time slice."""
    return () if is_emulated(lane) else ("chrt", "--idle", "0")


def run(lane, options):
    """Runs one lane, or a part of it, and returns its results; one that could not run is a failed
    result."""
    try:
        if lane in WITHOUT_TESTS_IN_GUESTS:
            return WITHOUT_TESTS_IN_GUESTS[lane].run(options)
        return run_guests(lane, options)
    except Failure as failure:
        return [Result("the lane runs", FAILED, str(failure))]


def prepare(kernel):
    """What the lane needs, made or fetched if it is not in the cache."""
    root.prepare()
    kernels.prepare(uml.SERIES)
    tools.prepare()
    modules.prepare(kernel)


def run_guests(lane, options):
    """Builds the modules, boots, runs pytest on tests/guest, judges."""
    results, guests = [], []
    name = f"lane-{lane}" + (f"-{options.part.replace('/', 'of')}" if options.part else "")
    out = cache.CACHE / "out" / name
    for kernel in KERNELS[lane]:
        prepare(kernel)
        folder, result = build(kernel, options)
        results.append(result)
        guests.append(guest.Options(
            kernel, timeout=options.timeout or TIMEOUT[lane.split("-")[0]], out=out,
            modules=folder, programs=programs.build(), env={
                **PYTHON, "PYTHONPYCACHEPREFIX": "/out/pycache", "RUSBIP_LANE": lane,
                "RUSBIP_PART": options.part, "RUSBIP_PROGRESS": "/out/progress.jsonl",
                **options.variables}))
    # Only a shell knows which files of the guest match.
    files = "test_pair_*.py" if lane.startswith("pair") else "."
    command = (f"cd /rusbip/tests/guest && {shlex.join([*PYTEST, *options.pytest])} {files}; "
               f"status=$?\n{LANE_END} && exit $status")
    with cache.lock(name, lambda: print(f"{name}: waiting for another run")):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        compile_tests(out)
        if len(guests) == 1:
            return results + judge(lane, out, guest.run(command, *guests))
        status, end = pair.run(command, *guests, at_end=LANE_END)
        return results + judge(lane, out, status) + judge_server(lane, out / pair.SERVER, end)


def compile_tests(out):
    """Puts the bytecode of the tests where guests find it: an emulated one compiles them for half a
    minute."""
    with cache.lock("pycache"):
        logged("guest tests: bytecode", chroot.command(
            ["python3", "-m", "pytest", "-p", "no:cacheprovider", "-q", "--collect-only", "."],
            directory="/rusbip/tests/guest"), "pycache.log", env=chroot.environment(
                {**PYTHON, "PYTHONPYCACHEPREFIX": "/build/pycache", "PYTHONDONTWRITEBYTECODE": ""}))
        shutil.copytree(cache.BUILD / "pycache", out / "pycache")


def build(kernel, options):
    """The folder of the modules, None if there is nothing to build; and what to say of it."""
    if not options.source and not (cache.REPO / "Kbuild").exists():
        return None, Result("the modules build", FAILED, "there is no Kbuild")
    folder, log = modules.build(kernel, options.source)
    text = log.read_text(errors="replace")
    # As it would for a reviewer, a build that warns has failed.
    warnings = [line for line in text.splitlines() if "warning:" in line.lower()]
    return folder, Result(f"the modules for {kernel} build without a warning",
                          FAILED if warnings else PASSED, "\n".join(warnings[:20]))


def judge(lane, out, status):
    """Tests, kernel log, and the state at the end."""
    results = from_progress(out / "progress.jsonl")
    # 5: no test was collected (of this lane); 0, 1: as the single results say.
    if status in (guest.STUCK, guest.CRASHED) or status not in (0, 1, 5):
        results.append(Result("the guest comes to its end", FAILED, f"status {status}, see {out}"))
    elif status == 1 and not any(one.outcome == FAILED for one in results):
        results.append(Result("pytest", FAILED, f"it says 1, no test failed; see {out}"))
    return results + judge_guest(lane, out, "guest")


def judge_server(lane, out, status):
    """The other guest of a pair: it served until the client had gone, and nothing is wrong."""
    return [Result("the server guest comes to its end", FAILED if status else PASSED,
                   f"status {status}, see {out}"), *judge_guest(lane, out, "server guest")]


def judge_guest(lane, out, name):
    """The kernel log of a guest and what tests/lib/lane_end.py saw there."""
    log = out / "dmesg"
    bad = ([str(one) for one in oracle.findings(log.read_text(errors="replace"), lane)]
           if log.exists() else ["there is no kernel log"])
    results = [Result(f"the kernel log of the {name} is clean", FAILED if bad else PASSED,
                      "\n\n".join(bad))]
    state = out / "lane.json"
    bad = (oracle.end_findings(json.loads(state.read_text()), lane) if state.exists()
           else ["the check at the end did not run"])
    results.append(Result(f"nothing is left behind in the {name}, all checkers are on",
                          FAILED if bad else PASSED, "\n".join(bad)))
    return results
