# SPDX-License-Identifier: GPL-2.0
"""The benchmark: what is measured for a comparison, and what is made of it."""

import json

import pytest

from bench import functions, plan, plot, profile, report
from rusbip_env import monitor

VC, VR = plan.Ends("rust", "c vudc"), plan.Ends("rust", "rust vudc")
CC, RC, RR = plan.Ends("c", "c"), plan.Ends("rust", "c"), plan.Ends("rust", "rust")


def sample(ends, device, case, number, rate, cpu=100.0, stolen=0.0):
    """As bench-guest writes it; what is not given follows."""
    _, size, *depth = case.split("-")
    size = {"64": 64, "4k": 4096, "64k": 1 << 16, "1m": 1 << 20}[size]
    return {"client": ends.client, "server": ends.server, "device": device, "case": case,
            "round": number, "host_stolen": stolen, "size": size,
            "depth": int(depth[0][1:]) if depth else 1, "urbs": 10, "urbs_per_s": rate,
            "mib_per_s": rate * size / (1 << 20),
            "cpu_us_per_urb": cpu, "cpu_ms_per_mib": cpu / 1e3 * (1 << 20) / size,
            "run_us_per_urb": 3 * cpu, "run_ms_per_mib": 3 * cpu / 1e3 * (1 << 20) / size,
            "tasks_ns": {"stub_rx": 400_000, "vhci_rx": 300_000}}


def row(found, case, metric, device="sample"):
    return next(one for one in found
                if (one.device, one.case, one.metric.name) == (device, case, metric))


def test_every_pair_of_ends_is_set_up_once():
    steps = plan.steps(plan.KINDS)
    assert len(steps) == len(set(steps))
    pairs = list(dict.fromkeys(step.ends for step in steps))
    # Those that are compared take turns, nothing is set up twice in a round.
    assert [str(pair) for pair in pairs if pair != plan.NEITHER] == [
        "c client, null server", "rust client, null server", "c client, c server",
        "rust client, c server", "rust client, c vudc server", "rust client, rust server",
        "rust client, rust vudc server"]
    # The null device and gadgets are nowhere plugged in.
    assert {step.device for step in steps if step.ends == plan.NEITHER} == {
        "tcp", "sample", "disk"}
    order = [step.ends for step in steps]
    assert order == sorted(order, key=pairs.index)


@pytest.mark.parametrize("name", plan.KINDS)
def test_a_kind_measures_what_it_compares_and_no_more(name):
    kind = plan.KINDS[name]
    steps = plan.steps([name])
    assert {step.ends for step in steps} == {plan.NEITHER, kind.c, kind.rust}
    for ends in (kind.c, kind.rust):
        assert {step.device: step.cases for step in steps if step.ends == ends} == {
            device: plan.CASES[device] for device in kind.served(ends)}


def test_c_does_not_serve_what_it_cannot():
    devices = {ends: [step.device for step in plan.steps(["vudc"]) if step.ends == ends]
               for ends in (VC, VR)}
    assert devices == {VC: ["gadget", "gadget-disk"], VR: ["gadget", "gadget-ss", "gadget-disk"]}


def test_what_the_kernel_submits_is_measured_where_it_has_a_driver():
    measured = {one.device: [case for case in one.cases if case.endswith(plan.KERNEL)]
                for one in plan.steps(plan.KINDS)}
    both = ("{}-4k-d1-kernel", "{}-4k-d32-kernel", "{}-64k-d8-kernel", "{}-1m-d4-kernel")
    every = {name.format(way) for name in both for way in ("in", "out")}
    assert {device: set(cases) for device, cases in measured.items() if cases} == {
        "sample": every, "gadget": every, "gadget-ss": every}
    # A program has the device first, then the kernel's driver; they change once.
    for step in plan.steps(plan.KINDS):
        ends = [case.endswith(plan.KERNEL) for case in step.cases]
        assert ends == sorted(ends)


def test_what_the_kernel_submits_has_the_same_messages_over_tcp():
    assert plan.steps(["host"], ["in-4k-d32-kernel", "in-4k-d32", "out-64k-d8-kernel"])[0] == (
        plan.Step(plan.NEITHER, "tcp", ("in-4k-d32", "out-64k-d8")))
    for step in plan.steps(plan.KINDS):
        assert step.device != "tcp" or len(step.cases) == len(set(step.cases)) == 12


def test_only_chosen_cases():
    assert plan.steps(["pair"], ["read-1m"]) == [
        plan.Step(ends, "disk", ("read-1m",)) for ends in (plan.NEITHER, CC, RR)]
    assert plan.steps(["null"], ["read-1m"]) == []


def test_without_a_device():
    assert plan.steps(["pair"], ["read-1m"], ["disk"]) == []
    assert [step.device for step in plan.steps(["pair", "vudc"], ["read-1m"], ["disk"])] == [
        "gadget-disk", "gadget-disk"]


def test_kinds_take_their_columns_from_the_right_ends():
    case, rates = "in-4k-d1", {CC: 100.0, RC: 200.0, RR: 500.0, plan.NEITHER: 1000.0}
    samples = [sample(ends, "sample", case, 1, rate) for ends, rate in rates.items()]
    samples.append(sample(plan.NEITHER, "tcp", case, 1, 900.0))
    found = report.rows(samples, plan.KINDS)
    assert {one.kind for one in found} == {"host", "pair"}
    pairs = {one.kind: one for one in found if one.metric.name == report.RATE}
    assert pairs["host"].medians == {"c": 200, "rust": 500, "tcp": 900, "direct": 1000}
    assert pairs["pair"].medians == {"c": 100, "rust": 500, "tcp": 900, "direct": 1000}
    assert (pairs["host"].ratio, pairs["pair"].ratio) == (2.5, 5)


def test_medians_and_spread():
    rates = {CC: (100.0, 200.0, 400.0), RR: (150.0, 500.0, 480.0)}
    samples = [sample(ends, "sample", "out-4k-d32", number, rate)
               for ends, some in rates.items() for number, rate in enumerate(some)]
    found = row(report.rows(samples, ["pair"]), "out-4k-d32", report.RATE)
    assert found.medians["c"] == 200 and found.medians["rust"] == 480
    assert (found.ratio, found.low, found.high) == (2.4, 1.2, 2.5)


def test_what_was_disturbed_does_not_count():
    case = "in-4k-d1"
    good = [sample(CC, "sample", case, 1, 100.0), sample(CC, "sample", case, 2, 90.0, stolen=0.02),
            # There is no better one.
            sample(RR, "sample", case, 1, 30.0, stolen=0.2)]
    bad = sample(CC, "sample", case, 3, 10.0, stolen=0.03)
    assert report.undisturbed([good[0], bad, *good[1:]]) == good
    found = report.document({}, [*good, bad], good, ["pair"])
    assert found["samples"] == [*good, bad]
    assert [one["medians"]["c"] for one in found["results"] if one["metric"] == report.RATE] == [95]


def test_user_mode_linux_asks_how_disturbed_the_host_is():
    with monitor.serve_line() as line, line.makefile("rwb", buffering=0) as guest:
        guest.write(b'{"host": "cpu"}\n')
        every, taken = json.loads(guest.readline())["return"]
        assert every > taken >= 0
        # The rest is QEMU's.
        guest.write(b'{"execute": "query-status", "arguments": {}}\n')
        assert "QEMU" in json.loads(guest.readline())["error"]["desc"]


def test_no_round_has_both():
    """Others were disturbed: there is a ratio, but nothing to be said of its spread."""
    samples = [sample(ends, "sample", case, number, rate)
               for case in ("in-4k-d1", "in-1m-d4")
               for ends, number, rate in ((CC, 1, 100.0), (RR, 2, 150.0))]
    found = report.rows(samples, ["pair"])
    rate = row(found, "in-4k-d1", report.RATE)
    assert (rate.ratio, rate.low, rate.high) == (1.5, None, None)
    assert "–" not in report.line(rate)
    assert '"1.50"' in plot.script(found, "", "out.svg")


def test_a_case_that_one_side_lacks_is_left_out():
    samples = [sample(CC, "sample", "in-1m-d4", 1, 10.0), sample(RR, "disk", "read-1m", 1, 10.0)]
    assert report.rows(samples, plan.KINDS) == []


@pytest.mark.parametrize("kind, device, case, targets", [
    ("null", "null", "in-64-d1", (1.2, 0.7)), ("null", "null", "out-1m-d4", (1.5, 0.7)),
    ("disk", "disk", "read-1m", (None, None)),
    ("host", "sample", "in-4k-d1", (1.3, None)), ("host", "sample", "in-4k-d32", (2.0, None)),
    ("host", "sample", "in-1m-d4", (1.5, None)), ("host", "disk", "write-1m", (1.5, None)),
    ("pair", "sample", "out-4k-d1", (1.3, None)), ("pair", "sample", "out-4k-d32", (2.0, None)),
    ("pair", "sample", "out-1m-d4", (1.5, 0.7)), ("pair", "disk", "read-1m", (1.5, 0.7)),
    ("vudc", "gadget", "in-4k-d1", (20.0, None)), ("vudc", "gadget", "in-4k-d32", (None, None)),
    ("vudc", "gadget", "in-1m-d4", (20.0, 1.0)), ("vudc", "gadget-disk", "read-1m", (20.0, 1.0)),
    ("vudc", "gadget-disk", "read-4k", (20.0, None)),
    ("host", "sample", "in-4k-d1-kernel", (1.3, None)),
    ("pair", "sample", "out-4k-d32-kernel", (2.0, None)),
    ("pair", "sample", "in-64k-d8-kernel", (None, None)),
    ("pair", "sample", "in-1m-d4-kernel", (1.5, 0.7)),
    ("vudc", "gadget", "out-4k-d1-kernel", (20.0, None)),
    ("vudc", "gadget", "out-64k-d8-kernel", (None, None)),
])
def test_targets(kind, device, case, targets):
    samples = [sample(ends, device, case, 1, 10.0)
               for ends in (plan.KINDS[kind].c, plan.KINDS[kind].rust)]
    found = report.rows(samples, [kind])
    assert tuple(one.metric.target for one in found) == (*targets, None)
    assert found[-1].metric.name in (report.THREADS_URB, report.THREADS_MIB)


def test_what_reaches_a_target():
    samples = [sample(CC, "sample", "in-1m-d4", 1, 100.0, 1000.0),
               sample(RR, "sample", "in-1m-d4", 1, 150.0, 710.0)]
    found = report.rows(samples, ["pair"])
    assert [one.metric.reached(one.ratio) for one in found] == [True, False, None]
    assert report.judged(found) == (1, 2)
    text = report.table(found)
    assert "1.50  1.50–1.50 ≥ 1.5 reached" in text and "0.71  0.71–0.71 ≤ 0.7 MISSED" in text


def test_what_is_compared_with_tcp():
    case, tcp = "in-1m-d4", sample(plan.NEITHER, "tcp", "in-1m-d4", 1, 200.0)
    samples = [tcp, sample(VC, "gadget", case, 1, 10.0), sample(VR, "gadget", case, 1, 110.0),
               # Only Rust has this one.
               sample(VR, "gadget-ss", case, 1, 130.0)]
    found = report.rows(samples, ["vudc"])
    ratios = [(one.device, one.metric.name, one.metric.against, one.ratio, one.metric.target)
              for one in found if one.metric.name == report.THROUGHPUT]
    assert ratios == [("gadget", report.THROUGHPUT, "c", 11.0, 20.0),
                      ("gadget", report.THROUGHPUT, "tcp", 0.55, 0.6),
                      ("gadget-ss", report.THROUGHPUT, "c", None, None),
                      ("gadget-ss", report.THROUGHPUT, "tcp", 0.65, 0.6)]
    # CPU time per MiB is the same.
    assert report.judged(found) == (2, 4)
    drawn = plot.script(found, "", "out.svg")
    assert "vudc: IN 1 MiB, depth 4, SS / TCP" in drawn
    # Of two panels one has ratios that are far apart.
    assert drawn.count("\nset logscale x") == drawn.count("\nunset logscale x") == 1


def test_what_the_kernel_submits_in_the_table():
    case = "out-64k-d8-kernel"
    samples = [sample(plan.NEITHER, "tcp", "out-64k-d8", 1, 2000.0),
               sample(plan.NEITHER, "sample", case, 1, 900_000.0),
               sample(CC, "sample", case, 1, 800.0), sample(RR, "sample", case, 1, 1600.0)]
    found = report.rows(samples, ["pair"])
    assert [one.metric.name for one in found] == [report.THROUGHPUT, report.CPU_MIB,
                                                  report.THREADS_MIB]
    assert found[0].medians == {"c": 50, "rust": 100, "tcp": 125, "direct": 56250}
    lines = report.table(found).splitlines()
    assert lines[2].startswith("OUT 64 KiB, depth 8, kernel MiB/s           50.0     100.0 ")
    assert lines[1].index("Rust/C") + 6 == lines[2].index("2.00") + 4


def test_no_title_is_wider_than_its_column():
    assert max(map(len, map(report.title, plan.ALL_CASES))) == report.WIDTH


def test_cpu_time_where_a_timer_works():
    samples = [sample(ends, "gadget", case, 1, 10.0, cpu) for case in ("in-1m-d4", "in-4k-d1")
               for ends, cpu in ((VC, 200.0), (VR, 100.0))]
    found = report.rows(samples, ["vudc"])
    bulk = row(found, "in-1m-d4", report.RUN_MIB, "gadget")
    small = row(found, "in-4k-d1", report.RUN_URB, "gadget")
    assert (bulk.medians["c"], bulk.medians["rust"], bulk.ratio) == (0.6, 0.3, 0.5)
    assert (small.medians["c"], small.medians["rust"], small.ratio) == (600, 300, 0.5)
    # /proc/stat's do not count there.
    assert {one.metric.name for one in found}.isdisjoint({report.CPU_URB, report.CPU_MIB})


def test_time_of_the_threads_alone():
    """Of client and server: neither of programs, nor of the kernel's other threads."""
    some = {CC: {"stub_tx": 400_000, "vhci_rx": 300_000, "kworker": 5_000_000, "null": 1_000_000},
            RR: {"vudc_tx": 100_000, "vhci_tx": 250_000}, plan.NEITHER: {"kworker": 100_000}}
    samples = [sample(ends, "sample", case, 1, 10.0) | {"tasks_ns": tasks}
               for case in ("in-4k-d1", "in-1m-d4") for ends, tasks in some.items()]
    found = report.rows(samples, ["pair"])
    small = row(found, "in-4k-d1", report.THREADS_URB)
    bulk = row(found, "in-1m-d4", report.THREADS_MIB)
    assert (small.medians["c"], small.medians["rust"], small.medians["direct"]) == (70, 35, None)
    assert (bulk.medians["c"], bulk.medians["rust"], bulk.ratio) == pytest.approx((0.07, 0.035, 0.5))
    assert report.label(small) == "IN 4 KiB, depth 1, threads"
    # A kernel that accounts no tasks.
    nothing = [one | {"tasks_ns": {}} for one in samples]
    assert {one.metric.name for one in report.rows(nothing, ["pair"])}.isdisjoint(
        {report.THREADS_URB, report.THREADS_MIB})


def test_a_clock_that_shows_nothing_is_no_ratio():
    samples = [sample(ends, "sample", "in-1m-d4", 1, 100.0, 0.0) for ends in (CC, RR)]
    found = row(report.rows(samples, ["pair"]), "in-1m-d4", report.CPU_MIB)
    assert (found.ratio, found.metric.reached(found.ratio)) == (None, None)
    assert "pair: IN 1 MiB" in plot.script(report.rows(samples, ["pair"]), "", "out.svg")


def test_profile():
    samples = [sample(RR, "sample", "in-4k-d1", number, 10.0, 80.0) for number in (1, 2)]
    assert profile.table(samples).splitlines()[-1] == (
        "  rust + rust          80: stub_rx 40, vhci_rx 30, no task 10")


def test_functions(tmp_path):
    """What perf saw, by the time and the place at which it saw it."""
    kernel = functions.read_symbols("60001000 T memcpy_orig\n60002000 t tcp_sendmsg\n60000000 D data\n")
    modules = functions.read_symbols("7000001000 t stub_rx\t[usbip_host]\n")
    taken = functions.read_samples("""
linux   9.900000000:      60001000
linux  10.100000000:      60001010
linux  10.200000000:      60002fff
linux  10.300000000:    7000001abc
uml-userspace  10.400000000:      60001010
linux  10.450000000:  7ffc00001abc
linux  10.500000000:  ffffffff81000000
perf  10.600000000:      60001010
linux  11.100000000:      60001000
""")
    one = sample(CC, "sample", "in-4k-d1", 1, 10.0) | {"ended": 11.0, "seconds": 1.0}
    names = functions.counted(taken, one, kernel, modules)
    assert names == {"memcpy_orig": 1, "tcp_sendmsg": 1, "stub_rx [usbip_host]": 1,
                     functions.PROGRAMS: 1, functions.HOST: 2}
    assert functions.parties(names) == {functions.KERNEL: 2, "usbip_host": 1, functions.PROGRAMS: 1,
                                        functions.HOST: 2}
    assert functions.symbols_file(tmp_path, one).name == "symbols-1-sample-c-c"
