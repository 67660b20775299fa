# SPDX-License-Identifier: GPL-2.0
"""Medians and ratios of the benchmark, as a table and for machines.

A sample is one run of one case: an object that usbip-bench-client wrote, with "label" (c, rust or
tcp), "kind" (null, disk or loopback) and "round" added or set by scripts/bench-guest.
"""

import dataclasses
import statistics

# What one case is judged by, and against what: ratio of Rust to C.
RATE, THROUGHPUT, CPU_URB, CPU_MIB = "urbs_per_s", "mib_per_s", "cpu_us_per_urb", "cpu_ms_per_mib"
SMALL, BULK = 4096, 1 << 20
SUBJECTS = ("c", "rust", "tcp")


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure of a case. target: the ratio Rust/C to reach, None where there is none."""
    name: str
    unit: str
    digits: int
    higher: bool
    target: float | None

    def reached(self, ratio):
        """Whether a ratio reaches the target; None where there is no target or no ratio."""
        if self.target is None or ratio is None:
            return None
        return ratio >= self.target if self.higher else ratio <= self.target


def metrics(kind, size, depth):
    """The figures that matter for a case, the throughput first."""
    null = kind == "null"
    if size <= SMALL:
        least = {1: 1.2, 32: 2.0}.get(depth) if null else None
        return (Metric(RATE, "1/s", 0, True, least),
                Metric(CPU_URB, "µs CPU", 1, False, 0.7 if null else None))
    return (Metric(THROUGHPUT, "MiB/s", 1, True, 1.5 if null else None),
            Metric(CPU_MIB, "ms CPU/MiB", 2, False, 0.7 if null else None))


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of one case: medians over the rounds, and the ratio Rust/C.

    ratio is the quotient of the medians; low and high are the least and the greatest quotient of
    two neighbouring runs of a round, which show how far the machine's noise reaches."""
    kind: str
    case: str
    metric: Metric
    medians: dict
    ratio: float | None
    low: float | None
    high: float | None


def values(samples, kind, case, label, metric):
    """Round → value of one figure."""
    kind = "loopback" if label == "tcp" else kind
    return {one["round"]: one[metric.name] for one in samples
            if (one["kind"], one["case"], one["label"]) == (kind, case, label)}


def quotient(one, other):
    """one/other, None where the kernel's clock was too coarse to see anything."""
    return one / other if one is not None and other else None


def rows(samples):
    """All figures, in the order in which the cases ran."""
    seen = {(one["kind"], one["case"]): one for one in samples if one["kind"] != "loopback"}
    found = []
    for (kind, case), sample in seen.items():
        for metric in metrics(kind, sample["size"], sample["depth"]):
            per = {label: values(samples, kind, case, label, metric) for label in SUBJECTS}
            medians = {label: statistics.median(rounds.values()) if rounds else None
                       for label, rounds in per.items()}
            pairs = [quotient(per["rust"].get(number), value)
                     for number, value in per["c"].items()]
            pairs = [one for one in pairs if one is not None]
            found.append(Row(kind, case, metric, medians,
                             quotient(medians["rust"], medians["c"]),
                             min(pairs, default=None), max(pairs, default=None)))
    return found


NAMES = {"in": "IN", "out": "OUT", "read": "read", "write": "write", "64": "64 B", "4k": "4 KiB",
         "1m": "1 MiB"}


def title(row):
    """A case in words: "IN 64 B, depth 32"."""
    what, size, *depth = row.case.split("-")
    where = f", depth {depth[0][1:]}" if depth else ""
    return f"{NAMES.get(what, what)} {NAMES.get(size, size)}{where}"


HEADINGS = {"null": "Null server (answers at once)",
            "disk": "QEMU's usb-storage through usbip-host"}


def number(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"


def line(row):
    """One line of the table."""
    metric = row.metric
    target, verdict = "", ""
    if metric.target is not None:
        target = f"{'≥' if metric.higher else '≤'} {metric.target:.1f}"
        verdict = {True: "reached", False: "MISSED", None: ""}[metric.reached(row.ratio)]
    spread = f"{number(row.low, 2)}–{number(row.high, 2)}"
    figures = " ".join(f"{number(row.medians[one], metric.digits):>10}" for one in SUBJECTS)
    return (f"{title(row):21} {metric.unit:10} {figures} {number(row.ratio, 2):>7}  {spread:11} "
            f"{target:6} {verdict}").rstrip()


def table(found):
    """The whole table, as text."""
    head = (f"{'':21} {'':10} {'C':>10} {'Rust':>10} {'TCP':>10} {'Rust/C':>7}  {'rounds':11} "
            f"{'target':6}").rstrip()
    lines, kind = [], None
    for row in found:
        if row.kind != kind:
            kind = row.kind
            lines += [*([""] if lines else []), HEADINGS[kind], head]
        lines.append(line(row))
    return "\n".join(lines)


def judged(found):
    """(reached, all) targets."""
    verdicts = [row.metric.reached(row.ratio) for row in found if row.metric.target is not None]
    return sum(one is True for one in verdicts), len(verdicts)


def document(about, samples):
    """Everything, for machines."""
    return {"about": about, "samples": samples, "results": [
        {"kind": row.kind, "case": row.case, "metric": row.metric.name, "medians": row.medians,
         "ratio": row.ratio, "ratio_low": row.low, "ratio_high": row.high,
         "higher_is_better": row.metric.higher, "target": row.metric.target,
         "reached": row.metric.reached(row.ratio)} for row in rows(samples)]}
