# SPDX-License-Identifier: GPL-2.0
"""A pytest plugin that notes every result in a file as it comes, one JSON object per line, so that
a runner knows them even if the machine dies in the next moment. $RUSBIP_PROGRESS names the file."""

import json
import os


def note(**what):
    """Appends one line."""
    if path := os.environ.get("RUSBIP_PROGRESS"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")


def pytest_runtest_logstart(nodeid, location):
    note(start=nodeid)


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
        note(test=report.nodeid, when=report.when, outcome=report.outcome, reason=reason,
             seconds=round(report.duration, 2))


def pytest_collectreport(report):
    if report.failed:
        note(test=report.nodeid or "collection", when="collect", outcome="failed",
             reason=str(report.longrepr)[-2000:])
