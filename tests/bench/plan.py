# SPDX-License-Identifier: GPL-2.0
"""What is measured, and which measurements are compared.

A measurement has a device and the two ends between which it is exported. A *kind* of comparison
takes two pairs of ends: all C or with one end less in Rust, and the same with that end in Rust. As
kinds share pairs of ends, each pair is set up once in a round.
"""

import dataclasses

SMALL, BULK = 4096, 1 << 20

# What usbip-bench-client does with each device: of CASES in tests/server/src/bench.rs and disk.rs.
_BULK = ("in-4k-d1", "in-4k-d32", "out-4k-d1", "out-4k-d32", "in-1m-d4", "out-1m-d4")
# What ends so is the same without a program: the kernel's usbtest submits the URBs.
KERNEL = "-kernel"
_KERNEL = tuple(case + KERNEL for case in (*_BULK[:4], "in-64k-d8", "out-64k-d8", *_BULK[4:]))
_DISK = ("read-4k", "write-4k", "read-1m", "write-1m")
CASES = {
    "null": ("in-64-d1", "in-64-d32", "out-64-d1", "out-64-d32", "in-4k-d1", "in-4k-d32",
             "out-4k-d1", "out-4k-d32", "in-1m-d4", "out-1m-d4"),
    "sample": _BULK + _KERNEL, "disk": _DISK,
    "gadget": _BULK + _KERNEL, "gadget-ss": _BULK + _KERNEL, "gadget-disk": _DISK,
}
# Devices that are somewhere without USB/IP, so that they can be measured there.
PLUGGED_IN = ("sample", "disk")
ALL_CASES = tuple(dict.fromkeys(case for cases in CASES.values() for case in cases))
# What a case runs before it is measured, in relation to its time (tests/server/src/bin).
WARM_UP = 0.25


@dataclasses.dataclass(frozen=True)
class Ends:
    """Implementations, "c" or "rust"; "null" is a server in userspace, "c vudc" and "rust vudc" are
    virtual device controllers. Both are "" for what goes over no USB/IP at all."""
    client: str
    server: str

    def __str__(self):
        return f"{self.client} client, {self.server} server"


# The device itself, used where it is plugged in; and bare loopback TCP, whose device is "tcp".
NEITHER = Ends("", "")


@dataclasses.dataclass(frozen=True)
class Targets:
    """Ratios Rust / C to reach; None where there is none. `rates` is by depth, for small URBs;
    `tcp` is the ratio of the throughput of Rust to that of loopback TCP, for bulk URBs."""
    rates: dict = dataclasses.field(default_factory=dict)
    throughput: float | None = None
    cpu_per_urb: float | None = None
    cpu_per_mib: float | None = None
    tcp: float | None = None


@dataclasses.dataclass(frozen=True)
class Kind:
    """A comparison: `rust` against `c`, on each of the devices, but those that C cannot serve."""
    name: str
    heading: str
    c: Ends
    rust: Ends
    devices: tuple
    targets: Targets
    # Devices that only Rust can serve.
    beyond_c: tuple = ()
    # Whether CPU time is the run time of tasks (/proc/schedstat). /proc/stat has samples taken at
    # ticks, which hardly see what a tick itself begins: here a timer, and whatever that wakes.
    by_tasks: bool = False

    def served(self, ends):
        """The devices that are measured between two ends of it."""
        return tuple(one for one in self.devices if ends == self.rust or one not in self.beyond_c)

    def goals(self, device):
        """What is to be reached with a device."""
        return Targets(tcp=self.targets.tcp) if device in self.beyond_c else self.targets


DEVICES = {"null": "null device that answers at once",
           "sample": "source and sink that answer at once", "disk": "QEMU's usb-storage",
           "gadget": "the kernel's source and sink, high speed",
           "gadget-ss": "the kernel's source and sink, SuperSpeed",
           "gadget-disk": "the kernel's mass storage, high speed"}
_KINDS = (
    Kind("null", "Clients, with a server in userspace", Ends("c", "null"), Ends("rust", "null"),
         ("null",), Targets({1: 1.2, 32: 2.0}, 1.5, 0.7, 0.7)),
    Kind("disk", "Clients, with the C server", Ends("c", "c"), Ends("rust", "c"), ("disk",),
         Targets()),
    Kind("host", "Servers, with the Rust client", Ends("rust", "c"), Ends("rust", "rust"),
         ("sample", "disk"), Targets({1: 1.3, 32: 2.0}, 1.5)),
    Kind("pair", "Both ends", Ends("c", "c"), Ends("rust", "rust"), ("sample", "disk"),
         Targets({1: 1.3, 32: 2.0}, 1.5, None, 0.7)),
    Kind("vudc", "Device controllers, with the Rust client", Ends("rust", "c vudc"),
         Ends("rust", "rust vudc"), ("gadget", "gadget-ss", "gadget-disk"),
         Targets({1: 20.0}, 20.0, None, 1.0, 0.6), ("gadget-ss",), True),
)
KINDS = {kind.name: kind for kind in _KINDS}


@dataclasses.dataclass(frozen=True)
class Step:
    """Cases of one device between two ends."""
    ends: Ends
    device: str
    cases: tuple


def over_tcp(case):
    """The case that is the same messages over bare loopback TCP."""
    return case.removesuffix(KERNEL)


def steps(kinds, chosen=(), without=()):
    """What one round measures for some kinds, in order; of the cases only the chosen ones, if any
    are, and nothing of some devices."""
    pairs = {}
    for name in KINDS:
        if name in kinds:
            for ends in (KINDS[name].c, KINDS[name].rust):
                pairs.setdefault(ends, []).extend(
                    one for one in KINDS[name].served(ends) if one not in without)
    devices = tuple(dict.fromkeys(one for some in pairs.values() for one in some))

    def step(ends, device, cases):
        cases = tuple(case for case in cases if not chosen or case in chosen)
        return [Step(ends, device, cases)] if cases else []

    # What has both ends in Rust comes last and what has none first; every other round the other way
    # round: A B C C B A A B C ….
    order = sorted(pairs, key=lambda ends: (ends.server != "null", str(ends)))
    urbs = [case for case in ALL_CASES if any(case in CASES[device] for device in devices
                                              if CASES[device] != _DISK)]
    found = [dataclasses.replace(one, cases=tuple(dict.fromkeys(map(over_tcp, one.cases))))
             for one in step(NEITHER, "tcp", urbs)]
    for device in devices:
        if device in PLUGGED_IN:
            found += step(NEITHER, device, CASES[device])
    for ends in order:
        for device in dict.fromkeys(pairs[ends]):
            found += step(ends, device, CASES[device])
    return found
