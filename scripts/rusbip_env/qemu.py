# SPDX-License-Identifier: GPL-2.0
"""QEMU guests: the command line, the USB devices, and whether KVM really works here."""

import os
import platform
import subprocess
import tempfile
from pathlib import Path

from . import cache, chroot, initramfs, kernels
from .run import die_with_parent, say

PROBE_SECONDS = 20
# Boots whatever CPU there is; mitigations cost a great deal in emulation and protect nothing here.
# A disk is emulated and needs no time to settle.
# A host that was busy for a moment looks like a TSC that cannot be trusted, and every look at the
# clock that comes instead, an emulated HPET, takes so long that the guest is several times slower.
APPEND = ("console=ttyS0 panic=-1 mitigations=off tsc=nowatchdog usb_storage.delay_use=0 "
          "loglevel={loglevel} GUEST_NAME={name}")

# One xHCI controller with real devices for usbip-host. What a driver plays on `audio` is in
# /out/usb-audio.wav; what goes into /dev/virtio-ports/rusbip.serial comes out of `serial`.
USB = {
    "storage": ["-drive", "if=none,id=stick,format=raw,file=/run/ctl/stick.img,snapshot=on",
                "-device", "usb-storage,id=storage,bus=xhci.0,drive=stick,removable=on,"
                "serial=RUSBIP0001"],
    "kbd": ["-device", "usb-kbd,id=kbd,bus=xhci.0,serial=RUSBIP0002"],
    "audio": ["-audiodev", "wav,id=snd,path=/run/out/usb-audio.wav,out.frequency=48000",
              "-device", "usb-audio,id=audio,bus=xhci.0,audiodev=snd"],
    "serial": ["-chardev", "socket,id=serial-usb,path=/run/ctl/serial,server=on,wait=off",
               "-device", "usb-serial,id=serial,bus=xhci.0,chardev=serial-usb,always-plugged=on",
               "-chardev", "socket,id=serial-port,path=/run/ctl/serial",
               "-device", "virtserialport,chardev=serial-port,name=rusbip.serial"],
    "ccid": ["-device", "usb-ccid,id=ccid,bus=xhci.0"],
}

# What is written to the variables of UEFI is forgotten.
FIRMWARE = ["-drive", "if=pflash,unit=0,format=raw,readonly=on,file=/run/firmware/code.fd",
            "-drive", "if=pflash,unit=1,format=raw,snapshot=on,file=/run/firmware/vars.fd"]

# The emulated CPU lacks what makes kernel and libc copy and clear memory byte by byte: on hardware
# that is as fast as memory, emulated it is many times slower than eight bytes at a time.
CPU = "max,erms=off,fsrm=off,fzrm=off,fsrs=off,fsrc=off"
# What runs the guest. With "icount" it is emulated by one thread and its clock advances by 1 ns per
# instruction, whichever CPU executes it: what it takes does not depend on the host.
ACCELERATORS = {"kvm": ["-accel", "kvm", "-cpu", "host"],
                "tcg": ["-accel", "tcg,thread=multi", "-cpu", CPU],
                "icount": ["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off",
                           "-cpu", CPU]}


def machine(accel, cpus, mem, kernel, initrd, append, interactive):
    """What every QEMU guest is made of."""
    serial = ["-serial", "mon:stdio"] if interactive else ["-serial", "file:/run/out/console.log"]
    return ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot",
            "-display", "none", *ACCELERATORS[accel], "-smp", str(cpus), "-m", str(mem), *serial,
            "-kernel", str(kernel), "-initrd", str(initrd),
            "-append", append, "-device", "virtio-rng-pci"]


def share(tag, path, readonly):
    """A host folder for the guest, over 9p."""
    lock = ",readonly=on" if readonly else ""
    return ["-fsdev", f"local,id={tag},path={path},security_model=none,multidevs=remap{lock}",
            "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


def command(options, interactive):
    """The QEMU command line, with paths as seen inside the root."""
    series = options.kernel
    accel = options.accel or accelerator(series)
    if accel == "kvm" or options.firmware:
        kernel = "/" + str(kernels.image(series).relative_to(cache.ROOT))
    else:
        kernel = "/build/" + kernels.unpacked(series).name
    initrd = "/build/" + initramfs.ensure(series).name
    append = APPEND.format(loglevel=1 if interactive else 5, name=options.name)
    argv = machine(accel, options.cpus, options.mem or 1024, kernel, initrd, append,
                   interactive)
    if options.firmware:
        argv += FIRMWARE
    argv += share("root", "/run/plain", True) + share("repo", "/rusbip", True)
    argv += share("modules", "/run/modules", True)
    argv += share("programs", "/run/programs", True) + share("out", "/run/out", False)
    argv += ["-qmp", "unix:/run/ctl/qmp,server=on,wait=off", "-device", "virtio-serial-pci",
             "-chardev", "socket,id=monitor,path=/run/ctl/monitor,server=on,wait=off",
             "-device", "virtserialport,chardev=monitor,name=rusbip.monitor",
             "-device", "qemu-xhci,id=xhci,p2=8,p3=8"]
    for name in options.usb:
        argv += USB[name]
    return argv + options.qemu


def stick_numbers():
    """What is in the file numbers.txt of the USB disk."""
    return b"".join(b"%d\n" % number for number in range(1, 200001))


def stick_image():
    """A small disk for usb-storage: one FAT file system that holds a file to read."""
    path = cache.BUILD / "stick.img"
    key = cache.digest("stick", "1")
    with cache.lock("stick.img"):
        if cache.stamped("stick.img") != key or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(chroot.shell(
                "cd /build; rm -f stick.tmp; truncate -s 64M stick.tmp\n"
                "mkfs.vfat -n RUSBIP -i 52555342 stick.tmp > /dev/null\n"
                "echo 'Hello from the other machine.' > /run/hello.txt\n"
                "cat > /run/numbers.txt\n"
                "mcopy -i stick.tmp /run/hello.txt /run/numbers.txt ::/\n"
                "mv stick.tmp stick.img"), check=True, env=chroot.environment(),
                input=stick_numbers())
            cache.stamp("stick.img", key)
    return path


def accelerator(series):
    """kvm only where a guest really runs under it; the verdict is kept per machine."""
    chosen = os.environ.get("RUSBIP_ACCEL")
    if chosen in ("kvm", "tcg"):
        return chosen
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    here = cache.digest(platform.release(), Path("/proc/sys/kernel/random/boot_id"))
    with cache.lock("kvm", lambda: say("waiting for the probe of KVM")):
        verdict = (cache.stamped("kvm") or "").split()
        if verdict[:1] != [here]:
            works = probe(series)
            say("KVM works: guests run on it" if works else
                "KVM is there but a guest does not run under it: guests are emulated (TCG)")
            verdict = [here, "kvm" if works else "tcg"]
            cache.stamp("kvm", " ".join(verdict))
    return verdict[1]


def probe(series):
    """Boots the kernel under KVM as far as its init. A KVM whose ioctls succeed may still run no
    guest (nested virtualisation), so nothing less than a boot answers the question."""
    kernel = "/" + str(kernels.image(series).relative_to(cache.ROOT))
    initrd = initramfs.probe()
    with tempfile.TemporaryDirectory(prefix="rusbip-") as folder:
        argv = machine("kvm", 1, 512, kernel, "/build/" + initrd.name,
                       APPEND.format(loglevel=1, name="probe"), False)
        try:
            subprocess.run(chroot.command(argv, binds=[(folder, "/run/out", "rw")]),
                           env=chroot.environment(), timeout=PROBE_SECONDS,
                           preexec_fn=die_with_parent, stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return False
        console = Path(folder) / "console.log"
        return console.exists() and b"rusbip: init runs" in console.read_bytes()
