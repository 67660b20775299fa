# SPDX-License-Identifier: GPL-2.0
"""The oracle can fail: made-up logs of every kind of report, and logs that must pass."""

import pytest

from lib import oracle

CLEAN = """\
[    0.000000] Linux version 7.2.12
[    1.000000] usb 1-1: new high-speed USB device number 2 using vhci_hcd
[    2.000000] vhci_hcd vhci_hcd.0: pdev(0) rhport(0) sockfd(3)
[    3.000000] usb 1-1: USB disconnect, device number 2
[    3.100000] lockdep is fine; a warning: nothing; DEBUG: info: task done
[    3.200000] kmemleak: Kernel memory leak detector initialized (mem pool available: 63000)
"""

REPORTS = {
    "null": "BUG: kernel NULL pointer dereference, address: 0000000000000008",
    "warn": "WARNING: CPU: 1 PID: 12 at drivers/usb/core/urb.c:379 usb_submit_urb+0x1/0x2",
    "warn-7.2": "WARNING: drivers/usb/core/urb.c:379 at usb_submit_urb+0x1/0x2, CPU#1: x/12",
    "oops": "Oops: Oops: 0000 [#1] SMP",
    "gpf": "general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP",
    "panic": "Kernel panic - not syncing: Attempted to kill init!",
    "rust": "rust_kernel: panicked at drivers/usb/usbip/vhci/main.rs:1:1:",
    "kasan": "BUG: KASAN: slab-use-after-free in vhci_rx+0x1/0x2 [vhci_hcd_rs]",
    "lockdep": "WARNING: possible circular locking dependency detected",
    "recursive": "WARNING: possible recursive locking detected",
    "irq": "WARNING: inconsistent lock state",
    "rcu-usage": "WARNING: suspicious RCU usage",
    "unbalance": "WARNING: bad unlock balance detected!",
    "sleep": "BUG: sleeping function called from invalid context at mm/slab.h:1",
    "atomic": "BUG: scheduling while atomic: vhci_tx/77/0x00000002",
    "leak": "kmemleak: 9 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
    "hung": "INFO: task usbip:123 blocked for more than 40 seconds.",
    "stall": "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
    "stall-self": "rcu: INFO: rcu_sched self-detected stall on CPU",
    "soft": "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [vhci_rx:1]",
    "workqueue": "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!",
    "refcount": "refcount_t: underflow; use-after-free.",
    "list": "list_del corruption. prev->next should be x, but was y",
    "odebug": "ODEBUG: free active (active state 0) object: x object type: timer_list hint: 0x0",
    "lock-off": "turning off the locking correctness validator.",
    "page": "Bad page state in process usbip  pfn:12345",
    "slub": "BUG kmalloc-64 (Tainted: G    B): Poison overwritten",
    "sysfs": "sysfs: cannot create duplicate filename '/devices/platform/vhci_hcd.0'",
}


def log(*lines, start=4.0):
    return CLEAN + "".join(f"[{start + number:12.6f}] {line}\n"
                           for number, line in enumerate(lines))


def test_a_clean_log_is_clean():
    for lane in ("stock-7.2", "uml-kasan", "uml-lockdep"):
        assert oracle.findings(CLEAN, lane) == []


@pytest.mark.parametrize("kind", REPORTS)
def test_every_kind_of_report_is_found(kind):
    text = log(REPORTS[kind], " Call Trace:", "  vhci_urb_enqueue+0x1/0x2 [vhci_hcd_rs]")
    for lane in ("stock-7.2", "uml-kasan", "uml-lockdep"):
        found = oracle.findings(text, lane)
        assert [one.title for one in found] == [REPORTS[kind]]
        assert "vhci_urb_enqueue" in str(found[0])


@pytest.mark.parametrize("prefix", ["[    1.000000] ", "<4>[    1.000000] ", "[    1.000000][ T77] ",
                                    "[    1.000000] [   C1] ", ""])
def test_prefixes_do_not_hide_a_report(prefix):
    assert len(oracle.findings(prefix + REPORTS["null"] + "\n", "stock-7.2")) == 1


def test_two_reports_are_two():
    text = log(REPORTS["warn"], "---[ end trace 0000000000000000 ]---", REPORTS["null"])
    assert [one.title for one in oracle.findings(text, "stock-7.3")] == [
        REPORTS["warn"], REPORTS["null"]]


BOOT = ("BUG: sleeping function called from invalid context at mm/slab.h:1",
        "in_atomic(): 0, irqs_disabled(): 1, pid: 1, name: swapper/0", " um_request_irq+0x1/0x2",
        "---[ end trace 0000000000000000 ]---")


def test_known_noise_passes_once_in_its_lane_only():
    assert oracle.findings(log(*BOOT), "uml-lockdep") == []
    assert len(oracle.findings(log(*BOOT), "uml-kasan")) == 1
    assert len(oracle.findings(log(*BOOT), "stock-7.2")) == 1
    assert len(oracle.findings(log(*BOOT, *BOOT), "uml-lockdep")) == 1


def test_noise_does_not_cover_the_same_headline_elsewhere():
    other = (BOOT[0], " vhci_urb_enqueue+0x1/0x2 [vhci_hcd_rs]")
    assert len(oracle.findings(log(*other), "uml-lockdep")) == 1
    text = log("BUG: KASAN: global-out-of-bounds in memcmp+0x1/0x2", " vhci_rx [vhci_hcd_rs]")
    assert len(oracle.findings(text, "uml-kasan")) == 1


def end(**changes):
    """What a healthy guest reports at its end, with changes."""
    return {"taint": 4608, "busy": [], "stuck": {}, "threads": [], "debug_locks": 1, "kasan": True,
            "kasan_multi_shot": True, "kmemleak": True, "failslab": True, "scans": 4,
            "leaks": []} | changes


@pytest.mark.parametrize("changes, words", [
    ({"taint": 4608 | 128}, "taint is 4736"),
    ({"taint": -1}, "taint is -1"),
    ({"stuck": {"vhci_hcd_rs": "in use"}}, "vhci_hcd_rs cannot be unloaded: in use"),
    ({"busy": ["hs 0003 006 002 00010002 000000 3-4"]}, "port left in use: hs 0003"),
    ({"threads": ["vhci_rx"]}, "thread left behind: vhci_rx"),
    ({"debug_locks": 0}, "lockdep is off"),
    ({"debug_locks": None}, "lockdep is off"),
])
def test_what_is_left_behind_is_found(changes, words):
    assert oracle.end_findings(end(), "uml-lockdep") == []
    found = oracle.end_findings(end(**changes), "uml-lockdep")
    assert len(found) == 1 and words in found[0]


@pytest.mark.parametrize("changes, words", [
    ({"kasan": False}, "kasan is off"),
    ({"kasan_multi_shot": False}, "kasan_multi_shot is off"),
    ({"kmemleak": False}, "kmemleak is off"),
    ({"failslab": False}, "failslab is off"),
    ({"scans": 1}, "scanned 1 times"),
    ({"leaks": ["unreferenced object 0x1 (size 64)"]}, "leak: unreferenced object 0x1"),
])
def test_the_memory_lane_notices_its_checkers(changes, words):
    healthy = end(taint=4096, debug_locks=0)
    assert oracle.end_findings(healthy, "uml-kasan") == []
    found = oracle.end_findings(healthy | changes, "uml-kasan")
    assert len(found) == 1 and words in found[0]


def test_stock_taint_is_exact():
    assert oracle.end_findings(end(taint=12288, debug_locks=None), "stock-7.3") == []
    assert len(oracle.end_findings(end(taint=12288 | 512), "stock-7.3")) == 1
    assert len(oracle.end_findings(end(taint=0), "stock-7.2")) == 1


def test_a_guest_of_a_pair_may_have_only_modules_of_the_kernel():
    for lane in ("pair", "pair-7.3-7.2"):
        for taint, bad in ((0, 0), (12288, 0), (512, 1), (12288 | 512, 1)):
            assert len(oracle.end_findings(end(taint=taint, debug_locks=None), lane)) == bad
