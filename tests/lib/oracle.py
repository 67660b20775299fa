# SPDX-License-Identifier: GPL-2.0
"""Decides from a kernel log whether a lane is clean.

Every report of the kernel about itself is a finding. The exceptions are listed below, each with
what it must contain, how often it may occur and why it is not ours; anything else fails the lane.
"""

import dataclasses
import re

# The first line of a report. Case matters: the kernel's wording is fixed.
STARTS = re.compile(r"""
    \bBUG:\ | \bWARNING:\ | \bOops\b | \bKernel\ panic | \bKASAN:\ | \bUBSAN:\ | \bODEBUG:\ |
    general\ protection\ fault | Unable\ to\ handle\ kernel | kernel\ BUG\ at |
    double\ fault | stack\ guard\ page | Bad\ page\ (state|map) |
    \bINFO:\ task\ .*\ blocked | \bINFO:\ rcu | rcu:\ INFO: | rcu.*detected\ (expedited\ )?stall |
    self-detected\ stall | soft\ lockup | hard\ LOCKUP | workqueue\ lockup | watchdog:\ BUG |
    refcount_t: | list_(add|del)\ corruption | scheduling\ while\ atomic |
    DEBUG_LOCKS_WARN_ON | unregister_netdevice:\ waiting | rust_kernel:\ panicked | panicked\ at |
    kmemleak:\ [0-9]+\ new\ suspected | kmemleak:\ .*(disabl|exhaust) |
    turning\ off\ the\ locking\ correctness | MAX_LOCK(DEP)?_\w+\ too\ low |
    Object\ already\ free | Poison\ overwritten | Redzone\ overwritten |
    module\ .*\ still\ has\ | kobject_add_internal\ failed | sysfs:\ cannot\ create\ duplicate |
    segfault\ at\ .*\ error
""", re.VERBOSE)
# KASAN and lockdep put a rule or a blank line before and after; the report itself ends here.
ENDS = re.compile(r"---\[ end (trace|Kernel)|^={20,}$")
LONGEST = 120
TIMESTAMP = re.compile(r"^(<\d+>)?\[ *\d+\.\d+\](\[ *[TC]\d+\])? ?")


@dataclasses.dataclass(frozen=True)
class Noise:
    """A report that is known and not ours."""
    lane: str
    first: str     # what the first line contains
    inside: tuple  # what other lines of the report contain, all of them
    most: int      # how many there may be
    why: str


KNOWN = (
    Noise("uml-lockdep", "sleeping function called from invalid context", ("um_request_irq",), 1,
          "User-Mode Linux sets up its console interrupt at boot with interrupts off"),
    Noise("uml-kasan", "KASAN: global-out-of-bounds in memcmp", ("load_module",), 1,
          "the module loader of ARCH=um compares relocations beyond a global"),
    Noise("uml-kasan", "KASAN: slab-use-after-free in stub_rx_loop", ("usbip_host",), 1000,
          "the C usbip-host, which tests use as a peer: bugzilla.kernel.org, bug 215487"),
    # usbtest arms a timer on its stack again after timer_destroy_on_stack().
    Noise("uml-kasan", "WARNING: lib/debugobjects.c", ("perform_sglist",), 5,
          "usbtest uses a timer after its end"),
    Noise("uml-kasan", "ODEBUG: object", ("is on stack", "perform_sglist"), 5,
          "usbtest uses a timer after its end"),
    # One at boot and one of each HID gadget, of which there are seven; a scan finds some of them.
    *(Noise("uml-kasan", f"kmemleak: {count} new suspected memory leak", (), 2,
            "those of KNOWN_LEAKS; what leaked is judged by end_findings()")
      for count in range(1, 9)),
)


@dataclasses.dataclass
class Report:
    """One report in the log: its lines without timestamps."""
    lines: list

    @property
    def title(self):
        return self.lines[0].strip()

    def __str__(self):
        return "\n".join(self.lines)


def strip(line):
    """A log line without priority, timestamp and caller."""
    return TIMESTAMP.sub("", line.rstrip("\n"))


def reports(log):
    """All reports, each from its first line to its end marker (or the next report)."""
    found = []
    current = None
    for line in map(strip, log.splitlines()):
        starts = STARTS.search(line)
        if current is not None:
            over = ENDS.search(line) or len(current) >= LONGEST
            if not over and (not starts or continues(current, line)):
                current.append(line)
                continue
            current = None
            if not starts:
                continue
        if starts:
            current = [line]
            found.append(Report(current))
    return found


def continues(current, line):
    """A WARNING is followed by lines that look like starts of their own (lockdep's verdict under
    its headline, the RIP of an oops): the same report if it is close by."""
    return len(current) < 4 and not line.startswith(("BUG: ", "WARNING: CPU", "INFO: task"))


def findings(log, lane):
    """The reports that are not known noise of this lane, and noise that came too often."""
    counts = dict.fromkeys(KNOWN, 0)
    bad = []
    for report in reports(log):
        noise = next((one for one in KNOWN if matches(one, report, lane)), None)
        if noise:
            counts[noise] += 1
        if not noise or counts[noise] > noise.most:
            bad.append(report)
    return bad


def matches(noise, report, lane):
    text = str(report)
    return (noise.lane == lane and noise.first in report.title
            and all(part in text for part in noise.inside))


# Leaks that are not ours: what the backtrace contains, and why it is there.
KNOWN_LEAKS = {"hostfs_parse_monolithic": "the path of User-Mode Linux's root folder, at boot",
               "hidg_bind": "f_hid frees its request for GET_REPORT only while that is pending"}

# Taint of a healthy lane, as a number: 4096 out-of-tree module, 8192 unsigned module (kernels that
# check signatures), 512 the warnings above (findings() looks at each), 32 the KASAN report above.
# Of a pair, one guest may have the kernel's own modules only.
TAINT = {"stock": (12288,), "pair": (12288, 0), "uml-lockdep": (4608, 4096),
         "uml-kasan": (4096, 4128, 4608, 4640)}


def taint_finding(taint, lane):
    """None where the taint is what this lane's modules alone cause."""
    expected = TAINT[lane if lane in TAINT else lane.split("-")[0]]
    return None if taint in expected else f"taint is {taint}, expected {expected[0]}"


def end_findings(state, lane):
    """From what tests/lib/lane_end.py saw inside the guest (its JSON) to a list of findings."""
    bad = [f"module {name} cannot be unloaded: {why}" for name, why in state["stuck"].items()]
    bad += [f"port left in use: {line}" for line in state["busy"]]
    bad += [f"thread left behind: {name}" for name in state["threads"]]
    if finding := taint_finding(state["taint"], lane):
        bad.append(finding)
    if lane == "uml-lockdep" and state["debug_locks"] != 1:
        bad.append(f"lockdep is off at the end (debug_locks: {state['debug_locks']})")
    if lane == "uml-kasan":
        bad += [f"{name} is off at the end" for name in ("kasan", "kasan_multi_shot", "kmemleak",
                                                        "failslab") if not state[name]]
        if state["kmemleak"] and state["scans"] < 2:
            bad.append(f"kmemleak scanned {state['scans']} times, 2 are needed")
        bad += [f"leak: {leak}" for leak in state["leaks"]
                if not any(name in leak for name in KNOWN_LEAKS)]
    return bad
