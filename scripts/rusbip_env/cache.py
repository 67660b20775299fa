# SPDX-License-Identifier: GPL-2.0
"""Where everything lives, and how a finished step is remembered.

Nothing is ever built in its final place: a step builds NAME.tmp, renames it, and then writes a
stamp, a file whose content is a hash of what went in. A step interrupted at any moment leaves no
stamp and is done again.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rusbip"
ROOT = CACHE / "root"
LOGS = CACHE / "logs"
STAMPS = CACHE / "stamps"
BUILD = CACHE / "build"


class Mounted(Exception):
    """A tree cannot be removed because something is mounted in it."""


def digest(*parts):
    """SHA-256 over strings, bytes, and the names and contents of files and folders (Path)."""
    total = hashlib.sha256()

    def feed(data):
        total.update(len(data).to_bytes(8, "little") + data)

    for part in parts:
        if isinstance(part, bytes):
            feed(part)
        elif not isinstance(part, Path):
            feed(str(part).encode())
        elif part.is_dir():
            for file in sorted(part.rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    feed(str(file.relative_to(part)).encode())
                    feed(file.read_bytes())
        elif part.exists():
            feed(part.name.encode())
            feed(part.read_bytes())
        else:
            feed(b"absent " + part.name.encode())
    return total.hexdigest()


def write_atomically(path, text):
    """Writes a small file so that a reader sees the old or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def stamped(name):
    """The content of a stamp, or None where the step was never finished."""
    try:
        return (STAMPS / name).read_text().strip()
    except FileNotFoundError:
        return None


def stamp(name, value):
    """Remembers that the step is done for these inputs."""
    write_atomically(STAMPS / name, value + "\n")


def unstamp(name):
    """Forgets a step before its output is changed."""
    (STAMPS / name).unlink(missing_ok=True)


@contextlib.contextmanager
def lock(name, waiting=None):
    """One process at a time; the kernel drops the lock of a process that dies."""
    path = CACHE / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove(path):
    """Removes a file or a tree, whatever is there; refuses to follow a mount."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        for mounts in Path("/proc/self/mountinfo").read_text().splitlines():
            where = mounts.split()[4]
            if where.startswith(f"{path}/"):
                raise Mounted(f"{where} is mounted; unmount it before {path} can be removed")
        shutil.rmtree(path)
