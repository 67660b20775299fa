# SPDX-License-Identifier: GPL-2.0
"""What makes of a pair's server guest a failure."""

import json

from lib import lanes
from lib.results import FAILED, PASSED
from lib.test_oracle import CLEAN, REPORTS, end


def judged(out, status=0, log=CLEAN, state=None):
    """The outcomes of a server guest with these remains: its end, its log, what is left behind."""
    out.mkdir()
    (out / "dmesg").write_text(log)
    (out / "lane.json").write_text(json.dumps(end(taint=0) if state is None else state))
    return [one.outcome for one in lanes.judge_server("pair", out, status)]


def test_each_remain_of_the_server_guest_counts(tmp_path):
    assert judged(tmp_path / "good") == [PASSED, PASSED, PASSED]
    assert judged(tmp_path / "stuck", status=124) == [FAILED, PASSED, PASSED]
    assert judged(tmp_path / "report", log=CLEAN + REPORTS["null"]) == [PASSED, FAILED, PASSED]
    left = end(taint=0, threads=["stub_rx"])
    assert judged(tmp_path / "thread", state=left) == [PASSED, PASSED, FAILED]


def test_a_server_guest_that_left_nothing_has_failed(tmp_path):
    assert {one.outcome for one in lanes.judge_server("pair", tmp_path, 125)} == {FAILED}


def test_every_default_lane_exists_and_has_a_time_limit():
    assert set(lanes.LANES) <= set(lanes.ALL)
    assert {one.split("-")[0] for one in lanes.KERNELS} == set(lanes.TIMEOUT)
