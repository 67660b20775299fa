# SPDX-License-Identifier: GPL-2.0
"""Runs one command in a guest and returns its exit status."""

import contextlib
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
SLACK = {"7.2": 4, "7.3": 4, "uml-kasan": 3, "uml-lockdep": 2, "uml-bench": 2}


@dataclasses.dataclass
class Options:
    """What a guest is made of. `name` is its host name, `mem` in MiB (0: what suits the kernel),
    `accel` one of qemu.ACCELERATORS (empty: what works), `timeout` in seconds, `grace` those
    after which a guest whose command has ended is no longer waited for, `binds` as for
    chroot.command(). With `systemd` the root's systemd is PID 1 and starts what it is told to; with
    `firmware`, a folder with code.fd and vars.fd, UEFI boots the kernel."""
    kernel: str
    cpus: int = 2
    mem: int = 0
    accel: str = ""
    timeout: float = 300
    grace: float = GRACE_SECONDS
    out: Path | None = None
    modules: Path | None = None
    programs: Path | None = None
    usb: tuple = tuple(qemu.USB)
    qemu: list = dataclasses.field(default_factory=list)
    binds: tuple = ()
    env: dict = dataclasses.field(default_factory=dict)
    name: str = "rusbip"
    systemd: bool = False
    firmware: Path | None = None


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
    with tempfile.TemporaryDirectory(prefix="rusbip-") as folder, \
            Guest(command, options, out, Path(folder), interactive=interactive) as guest:
        status = wait(guest)
    if status in (STUCK, CRASHED):
        explain(status, out, options)
    elif not kept:
        shutil.rmtree(out, ignore_errors=True)
    return status


def wait(guest, others=()):
    """Waits for the end of a guest and returns its exit status, STUCK after its timeout (there is
    none for one on a terminal). CRASHED at once if one of the `others` ends before it."""
    deadline = time.monotonic() + guest.options.timeout
    while (status := guest.poll()) is None:
        if any(other.poll() is not None for other in others):
            return CRASHED
        if not guest.interactive and time.monotonic() > deadline:
            return STUCK
        time.sleep(POLL_SECONDS)
    return status


def fresh_folder(kernel):
    """An output folder of this run; the ones of failed runs are kept, the oldest removed."""
    base = cache.CACHE / "out/guests"
    base.mkdir(parents=True, exist_ok=True)
    for one in sorted(base.iterdir(), key=lambda one: one.stat().st_mtime)[:-20]:
        shutil.rmtree(one, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{kernel}-", dir=base))


class Guest:
    """A guest that runs a shell command. Entering the context boots it; leaving it ends it, however
    far it has come. `folder` is where its sockets are; what the command prints goes to our standard
    output as well, unless `quiet`."""

    def __init__(self, command, options, out, folder, *, interactive=False, quiet=False):
        self.options, self.out, self.folder = options, out, folder
        self.interactive, self.quiet = interactive, quiet
        self.output, self.console = Tail(out / "output.log"), Tail(out / "console.log")
        self.finished = self.child = None
        control = out / ".guest"
        shutil.rmtree(control, ignore_errors=True)
        control.mkdir(parents=True)
        for name in ("output.log", "console.log", "dmesg"):
            (out / name).unlink(missing_ok=True)
        (control / "command").write_text(script(command, options))
        if options.systemd:
            (control / "systemd").touch()
        if interactive:
            size = shutil.get_terminal_size()
            (control / "interactive").touch()
            (control / "size").write_text(f"rows {size.lines} cols {size.columns}")

    def __enter__(self):
        is_uml = self.options.kernel in uml.MAKE
        if is_uml:
            line = monitor.serve_line()
            argv = uml_guest.command(self.options, self.interactive, line.fileno())
        else:
            argv = qemu.command(self.options, self.interactive)
        if "storage" in self.options.usb and not is_uml:
            copy_stick(self.folder / "stick.img")
        env = chroot.environment({"TMPDIR": memory_folder(self.options)})
        if is_uml and not self.interactive:
            env |= uml_guest.environment(line.fileno())
        # Pipes, not files: User-Mode Linux polls its console, and warns where it cannot.
        streams = {} if self.interactive else {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE,
                                               "stderr": subprocess.STDOUT}
        self.child = subprocess.Popen(chroot.command(argv, binds=self.binds()), env=env,
                                      preexec_fn=in_child(self.options.kernel), **streams,
                                      pass_fds=[line.fileno()] if is_uml else [])
        if self.interactive:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        else:
            log = self.out / ("console.log" if is_uml else "qemu.log")
            threading.Thread(target=save, args=(self.child.stdout, log), daemon=True).start()
        if is_uml:
            line.close()
        else:
            monitor.start(self.folder)
        return self

    def __exit__(self, *exception):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()

    def binds(self):
        """The folders of the host that the guest sees."""
        empty = self.folder / "empty"
        empty.mkdir()
        return [(self.out, "/run/out", "rw"), (self.folder, "/run/ctl", "rw"),
                (self.options.modules or empty, "/run/modules", "ro"),
                (self.options.programs or empty, "/run/programs", "ro"),
                (self.options.firmware or empty, "/run/firmware", "ro"), *self.options.binds]

    def poll(self):
        """The exit status of the command when the guest is over, CRASHED if it died; None before.
        Copies the output that came since the last call."""
        ended = self.child.poll() is not None
        if self.finished is None and (self.out / ".guest/status").exists():
            self.finished = time.monotonic()
        if not self.quiet and (data := self.output.read()):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        if PANIC in self.console.read():
            time.sleep(PANIC_SECONDS)
            return CRASHED
        if ended or (self.finished
                     and time.monotonic() - self.finished >= self.options.grace):
            return exit_status(self.out)
        return None


def own_processor():
    """The processor of the host that a guest to measure with has."""
    return max(os.sched_getaffinity(0))


def in_child(kernel):
    """What the child does before it becomes the guest."""
    def on_one_processor():
        # The kernel and the programs of User-Mode Linux are processes that only take turns. What it
        # takes to hand over depends on which processors they are on, unless that is the same one;
        # and on who else wants to run there, unless that has to wait.
        die_with_parent()
        os.sched_setaffinity(0, {own_processor()})
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return on_one_processor if kernel == uml.BENCH else die_with_parent


def copy_stick(place):
    """The image of the USB disk where the guest's QEMU finds it. A link target outside its folders
    would not be seen inside the root."""
    stick = qemu.stick_image()
    if same_disk(stick, place.parent):
        os.link(stick, place)
    else:
        shutil.copyfile(stick, place)


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
    say(f"guest {options.name} ({options.kernel}): {what}; its files are in {out}")
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
