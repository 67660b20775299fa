# SPDX-License-Identifier: GPL-2.0
"""Commands inside the Debian root.

Each runs in mount and PID namespaces of its own, so nothing stays mounted on the host and no
process outlives the call, however it ends. The repository is at /rusbip (read-only), the cache's
build folder at /build, the root without any of these mounts at /run/plain (what guests see).
"""

import os
import shlex
import shutil
import subprocess

from . import cache
from .run import Failure

# Variables of the host that a command inside may see: how to reach the network, and nothing else.
KEPT = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "TERM",
        "CI")
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

PRELUDE = """
set -e
root=$1; repo=$2; build=$3; bundle=$4; dir=$5; shift 5
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys" 2>/dev/null || true
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mkdir -p "$root/rusbip" "$root/build" "$root/run/plain"
mount --bind "$root" "$root/run/plain"
mount --bind "$repo" "$root/rusbip"
mount -o remount,bind,ro "$root/rusbip"
mount --bind "$build" "$root/build"
if [ -e /etc/resolv.conf ]; then cat /etc/resolv.conf > "$root/etc/resolv.conf"; fi
if [ -e "$bundle" ] && [ -e "$root@BUNDLE@" ]; then mount --bind "$bundle" "$root@BUNDLE@"; fi
while [ "$1" != -- ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    if [ "$3" = ro ]; then mount -o remount,bind,ro "$root$2"; fi
    shift 3
done
shift
cd "$root"
exec chroot "$root" sh -c 'cd "$1" && shift && exec "$@"' sh "$dir" "$@"
""".replace("@BUNDLE@", BUNDLE)


def environment(extra=None):
    """A small, fixed environment, so that a build does not depend on the caller's shell."""
    env = {name: os.environ[name] for name in KEPT if name in os.environ}
    env |= {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root",
            "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive",
            "CARGO_HOME": "/build/cargo-home", "PYTHONDONTWRITEBYTECODE": "1"}
    return env | (extra or {})


def command(argv, *, directory="/", binds=(), root=cache.ROOT):
    """The host command line that runs argv inside the root; use with env=environment().

    binds: (host folder, place inside, "ro" or "rw"); a place below /run needs no folder made in
    the root itself. `root` may be another Debian root.
    """
    if os.geteuid():
        raise Failure("root is needed (mounts and chroot of the Debian root)")
    for tool in ("unshare", "chroot", "mount"):
        if not shutil.which(tool):
            raise Failure(f"{tool} is missing (Debian packages util-linux, mount, coreutils)")
    cache.BUILD.mkdir(parents=True, exist_ok=True)
    bundle = os.environ.get("SSL_CERT_FILE", BUNDLE)
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", PRELUDE, "sh",
            str(root), str(cache.REPO), str(cache.BUILD), bundle, directory,
            *(str(word) for bind in binds for word in bind), "--", *map(str, argv)]


def shell(script, **options):
    """Like command(), for a shell script with errexit."""
    return command(["sh", "-ec", script], **options)


def quote(*words):
    """Words for a script given to shell()."""
    return shlex.join(map(str, words))


def publish(files, folder):
    """Copies built files into a folder below the cache's build folder for guests to use, all or
    none, without debug information, which guests would only load slowly."""
    temporary = folder.with_name(folder.name + ".tmp")
    cache.remove(temporary)
    temporary.mkdir(parents=True)
    files = list(files)
    if not files:
        raise Failure(f"the build made nothing for {folder.name}")
    for file in files:
        shutil.copy(file, temporary / file.name)
    inside = f"/build/{temporary.relative_to(cache.BUILD)}"
    subprocess.run(shell(f"strip --strip-debug {inside}/*"), check=True, env=environment(),
                   stdin=subprocess.DEVNULL)
    cache.remove(folder)
    temporary.rename(folder)
