# SPDX-License-Identifier: GPL-2.0
"""Counting: what a run that was cut off leaves, and the last line."""

import json

from lib import results


def progress(tmp_path, *entries, tail=""):
    path = tmp_path / "progress.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + tail)
    return results.from_progress(path)


def outcome(name, what, when="call"):
    return {"test": name, "when": when, "outcome": what, "reason": "because"}


def test_outcomes(tmp_path):
    found = progress(tmp_path, {"start": "a"}, outcome("a", "passed"), {"start": "b"},
                     outcome("b", "failed"), {"start": "c"}, outcome("c", "skipped", "setup"))
    assert [(one.name, one.outcome) for one in found] == [
        ("a", "passed"), ("b", "failed"), ("c", "skipped")]
    assert results.summary(found) == "1 passed, 1 failed, 1 skipped"


def test_a_failed_teardown_fails_a_test_that_passed(tmp_path):
    found = progress(tmp_path, {"start": "a"}, outcome("a", "passed"),
                     outcome("a", "failed", "teardown"))
    assert [one.outcome for one in found] == ["failed"]


def test_a_guest_that_dies_fails_the_running_test(tmp_path):
    found = progress(tmp_path, {"start": "a"}, outcome("a", "passed"), {"start": "b"},
                     tail='{"test": "b", "outc')
    assert [(one.name, one.outcome) for one in found] == [("a", "passed"), ("b", "failed")]


def test_nothing_ran(tmp_path):
    assert results.from_progress(tmp_path / "absent") == []
    assert results.summary([]) == "0 passed, 0 failed, 0 skipped"
