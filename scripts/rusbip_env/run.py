# SPDX-License-Identifier: GPL-2.0
"""Running programs: with progress, a log, and no survivors when this process dies."""

import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
import time

from . import cache

PR_SET_PDEATHSIG = 1
PROGRESS_SECONDS = 10


class Failure(Exception):
    """Something the user has to know: printed as one line, without a traceback."""


def say(text):
    """One line of progress, beside the output proper."""
    print(text, file=sys.stderr, flush=True)


def die_with_parent():
    """For preexec_fn: the child is killed when this process goes, even by SIGKILL."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def output(argv, **options):
    """Standard output of a program that must succeed."""
    try:
        done = subprocess.run(argv, text=True, capture_output=True, **options)
    except FileNotFoundError:
        raise Failure(f"{argv[0]} is missing") from None
    if done.returncode:
        raise Failure(f"{shlex.join(map(str, argv))}: exit {done.returncode}: "
                      f"{done.stderr.strip()[-500:]}")
    return done.stdout


def logged(what, argv, log, **options):
    """Runs a long step; its output goes to a log file, a line with the time and the latest line
    of output to the terminal every few seconds. Raises Failure with the end of the log."""
    cache.LOGS.mkdir(parents=True, exist_ok=True)
    path = cache.LOGS / log
    say(f"{what} …")
    start = time.monotonic()
    with open(path, "wb") as sink:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sink,
                                 stderr=subprocess.STDOUT, preexec_fn=die_with_parent, **options)
        try:
            while True:
                try:
                    child.wait(PROGRESS_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    say(f"  [{time.monotonic() - start:4.0f} s] {what}: {last_line(path)}")
        except BaseException:
            child.kill()
            child.wait()
            raise
    if child.returncode:
        tail = "\n".join(path.read_text(errors="replace").splitlines()[-30:])
        raise Failure(f"{what} failed (exit {child.returncode}); the end of {path}:\n{tail}")
    say(f"{what}: done in {time.monotonic() - start:.0f} s")


def last_line(path):
    """The latest complete line of a growing log, shortened for a terminal."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 2000))
        lines = re.split(rb"[\r\n]+", file.read())
    lines = [line.strip() for line in lines if line.strip()]
    return lines[-1].decode(errors="replace")[:100] if lines else "starting"


def main(body):
    """Entry point wrapper: exit status, one-line errors, quiet interruption."""
    try:
        sys.exit(body())
    except (Failure, cache.Mounted) as failure:
        print(f"{os.path.basename(sys.argv[0])}: {failure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{os.path.basename(sys.argv[0])}: interrupted; what was finished is kept",
              file=sys.stderr)
        sys.exit(130)
