# SPDX-License-Identifier: GPL-2.0
"""Which functions used the CPU in the benchmark: perf on the host looks into User-Mode Linux, which is
an ordinary process there.

The kernel's own functions have the addresses that nm prints of it. Modules lie where /proc/kallsyms
of the guest says, which scripts/bench-guest keeps for each step, as modules are loaded anew.
"""

import bisect
import collections
import contextlib
import re
import signal
import subprocess

from rusbip_env.run import Failure, die_with_parent

from . import plan, report

# Samples per second. No divisor of the rates of timers, so as not to meet the same moments.
RATE = 4999
# Processes of a guest on the host: its kernel, and one for each program.
KERNEL_PROCESS, PROGRAM_PROCESS = "linux", "uml-userspace"
MOST = 12
# What the addresses of the host's own kernel begin at.
HOST_BEGIN = 1 << 63
# Who works, besides modules: the kernel below, which hands over between the guest's kernel and its
# programs, and its clock (vDSO); those programs; the guest's kernel.
HOST, PROGRAMS, KERNEL = "host", "programs", "kernel"
SAMPLE = re.compile(r"\s*(.*?)\s+([\d.]+):\s+([0-9a-f]+)\b")


def symbols_file(out, sample):
    """Where the addresses of modules during a step are."""
    words = (str(sample["round"]), sample["device"], sample["client"], sample["server"])
    return out / f"symbols-{'-'.join(words).replace(' ', '-')}"


@contextlib.contextmanager
def recorded(out, processor):
    """Samples a processor of this machine meanwhile, which the guest has to itself."""
    try:
        perf = subprocess.Popen(
            ["perf", "record", "-q", "-C", str(processor), "-k", "CLOCK_REALTIME", "-e", "cpu-clock",
             "-F", str(RATE), "-o", out / "perf.data"], preexec_fn=die_with_parent)
    except FileNotFoundError:
        raise Failure("perf is missing on this machine (Debian package linux-perf)") from None
    try:
        yield
    finally:
        perf.send_signal(signal.SIGINT)
        perf.wait()


def read_symbols(text):
    """[(address, name)] of functions, in order, from what nm or /proc/kallsyms prints."""
    found = []
    for line in text.splitlines():
        address, kind, *name = line.split()
        if kind in "tTwW":
            found.append((int(address, 16), " ".join(name)))
    return sorted(found)


def name_of(address, symbols):
    """The function that an address is in, None if it lies before or far behind all of them."""
    place = bisect.bisect(symbols, (address, "\uffff")) - 1
    if place < 0 or address - symbols[place][0] > 1 << 16:
        return None
    return symbols[place][1]


def read_samples(text):
    """[(time, address, whether it is a program's)] of a guest, in order, from perf script -F
    comm,time,ip."""
    found = []
    for line in text.splitlines():
        if (match := SAMPLE.match(line)) and match[1] in (KERNEL_PROCESS, PROGRAM_PROCESS):
            found.append((float(match[2]), int(match[3], 16), match[1] == PROGRAM_PROCESS))
    return sorted(found)


def counted(taken, sample, kernel, modules):
    """How often each function was met while one sample of the benchmark was taken."""
    start = bisect.bisect(taken, (sample["ended"] - sample["seconds"],))
    end = bisect.bisect(taken, (sample["ended"],))
    names = collections.Counter()
    for _, address, is_program in taken[start:end]:
        if address >= HOST_BEGIN:
            names[HOST] += 1
        elif is_program:
            names[PROGRAMS] += 1
        else:
            names[name_of(address, modules) or name_of(address, kernel) or HOST] += 1
    return names


def parties(names):
    """How often each party was met: what is no module's is the kernel's."""
    found = collections.Counter()
    for name, count in names.items():
        module = re.search(r"\[(\w+)\]$", name)
        found[module[1] if module else name if name in (HOST, PROGRAMS) else KERNEL] += count
    return found


def table(out, samples, kernel):
    """All that was measured, as text: for each case and pair of ends who used how much, in µs per URB
    or ms per MiB, and the functions that used most."""
    script = subprocess.run(["perf", "script", "-i", out / "perf.data", "--ns", "-F",
                             "comm,time,ip"], text=True, capture_output=True, check=True)
    taken = read_samples(script.stdout)
    groups = collections.defaultdict(list)
    for one in samples:
        groups[one["case"], one["device"], one["client"], one["server"]].append(one)
    lines = ["Functions, CPU time per URB in µs (above 4 KiB per MiB in ms); "
             "\"host\" is the kernel below"]
    for (case, device, *ends), some in sorted(groups.items()):
        names = collections.Counter()
        for one in some:
            modules = read_symbols(symbols_file(out, one).read_text())
            names += counted(taken, one, kernel, modules)
        small = some[0]["size"] <= plan.SMALL
        units = sum(one["urbs"] * (1 if small else one["size"] / plan.BULK) for one in some)
        per = (1e6 if small else 1e3) / RATE / units
        lines += ["", f"{report.title(case)}: {device}, {' + '.join(ends)}"]
        lines.append("  " + ", ".join(f"{name} {count * per:.3g}"
                                      for name, count in parties(names).most_common()))
        names = collections.Counter({name: count for name, count in names.items()
                                     if name not in (HOST, PROGRAMS)})
        lines += [f"  {count * per:8.3f}  {name}" for name, count in names.most_common(MOST)]
    return "\n".join(lines)
