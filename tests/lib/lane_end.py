# SPDX-License-Identifier: GPL-2.0
"""Runs inside the guest after its tests: unloads the modules, looks for what they left behind and
whether the checkers were still on, and writes what it saw to /out/lane.json. It judges nothing:
tests/lib/oracle.py does."""

import gzip
import json
import re
import subprocess
import time
from pathlib import Path

MODULES = Path("/modules")
KMEMLEAK = Path("/sys/kernel/debug/kmemleak")
# kmemleak ignores objects younger than 5 s.
KMEMLEAK_AGE = 6.0
UNLOAD_SECONDS = 20
OURS = re.compile(r"vhci|usbip|vudc|stub_[rt]x|v_[rt]x|(vhci|stub|vudc)_(rx|tx)")


def read(path, default=""):
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return default


def loaded():
    """Loaded module → its line in /proc/modules."""
    return {line.split()[0]: line for line in read("/proc/modules").splitlines()}


def unload():
    """Unloads our modules, users before what they use; returns those that refuse, and why."""
    ours = {file.stem.replace("-", "_") for file in MODULES.glob("*.ko")}
    # The C server as well, or its connections keep ours busy.
    subprocess.run(["modprobe", "-r", "usbip-host", "usbip-vudc", "vhci-hcd", "dummy_hcd"],
                   capture_output=True, check=False)
    deadline = time.monotonic() + UNLOAD_SECONDS
    why = {}
    while left := ours & loaded().keys():
        why = {}
        for name in sorted(left):
            done = subprocess.run(["rmmod", name], capture_output=True, text=True, check=False)
            if done.returncode:
                why[name] = f"{done.stderr.strip()}; {loaded().get(name, '')}"
        if len(why) == len(left):
            if time.monotonic() > deadline:
                break
            time.sleep(0.5)
    return {name: text for name, text in why.items() if name in loaded()}


def busy_ports():
    """Lines of vhci's status files that are not of a free port (status 4)."""
    lines = [line for file in Path("/sys/devices/platform").glob("vhci_hcd.0/status*")
             for line in read(file).splitlines()[1:]]
    return [line for line in lines if line.split()[2:3] != ["004"]]


def threads():
    """Kernel threads with a name like ours. Not the kernel's own workers: an idle one bears the
    name of the queue that it last worked for, whether that still exists or not."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        text = read(status)
        name = re.search(r"^Name:\t(.*)$", text, re.MULTILINE)
        if name and re.search(r"^PPid:\t2$", text, re.MULTILINE) and OURS.search(name[1]) \
                and not name[1].startswith("kworker/"):
            found.append(name[1])
    return sorted(found)


def scan_leaks():
    """Two scans, far enough apart; returns how many worked."""
    scans = 0
    for _ in range(2):
        time.sleep(KMEMLEAK_AGE)
        try:
            KMEMLEAK.write_text("scan")
            scans += 1
        except OSError:
            pass
    return scans


def leaks():
    """The unreferenced objects, one text each."""
    text = read(KMEMLEAK)
    return [part for part in re.split(r"(?m)^(?=unreferenced object)", text) if part.strip()]


def main():
    has_kmemleak = KMEMLEAK.exists()
    # Once while the modules are there and their symbols can be named, once after.
    scans = scan_leaks() if has_kmemleak else 0
    leaked = leaks()
    busy = busy_ports()
    stuck = unload()
    if has_kmemleak:
        scans += scan_leaks()
        known = {part.splitlines()[0] for part in leaked}
        leaked += [part for part in leaks() if part.splitlines()[0] not in known]
    locks = re.search(r"debug_locks: +(\d+)", read("/proc/lockdep_stats"))
    config = Path("/proc/config.gz")
    options = gzip.decompress(config.read_bytes()).decode() if config.exists() else ""
    state = {
        "taint": int(read("/proc/sys/kernel/tainted", "-1")),
        "busy": busy,
        "stuck": stuck,
        "threads": threads(),
        "debug_locks": int(locks[1]) if locks else None,
        "kasan": "\nCONFIG_KASAN=y" in options,
        "kasan_multi_shot": "kasan_multi_shot" in read("/proc/cmdline").split(),
        "kmemleak": has_kmemleak and scans > 0,
        "failslab": Path("/sys/kernel/debug/failslab/probability").exists(),
        "scans": scans,
        "leaks": leaked,
    }
    Path("/out/lane.json").write_text(json.dumps(state, indent=1))


main()
