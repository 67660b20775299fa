# SPDX-License-Identifier: GPL-2.0
"""Two QEMU guests side by side: a *client* that runs a command, and a *server* that has QEMU's USB
devices and does what the client asks of it.

Two unix sockets join them, and nothing joins them to anything else. One is the cable between their
network cards. The other is a serial line from the client's tests/lib/pair.py to the server's
tests/lib/pair_agent.py, which works whatever becomes of the cable.
"""

import dataclasses
import shlex
import shutil
import tempfile
from pathlib import Path

from . import guest

CLIENT, SERVER = "client", "server"
ADDRESSES = {CLIENT: "10.77.0.1", SERVER: "10.77.0.2"}
AGENT = "python3 /rusbip/tests/lib/pair_agent.py"
ON_SERVER = "ln -s /rusbip/scripts/on-server /usr/local/bin\n"
# Two guests share the processors.
CPUS = 1
# For what the server does once the client has gone, and its power-off.
END_SECONDS = 120
NO_NETWORK = 99


def run(command, client, server, *, at_end="true", interactive=False):
    """Boots both and runs a shell command in the client; each finds the other by the names "client"
    and "server", and the client has the command `on-server`. When the client has gone, the server
    runs the shell command `at_end` and powers off as well; without one (None) it is switched off.
    `client` and `server` are guest.Options; the server's files are in the folder "server" of the
    client's.

    Returns two statuses as guest.run() does, the client's and the server's."""
    kept = client.out is not None
    out = Path(client.out) if kept else guest.fresh_folder(client.kernel)
    (out / SERVER).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="rusbip-") as folder:
        folder = Path(folder)
        for name in (CLIENT, SERVER, "link"):
            (folder / name).mkdir()
        client = joined(client, CLIENT, folder / "link", usb=(),
                        env=client.env | {"RUSBIP_SERVER_KERNEL": server.kernel})
        server = joined(server, SERVER, folder / "link", timeout=END_SECONDS)
        with guest.Guest(f"{network(SERVER)}{AGENT} && {at_end or 'true'}", server, out / SERVER,
                         folder / SERVER, quiet=True) as far:
            with guest.Guest(network(CLIENT) + ON_SERVER + command, client, out, folder / CLIENT,
                             interactive=interactive) as near:
                status = guest.wait(near, others=(far,))
            end = guest.wait(far) if at_end else 0
    if end in (guest.STUCK, guest.CRASHED):
        guest.explain(end, out / SERVER, server)
    elif status in (guest.STUCK, guest.CRASHED):
        guest.explain(status, out, client)
    elif not kept:
        shutil.rmtree(out, ignore_errors=True)
    return status, end


def joined(options, name, folder, **changes):
    """The options of one of the two, with changes: its ends of the cable and of the serial line,
    whose sockets are in `folder`. The server listens; the client tries again until it does."""
    ends = {SERVER: ("server=on", "server=on,wait=off"),
            CLIENT: ("server=off,reconnect-ms=100", "reconnect-ms=100")}[name]
    mac = f"52:54:00:4d:00:{ADDRESSES[name].rpartition('.')[2]:0>2}"
    devices = ["-netdev", f"stream,id=cable,addr.type=unix,addr.path=/run/link/cable,{ends[0]}",
               "-device", f"virtio-net-pci,id=nic,netdev=cable,mac={mac},romfile=",
               "-chardev", f"socket,id=agent,path=/run/link/agent,{ends[1]}",
               "-device", "virtserialport,chardev=agent,name=rusbip.agent"]
    return dataclasses.replace(options, name=name, cpus=CPUS, qemu=[*options.qemu, *devices],
                               binds=(*options.binds, (folder, "/run/link", "rw")), **changes)


def network(name):
    """The shell commands that bring a guest's network up."""
    hosts = shlex.join(f"{address} {host}" for host, address in ADDRESSES.items())
    return (f"modprobe virtio_net && ip address add {ADDRESSES[name]}/24 dev eth0 && "
            f"ip link set eth0 up && printf '%s\\n' {hosts} >> /etc/hosts || exit {NO_NETWORK}\n")
