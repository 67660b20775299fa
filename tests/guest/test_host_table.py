# SPDX-License-Identifier: GPL-2.0
"""The files of the driver: names in `match_busid`, what `rebind` takes. No device is needed."""

import os
import stat

import pytest

import host
import vhci
from host import beyond_c

pytest_plugins = ("host_fixtures",)
pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.lanes("uml", "stock-7.2")]

# The most names that the C driver takes.
C_LIMIT = 16


@pytest.fixture(autouse=True)
def empty_table(host_driver):
    """Each test begins with no name in the table. They are forgotten with the module."""
    if (host.DRIVER / "match_busid").read_text() != "\n":
        host.unload()
        host.load()
    assert host.table() == []


def refused(function, *arguments) -> str:
    """The errno of a write that must not change the table."""
    before = host.table()
    error = vhci.errno_of(function, *arguments)
    assert host.table() == before
    return error


@beyond_c
@pytest.mark.lanes("uml")
@pytest.mark.parametrize("name, text", [("match_busid", "add 1-1"), ("rebind", "1-1")])
def test_root_without_capability(name, text):
    """What the mode of a file allows is not enough."""
    assert refused(vhci.write_without_admin, host.DRIVER / name, text) == "EPERM"


def mode(name: str) -> int:
    return stat.S_IMODE((host.DRIVER / name).stat().st_mode)


def test_s12_files():
    assert (mode("match_busid"), mode("rebind")) == (0o644, 0o200)
    assert vhci.errno_of(os.open, host.DRIVER / "rebind", os.O_RDONLY) == "EACCES"
    for name in ("bind", "unbind", "uevent", "module"):
        assert (host.DRIVER / name).exists()
    assert (host.DRIVER / "module").resolve().name == host.MODULES[-1]


def test_s98_read():
    """Names in the order in which they came, each with a blank; then the end of the line."""
    assert (host.DRIVER / "match_busid").read_text() == "\n"
    host.add("1-1")
    assert (host.DRIVER / "match_busid").read_text() == "1-1 \n"
    host.add("9-9.1.2")
    assert (host.DRIVER / "match_busid").read_text() == "1-1 9-9.1.2 \n"


def test_s97_returns_what_was_written():
    assert host.add("1-1") == 7
    assert host.match_busid("del 1-1") == 7


@pytest.mark.parametrize("line", ["a", "add", "add ", "del ", "1-1", "x" * 4, "\n", "\n" * 4])
def test_s97_too_short(line):
    assert refused(host.match_busid, line) == "EINVAL"


@pytest.mark.parametrize("line", ["foo 1-1", "ADD 1-1", "add1-1-1", "add\t1-1", " add 1-1",
                                  "addd 1-1", "rem 1-1", "1-1.1.1.1"])
def test_s97_unknown_verb(line):
    assert refused(host.match_busid, line) == "EINVAL"


@pytest.mark.parametrize("length", [32, 33, 100, 4000])
@pytest.mark.parametrize("verb", ["add", "del"])
def test_s97_too_long(verb, length):
    assert refused(host.match_busid, f"{verb} {'1' * length}") == "EINVAL"


def test_s97_longest():
    host.add("1" * 31)
    assert host.table() == ["1" * 31]
    assert vhci.errno_of(host.delete, "1" * 31) is None


@beyond_c
@pytest.mark.parametrize("name", ["1-1", "1" * 31])
def test_end_of_line_is_not_part_of_a_name(name):
    """`echo` is as good as `echo -n`."""
    host.add(name + "\n")
    assert host.table() == [name]
    host.delete(name + "\n")
    assert host.table() == []


@beyond_c
def test_empty_name():
    assert refused(host.add, "\n") == "EINVAL"


def test_s98_twice():
    for _ in range(3):
        assert host.add("1-1") == 7
    assert host.table() == ["1-1"]


def test_s98_many():
    """Where the C driver is full, this one goes on."""
    names = [f"{n}-1.{n % 7}" for n in range(1, 41)]
    for number, name in enumerate(names):
        full = host.HOST == "c" and number >= C_LIMIT
        assert vhci.errno_of(host.add, name) == ("ENOMEM" if full else None)
    assert host.table() == (names[:C_LIMIT] if host.HOST == "c" else names)


@beyond_c
def test_more_than_a_page_of_names():
    """What a read cannot show is cut between names, and is there all the same."""
    names = [f"{n:03}-{'1.' * 13}1" for n in range(1, 301)]
    for name in names:
        host.add(name)
    text = (host.DRIVER / "match_busid").read_text()
    assert len(text) <= os.sysconf("SC_PAGE_SIZE")
    shown = host.table()
    assert shown == names[:len(shown)] and len(shown) > 100
    for name in names:
        assert vhci.errno_of(host.delete, name) is None
    assert host.table() == []


def test_s98_delete_of_nobody():
    host.add("1-1")
    for name in ("1-2", "1-", "1-1.1", "-1"):
        assert refused(host.delete, name) == "ENODEV"


def test_s99_delete_of_somebody():
    """`usbip unbind` has to succeed."""
    host.add("1-1")
    assert host.delete("1-1") == 7


@beyond_c
def test_s100_delete_frees():
    """B6: over and over, and in the middle."""
    for name in ("1-1", "2-2", "3-3"):
        host.add(name)
    host.delete("2-2")
    assert host.table() == ["1-1", "3-3"]
    assert vhci.errno_of(host.delete, "2-2") == "ENODEV"
    host.add("2-2")
    assert host.table() == ["1-1", "3-3", "2-2"]
    for turn in range(100):
        host.add(f"7-{turn}")
        host.delete(f"7-{turn}")
    assert host.table() == ["1-1", "3-3", "2-2"]


@pytest.mark.parametrize("name", ["1" * 32, "1" * 100])
def test_rebind_too_long(name):
    assert vhci.errno_of(host.rebind, name) == "EINVAL"


@pytest.mark.parametrize("name", ["9-9", "1-", "1" * 31])
def test_rebind_of_nobody(name):
    assert vhci.errno_of(host.rebind, name) == "ENODEV"


@beyond_c
@pytest.mark.parametrize("end", ["", "\n"])
def test_rebind_without_a_device(end):
    """A name in the table is not yet a device; there is nobody to be given back."""
    host.add("9-9")
    assert vhci.errno_of(host.rebind, "9-9" + end) in (None, "ENODEV")
    assert host.table() in ([], ["9-9"])


def test_s1_load_and_unload():
    """Nothing is bound: it comes and goes."""
    for _ in range(3):
        host.add("1-1")
        host.unload()
        assert not host.DRIVER.exists()
        host.load()
        assert host.table() == []
