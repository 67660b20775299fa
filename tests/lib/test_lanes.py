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


def run_all(cores):
    """What runs at a time in a run of all lanes, step by step; each takes as long as any other."""
    waiting, running, steps = lanes.schedule(lanes.LANES), [], []
    while waiting or running:
        while one := lanes.next_to_run(waiting, running, cores):
            waiting.remove(one)
            running.append(one)
        steps.append(list(running))
        running.pop(0)
    return steps


def test_a_run_of_all_lanes_runs_each_once():
    for cores in (1, 2, 4):
        seen = [one for before, now in zip([[], *run_all(cores)], run_all(cores))
                for one in now if one not in before]
        assert sorted(seen) == sorted((lane, part) for lane in lanes.LANES
                                      for part in lanes.parts(lane))


def test_one_emulates_beside_what_does_not():
    for cores in (1, 2, 4):
        for running in run_all(cores):
            assert len(running) <= cores
            assert sum(lanes.is_emulated(lane) for lane, _ in running) <= 1
    kinds = [lanes.is_emulated(lane) for lane, _ in run_all(2)[0]]
    assert sorted(kinds) == [False, True]
