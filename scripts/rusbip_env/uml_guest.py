# SPDX-License-Identifier: GPL-2.0
"""User-Mode Linux guests: the command line."""

from . import kernels, uml

# KASAN reports once by default, and module loading uses that up (see tests/lib/oracle.py).
EXTRA = {"uml-kasan": ["kasan_multi_shot"]}


def command(options, interactive, line):
    """The command line of the kernel, with paths as seen inside the root. `line` is the file
    descriptor of what is at the other end of its serial line ttyS0."""
    return [f"{kernels.build_tree(options.kernel)}/linux", f"mem={options.mem or 2048}M",
            "seccomp=on", *([] if options.kernel == uml.BENCH else [f"ncpus={options.cpus}"]),
            "rootfstype=hostfs", "rootflags=/", "ro",
            "init=/rusbip/scripts/guest-uml", "uml_dir=/run/ctl/", "con=null", "ssl=null",
            f"ssl0=fd:{line}",
            "con0=fd:0,fd:1", "panic=-1", "usb_storage.delay_use=0",
            f"loglevel={1 if interactive else 5}", f"GUEST_NAME={options.name}",
            *EXTRA.get(options.kernel, [])]


def environment(line):
    """Variables for a kernel that skips what it would only wait for, if it can
    (scripts/kernels/uml-fast.c), but answers on its serial line."""
    return {"UML_FAST": str(line)}
