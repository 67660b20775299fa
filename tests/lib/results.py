# SPDX-License-Identifier: GPL-2.0
"""Counting and showing what the lanes found."""

import dataclasses
import json

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclasses.dataclass
class Result:
    """One test or check. `detail` is shown where it failed or was skipped."""
    name: str
    outcome: str
    detail: str = ""


def from_progress(path):
    """The results of a pytest run from what tests/lib/progress.py noted, even of a run that was
    cut off: the test that was running then has failed."""
    outcomes = {}
    running = None
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the guest died in the middle of a line
        if "start" in entry:
            running = entry["start"]
            continue
        name = entry["test"]
        if running == name:
            running = None
        # A failure in setup, call or teardown is a failure, whatever else came.
        if outcomes.get(name, Result(name, PASSED)).outcome != FAILED:
            outcomes[name] = Result(name, entry["outcome"], entry["reason"])
    if running and running not in outcomes:
        outcomes[running] = Result(running, FAILED, "the guest did not come to its end")
    return list(outcomes.values())


def summary(results):
    """The last line of a run."""
    count = {one: sum(result.outcome == one for result in results)
             for one in (PASSED, FAILED, SKIPPED)}
    return f"{count[PASSED]} passed, {count[FAILED]} failed, {count[SKIPPED]} skipped"


def show(lane, results, seconds):
    """One lane: what failed or was skipped, then its counts."""
    for result in results:
        if result.outcome == FAILED:
            print(f"{lane}: FAILED {result.name}")
            if result.detail:
                print("    " + result.detail.rstrip().replace("\n", "\n    "))
        elif result.outcome == SKIPPED:
            print(f"{lane}: skipped {result.name}: {result.detail}")
    print(f"{lane}: {summary(results)} ({seconds:.0f} s)", flush=True)
