# SPDX-License-Identifier: GPL-2.0
"""Which tasks used the CPU in the benchmark, per URB or MiB, so that ends can be compared."""

import itertools

from . import plan, report
from .plan import BULK, SMALL

# Tasks that are named; the others are added up.
MOST = 7


def shares(samples):
    """(CPU time per URB in µs, or per MiB in ms; that of each task, the greatest first). What of
    all CPU time is no task's is that of interrupts and of what has ended meanwhile."""
    small = samples[0]["size"] <= SMALL
    units = sum(one["urbs"] * (1 if small else one["size"] / BULK) for one in samples)
    per = (1e3 if small else 1e6) * units
    total = sum(one["cpu_us_per_urb"] * one["urbs"] for one in samples) * 1e3 / per
    tasks = {}
    for one in samples:
        for name, time in one["tasks_ns"].items():
            tasks[name] = tasks.get(name, 0) + time / per
    return total, sorted(tasks.items(), key=lambda task: -task[1])


def figure(value):
    """Three digits, and no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def line(ends, samples):
    """All time, then that of the tasks that used most."""
    total, tasks = shares(samples)
    words = [f"{task} {figure(time)}" for task, time in tasks[:MOST]]
    rest = {"others": sum(time for _, time in tasks[MOST:]),
            "no task": total - sum(time for _, time in tasks)}
    words += [f"{name} {figure(time)}" for name, time in rest.items() if time > total / 100]
    name = "direct" if ends == plan.NEITHER else f"{ends.client} + {ends.server}"
    return f"  {name:16} {figure(total):>6}: {', '.join(words)}"


def table(samples):
    """All that was measured, as text, for each case one line for each pair of ends."""
    lines = ["CPU time per URB in µs (above 4 KiB per MiB in ms) with client + server, and whose it was"]
    for device, cases in plan.CASES.items():
        for case in cases:
            some = [one for one in samples if (one["device"], one["case"]) == (device, case)]
            by_ends = itertools.groupby(sorted(some, key=ends_of), key=ends_of)
            found = [line(plan.Ends(*ends), list(group)) for ends, group in by_ends]
            if found:
                lines += ["", f"{report.title(case)}: {plan.DEVICES[device]}", *found]
    return "\n".join(lines)


def ends_of(sample):
    return sample["client"], sample["server"]
