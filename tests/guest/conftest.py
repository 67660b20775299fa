# SPDX-License-Identifier: GPL-2.0
"""Lane selection and the fixtures every guest test may use.

A test runs in every guest lane unless it says `@pytest.mark.lanes("stock", "uml-kasan", …)`:
names of lanes, or of the groups "stock", "uml" and "pair". The pair lanes run test_pair_* only. A
module of tests that others wrote says `only` instead, which holds whatever those say.
All cases of a test with many run in lane uml-kasan only, every third in the others but those of
pairs. RUSBIP_PART=1/2 leaves the first, third, … of the lane's tests.

What is received on TCP is handled in other contexts than on other sockets. So half of the tests that do
not care use TCP, and the others AF_UNIX; in lane uml-lockdep it is the other way round. RUSBIP_STREAM=tcp
or =unix decides for all of them.

A test of a pair runs with every combination of server and client unless it says
`@pytest.mark.pairs("rust-rust", …)`; what RUSBIP_PAIR names, it runs with in any case.
"""

import os
import sys
import zlib
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from lib import guestlib, monitor  # noqa: E402  (the path above makes them importable)

LANE = os.environ.get("RUSBIP_LANE", "")
CHOSEN_PAIRS = "RUSBIP_PAIR" in os.environ
PART, PARTS = map(int, (os.environ.get("RUSBIP_PART") or "1/1").split("/"))


def pytest_configure(config):
    config.addinivalue_line("markers", "lanes(*names): the lanes or groups this test belongs to")
    config.addinivalue_line("markers", "only(*names): the same, whatever else a test says of itself")
    config.addinivalue_line("markers", "pairs(*names): the combinations of server and client")


def pytest_collection_modifyitems(config, items):
    """Drops the tests of other lanes, combinations and parts, without counting them as skipped."""
    def names(item, kind):
        return [name for mark in item.iter_markers(kind) for name in mark.args]

    def belongs(item):
        lanes, pairs = names(item, "lanes"), names(item, "pairs")
        if pairs and not CHOSEN_PAIRS and item.callspec.params["server"] not in pairs:
            return False
        here = {LANE, LANE.split("-")[0]}
        return not LANE or all(not names_ or here & set(names_)
                               for names_ in (lanes, names(item, "only")))
    chosen = [item for item in items if belongs(item)]
    # The cases of a pair are few, and none is like another.
    if LANE and LANE != "uml-kasan" and not LANE.startswith("pair"):
        chosen = thinned(chosen)
    chosen = chosen[PART - 1::PARTS]
    if other := set(items) - set(chosen):
        config.hook.pytest_deselected(items=list(other))
        items[:] = chosen


def thinned(items):
    """Every third case of each test with more than six. They differ in values, and what depends on
    those is where in memory something goes wrong: KASAN sees all of them. Which locks are taken in
    which order does not, nor does what the distribution's kernel is like."""
    cases = {}
    for item in items:
        cases.setdefault((item.path, item.originalname), []).append(item)
    kept = {item for same in cases.values() for item in (same[::3] if len(same) > 6 else same)}
    return [item for item in items if item in kept]


@pytest.fixture(autouse=True)
def _stream(request, monkeypatch):
    """What vhci.stream_pair() makes."""
    if "RUSBIP_STREAM" not in os.environ:
        odd = (zlib.crc32(request.node.nodeid.encode()) ^ (LANE == "uml-lockdep")) & 1
        monkeypatch.setenv("RUSBIP_STREAM", "tcp" if odd else "unix")


@pytest.fixture(scope="session")
def lane():
    """The name of the lane, e.g. "stock-7.2"."""
    return LANE


@pytest.fixture
def module():
    """Loads modules for a test and unloads what it loaded: module("vhci_hcd_rs", num=2)."""
    with guestlib.Modules() as modules:
        yield modules.load


@pytest.fixture
def kernel_log():
    """The kernel log from here on; .wait(regex, seconds) and .lines()."""
    with guestlib.KernelLog() as log:
        yield log


@pytest.fixture
def link(export, host_watched):
    """A connection to the scripted device that `export` has, in configuration 1. The next test gets
    the same one if this test leaves it as it found it."""
    yield export.client()
    export.check()


@pytest.fixture
def machine():
    """QEMU's monitor (press, plug, unplug, hmp, qmp); skips where there is no QEMU."""
    if not monitor.available():
        pytest.skip("needs QEMU")
    return monitor
