# SPDX-License-Identifier: GPL-2.0
"""The scripts of samples/gadget: what they say when something is wrong, and that they leave nothing
behind then. That they make gadgets is what other tests begin with."""

import subprocess

import pytest

import vudc
from host_configfs import CONFIGFS, SCRIPTS
from vudc_fixtures import *  # noqa: F401,F403  pylint: disable=wildcard-import,unused-wildcard-import

pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml-lockdep")]

# What they use, and does not stand for itself, has a point or a dash in its name.
NAMES = ["source-sink", *(one.name for one in SCRIPTS.iterdir() if one.name.isalpha())]


def call(name: str, *arguments: str):
    return subprocess.run([SCRIPTS / name, *arguments], capture_output=True, text=True, check=False)


def refused(name: str, *arguments: str) -> str:
    """The one line in which a script says why it has failed. It leaves nothing behind."""
    gadgets = CONFIGFS / "usb_gadget"
    before = sorted(gadgets.glob("*"))
    done = call(name, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{name}: ") and done.stderr.count("\n") == 1, done.stderr
    assert sorted(gadgets.glob("*")) == before
    return done.stderr.removeprefix(f"{name}: ").strip()


def test_help():
    """Each script says how it is used."""
    for name in NAMES:
        done = call(name, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"usage: {name} ")


def test_bad_words(tmp_path):
    """Options and operands."""
    assert refused("disk") == "which image? (see --help)"
    assert refused("disk", str(tmp_path)) == f"{tmp_path} is neither a file nor a block device"
    assert refused("disk", "a", "b") == "takes one operand: b (see --help)"
    assert refused("serial", "x") == "takes no operand: x (see --help)"
    assert refused("serial", "--turbo") == "unknown option --turbo (see --help)"
    assert refused("serial", "--udc") == "--udc needs a value (see --help)"
    assert refused("serial", "--speed", "5") == 'no speed "5": full, high, super or super-plus'
    assert refused("serial", "--name", "../a") == 'a gadget cannot have the name "../a"'
    assert refused("audio", "--class", "3") == 'no audio class "3": 1 or 2'
    assert refused("network", "--kind", "eem") == 'no kind "eem": ncm or ecm'
    assert refused("video", "--size", "9") == 'no size "9": width and height, as 320x240'
    assert refused("serial", "--id", "1d6b:x") == 'the kernel refuses "0xx" for idProduct'
    assert refused("remove") == "which gadget? (see --help)"
    assert refused("remove", "nobody") == "there is no gadget nobody"


def test_no_controller():
    """The module is not loaded, or has fewer."""
    assert refused("serial", "--udc", "usbip-vudc.7").startswith(
        "no device controller usbip-vudc.7: 'modprobe usbip_vudc_rs' makes usbip-vudc.0")


def test_taken():
    """A name that another gadget has, a controller that has one."""
    with vudc.gadget("serial"):
        name = "usbip-vudc.0"
        assert refused("serial") == f"{name} has a gadget already"
        assert refused("serial", "--udc", "usbip-vudc.1", "--name", name) == (
            f"there is a gadget {name} already: choose another --name, or 'remove {name}'")


def test_not_in_this_kernel():
    """A function that the kernel does not have."""
    assert refused("video") == "this kernel has no function uvc (CONFIG_USB_CONFIGFS_F_UVC)"
