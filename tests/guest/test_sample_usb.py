# SPDX-License-Identifier: GPL-2.0
"""The sample of a driver for whole USB devices: takes devices, asks them, and takes requests back
that they do not answer."""

import contextlib
import itertools
import subprocess
import threading
import time
from pathlib import Path

import pytest

import host_configfs
import host_gadget
import vhci
from host_model import Model
from lib import guestlib
from vhci import errno_of, wait_for, write_raw

# raw_gadget is there in the debug kernels only.
pytestmark = pytest.mark.lanes("uml")

MODULE = "sample_usb_rs"
DRIVERS = Path("/sys/bus/usb/drivers")
DRIVER, GENERIC = DRIVERS / "sample_usb", DRIVERS / "usb"
# The device descriptor of the device asked for.
GET_DESCRIPTOR = (0x80, 6, 0x0100, 18)
STALLED, CANCELLED, UNPLUGGED = "error -32\n", "error -104\n", "error -108\n"


def driver_of(busid):
    """The name of the driver that a device has, or None."""
    link = vhci.USB / busid / "driver"
    return link.resolve().name if link.exists() else None


def free(busid):
    """Leave a device without a driver."""
    if (name := driver_of(busid)) is not None:
        write_raw(DRIVERS / name / "unbind", busid)


def bind(busid, driver=DRIVER):
    write_raw(driver / "bind", busid)


def plugged(busid):
    """Wait until a device is with the driver that configures it, which is the end of plugging in."""
    wait_for(lambda: driver_of(busid) == "usb"
             and (vhci.USB / busid / "bConfigurationValue").read_text().strip(),
             f"{busid} to be configured", vhci.ENUMERATION)
    return busid


def taken():
    """How many devices the driver has taken so far."""
    return int((DRIVER / "taken").read_text())


def tell(busid, verb):
    return write_raw(vhci.USB / busid / "live_descriptor", verb)


def outcome(busid):
    return (vhci.USB / busid / "live_descriptor").read_text()


def wait_outcome(busid, expected):
    """Wait for the end of what is pending."""
    wait_for(lambda: outcome(busid) != "pending\n", f"{busid} to answer")
    assert outcome(busid) == expected


def descriptor(busid):
    """What the file shows once the device has answered."""
    return (vhci.USB / busid / "descriptors").read_bytes()[:18].hex() + "\n"


def load():
    guestlib.run("insmod", str(guestlib.MODULES / f"{MODULE}.ko"))


def unload():
    subprocess.run(["rmmod", MODULE], check=True, timeout=vhci.TEARDOWN)
    assert not DRIVER.exists()


@pytest.fixture(scope="module", autouse=True)
def needed():
    host_gadget.load()
    with guestlib.Modules() as modules:
        modules.load(MODULE)
        unload()
        load()
        yield


@pytest.fixture(scope="module")
def composed(needed):
    """The name of a device that the kernel's own gadget drivers make, on the first controller."""
    with host_configfs.plugged(
            host_configfs.Gadget("source-sink", "--id", "1209:0002", speed=vhci.SUPER)) as busid:
        yield busid


@pytest.fixture
def ours(composed):
    """The composed device in the hands of the driver."""
    free(composed)
    bind(composed)
    wait_outcome(composed, descriptor(composed))
    yield composed
    free(composed)
    bind(composed, GENERIC)
    plugged(composed)


@pytest.fixture(scope="module")
def scripted(needed):
    """A device whose answers the test decides, on the second controller."""
    one = host_gadget.Gadget(Model(), number=1)
    plugged(one.busid)
    yield one
    one.close()
    vhci.wait_gone(one.busid)


@pytest.fixture
def gadget(scripted):
    """The scripted device in the hands of the driver, idle; at home again afterwards."""
    back_home(scripted)
    free(scripted.busid)
    bind(scripted.busid)
    wait_outcome(scripted.busid, descriptor(scripted.busid))
    yield scripted
    back_home(scripted)


def back_home(gadget):
    """From any state to the device with its own driver, and ours loaded."""
    if not DRIVER.exists():
        load()
    if not (vhci.USB / gadget.busid).exists():
        gadget.plug()
        wait_for(lambda: (vhci.USB / gadget.busid).exists(), gadget.busid, vhci.ENUMERATION)
    elif driver_of(gadget.busid) != "usb":
        free(gadget.busid)
        bind(gadget.busid, GENERIC)
    plugged(gadget.busid)


def is_ours(setup):
    return (setup.request_type, setup.request, setup.value, setup.length) == GET_DESCRIPTOR


@contextlib.contextmanager
def holding(gadget):
    """The device does not answer while this lasts. Yields a function that waits for the request."""
    requests = []

    def asked():
        requests.append(gadget.held.get(timeout=vhci.SOON))
        return requests[-1]

    gadget.hold = is_ours
    try:
        yield asked
    finally:
        gadget.hold = lambda setup: False
        for request in requests:
            # The device takes no other request before it is told what becomes of this one.
            request.stall()


@contextlib.contextmanager
def unanswered(gadget):
    """The device was asked and has not answered yet."""
    with holding(gadget) as asked:
        tell(gadget.busid, "get")
        held = asked()
        assert outcome(gadget.busid) == "pending\n"
        yield held


# --- devices come and go ----------------------------------------------------------------------

def test_takes_a_device(composed):
    before = taken()
    assert not (vhci.USB / composed / "live_descriptor").exists()
    assert errno_of(bind, composed) == "EBUSY"
    free(composed)
    bind(composed)
    assert (driver_of(composed), taken()) == ("sample_usb", before + 1)
    wait_outcome(composed, descriptor(composed))
    assert outcome(composed)[16:24] == "0912" "0200"
    # It is not configured by this driver.
    assert (vhci.USB / composed / "bConfigurationValue").read_text().strip() == ""
    free(composed)
    assert not (vhci.USB / composed / "live_descriptor").exists()
    bind(composed, GENERIC)
    plugged(composed)


def test_modes(gadget):
    assert (DRIVER / "taken").stat().st_mode & 0o777 == 0o444
    assert (vhci.USB / gadget.busid / "live_descriptor").stat().st_mode & 0o777 == 0o644


def test_two_devices(gadget, ours):
    """One that does not answer is nothing to the other."""
    assert taken() >= 2
    with unanswered(gadget):
        tell(ours, "get")
        wait_outcome(ours, descriptor(ours))
        assert outcome(gadget.busid) == "pending\n"


@pytest.mark.parametrize("again", range(2))
def test_load_and_unload(gadget, composed, again):
    """A device without a driver is taken when the driver is loaded; nobody has one after it."""
    unload()
    assert driver_of(gadget.busid) is None
    load()
    assert (driver_of(gadget.busid), taken()) == ("sample_usb", 1)
    wait_outcome(gadget.busid, descriptor(gadget.busid))
    assert driver_of(composed) == "usb"
    unload()
    assert driver_of(gadget.busid) is None
    assert not (vhci.USB / gadget.busid / "live_descriptor").exists()


def test_unplugged(gadget):
    gadget.unplug()
    vhci.wait_gone(gadget.busid)
    gadget.plug()
    # A new device goes to the driver that configures it.
    plugged(gadget.busid)


# --- asking -----------------------------------------------------------------------------------

def test_every_request_reaches_the_device(gadget):
    since = len(gadget.requests)
    for _ in range(3):
        tell(gadget.busid, "get\n")
        wait_outcome(gadget.busid, descriptor(gadget.busid))
    assert [is_ours(setup) for setup, _ in gadget.requests[since:]] == [True] * 3


def test_the_answer_is_the_devices_own(gadget):
    """Not what usbcore remembers of it."""
    with unanswered(gadget) as held:
        gadget.model.ids = (0x1209, 0xABCD)
        held.answer()
    wait_outcome(gadget.busid, descriptor(gadget.busid)[:20] + "cdab" + descriptor(gadget.busid)[24:])
    gadget.model.ids = (0x1209, 0x0001)


def test_a_stall(gadget):
    with unanswered(gadget) as held:
        held.stall()
        wait_outcome(gadget.busid, STALLED)
    tell(gadget.busid, "get")
    wait_outcome(gadget.busid, descriptor(gadget.busid))


def test_a_short_answer(gadget):
    with unanswered(gadget) as held:
        gadget.ask(lambda: held.finish(lambda: gadget.ep0(host_gadget.EP0_WRITE, b"123", 3)))
        wait_outcome(gadget.busid, "error -121\n")


def test_one_at_a_time(gadget):
    with unanswered(gadget) as held:
        assert errno_of(tell, gadget.busid, "get") == "EBUSY"
        held.answer()
    wait_outcome(gadget.busid, descriptor(gadget.busid))


@pytest.mark.parametrize("text", ["\n", "ge", "gett", "get cancel", "GET", b"\xff"])
def test_what_it_does_not_understand(gadget, text):
    assert errno_of(tell, gadget.busid, text) == "EINVAL"
    assert outcome(gadget.busid) == descriptor(gadget.busid)


# --- taking it back ---------------------------------------------------------------------------

def test_cancel(gadget):
    with unanswered(gadget) as held:
        tell(gadget.busid, "cancel")
        wait_outcome(gadget.busid, CANCELLED)
        held.stall()
    tell(gadget.busid, "get")
    wait_outcome(gadget.busid, descriptor(gadget.busid))


def test_cancel_twice(gadget):
    with unanswered(gadget):
        tell(gadget.busid, "cancel")
        tell(gadget.busid, "cancel\n")
        wait_outcome(gadget.busid, CANCELLED)


def test_cancel_what_is_over(gadget):
    tell(gadget.busid, "cancel")
    assert outcome(gadget.busid) == descriptor(gadget.busid)


def test_cancel_while_it_answers(ours):
    """Either it is the answer or it is cancelled."""
    seen = set()
    for _ in range(100):
        tell(ours, "get")
        tell(ours, "cancel")
        wait_for(lambda: outcome(ours) != "pending\n", "the end", step=0)
        seen.add(outcome(ours))
    assert seen <= {CANCELLED, descriptor(ours)}
    tell(ours, "get")
    wait_outcome(ours, descriptor(ours))


# --- the end with a request in flight ---------------------------------------------------------

def promptly(end):
    """The driver does not wait for the device."""
    start = time.monotonic()
    end()
    assert time.monotonic() - start < vhci.TEARDOWN


def test_unbind_while_pending(gadget):
    with unanswered(gadget):
        promptly(lambda: free(gadget.busid))
        assert driver_of(gadget.busid) is None


def test_unbind_while_probing(gadget):
    """The request that probing makes is not waited for, but taken back as any other."""
    free(gadget.busid)
    with holding(gadget) as asked:
        promptly(lambda: bind(gadget.busid))
        asked()
        assert outcome(gadget.busid) == "pending\n"
        promptly(lambda: free(gadget.busid))


def test_unload_while_pending(gadget):
    with unanswered(gadget):
        promptly(unload)
        assert driver_of(gadget.busid) is None


def test_unplug_while_pending(gadget):
    """Whoever has the file open is told that there is nothing any more."""
    with unanswered(gadget), open(vhci.USB / gadget.busid / "live_descriptor", "rb") as file:
        gadget.unplug()
        vhci.wait_gone(gadget.busid)
        assert errno_of(file.read) == "ENODEV"


def test_all_at_once(gadget, kernel_log):
    """Requests, cancels, readers, and somebody who takes the device away again and again."""
    stop = threading.Event()
    failures = []
    allowed = {None, "EBUSY", "ENOENT", "ENODEV", "EPERM"}

    def until_stopped(*calls):
        try:
            for call in itertools.cycle(calls):
                if stop.is_set():
                    return
                error = errno_of(call)
                assert error in allowed, error
        except BaseException as error:  # pylint: disable=broad-except
            failures.append(error)

    busid = gadget.busid
    threads = [threading.Thread(target=until_stopped, args=calls) for calls in (
        (lambda: tell(busid, "get"),), (lambda: tell(busid, "cancel"),),
        (lambda: outcome(busid), taken), (lambda: tell(busid, "get"), lambda: tell(busid, "cancel")))]
    for thread in threads:
        thread.start()
    before = taken()
    try:
        for _ in range(20):
            free(busid)
            bind(busid)
    finally:
        stop.set()
        for thread in threads:
            thread.join(vhci.TEARDOWN)
    assert not any(thread.is_alive() for thread in threads), "a write does not return"
    assert not failures, failures
    assert taken() == before + 20
    assert not [line for line in kernel_log.lines() if "BUG:" in line or "WARNING:" in line]
