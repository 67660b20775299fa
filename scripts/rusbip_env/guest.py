# SPDX-License-Identifier: GPL-2.0
"""Runs one command in a guest and returns its exit status."""

import dataclasses
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from . import cache, chroot, monitor, qemu, uml, uml_guest
from .run import Failure, die_with_parent, say

KERNELS = ("7.2", "7.3", *uml.MAKE)
POLL_SECONDS = 0.1
# From the exit of the command to power-off: flushing the log and shutting down.
GRACE_SECONDS = 30
# A kernel that panicked: what it still prints, and then it is over.
PANIC = b"Kernel panic - not syncing"
PANIC_SECONDS = 2
STUCK = 124
CRASHED = 125
# How much slower than on hardware things may take, for deadlines inside the guest.
SLACK = {"7.2": 4, "7.3": 4, "uml-kasan": 3, "uml-lockdep": 2}


@dataclasses.dataclass
class Options:
    """What a guest is made of. `mem` in MiB (0: what suits the kernel), `timeout` in seconds."""
    kernel: str
    cpus: int = 2
    mem: int = 0
    timeout: float = 300
    out: Path | None = None
    modules: Path | None = None
    programs: Path | None = None
    usb: tuple = tuple(qemu.USB)
    qemu: list = dataclasses.field(default_factory=list)
    env: dict = dataclasses.field(default_factory=dict)


def script(command, options):
    """The file that the guest's init runs."""
    env = {"RUSBIP_KERNEL": options.kernel, "RUSBIP_MODULES": "/modules",
           "RUSBIP_BIN": "/programs",
           "RUSBIP_TEST_SLACK": str(SLACK[options.kernel])} | options.env
    lines = [f"export {name}={shlex.quote(value)}" for name, value in env.items()]
    return "\n".join([*lines, command]) + "\n"


def run(command, options, interactive=False):
    """Boots, runs a shell command, powers off. Output of the command goes to our standard output
    as it comes. Returns its exit status, STUCK after the timeout, CRASHED if the guest died."""
    kept = options.out is not None
    out = Path(options.out) if kept else fresh_folder(options.kernel)
    control = out / ".guest"
    shutil.rmtree(control, ignore_errors=True)
    control.mkdir(parents=True)
    for name in ("output.log", "console.log", "dmesg"):
        (out / name).unlink(missing_ok=True)
    (control / "command").write_text(script(command, options))
    if interactive:
        size = shutil.get_terminal_size()
        (control / "interactive").touch()
        (control / "size").write_text(f"rows {size.lines} cols {size.columns}")
    with tempfile.TemporaryDirectory(prefix="rusbip-") as folder:
        status = boot(Path(folder), out, options, interactive)
    if status in (STUCK, CRASHED):
        explain(status, out, options)
    elif not kept:
        shutil.rmtree(out, ignore_errors=True)
    return status


def fresh_folder(kernel):
    """An output folder of this run; the ones of failed runs are kept, the oldest removed."""
    base = cache.CACHE / "out/guests"
    base.mkdir(parents=True, exist_ok=True)
    for one in sorted(base.iterdir(), key=lambda one: one.stat().st_mtime)[:-20]:
        shutil.rmtree(one, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{kernel}-", dir=base))


def boot(folder, out, options, interactive):
    """Starts the guest and watches it until it is gone."""
    empty = folder / "empty"
    empty.mkdir()
    is_uml = options.kernel in uml.MAKE
    argv = (uml_guest if is_uml else qemu).command(options, interactive)
    binds = [(out, "/run/out", "rw"), (folder, "/run/ctl", "rw"),
             (options.modules or empty, "/run/modules", "ro"),
             (options.programs or empty, "/run/programs", "ro")]
    if "storage" in options.usb and not is_uml:
        # A link target outside the folder would not be seen inside the root.
        os.link(stick, folder / "stick.img") if same_disk(stick := qemu.stick_image(), folder) \
            else shutil.copyfile(stick, folder / "stick.img")
    env = chroot.environment({"TMPDIR": memory_folder(options)})
    console = out / ("console.log" if is_uml else "qemu.log")
    # Pipes, not files: User-Mode Linux polls its console, and warns where it cannot.
    streams = {} if interactive else {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE,
                                      "stderr": subprocess.STDOUT}
    child = subprocess.Popen(chroot.command(argv, binds=binds), env=env,
                             preexec_fn=die_with_parent, **streams)
    try:
        if not is_uml:
            monitor.start(folder)
        if interactive:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            child.wait()
            return exit_status(out)
        drain = threading.Thread(target=save, args=(child.stdout, console), daemon=True)
        drain.start()
        return watch(child, out, options.timeout)
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()


def save(stream, path):
    """Writes what comes from a pipe to a file as it comes."""
    with open(path, "wb", buffering=0) as file:
        while data := stream.read1():
            file.write(data)


def memory_folder(options):
    """Where User-Mode Linux keeps its memory: in memory if there is room."""
    need = ((options.mem or 2048) + 256) << 20
    return "/dev/shm" if shutil.disk_usage("/dev/shm").free > need else "/run/ctl"


def same_disk(one, other):
    return os.stat(one).st_dev == os.stat(other).st_dev


def exit_status(out):
    """What the command returned, CRASHED if the guest did not come to the end."""
    try:
        return int((out / ".guest/status").read_text())
    except (FileNotFoundError, ValueError):
        return CRASHED


def watch(child, out, timeout):
    """Copies the command's output to ours until the guest ends or the time is up."""
    deadline = time.monotonic() + timeout
    output = Tail(out / "output.log")
    console = Tail(out / "console.log")
    finished = None
    while True:
        ended = child.poll() is not None
        if data := output.read():
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        if PANIC in console.read():
            time.sleep(PANIC_SECONDS)
            return CRASHED
        if ended:
            return exit_status(out)
        if finished is None and (out / ".guest/status").exists():
            finished = time.monotonic()
        if finished and time.monotonic() - finished > GRACE_SECONDS:
            return exit_status(out)
        if time.monotonic() > deadline:
            return STUCK
        time.sleep(POLL_SECONDS)


class Tail:
    """What is appended to a file that may not exist yet."""

    def __init__(self, path):
        self.path, self.position = path, 0

    def read(self):
        """The bytes that came since the last call."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.position)
                data = file.read()
        except FileNotFoundError:
            return b""
        self.position += len(data)
        return data


def explain(status, out, options):
    """Says what happened to a guest that did not come to its end, with the end of its logs."""
    what = (f"no end after {options.timeout:.0f} s: killed" if status == STUCK
            else "the guest died before the command ended")
    say(f"guest {options.kernel}: {what}; its files are in {out}")
    for name in ("qemu.log", "console.log", "dmesg"):
        path = out / name
        if path.exists() and (text := path.read_text(errors="replace").strip()):
            say(f"--- the end of {name}:")
            say("\n".join(text.splitlines()[-40:]))


def check(kernel):
    """Refuses kernels that are not there, with the command that makes them."""
    ready = cache.stamped(kernel) if kernel in uml.MAKE else cache.stamped(f"kernel-{kernel}")
    if not ready:
        raise Failure(f"kernel {kernel} is not set up: scripts/setup --only {kernel}")
