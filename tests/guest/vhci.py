# SPDX-License-Identifier: GPL-2.0
"""The client module as userspace sees it: sysfs files, ports, kernel log.

Every wait polls for a condition under a deadline. Nothing here knows which implementation is
loaded, except :data:`CLIENT`, which says what a test may expect (environment RUSBIP_CLIENT,
`rust` unless set to `c`).
"""

import contextlib
import errno
import os
import re
import socket
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from lib import oracle

CLIENT = os.environ.get("RUSBIP_CLIENT", "rust")
PLATFORM = Path("/sys/devices/platform")
VHCI = PLATFORM / "vhci_hcd.0"
USB = Path("/sys/bus/usb/devices")

NULL, NOTASSIGNED, USED, ERROR = 4, 5, 6, 7
LOW, FULL, HIGH, WIRELESS, SUPER, SUPER_PLUS = 1, 2, 3, 4, 5, 6

# How long things may take on an emulated machine under load; a test fails later, never earlier,
# than on real hardware. SLACK scales all of them.
SLACK = float(os.environ.get("RUSBIP_TEST_SLACK", "1"))
ENUMERATION = 15.0 * SLACK
SOON = 5.0 * SLACK
# "Bounded time" of a teardown. The promise is 2 s (5 s with a device reset) on real hardware.
TEARDOWN = 5.0 * SLACK


# Races are looked for on the debug kernels; stock ones are emulated and only repeat a little.
STOCK = os.environ.get("RUSBIP_LANE", "").startswith("stock")


def times(count: int) -> int:
    """How often to repeat something in this lane."""
    return max(2, count // 5) if STOCK else count


class Timeout(AssertionError):
    """A deadline has passed."""


def wait_for(condition, what: str, timeout: float = SOON, step: float = 0.02):
    """Poll until `condition()` is true and return its value; raise Timeout at the deadline."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Timeout(f"waited {timeout:.0f} s for {what}")
        time.sleep(step)


def stays(condition, what: str, duration: float, step: float = 0.01):
    """Check that `condition()` is true for the whole of `duration` seconds."""
    end = time.monotonic() + duration
    while time.monotonic() < end:
        assert condition(), what
        time.sleep(step)


# --- sysfs ------------------------------------------------------------------------------------

def write_raw(path: Path, data) -> int:
    """One open(O_WRONLY) and one write, as the tools do. Returns the count, raises OSError."""
    if isinstance(data, str):
        data = data.encode()
    fd = os.open(path, os.O_WRONLY)
    try:
        return os.write(fd, data)
    finally:
        os.close(fd)


def write_without_admin(path: Path, data: str, *descriptors: int):
    """As :func:`write_raw`, by a process of root that lacks CAP_SYS_ADMIN and has these descriptors.
    Returns the count, raises OSError."""
    done = subprocess.run(
        ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "python3", "-S", "-c",
         f"import os\ntry: os.write(os.open('{path}', os.O_WRONLY), {data.encode()!r})\n"
         "except OSError as error: print(error.errno)"],
        pass_fds=descriptors, capture_output=True, text=True, check=True)
    if done.stdout:
        raise OSError(int(done.stdout), os.strerror(int(done.stdout)))
    return len(data)


@contextlib.contextmanager
def parameter(module: str, name: str, value):
    """A parameter of a module has another value."""
    path = Path("/sys/module", module, "parameters", name)
    before = path.read_text()
    path.write_text(f"{value}")
    try:
        yield
    finally:
        path.write_text(before)


def errno_of(function, *args):
    """The errno name that a call raises, or None when it succeeds."""
    try:
        function(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return None


@dataclass(frozen=True)
class Port:
    """One line of a status file."""

    hub: str
    number: int
    state: int
    speed: int
    devid: int
    sockfd: int
    busid: str
    line: str


LINE = r"^(hs|ss)  (\d{4}) (\d{3}) (\d{3}) ([0-9a-f]{8}) (\d{6}%s) (\S+)$"
# The C driver shows a socket that is going down as 4294967295.
LINES = {"rust": re.compile(LINE % ""), "c": re.compile(LINE % "|4294967295")}
HEADER = "hub port sta spd dev      sockfd local_busid"


def controllers() -> int:
    """Number of platform devices named vhci_hcd.N."""
    return len(list(PLATFORM.glob("vhci_hcd.*")))


def nports() -> int:
    return int((VHCI / "nports").read_text())


def hub_ports() -> int:
    """H of behaviour: ports per root hub, derived as the tools derive it."""
    return nports() // (2 * controllers())


def status_files() -> list:
    """The status files in port order."""
    return [VHCI / "status"] + [VHCI / f"status.{n}" for n in range(1, controllers())]


def parse_line(line: str) -> Port:
    """One port line of a status file; it must match the format exactly."""
    match = LINES[CLIENT].match(line)
    assert match, f"malformed status line {line!r}"
    hub, number, state, speed, devid, sockfd, busid = match.groups()
    return Port(hub, int(number), int(state), int(speed), int(devid, 16), int(sockfd), busid, line)


def port_lines(text: str) -> list:
    """The port lines of a status file."""
    lines = text.split("\n")
    assert lines[0] == HEADER and lines[-1] == "", text
    return lines[1:-1]


def parse_status(text: str) -> list:
    """All ports of a status file."""
    return [parse_line(line) for line in port_lines(text)]


def ports() -> list:
    """All ports of all controllers."""
    return [port for file in status_files() for port in parse_status(file.read_text())]


def busy_ports() -> list:
    """The ports that are not free. Tests ask often, so the lines of the others are not parsed."""
    return [parse_line(line) for file in status_files() for line in port_lines(file.read_text())
            if line[9:12] != f"{NULL:03}"]


def port(number: int) -> Port:
    """One port; reads and parses as little as it can, because tests poll it."""
    lines = port_lines((VHCI / "status").read_text())
    per = len(lines)
    if number >= per:
        lines = port_lines((VHCI / f"status.{number // per}").read_text())
    return parse_line(lines[number % per])


def attach(number: int, fd: int, devid: int, speed: int) -> int:
    return write_raw(VHCI / "attach", f"{number} {fd} {devid} {speed}")


def detach(number: int) -> int:
    return write_raw(VHCI / "detach", f"{number}")


def hs(index: int = 0) -> int:
    """Global number of a USB 2 port of controller 0."""
    return index


def ss(index: int = 0) -> int:
    """Global number of a USB 3 port of controller 0."""
    return hub_ports() + index


def port_for(speed: int, index: int = 0) -> int:
    return ss(index) if speed >= SUPER else hs(index)


def free_port(speed: int) -> int:
    """The first port that a device of this speed can have."""
    hub = "ss" if speed >= SUPER else "hs"
    return next(one.number for one in ports() if one.state == NULL and one.hub == hub)


def wait_state(number: int, state: int, timeout: float = ENUMERATION) -> Port:
    """Wait until a port's status column shows `state`."""
    seen = []

    def check():
        now = port(number)
        seen[:] = [now.line]
        return now if now.state == state else None

    try:
        return wait_for(check, f"port {number} state {state}", timeout)
    except Timeout as error:
        raise Timeout(f"{error}; last line {seen}") from None


def wait_free(number: int, timeout: float = TEARDOWN) -> Port:
    return wait_state(number, NULL, timeout)


def wait_gone(busid: str, timeout: float = TEARDOWN):
    """Wait until the USB core has removed a device: its link, and its folder, which goes later, when
    the driver has been unbound."""
    folder = device_folder(busid)
    wait_for(lambda: not (USB / busid).exists() and not folder.exists(), f"{busid} to be removed",
             timeout)


def device_folder(busid: str) -> Path:
    """Where sysfs has a device, also if there is no link to it in `USB`."""
    bus, _, chain = busid.partition("-")
    folder = (USB / f"usb{bus}").resolve()
    hops = chain.split(".")
    for count in range(1, len(hops) + 1):
        folder /= f"{bus}-{'.'.join(hops[:count])}"
    return folder


def wait_configured(number: int, timeout: float = ENUMERATION) -> Path:
    """Wait until the device on a port is configured; returns its sysfs directory."""

    def check():
        now = port(number)
        if now.state != USED or now.busid == "0-0":
            return None
        path = USB / now.busid
        try:
            return path if (path / "bConfigurationValue").read_text().strip() else None
        except OSError:
            return None

    return wait_for(check, f"the device of port {number} to be configured", timeout)


def root_hub(number: int) -> Path:
    """The sysfs directory of the root hub that a port belongs to."""
    per = 2 * hub_ports()
    device = PLATFORM / f"vhci_hcd.{number // per}"
    hubs = sorted(device.glob("usb[0-9]*"), key=lambda p: int(p.name[3:]))
    assert len(hubs) == 2, hubs
    return hubs[(number // hub_ports()) % 2]


def statistic(number: int, name: str) -> int:
    """A counter of the connection of a port."""
    text = Path(f"/sys/kernel/debug/vhci_hcd/port{number}").read_text()
    return int(re.search(rf"^{name} (\d+)$", text, re.MULTILINE)[1])


def devnode(path: Path) -> str:
    """The usbfs node of a device's sysfs directory."""
    bus, dev = int((path / "busnum").read_text()), int((path / "devnum").read_text())
    return f"/dev/bus/usb/{bus:03}/{dev:03}"


def stream_kind() -> str:
    """The kind of sockets where any will do: what RUSBIP_STREAM says, or what conftest.py has chosen for
    the running test."""
    return os.environ.get("RUSBIP_STREAM", "tcp")


def stream_pair(kind: str = ""):
    """Two connected stream sockets: (for the kernel, for the test). If it is all the same which, they
    do not take much more than AF_UNIX ones before the peer reads."""
    is_any = not kind
    kind = kind or stream_kind()
    if kind == "unix":
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    family, address, protocol = {
        "tcp": (socket.AF_INET, ("127.0.0.1", 0), 0),
        "tcp6": (socket.AF_INET6, ("::1", 0), 0),
        "mptcp": (socket.AF_INET, ("127.0.0.1", 0), socket.IPPROTO_MPTCP),
        "vsock": (socket.AF_VSOCK, (VMADDR_CID_LOCAL, socket.VMADDR_PORT_ANY), 0),
        "tls": (socket.AF_INET, ("127.0.0.1", 0), 0),
    }[kind]
    with socket.socket(family, socket.SOCK_STREAM, protocol) as listener:
        listener.bind(address)
        listener.listen(1)
        ours = socket.socket(family, socket.SOCK_STREAM, protocol)
        if is_any:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        ours.connect(listener.getsockname()[:2])
        theirs, _ = listener.accept()
    if is_any:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    if kind == "tls":
        start_tls(theirs, ours)
    elif kind != "vsock":
        for sock in (ours, theirs):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return theirs, ours


# Bytes, which the kernel doubles.
BUFFER = 100_000
# Of linux/vm_sockets.h, linux/tcp.h, linux/socket.h and linux/tls.h.
VMADDR_CID_LOCAL = 1
TCP_ULP, SOL_TLS, TLS_TX, TLS_RX, TLS_SET_RECORD_TYPE = 31, 282, 1, 2, 1


def start_tls(one: socket.socket, other: socket.socket, back: bool = True):
    """Kernel TLS 1.3 on both ends of a connection, with keys of our own instead of a handshake;
    without `back` only for what `one` sends."""
    def keys(seed: int) -> bytes:
        # tls12_crypto_info_aes_gcm_128: version, cipher, then iv, key, salt, sequence number.
        return (struct.pack("HH", 0x0304, 51) + bytes([seed]) * 8 + bytes([seed + 1]) * 16
                + bytes([seed + 2]) * 4 + bytes(8))

    for sock in (one, other):
        sock.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
    for sender, receiver, seed in ((one, other, 1), (other, one, 5))[:1 + back]:
        sender.setsockopt(SOL_TLS, TLS_TX, keys(seed))
        receiver.setsockopt(SOL_TLS, TLS_RX, keys(seed))


def send_tls_record(sock: socket.socket, kind: int, data: bytes):
    """Send a record that is not application data: 21 an alert, 22 a handshake message."""
    sock.sendmsg([data], [(SOL_TLS, TLS_SET_RECORD_TYPE, bytes([kind]))])


# --- modules ----------------------------------------------------------------------------------

def modules() -> list:
    """The modules of the implementation under test, dependencies first."""
    return {"c": ["usbip_core", "vhci_hcd"],
            "rust": ["usbip_core_rs", "vhci_hcd_rs"]}[CLIENT]


def loaded(name: str) -> bool:
    return Path(f"/sys/module/{name}/initstate").exists()


def load_modules(names: list, is_ours: bool, *parameters: str):
    """Load modules that are not there yet, ours from the directory $RUSBIP_MODULES if set, others
    with modprobe; the parameters are the last one's."""
    directory = os.environ.get("RUSBIP_MODULES") if is_ours else None
    for name in names:
        if not loaded(name):
            command = ["insmod", f"{directory}/{name}.ko"] if directory else ["modprobe", name]
            subprocess.run([*command, *(parameters if name == names[-1] else ())], check=True)


def load(*parameters: str):
    """Load the client and wait for its root hubs."""
    load_modules(modules(), CLIENT == "rust", *parameters)
    wait_for(lambda: (VHCI / "status").exists(), "the status file")
    wait_for(lambda: all(len(list(d.glob("usb[0-9]*"))) == 2 for d in PLATFORM.glob("vhci_hcd.*")),
             "the root hubs")


def use(client: str):
    """Load an implementation of the client, in place of the one that is loaded."""
    global CLIENT
    if client != CLIENT:
        unload()
        CLIENT = client
    load()


def unload():
    """Unload the client; raises if a module is in use."""
    for name in reversed(modules()):
        if loaded(name):
            subprocess.run(["rmmod", name], check=True)


# --- kernel log and tasks ---------------------------------------------------------------------

class KernelLog:
    """The kernel log from the moment of construction on."""

    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)
        self.seen = []
        self.lost = False

    def lines(self) -> list:
        """Everything logged so far."""
        while True:
            try:
                record = os.read(self.fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return self.seen
            except BrokenPipeError:
                self.lost = True
                continue
            self.seen.append(record.split(";", 1)[1].split("\n")[0])

    def grep(self, pattern: str) -> list:
        return [line for line in self.lines() if re.search(pattern, line)]

    def splats(self) -> list:
        """Reports of the kernel about itself that are not known noise of this lane."""
        return [str(one) for one in
                oracle.findings("\n".join(self.lines()), os.environ.get("RUSBIP_LANE", ""))]

    def close(self):
        os.close(self.fd)


@contextlib.contextmanager
def watching(test: str):
    """The kernel log of a test, which may hold no report of the kernel about itself in the end;
    yields it."""
    log_marker(test)
    log = KernelLog()
    yield log
    splats = log.splats()
    log.close()
    assert not splats, splats


def log_marker(text: str):
    """Put a line into the kernel log, so that a report can be told to a test."""
    with open("/dev/kmsg", "w", encoding="ascii") as kmsg:
        kmsg.write(f"test: {text}\n")


def kernel_threads(pattern: str) -> list:
    """Names of kernel threads that match, e.g. `vhci_(rx|tx)`."""
    names = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            name = comm.read_text().strip()
        except OSError:
            continue
        if re.match(pattern, name):
            names.append(name)
    return sorted(names)


def stuck_tasks() -> list:
    """Tasks in uninterruptible sleep, as `pid comm`."""
    stuck = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = stat.read_text().split(" (", 1)
        except OSError:
            continue
        comm, rest = rest.rsplit(") ", 1)
        if rest[0] == "D":
            stuck.append(f"{pid} {comm}")
    return stuck
