# SPDX-License-Identifier: GPL-2.0
"""Makes allocations fail, without chance: one after the other, `fail-nth` of a task, or all of
them, `make-it-fail`, for what has a second way."""

import contextlib
import ctypes
import errno
import os
from pathlib import Path

FAILSLAB = Path("/sys/kernel/debug/failslab")
# More than any task allocates in a test.
NEVER = 1 << 20


def switch_on():
    """Allocations that may wait fail as well; no report for each."""
    for name, value in (("ignore-gfp-wait", "N"), ("verbose", "0")):
        (FAILSLAB / name).write_text(value)


@contextlib.contextmanager
def sparing(function: str):
    """No allocation below this function of the kernel fails, because the kernel complains of it."""
    symbols = sorted(tuple(line.split()[:3:2]) for line in
                     Path("/proc/kallsyms").read_text().splitlines())
    at = next(number for number, (_, name) in enumerate(symbols) if name == function)
    end = next(address for address, _ in symbols[at:] if address != symbols[at][0])
    for name, value in (("reject-start", symbols[at][0]), ("reject-end", end)):
        (FAILSLAB / name).write_text(f"0x{value}")
    try:
        yield
    finally:
        for name in ("reject-end", "reject-start"):
            (FAILSLAB / name).write_text("0")


@contextlib.contextmanager
def without_memory():
    """Yields a function after which every allocation of a task fails, by its process number. Pages
    fail as well, or there would be vmalloc()."""
    kinds = (FAILSLAB, FAILSLAB.with_name("fail_page_alloc"))
    settings = [(kind / name, value) for kind in kinds for name, value in (
        ("ignore-gfp-wait", "N"), ("verbose", "0"), ("task-filter", "Y"), ("times", "-1"),
        ("probability", "100"))] + [(kinds[1] / "min-order", "0")]
    before = [(path, path.read_text()) for path, _ in settings]
    for path, value in settings:
        path.write_text(value)
    try:
        yield lambda task: Path(f"/proc/{task}/make-it-fail").write_text("1")
    finally:
        for path, value in reversed(before):
            path.write_text(value)


class Failing:
    """Makes the n-th allocation of a task fail from here on."""

    def __init__(self, nth: int, task: str = "thread-self"):
        self.fd = os.open(f"/proc/{task}/fail-nth", os.O_RDWR)
        os.pwrite(self.fd, str(nth).encode(), 0)

    def left(self) -> int:
        """How many allocations there are until then; 0 if it came to that."""
        left = int(os.pread(self.fd, 16, 0))
        os.pwrite(self.fd, b"0", 0)
        os.close(self.fd)
        return left

    def end(self) -> bool:
        """Returns whether it came to that."""
        return self.left() == 0


def insert(path: str, nth: int, parameters: str = "") -> tuple:
    """finit_module(2) of which the n-th allocation fails: the error, and how many allocations were
    left until then."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as file:
        failing = Failing(nth)
        done = libc.syscall(313, file.fileno(), parameters.encode(), 0)
        error = ctypes.get_errno() if done else None
        return error, failing.left()


def loads(module: str, parameters: str = "", last: int = 40):
    """Loads a module over and over, each time with another one of its last allocations failing.
    Yields the error after each; whoever uses it unloads what is there."""
    path = f"{os.environ['RUSBIP_MODULES']}/{module}.ko"
    error, left = insert(path, NEVER, parameters)
    assert error is None
    yield None
    used = NEVER - left
    for nth in range(max(1, used - last), used + 2):
        error, _ = insert(path, nth, parameters)
        assert error in (None, errno.ENOMEM, errno.EINVAL), os.strerror(error)
        yield error


def thread(name: str) -> str:
    """The process number of the only kernel thread of that name."""
    [found] = [comm.parent.name for comm in Path("/proc").glob("[0-9]*/comm")
               if is_named(comm, name)]
    return found


def is_named(comm: Path, name: str) -> bool:
    """Whether this is the name of a task."""
    try:
        return comm.read_text() == f"{name}\n"
    except OSError:
        return False  # it has just ended
