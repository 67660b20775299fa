# SPDX-License-Identifier: GPL-2.0
"""User-Mode Linux guests: the command line."""

from . import kernels

# KASAN reports once by default, and module loading uses that up (see tests/lib/oracle.py).
EXTRA = {"uml-kasan": ["kasan_multi_shot"], "uml-lockdep": []}


def command(options, interactive):
    """The command line of the debug kernel, with paths as seen inside the root."""
    return [f"{kernels.build_tree(options.kernel)}/linux", f"mem={options.mem or 2048}M",
            "seccomp=on", f"ncpus={options.cpus}", "rootfstype=hostfs", "rootflags=/", "ro",
            "init=/rusbip/scripts/guest-uml", "uml_dir=/run/ctl/", "con=null", "ssl=null",
            "con0=fd:0,fd:1", "panic=-1", "usb_storage.delay_use=0",
            f"loglevel={1 if interactive else 5}", f"GUEST_NAME={options.name}",
            *EXTRA[options.kernel]]
