# SPDX-License-Identifier: GPL-2.0
"""Medians and ratios of the benchmark, as a table and for machines.

A sample is one run of one case: an object that usbip-bench-client wrote, with "client", "server",
"device" (see plan) and "round" added by scripts/bench-guest.
"""

import dataclasses
import statistics

from . import plan
from .plan import BULK, SMALL

# What one case is judged by, and against what: ratio of Rust to C.
RATE, THROUGHPUT, CPU_URB, CPU_MIB = "urbs_per_s", "mib_per_s", "cpu_us_per_urb", "cpu_ms_per_mib"
# The run time of all tasks instead.
RUN_URB, RUN_MIB = "run_us_per_urb", "run_ms_per_mib"
# That of the threads of client, server and device controller alone.
THREADS_URB, THREADS_MIB = "threads_us_per_urb", "threads_ms_per_mib"
THREADS = ("vhci_", "stub_", "vudc_")
# The columns. "tcp": the same messages over bare loopback TCP; "direct": the device without USB/IP.
SUBJECTS = {"c": "C", "rust": "Rust", "tcp": "TCP", "direct": "direct"}


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure of a case. target: the ratio to reach, None where there is none; it is that of Rust
    to the subject `against`."""
    name: str
    unit: str
    digits: int
    higher: bool
    target: float | None
    against: str = "c"

    def reached(self, ratio):
        """Whether a ratio reaches the target; None where there is no target or no ratio."""
        if self.target is None or ratio is None:
            return None
        return ratio >= self.target if self.higher else ratio <= self.target


def metrics(kind, device, size, depth):
    """The figures that matter for a case, the throughput first."""
    targets = kind.goals(device) if size <= SMALL or size >= BULK else plan.Targets()
    if size <= SMALL:
        return (Metric(RATE, "1/s", 0, True, targets.rates.get(depth)),
                Metric(RUN_URB if kind.by_tasks else CPU_URB, "µs CPU", 1, False,
                       targets.cpu_per_urb),
                Metric(THREADS_URB, "µs threads", 2, False, None))
    found = (Metric(THROUGHPUT, "MiB/s", 1, True, targets.throughput),
             Metric(RUN_MIB if kind.by_tasks else CPU_MIB, "ms CPU/MiB", 2, False,
                    targets.cpu_per_mib),
             Metric(THREADS_MIB, "ms threads", 3, False, None))
    if targets.tcp is not None:
        found += (Metric(THROUGHPUT, "of TCP", 1, True, targets.tcp, "tcp"),)
    return found


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of one case: medians over the rounds, and the ratio Rust/C, or of Rust to what the
    metric says.

    ratio is the quotient of the medians; low and high are the least and the greatest quotient of
    two runs of the same round, which show how far the machine's noise reaches; None if no round has
    both."""
    kind: str
    device: str
    case: str
    metric: Metric
    medians: dict
    ratio: float | None
    low: float | None
    high: float | None


# A measurement during which others took more than this part of the host's time is left out. A share
# of a few per cent makes some wake-ups wait for milliseconds, and rates several times smaller.
MOST_STOLEN = 0.02


def is_disturbed(sample):
    """Whether a measurement was."""
    return sample["host_stolen"] > MOST_STOLEN


def undisturbed(samples):
    """The samples that count: all but those that were disturbed, unless a case has no other."""
    cases = {}
    for one in samples:
        what = (one["client"], one["server"], one["device"], one["case"])
        cases.setdefault(what, []).append(one)
    return [one for some in cases.values() for one in
            [one for one in some if not is_disturbed(one)] or some]


def value(sample, name):
    """A figure of one sample, None where it has none."""
    if name in (THREADS_URB, THREADS_MIB):
        # None of them in what goes over no USB/IP.
        times = [time for task, time in sample["tasks_ns"].items() if task.startswith(THREADS)]
        if not times:
            return None
        if name == THREADS_URB:
            return sum(times) / 1e3 / sample["urbs"]
        return sum(times) / 1e6 / (sample["urbs"] * sample["size"] / BULK)
    return sample[name]


def chosen(samples, kind, device, case, subject):
    """The samples of a case that a column is made of."""
    ends = {"c": kind.c, "rust": kind.rust}.get(subject, plan.NEITHER)
    what = ("tcp", plan.over_tcp(case)) if subject == "tcp" else (device, case)
    wanted = (ends.client, ends.server, *what)
    return [one for one in samples
            if (one["client"], one["server"], one["device"], one["case"]) == wanted]


def quotient(one, other):
    """one/other, None where the kernel's clock was too coarse to see anything."""
    return one / other if one is not None and other else None


def rows(samples, kinds):
    """All figures of some kinds, in the order in which the cases ran. What was not measured at
    both ends of a comparison is left out."""
    found = []
    for kind in (plan.KINDS[name] for name in kinds):
        for device in kind.devices:
            for case in plan.CASES[device]:
                found += figures(samples, kind, device, case)
    return found


def figures(samples, kind, device, case):
    """The rows of one case."""
    per = {subject: chosen(samples, kind, device, case, subject) for subject in SUBJECTS}
    if not per["rust"] or not (per["c"] or device in kind.beyond_c):
        return []
    size, depth = per["rust"][0]["size"], per["rust"][0]["depth"]
    found = []
    for metric in metrics(kind, device, size, depth):
        # The disk's requests have no counterpart over bare TCP.
        if metric.against == "tcp" and not per["tcp"]:
            continue
        values = {subject: {one["round"]: value(one, metric.name) for one in some
                            if value(one, metric.name) is not None}
                  for subject, some in per.items()}
        if not values["rust"]:
            continue
        medians = {subject: statistics.median(rounds.values()) if rounds else None
                   for subject, rounds in values.items()}
        pairs = [quotient(values["rust"].get(number), value)
                 for number, value in values[metric.against].items()]
        pairs = [one for one in pairs if one is not None]
        found.append(Row(kind.name, device, case, metric, medians,
                         quotient(medians["rust"], medians[metric.against]),
                         min(pairs, default=None), max(pairs, default=None)))
    return found


NAMES = {"in": "IN", "out": "OUT", "read": "read", "write": "write", "64": "64 B", "4k": "4 KiB",
         "64k": "64 KiB", "1m": "1 MiB"}
# The longest title.
WIDTH = 27


def title(case):
    """A case in words: "IN 64 B, depth 32" or, with a driver of the kernel instead of a program,
    "IN 4 KiB, depth 1, kernel"."""
    what, size, *more = case.split("-")
    more = [word if f"-{word}" == plan.KERNEL else f"depth {word[1:]}" for word in more]
    return ", ".join([f"{NAMES[what]} {NAMES[size]}", *more])


def heading(kind, device):
    """What is compared, in words."""
    return f"{plan.KINDS[kind].heading}: {plan.DEVICES[device]}"


def label(row):
    """A figure in few words: its case, and what is not as for most others."""
    return (title(row.case) + (", SS" if row.device == "gadget-ss" else "")
            + (", threads" if row.metric.name in (THREADS_URB, THREADS_MIB) else "")
            + (" / TCP" if row.metric.against == "tcp" else ""))


def number(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"


def line(row):
    """One line of the table."""
    metric = row.metric
    target, verdict = "", ""
    if metric.target is not None:
        target = f"{'≥' if metric.higher else '≤'} {metric.target:.1f}"
        verdict = {True: "reached", False: "MISSED", None: ""}[metric.reached(row.ratio)]
    spread = f"{number(row.low, 2)}–{number(row.high, 2)}" if row.low is not None else ""
    values = " ".join(f"{number(row.medians[one], metric.digits):>9}" for one in SUBJECTS)
    return (f"{title(row.case):{WIDTH}} {metric.unit:10} {values} {number(row.ratio, 2):>6}  "
            f"{spread:9} {target:5} {verdict}").rstrip()


def table(found):
    """The whole table, as text."""
    head = (f"{'':{WIDTH}} {'':10} " + " ".join(f"{name:>9}" for name in SUBJECTS.values())
            + f" {'Rust/C':>6}  {'rounds':9} target")
    lines, section = [], None
    for row in found:
        if (row.kind, row.device) != section:
            section = (row.kind, row.device)
            lines += [*([""] if lines else []), heading(*section), head]
        lines.append(line(row))
    return "\n".join(lines)


def judged(found):
    """(reached, all) targets."""
    verdicts = [row.metric.reached(row.ratio) for row in found if row.metric.target is not None]
    return sum(one is True for one in verdicts), len(verdicts)


def document(about, samples, counted, kinds):
    """Everything, for machines; also the samples that do not count."""
    return {"about": about, "samples": samples, "results": [
        {"kind": row.kind, "device": row.device, "case": row.case, "metric": row.metric.name,
         "medians": row.medians, "ratio": row.ratio, "ratio_low": row.low, "ratio_high": row.high,
         "against": row.metric.against, "higher_is_better": row.metric.higher,
         "target": row.metric.target,
         "reached": row.metric.reached(row.ratio)}
        for row in rows(counted, kinds)]}
