# SPDX-License-Identifier: GPL-2.0
"""The lanes: what each runs and how its results are judged."""

import json
import shlex
import shutil

from rusbip_env import cache, guest, kernels, modules, programs, root, tools, uml
from rusbip_env.run import Failure

from . import host, oracle
from .results import FAILED, PASSED, Result, from_progress

KERNEL = {"uml-kasan": "uml-kasan", "uml-lockdep": "uml-lockdep",
          "stock-7.2": "7.2", "stock-7.3": "7.3"}
LANES = ("host", *KERNEL)
# Seconds until a guest counts as stuck: about three times what a lane takes on two processors. All
# of them still fit into the time that continuous integration has.
TIMEOUT = {"uml-kasan": 1800, "uml-lockdep": 1800, "stock-7.2": 1800, "stock-7.3": 1800}


def run(lane, options):
    """Runs one lane and returns its results; a lane that could not run is a failed result."""
    try:
        return host.run(options) if lane == "host" else run_guest(lane, options)
    except Failure as failure:
        return [Result("the lane runs", FAILED, str(failure))]


def prepare(kernel):
    """What the lane needs, made or fetched if it is not in the cache."""
    root.prepare()
    kernels.prepare(uml.SERIES)
    tools.prepare()
    if kernel in uml.MAKE:
        uml.prepare(kernel)
    else:
        kernels.prepare(kernel)
        kernels.prepare_tree(kernel)


def run_guest(lane, options):
    """Builds the modules, boots, runs pytest on tests/guest, judges."""
    kernel = KERNEL[lane]
    prepare(kernel)
    results = []
    if options.source or (cache.REPO / "Kbuild").exists():
        folder, log = modules.build(kernel, options.source)
        results.append(build_result(log))
    else:
        folder = None
        results.append(Result("the modules build", FAILED, "there is no Kbuild"))
    out = cache.CACHE / "out" / f"lane-{lane}"
    with cache.lock(f"lane-{lane}", lambda: print(f"{lane}: waiting for another run")):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        pytest = ["python3", "-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=short", "-ra",
                  "-p", "lib.progress", "--junitxml=/out/junit.xml", *options.pytest, "."]
        status = guest.run(
            f"cd /rusbip/tests/guest && {shlex.join(pytest)}; status=$?\n"
            "python3 /rusbip/tests/lib/lane_end.py && exit $status",
            guest.Options(kernel, timeout=options.timeout or TIMEOUT[lane], out=out,
                          modules=folder, programs=programs.build(), env={
                              "RUSBIP_LANE": lane, "PYTHONPATH": "/rusbip/tests:/usr/local/lib/rusbip/python",
                              "RUSBIP_PROGRESS": "/out/progress.jsonl"} | options.variables))
        return results + judge(lane, out, status)


def build_result(log):
    """A build that warns has failed, as it would for a reviewer."""
    text = log.read_text(errors="replace")
    warnings = [line for line in text.splitlines() if "warning:" in line.lower()]
    return Result("the modules build without a warning", FAILED if warnings else PASSED,
                  "\n".join(warnings[:20]))


def judge(lane, out, status):
    """Tests, kernel log, and the state at the end."""
    results = from_progress(out / "progress.jsonl")
    # 5: no test was collected (of this lane); 0, 1: as the single results say.
    if status in (guest.STUCK, guest.CRASHED) or status not in (0, 1, 5):
        results.append(Result("the guest comes to its end", FAILED, f"status {status}, see {out}"))
    elif status == 1 and not any(one.outcome == FAILED for one in results):
        results.append(Result("pytest", FAILED, f"it says 1, no test failed; see {out}"))
    log = out / "dmesg"
    bad = ([str(one) for one in oracle.findings(log.read_text(errors="replace"), lane)]
           if log.exists() else ["there is no kernel log"])
    results.append(Result("the kernel log is clean", FAILED if bad else PASSED, "\n\n".join(bad)))
    state = out / "lane.json"
    bad = (oracle.end_findings(json.loads(state.read_text()), lane) if state.exists()
           else ["the check at the end did not run"])
    results.append(Result("nothing is left behind, all checkers are on",
                          FAILED if bad else PASSED, "\n".join(bad)))
    return results
