# SPDX-License-Identifier: GPL-2.0
"""The lane `package`: the Debian package in a clean Debian root, and what it installs in a guest.

The root is a stack of layers (scripts/rusbip_env/layers.py): `base` is minimal, `builder` has what
makes the package, `user` what the package depends on, a kernel of the older series, and, downloaded
only, what the upgrade to the newer one takes. What the test does goes into a layer of its own.
"""

import re
import shutil
import subprocess

from rusbip_env import cache, chroot, kernels, layers, root
from rusbip_env.run import Failure, logged, say

from . import oracle
from .results import FAILED, PASSED, Result

OLD, NEW = kernels.SERIES
APT = "apt-get install -y -q --no-install-recommends -o Dpkg::Options::=--force-unsafe-io"
# What a guest that boots from the root needs.
GUEST = "systemd udev iproute2 procps busybox-static usbip"
CONTROL = cache.REPO / "debian/control"
RUST_METADATA = cache.REPO / "packaging/dkms/rust-metadata"
# Where the metadata of the kernels is kept from run to run: making it takes minutes.
METADATA = layers.FOLDER / "metadata"
USER = ("base", "user")
STACK = (*USER, "package")
# What installing and removing any package changes, and places of the tests.
ELSEWHERE = ("/var/lib/dpkg/*", "/var/lib/apt/*", "/var/log/*", "/var/cache/*", "/tmp/*", "/run/*",
             "/var/lib/dkms/mok.*", "/usr/lib/modules/*/modules.*", "/rusbip", "/build")
LISTING = ("find / -xdev " + " ".join(f"! -path '{one}'" for one in ELSEWHERE)
           + r" \( -type d -printf '%p/\n' -o -printf '%p %m %s\n' \)")


def run(options):
    """All steps in their order; one that cannot be done ends the lane."""
    if options.expression:
        return []  # a choice among the tests of pytest
    results = []
    with cache.lock("lane-package", lambda: say("lane-package: waiting for another run")):
        for name, step in STEPS.items():
            try:
                complaint = step()
            except Failure as failure:
                return [*results, Result(name, FAILED, str(failure))]
            results.append(Result(name, FAILED if complaint else PASSED, complaint))
    return results


def packages(series):
    """The packages of a kernel, in the version that is set up."""
    release = kernels.release(series)
    return f"linux-headers-{release} linux-modules-{release} linux-source-{series}"


def inside(what, script, log="package.log"):
    """Runs a shell script in the root and returns what it printed."""
    logged(f"package: {what}", layers.shell(script, STACK, binds=[
        (layers.path("deb"), "/run/deb", "ro")]), log, env=chroot.environment())
    return (cache.LOGS / log).read_text(errors="replace")


def missing(text, *patterns):
    """Says which of the patterns is in no line of a text."""
    lost = [one for one in patterns if not re.search(one, text, re.MULTILINE)]
    return "\n".join([*(f"not found: {one}" for one in lost), *text.splitlines()[-40:]]) if lost else ""


def make_package():
    """make deb, from a copy of the tree as it is."""
    layers.prepare_base()
    layers.prepare("builder", ["base"], "what makes a Debian package",
                   f"apt-get update -q\n{APT} build-essential debhelper dh-dkms\napt-get clean")
    cache.remove(layers.path("deb"))
    layers.path("deb").mkdir()
    layers.drop("making")
    logged("make deb", layers.shell("make -C /rusbip deb MO=/run/o/modules deb-dir=/run/deb/out\n"
                                    "mv /run/deb/out/*.deb /run/deb",
                                    ["base", "builder", "making"],
                                    binds=[(layers.path("deb"), "/run/deb", "rw")]),
           "package-deb.log", env=chroot.environment())
    layers.drop("making")
    found = list(layers.path("deb").glob("rusbip-dkms_*_all.deb"))
    return "" if len(found) == 1 else f"packages: {found}"


def dependencies_are_in_the_archive():
    """Installed where nothing is, and no kernel. What it depends on stays for the next runs."""
    root.prepare()
    for series in (OLD, NEW):
        kernels.prepare(series)
    layers.drop("package")
    shutil.copy(next(layers.path("deb").glob("*.deb")), cache.BUILD / "package.deb")
    layers.prepare("user", ["base"], "what the package depends on, and kernels",
                   f"apt-get update -q\n{APT} /build/package.deb\napt-get purge -y -q rusbip-dkms\n"
                   f"{APT} {GUEST} {packages(OLD)}\napt-get clean\n"
                   f"{APT} --download-only {packages(NEW)}",
                   *re.findall(r"^Depends:.*(?:\n .*)*", CONTROL.read_text(), re.MULTILINE))
    return ""


def metadata(series):
    """Where the metadata of a kernel is in the root, where it is kept, and whether that is that of
    today's script."""
    release = kernels.release(series)
    kept = METADATA / release
    current = cache.stamped(f"metadata-{series}") == cache.digest(RUST_METADATA, release)
    return layers.path("package") / "var/lib/rusbip-dkms" / release, kept, current and kept.exists()


def give_metadata(series):
    """Spares the build the minutes that making it takes."""
    place, kept, current = metadata(series)
    if current:
        place.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", kept, place], check=True)


def keep_metadata(series):
    """Of a build that has made it, for the next run."""
    place, kept, current = metadata(series)
    if not current:
        cache.unstamp(f"metadata-{series}")
        cache.remove(kept)
        METADATA.mkdir(exist_ok=True)
        subprocess.run(["cp", "-a", place, kept], check=True)
        cache.stamp(f"metadata-{series}", cache.digest(RUST_METADATA, kernels.release(series)))


def installs():
    """Modules for the kernel that is there, whose names modprobe takes."""
    layers.drop("package")
    inside("what is there before", LISTING, "package-before.log")
    give_metadata(OLD)
    return built(OLD, inside("installing it", f"{APT} /run/deb/*.deb\ndkms status rusbip"))


def built(series, text):
    """Says what is missing for modules to be there and taken."""
    lost = missing(text, rf"rusbip/\S+, {re.escape(kernels.release(series))}, x86_64: installed")
    if not lost:
        keep_metadata(series)
    return lost or picks(series, "_rs.ko")


def names():
    """Our name and the C module's, of each module."""
    return [line.split() for line in subprocess.run(
        [cache.REPO / "scripts/module-names"], check=True, text=True,
        stdout=subprocess.PIPE).stdout.splitlines()]


def picks(series, ending):
    """Says which of the C modules' names does not lead to a file with this ending."""
    release = kernels.release(series)
    script = "\n".join(f"echo {c}: $(modprobe -S {release} -n --show-depends {c} | tail -n 1)\n"
                       f"echo {c}: $(modprobe -S {release} -n --show-depends {c.replace('_', '-')}"
                       " | tail -n 1)" for _, c in names())
    lines = [line for line in inside("what modprobe picks", script).splitlines() if ": " in line]
    wrong = [line for line in lines if not re.search(rf"/{line.split(':')[0].replace('_', '[_-]')}"
                                                     rf"{re.escape(ending)}(\.xz)?$", line)]
    return "\n".join(wrong) if lines and len(lines) == 2 * len(names()) else f"modprobe said: {lines}"


def modinfo_is_complete():
    """What the installed modules say of themselves."""
    folder = layers.path("package") / "usr/lib/modules" / kernels.release(OLD) / "updates/dkms"
    if not folder.exists():
        return f"{folder} does not exist"
    done = subprocess.run(chroot.shell(
        "/rusbip/scripts/check-modinfo /run/dkms/*", binds=[(folder, "/run/dkms", "ro")]),
        env=chroot.environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL, check=False)
    return done.stdout if done.returncode else missing(done.stdout, rf"^{len(names())} modules: ")


def make_installs():
    """Without DKMS: signed modules and the aliases, and nothing of it after uninstalling."""
    release = kernels.release(OLD)
    text = inside("make install", f"""cd /rusbip
openssl req -new -x509 -newkey rsa:2048 -nodes -subj /CN=lane/ -keyout /run/priv -outform DER -out /run/der
listing() {{ find /usr/local /etc /lib/modules/{release}/ ! -name 'modules.*' | sort; }}
listing > /run/before
make="make MO=/run/modules KDIR=/var/lib/rusbip-dkms/{release}/objects"
$make -j$(nproc) KEY=/run/priv CERT=/run/der install
listing | comm -13 /run/before - | sed 's/^/installed /'
for one in /lib/modules/{release}/updates/*.ko; do echo $one is signed by $(modinfo -F signer $one); done
$make uninstall
listing | comm -3 /run/before - | sed 's/^/left /'
if $make KEY=/run/priv install; then echo a key alone is taken; fi
""", "package-make.log")
    left = re.findall(r"^(?:left .*|a key alone is taken)$", text, re.MULTILINE)
    return "\n".join(left) or missing(
        text, "^installed /usr/local/lib/modprobe.d/rusbip.conf$",
        "^installed /usr/local/lib/systemd/system/usbipd.service$", *(
            rf"^/lib/modules/{re.escape(release)}/updates/{ours}\.ko is signed by lane$"
            for ours, _ in names()))


def refuses():
    """Each reason in one line, and for apt no failure."""
    release = kernels.release(NEW)
    version = next(iter(re.findall(rf"linux-headers-{re.escape(release)}_(\S+?)_", " ".join(
        one.name for one in (layers.path("user") / "var/cache/apt/archives").iterdir())))).replace(
            "%3a", ":")
    prefix = rf"^rusbip is not built for {re.escape(release)}: "
    build = f"dkms build -m rusbip -v $(ls /var/lib/dkms/rusbip | head -n 1) -k {release}"
    text = inside("kernels to be refused", f"""{APT} linux-headers-{release} linux-modules-{release}
dkms status
printf '#!/bin/sh\\necho rustc 1.96.1\\n' > /usr/local/bin/rustc
chmod +x /usr/local/bin/rustc
mv /usr/bin/rustc /usr/bin/rustc.away
{build} || echo "status $?"
rm /usr/local/bin/rustc
{build} || echo "status $?"
mv /usr/bin/rustc.away /usr/bin/rustc
mv /usr/bin/bindgen /usr/bin/bindgen.away
{build} || echo "status $?"
mv /usr/bin/bindgen.away /usr/bin/bindgen
mkdir -p /tmp/kdir/include/config
sed '/^CONFIG_RUST=/d' /lib/modules/{release}/build/include/config/auto.conf \\
    > /tmp/kdir/include/config/auto.conf
{build} --kernelsourcedir /tmp/kdir || echo "status $?"
cp /lib/modules/{release}/build/include/config/auto.conf /tmp/kdir/include/config/auto.conf
{build} --kernelsourcedir /tmp/kdir || echo "status $?"
{build.replace(release, "6.12.1-amd64")} --kernelsourcedir /tmp/kdir || echo "status $?"
rm -r /tmp/kdir
""")
    source = re.escape(f"linux-source-{NEW}")
    lost = missing(
        text, prefix + f"{source} is not installed: apt install {source}={re.escape(version)}$",
        prefix + r"rustc differs from the kernel's: rustc 1\.96\.1 here, the kernel was built with "
        r"rustc 1\.85\.1 ",
        prefix + "rustc is not installed, the kernel was built with rustc ",
        prefix + "bindgen is not installed$",
        prefix + r"the kernel has no support for Rust \(CONFIG_RUST\)$",
        prefix + r"the kernel's headers \(/tmp/kdir\) hold no Rust metadata \(rust/libkernel.rmeta\)$",
        r"^rusbip is not built for 6\.12\.1-amd64: it is older than Linux 7\.2$")
    count = text.count("status 77\n")
    return lost or ("" if count == 6 else f"{count} of 6 builds were refused with 77:\n{text[-3000:]}")


def follows_the_kernel():
    """The newer series: its source comes, and the modules are there."""
    give_metadata(NEW)
    text = inside("the newer kernel", f"{APT} {packages(NEW)}\ndkms status rusbip")
    return missing(text, "^Processing triggers for rusbip-dkms") or built(NEW, text)


def boots(series, command, *options):
    """Runs a shell command in a guest whose root this is; returns what is wrong, there or in its
    kernel log. The options are those of scripts/guest."""
    out = cache.CACHE / "out/lane-package"
    shutil.rmtree(out, ignore_errors=True)
    argv = [cache.REPO / "scripts/guest", "--kernel", series, "--root", layers.top(STACK),
            "--usb", "storage", "--timeout", "300", "--out", out, *options, "--",
            f"set -ex; {command}"]
    try:
        logged(f"package: guest {series}", layers.mounted(argv, STACK), "package-guest.log")
    except Failure as failure:
        return str(failure)
    found = oracle.findings((out / "dmesg").read_text(errors="replace"), f"stock-{series}")
    return "\n\n".join(map(str, found))


# What an administrator has set up before the boot: the disk is exported whenever it is plugged in,
# and attached to the same machine.
UNIT = "usbip-attach@127.0.0.1:2-1"
SET_UP = f"""systemctl enable usbipd {UNIT}
mkdir -p /etc/udev/rules.d /etc/modprobe.d
echo 'ACTION=="add", SUBSYSTEM=="usb", ENV{{DEVTYPE}}=="usb_device", ATTR{{serial}}=="RUSBIP0001", \
ENV{{USBIP_EXPORT}}="1"' > /etc/udev/rules.d/60-lane.rules
echo 'options vhci_hcd nr_hcs=1' > /etc/modprobe.d/lane.conf
"""
# The rest is what purging has to take back.
TAKEN_BACK = "rm /etc/udev/rules.d/60-lane.rules /etc/modprobe.d/lane.conf"

USED = f"""
trap 'test $? = 0 || journalctl -b -n 60 --no-pager' EXIT
soon() {{ for _ in $(seq 240); do "$@" && return; sleep 0.5; done; false; }}
disk() {{ ls /dev/disk/by-id 2> /dev/null | grep -q $1; }}
imported() {{ usbip port 2> /dev/null | grep -q "usbip://127.0.0.1:3240/$1"; }}
restarts() {{ systemctl show -P NRestarts {UNIT}; }}
attached() {{ imported 2-1 && disk RUSBIP0001; }}
again() {{ test "$(restarts)" -gt $before && attached; }}
none() {{ ! imported; }}
# At boot the rule exports the disk, the server offers it, the client attaches it. Before that the disk
# may be there as it is plugged in.
soon attached
test "$(basename "$(readlink /sys/bus/usb/devices/2-1/driver)")" = usbip-host
test -e /sys/module/vhci_hcd_rs; test -e /sys/module/usbip_host_rs; test ! -e /sys/module/vhci_hcd
test "$(cat /sys/module/vhci_hcd_rs/parameters/nr_hcs)" = 1
# The connection dies.
before=$(restarts)
ss -HK dport = :3240 | grep :3240
soon again
# The disk is pulled out and plugged in again.
before=$(restarts)
plug=$(readlink -f /sys/bus/usb/devices/2-1/port)/disable
echo 1 > $plug
soon none
echo 0 > $plug
soon again
# Who stops it detaches.
systemctl stop {UNIT}
none
# A gadget.
systemctl start usbipd-gadget
test "$(systemctl is-active usbipd)" = inactive
test -e /sys/module/usbip_vudc_rs; test ! -e /sys/module/usbip_vudc
modprobe libcomposite
gadget=/sys/kernel/config/usb_gadget/disk
soon test -d ${{gadget%/*}}
truncate -s 1M /run/gadget.img
mkdir -p $gadget/functions/mass_storage.0 $gadget/configs/c.1 $gadget/strings/0x409
cd $gadget
echo 0x1d6b > idVendor
echo 0x0104 > idProduct
echo RUSBIP0009 > strings/0x409/serialnumber
echo /run/gadget.img > functions/mass_storage.0/lun.0/file
ln -s functions/mass_storage.0 configs/c.1
echo usbip-vudc.0 > UDC
listed() {{ usbip list -r 127.0.0.1 | grep -q usbip-vudc.0; }}
soon listed
systemctl start usbip-attach@127.0.0.1:usbip-vudc.0
soon disk RUSBIP0009
imported usbip-vudc.0
systemctl stop usbip-attach@127.0.0.1:usbip-vudc.0 usbipd-gadget
none
echo > UDC
cd /
# Away with ours by the names of the C modules; then past the aliases, and what is said after that.
modprobe -r vhci-hcd usbip-host usbip-vudc
test ! -e /sys/module/vhci_hcd_rs; test ! -e /sys/module/usbip_core_rs
modprobe -C /dev/null vhci-hcd
test -e /sys/module/vhci_hcd
if modprobe vhci-hcd; then exit 1; fi
dmesg | grep 'vhci_hcd_rs: there is a vhci_hcd driver already: .*(rmmod vhci_hcd)$'
modprobe -r vhci-hcd
test -e /sys/module/vhci_hcd
rmmod vhci_hcd
# A kernel that takes no module without a signature that it trusts.
echo 1 > /sys/module/module/parameters/sig_enforce
xzcat "$(modinfo -n usbip_core_rs)" > /run/core.ko
truncate -s -1 /run/core.ko
if insmod /run/core.ko; then exit 1; fi
modprobe -a vhci-hcd usbip-host usbip-vudc
for one in vhci_hcd usbip_host usbip_vudc; do test -e /sys/module/${{one}}_rs; done
"""

# The variable `db` holds the keys that firmware trusts, and the kernel takes them, with Secure Boot or
# without. Those that mokutil enrols come to the same keyring, but by way of a boot loader (shim), and
# only with Secure Boot on.
FIRMWARE = """cd /run/o
openssl x509 -inform DER -in /run/mok/mok.pub -out mok.pem
cp /usr/share/OVMF/OVMF_CODE_4M.fd code.fd
virt-fw-vars --input /usr/share/OVMF/OVMF_VARS_4M.fd --output vars.fd \
    --add-db 77fa9abd-0359-4d32-bd60-28f4e78f784b mok.pem
"""


def firmware_trusts():
    """A folder with UEFI firmware that trusts the key that DKMS has made and signed with."""
    layers.prepare("firmware", ["base"], "what makes firmware that trusts a key",
                   f"apt-get update -q\n{APT} openssl ovmf python3-virt-firmware\napt-get clean")
    folder = cache.CACHE / "out/lane-package-firmware"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    layers.drop("making")
    keys = layers.path("package") / "var/lib/dkms"
    logged("firmware that trusts DKMS's key", layers.shell(
        FIRMWARE, ["base", "firmware", "making"],
        binds=[(keys, "/run/mok", "ro"), (folder, "/run/o", "rw")]),
        "package-firmware.log", env=chroot.environment())
    layers.drop("making")
    return folder


def is_used():
    """Booted as any machine, with the distribution's kernel and systemd: the C names load ours, the
    services export and attach, signatures are taken."""
    inside("services to be started at boot", SET_UP)
    wrong = boots(NEW, USED, "--systemd", "--firmware", firmware_trusts())
    inside("no disk to be exported", TAKEN_BACK)
    return wrong


def forgets_the_headers():
    """What was made for a kernel goes with its headers; its modules stay for as long as it does."""
    release = kernels.release(NEW)
    common = release.rsplit("-", 1)[0]
    text = inside("purging the headers", f"ls /var/lib/rusbip-dkms\napt-get purge -y -q "
                  f"linux-headers-{release} linux-headers-{common}-common linux-kbuild-{common}\n"
                  "ls -1 /var/lib/rusbip-dkms | sed 's/^/kept /'\ndkms status rusbip")
    return missing(text, rf"^kept {re.escape(kernels.release(OLD))}$",
                   rf"rusbip/\S+, {re.escape(release)}, x86_64: installed") or "\n".join(
                       re.findall(rf"^kept {re.escape(release)}$", text, re.MULTILINE))


def leaves_no_trace():
    """After purging, the root is as it was, and the C modules are picked again."""
    inside("purging it", "apt-get purge -y -q rusbip-dkms")
    for series in (OLD, NEW):
        if wrong := picks(series, ".ko"):
            return wrong
    release = kernels.release(NEW)
    inside("purging the newer kernel",
           f"apt-get purge -y -q linux-modules-{release} linux-source-{NEW} linux-base-{release}")
    after = set(inside("what is there after", LISTING, "package-after.log").splitlines())
    before = set((cache.LOGS / "package-before.log").read_text().splitlines())
    return "\n".join(f"{sign} {line}" for sign, lines in (("left:", after - before),
                                                          ("lost:", before - after))
                     for line in sorted(lines)[:20])


def c_modules_work_again():
    return boots(OLD, "modprobe vhci-hcd; test -e /sys/module/vhci_hcd; "
                      "test ! -e /sys/module/vhci_hcd_rs; usbip port")


STEPS = {
    "the package is made": make_package,
    "its dependencies are in the archive": dependencies_are_in_the_archive,
    "it installs modules that modprobe takes for the C ones": installs,
    "modinfo of the modules is complete": modinfo_is_complete,
    "make install signs, make uninstall leaves nothing": make_installs,
    "reasons not to build are named in a line": refuses,
    "the modules follow to a newer kernel": follows_the_kernel,
    "a guest uses what was installed": is_used,
    "what was made for a kernel goes with its headers": forgets_the_headers,
    "purging leaves no trace": leaves_no_trace,
    "the C modules work again": c_modules_work_again,
}
