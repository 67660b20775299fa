# SPDX-License-Identifier: GPL-2.0
"""Clean Debian roots for the tests of packages: layers, each what some packages add to those below.

A layer is the upper folder of an overlay. It is put together anew, in a mount namespace of its own,
for each command, so nothing stays mounted.
"""

import os
import shutil

from . import cache, chroot
from . import root as debian
from .run import Failure, logged, say

FOLDER = cache.CACHE / "layers"
OVERLAY = """
set -e
mount --make-rprivate /
mkdir -p "$2" "$3" "$4"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2,workdir=$3" "$4"
shift 4
exec "$@"
"""


def path(name):
    return FOLDER / name


def mounted(argv, layers):
    """The host command line that runs argv, on the host, with the layers (the lowest first, the last
    one takes what is written) at top()."""
    *lower, upper = (str(path(name)) for name in layers)
    return ["unshare", "--mount", "sh", "-c", OVERLAY, "sh", ":".join(reversed(lower)), upper,
            upper + ".work", str(top(layers)), *map(str, argv)]


def top(layers):
    """Where the layers are seen as one root."""
    return path(layers[-1] + ".top")


def command(argv, layers, **options):
    """As chroot.command(), inside the layers."""
    return mounted(chroot.command(argv, root=top(layers), **options), layers)


def shell(script, layers, **options):
    return command(["sh", "-ec", script], layers, **options)


def drop(name):
    """Removes a layer and what belongs to it."""
    for one in (name, name + ".work", name + ".top"):
        cache.remove(path(one))


def prepare(name, below, what, script, *inputs):
    """A layer made by a shell script that runs on the layers below, unless it is there already for
    the same inputs. Returns True where it was made."""
    key = cache.digest(script, *inputs, *(cache.stamped(f"layer-{one}") or "" for one in below))
    with cache.lock(f"layer-{name}", lambda: say(f"waiting for another set-up of {what}")):
        if cache.stamped(f"layer-{name}") == key and path(name).exists():
            return False
        cache.unstamp(f"layer-{name}")
        drop(name)
        logged(what, shell(script, [*below, name]), f"layer-{name}.log", env=chroot.environment())
        cache.stamp(f"layer-{name}", key)
    return True


def prepare_base():
    """The lowest layer: what debootstrap calls minbase, and the archive's lists of packages."""
    key = cache.digest(debian.SOURCES)
    with cache.lock("layer-base", lambda: say("waiting for another set-up of a clean Debian root")):
        if cache.stamped("layer-base") == key and path("base").exists():
            return
        cache.unstamp("layer-base")
        debian.need_space(5)
        if not shutil.which("mmdebstrap"):
            raise Failure("mmdebstrap is missing (Debian package mmdebstrap)")
        temporary = path("base.tmp")
        cache.remove(temporary)
        FOLDER.mkdir(parents=True, exist_ok=True)
        logged(f"clean Debian 13 root from {debian.MIRROR}",
               ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                "mmdebstrap", "--variant=minbase", "--components=main", "--include=ca-certificates",
                "--dpkgopt=force-unsafe-io", debian.SUITE, str(temporary), debian.MIRROR],
               "layer-base.log", env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
        (temporary / "etc/apt/sources.list").write_text(debian.SOURCES)
        policy = temporary / "usr/sbin/policy-rc.d"
        policy.write_text(debian.NO_SERVICES)
        policy.chmod(0o755)
        cache.remove(path("base"))
        temporary.rename(path("base"))
        cache.stamp("layer-base", key)
