# SPDX-License-Identifier: GPL-2.0
"""The sample of a host controller: a device that echoes, enumerated by the kernel and used through
usbfs."""

import errno
import subprocess
import time
from pathlib import Path

import pytest

import peer_sample
import vhci_usbfs as usbfs
from lib import guestlib
from peer_sample import INTERRUPT, ISO, MODULE, PACKETS, PERIODIC, PLATFORM
from peer_stock import drivers
from test_vhci_devices import path_of_testusb, run_every_case
from vhci import errno_of

# On 7.3 the sample is loaded by test_environment.
pytestmark = pytest.mark.lanes("uml", "stock-7.2")

# What the device has room for: bytes on their way, bytes of a message, URBs of an endpoint.
STREAM, MESSAGE, URBS = 4096, 1024, 64
STORE, SEND_BACK = 0x5B, 0x5C
ENDPOINT = 1
# Where zeros come from and where everything goes.
SOURCE = SINK = 2


def pattern(length: int) -> bytes:
    """Bytes whose order shows: the period is prime to every packet size."""
    return bytes(n % 251 for n in range(length))


def unload():
    if guestlib.loaded(MODULE):
        guestlib.run("rmmod", MODULE)


def load(*parameters):
    """The device's folder in sysfs; the parameters are for the module, if it is not loaded yet."""
    if not guestlib.loaded(MODULE):
        guestlib.run("insmod", str(guestlib.MODULES / f"{MODULE}.ko"), *parameters)
    return guestlib.wait_for(configured, 10, "the echo device")


def configured():
    """The device's folder in sysfs, once the kernel has configured it."""
    for file in PLATFORM.glob("usb[0-9]*/*-1/bConfigurationValue"):
        try:
            if file.read_text().strip():
                return file.parent
        except OSError:
            pass
    return None


@pytest.fixture(scope="module", autouse=True)
def at_the_end():
    yield
    unload()


@pytest.fixture
def path():
    """The device in sysfs. The module stays loaded from one test to the next."""
    return load()


def node(path):
    return "/dev/bus/usb/{:03}/{:03}".format(*(int((path / name).read_text())
                                               for name in ("busnum", "devnum")))


@pytest.fixture
def device(path):
    """The device in usbfs, claimed, with nothing on its way."""
    guestlib.wait_for(lambda: Path(node(path)).exists(), 5, "the usbfs node")
    with usbfs.Device(node(path)) as opened:
        opened.claim()
        opened.set_interface(0, 0)
        yield opened


@pytest.fixture
def streaming(device):
    """The same in the setting with isochronous and interrupt endpoints."""
    device.set_interface(0, PERIODIC)
    return device


def send(device, data, endpoint=ENDPOINT):
    """A bulk OUT transfer that the device takes at once."""
    device.submit(urb := usbfs.bulk_out(endpoint, data))
    assert device.reap() is urb
    assert (urb.status, urb.actual) == (0, len(data))


def receive(device, length, endpoint=ENDPOINT):
    """What a bulk IN transfer brings."""
    device.submit(urb := usbfs.bulk_in(endpoint, length))
    assert device.reap() is urb
    assert urb.status == 0
    return urb.data()[:urb.actual]


def in_step(device):
    """Control requests are answered, and no other URB is done: the device did all it could."""
    assert device.control(0x80, 8, 0, 0, 1) == b"\x01"
    assert device.reap_now() is None


def test_enumeration(path):
    def read(name):
        return (path / name).read_text().strip()
    expected = {"idVendor": "1209", "idProduct": "0001", "bcdDevice": "0100", "version": "2.00",
                "bDeviceClass": "ff", "bMaxPacketSize0": "64", "bNumConfigurations": "1",
                "bConfigurationValue": "1", "bmAttributes": "c0", "bNumInterfaces": "1",
                "manufacturer": "rusbip", "product": "Echo", "serial": "0001", "speed": "480",
                "devpath": "1"}
    assert {name: read(name) for name in expected} == expected
    assert (path / f"{path.name}:1.0" / "bInterfaceClass").read_text().strip() == "ff"
    assert endpoints(path) == BULK


BULK = {f"ep_{address}": ("Bulk", "0200", "0ms") for address in ("01", "81", "02", "82")}


def endpoints(path):
    """Those of the interface's setting: type, bytes of a packet, interval."""
    return {one.name: tuple((one / name).read_text().strip()
                            for name in ("type", "wMaxPacketSize", "interval"))
            for one in path.glob("*:1.0/ep_*")}


def test_settings(path, device):
    assert device.control(0x81, 10, 0, 0, 1) == b"\0"
    assert errno_of(device.control, 0x82, 0, 0, 0x83, 2) == "EPIPE"
    device.set_interface(0, PERIODIC)
    assert device.control(0x81, 10, 0, 0, 1) == b"\1"
    assert device.control(0x82, 0, 0, 0x83, 2) == b"\0\0"
    assert endpoints(path) == {**BULK, "ep_03": ("Isoc", "0100", "1ms"),
                               "ep_83": ("Isoc", "0100", "1ms"),
                               "ep_04": ("Interrupt", "0040", "1ms"),
                               "ep_84": ("Interrupt", "0040", "1ms")}
    device.set_interface(0, 0)
    assert endpoints(path) == BULK


def test_root_hub(path):
    hub = path.parent
    assert [one.name for one in PLATFORM.glob("usb[0-9]*")] == [hub.name]
    assert (hub / "product").read_text() == "Sample Host Controller\n"
    assert (hub / "serial").read_text() == "sample_hcd\n"
    assert (hub / "maxchild").read_text() == "1\n"
    assert (hub / "speed").read_text() == "480\n"
    assert (path / "removable").read_text() == "fixed\n"


@pytest.mark.parametrize("length", [0, 1, MESSAGE])
def test_control_echo(device, length):
    message = pattern(length)
    assert device.control(0x40, STORE, 0, 0, message) == length
    assert device.control(0xC0, SEND_BACK, 0, 0, MESSAGE + 1) == message
    # As often as wanted, and as much as wanted.
    assert device.control(0xC0, SEND_BACK, 0, 0, 1) == message[:1]


def test_a_message_too_long_stalls(device):
    device.control(0x40, STORE, 0, 0, b"kept")
    assert errno_of(device.control, 0x40, STORE, 0, 0, bytes(MESSAGE + 1)) == "EPIPE"
    assert device.control(0xC0, SEND_BACK, 0, 0, 100) == b"kept"


@pytest.mark.parametrize("kind, number, value, index, answer", [
    (0x80, 0, 0, 0, b"\x01\x00"),           # GET_STATUS of the device: self-powered
    (0x81, 0, 0, 0, b"\x00\x00"),           # … of the interface
    (0x82, 0, 0, 0, b"\x00\x00"),           # … of endpoint 0
    (0x82, 0, 0, 0x81, b"\x00\x00"),
    (0x81, 10, 0, 0, b"\x00"),              # GET_INTERFACE
    (0x80, 6, 0x0600, 0, b"\x0a\x06\x00\x02\xff\0\0\x40\0\0"),
    (0x80, 6, 0x0300, 0, b"\x04\x03\x09\x04"),
    (0x80, 6, 0x0302, 0x0409, b"\x0a\x03E\0c\0h\0o\0"),
])
def test_standard_requests(device, kind, number, value, index, answer):
    assert device.control(kind, number, value, index, 64) == answer


@pytest.mark.parametrize("kind, number, value", [
    (0x80, 6, 0x0304),      # a string that is not there
    (0x80, 6, 0x0700),      # a configuration at full speed
    (0xC0, 0x01, 0),        # a vendor request of nobody
])
def test_unknown_requests_stall(device, kind, number, value):
    assert errno_of(device.control, kind, number, value, 0, 64) == "EPIPE"
    in_step(device)


@pytest.mark.parametrize("length", [1, 511, 512, 513, STREAM])
def test_bulk_echo(device, length):
    data = pattern(length)
    send(device, data)
    assert receive(device, STREAM + 512) == data
    in_step(device)


def test_bulk_is_a_stream(device):
    send(device, b"Hello, ")
    send(device, b"world")
    assert receive(device, 3) == b"Hel"
    assert receive(device, 512) == b"lo, world"


def test_in_waits_for_out(device):
    first, second = (device.submit(usbfs.bulk_in(ENDPOINT, 4)) for _ in range(2))
    in_step(device)
    out = device.submit(usbfs.bulk_out(ENDPOINT, b"123456"))
    assert set(device.reap_all(3)) == {first, second, out}
    assert (out.status, out.actual) == (0, 6)
    # In order, the second with the short rest.
    assert (first.status, first.data()) == (0, b"1234")
    assert (second.status, second.data()[:second.actual]) == (0, b"56")


def test_out_waits_for_room(device):
    data = pattern(2 * STREAM + 100)
    out = device.submit(usbfs.bulk_out(ENDPOINT, data))
    in_step(device)
    received = b""
    while len(received) < len(data):
        incoming = device.submit(usbfs.bulk_in(ENDPOINT, 1000))
        done = [device.reap()]
        if incoming not in done:
            done.append(device.reap())
        assert incoming in done and incoming.status == 0
        received += incoming.data()[:incoming.actual]
    assert received == data
    if not out.reaped:
        assert device.reap() is out
    assert (out.status, out.actual) == (0, len(data))


def test_a_short_transfer_can_be_an_error(device):
    send(device, b"123")
    device.submit(urb := usbfs.bulk_in(ENDPOINT, 4, flags=usbfs.SHORT_NOT_OK))
    assert device.reap() is urb
    assert (urb.status, urb.actual) == (-errno.EREMOTEIO, 3)


def test_unlink_in(device):
    first, second = (device.submit(usbfs.bulk_in(ENDPOINT, 64)) for _ in range(2))
    device.discard(first)
    assert device.reap() is first
    assert (first.status, first.actual) == (-errno.ENOENT, 0)
    in_step(device)
    # It is out of the way: what comes is for the other one.
    send_urb = device.submit(usbfs.bulk_out(ENDPOINT, b"data"))
    assert set(device.reap_all(2)) == {second, send_urb}
    assert (second.status, second.data()[:second.actual]) == (0, b"data")


def test_unlink_behind_the_first(device):
    first, second = (device.submit(usbfs.bulk_in(ENDPOINT, 64)) for _ in range(2))
    device.discard(second)
    assert device.reap() is second and second.status == -errno.ENOENT
    in_step(device)
    device.discard(first)
    assert device.reap() is first and first.status == -errno.ENOENT


def test_unlink_out(device):
    data = pattern(STREAM + 1)
    out = device.submit(usbfs.bulk_out(ENDPOINT, data))
    behind = device.submit(usbfs.bulk_out(ENDPOINT, b"next"))
    in_step(device)
    device.discard(out)
    assert device.reap() is out
    assert (out.status, out.actual) == (-errno.ENOENT, STREAM)
    # What was taken stays, and the next one starts at its own beginning.
    assert receive(device, STREAM) == data[:STREAM]
    assert device.reap() is behind
    assert (behind.status, behind.actual) == (0, 4)
    assert receive(device, 64) == b"next"


def test_too_many_urbs(device):
    urbs = [device.submit(usbfs.bulk_in(ENDPOINT, 1)) for _ in range(URBS)]
    assert errno_of(device.submit, usbfs.bulk_in(ENDPOINT, 1)) == "ENOMEM"
    in_step(device)
    # The refusal left nothing behind.
    device.submit(usbfs.bulk_out(ENDPOINT, pattern(URBS)))
    done = device.reap_all(URBS + 1)
    assert [urb for urb in done if urb in urbs] == urbs
    assert b"".join(urb.data() for urb in urbs) == pattern(URBS)
    in_step(device)


# From 16 KiB on usbfs makes scatter lists; 100000 ends within a piece of one.
@pytest.mark.parametrize("length", [0, 1, 512, 4096, 16384, 100_000, 1 << 20])
def test_source_and_sink(device, length):
    assert receive(device, length, SOURCE) == bytes(length)
    send(device, pattern(length), SINK)
    # What the sink took is gone.
    assert receive(device, length, SOURCE) == bytes(length)
    in_step(device)


def test_source_and_sink_beside_the_echo(device):
    """All of them have their turn, and one that waits is in nobody's way."""
    waits = device.submit(usbfs.bulk_in(ENDPOINT, 4))
    sinks = [device.submit(usbfs.bulk_out(SINK, pattern(4096))) for _ in range(URBS // 2)]
    sources = [device.submit(usbfs.bulk_in(SOURCE, 4096)) for _ in range(URBS // 2)]
    done = device.reap_all(URBS)
    assert [urb for urb in done if urb in sinks] == sinks
    assert [urb for urb in done if urb in sources] == sources
    assert {(urb.status, urb.actual) for urb in done} == {(0, 4096)}
    assert {urb.data() for urb in sources} == {bytes(4096)}
    in_step(device)
    device.submit(out := usbfs.bulk_out(ENDPOINT, b"echo"))
    assert set(device.reap_all(2)) == {waits, out}
    assert waits.data() == b"echo"


@pytest.mark.parametrize("address", [0x02, 0x82])
def test_halt_of_source_and_sink(device, address):
    def transfer():
        incoming = address & 0x80
        device.submit(urb := usbfs.bulk_in(SOURCE, 512) if incoming else
                      usbfs.bulk_out(SINK, bytes(512)))
        assert device.reap() is urb
        return urb.status, urb.actual

    device.control(0x02, 3, 0, address)
    assert device.control(0x82, 0, 0, address, 2) == b"\x01\x00"
    # It alone is halted.
    assert device.control(0x82, 0, 0, address ^ 0x80, 2) == b"\x00\x00"
    assert transfer() == (-errno.EPIPE, 0)
    device.clear_halt(address)
    assert transfer() == (0, 512)


@pytest.mark.parametrize("address", [0x01, 0x81])
def test_halt(device, address):
    def halted():
        return device.control(0x82, 0, 0, address, 2) == b"\x01\x00"
    waits = device.submit(usbfs.bulk_in(ENDPOINT, 4)) if address & 0x80 else None
    device.control(0x02, 3, 0, address)
    assert halted()
    urb = waits or device.submit(usbfs.bulk_out(ENDPOINT, b"1234"))
    assert device.reap() is urb
    assert (urb.status, urb.actual) == (-errno.EPIPE, 0)
    device.clear_halt(address)
    assert not halted()
    send(device, b"5678")
    assert receive(device, 4) == b"5678"


def test_isochronous(streaming):
    peer_sample.check_isochronous(streaming)
    in_step(streaming)


def test_interrupt(streaming):
    peer_sample.check_interrupt(streaming)
    in_step(streaming)


def test_a_packet_takes_a_frame(streaming):
    start = time.monotonic()
    urbs = [streaming.submit(usbfs.iso_out(ISO, [8] * PACKETS, bytes(8 * PACKETS)))
            for _ in range(2)]
    assert streaming.reap_all(2) == urbs
    # Whatever else the machine does, it is never done earlier.
    assert time.monotonic() - start >= 2 * PACKETS / 1000


def stream(device):
    """Eight seconds of packets from the source."""
    return [device.submit(usbfs.iso_in(ISO, [1] * PACKETS)) for _ in range(URBS)]


NOTHING = [(0, -errno.EXDEV)] * PACKETS


def test_unlink_isochronous(streaming):
    last = stream(streaming)[-1]
    streaming.discard(last)
    while not last.reaped:
        streaming.reap()
    assert (last.status, last.actual, last.iso) == (-errno.ENOENT, 0, NOTHING)


def test_a_setting_ends_a_stream(streaming):
    urbs = stream(streaming)
    streaming.set_interface(0, 0)
    assert set(streaming.reap_all(URBS)) == set(urbs)
    # usbfs takes them back itself.
    assert {urb.status for urb in urbs} <= {0, -errno.ENOENT}
    assert (urbs[-1].status, urbs[-1].iso) == (-errno.ENOENT, NOTHING)
    in_step(streaming)


def test_bulk_beside_a_stream(streaming):
    """One waits for its frames, the other for nothing."""
    urbs = stream(streaming)
    bulk = [streaming.submit(usbfs.bulk_out(ENDPOINT, b"echo")),
            streaming.submit(usbfs.bulk_in(ENDPOINT, 4))]
    while not all(urb.reaped for urb in bulk):
        streaming.reap()
    assert bulk[1].data() == b"echo"
    assert not urbs[-1].reaped


@pytest.mark.parametrize("address", [0x04, 0x84])
def test_halt_of_an_interrupt_endpoint(streaming, address):
    def transfer():
        streaming.submit(urb := usbfs.interrupt_in(INTERRUPT, 8) if address & 0x80 else
                         usbfs.interrupt_out(INTERRUPT, bytes(8)))
        assert streaming.reap() is urb
        return urb.status, urb.actual

    streaming.control(0x02, 3, 0, address)
    assert transfer() == (-errno.EPIPE, 0)
    streaming.clear_halt(address)
    assert transfer() == (0, 8)


def test_reset(path, device):
    send(device, b"lost")
    device.release()
    device.reset()
    assert configured() == path
    device.claim()
    urb = device.submit(usbfs.bulk_in(ENDPOINT, 64))
    in_step(device)
    send_urb = device.submit(usbfs.bulk_out(ENDPOINT, b"new"))
    assert set(device.reap_all(2)) == {urb, send_urb}
    assert urb.data()[:urb.actual] == b"new"


def test_suspend(path):
    power = path / "power"
    (power / "autosuspend_delay_ms").write_text("0")
    (power / "control").write_text("auto")
    guestlib.wait_for(lambda: (power / "runtime_status").read_text() == "suspended\n", 5,
                      "the device to be suspended")
    try:
        with usbfs.Device(node(path)) as device:
            assert (power / "runtime_status").read_text() == "active\n"
            device.claim()
            send(device, b"awake")
            assert receive(device, 64) == b"awake"
    finally:
        (power / "control").write_text("on")


def test_unload_with_urbs_pending(device):
    reader = device.submit(usbfs.bulk_in(ENDPOINT, 64))
    in_step(device)
    device.discard(reader)
    assert device.reap() is reader
    urbs = [device.submit(usbfs.bulk_out(ENDPOINT, pattern(STREAM + 1))) for _ in range(3)]
    in_step(device)
    subprocess.run(["rmmod", MODULE], check=True, timeout=20 * guestlib.SLACK)
    assert not PLATFORM.exists()
    assert set(device.reap_all(3)) == set(urbs)
    assert [(urb.status, urb.actual) for urb in urbs] == [
        (-errno.ESHUTDOWN, STREAM), (-errno.ESHUTDOWN, 0), (-errno.ESHUTDOWN, 0)]
    # The file is still open: it says that there is nothing more.
    assert errno_of(device.reap_now) == "ENODEV"


def test_unload_with_readers(device):
    urbs = [device.submit(usbfs.bulk_in(ENDPOINT, 64)) for _ in range(URBS)]
    subprocess.run(["rmmod", MODULE], check=True, timeout=20 * guestlib.SLACK)
    assert set(device.reap_all(URBS)) == set(urbs)
    assert {urb.status for urb in urbs} == {-errno.ESHUTDOWN}


def test_unload_in_a_stream(streaming):
    urbs = stream(streaming)
    subprocess.run(["rmmod", MODULE], check=True, timeout=20 * guestlib.SLACK)
    assert set(streaming.reap_all(URBS)) == set(urbs)
    assert {urb.status for urb in urbs} <= {0, -errno.ESHUTDOWN}
    assert urbs[-1].status == -errno.ESHUTDOWN


def test_usbtest():
    """The kernel's own test of host controllers, every case of it."""
    path_of_testusb()
    unload()
    # Before udev does, with another setting.
    guestlib.run("modprobe", "usbtest", f"alt={PERIODIC}")
    try:
        path = load("gadget_zero=1")
        guestlib.wait_for(lambda: drivers(path) == ["usbtest"], 10, "usbtest")
        run_every_case(node(path))
    finally:
        unload()
        guestlib.run("rmmod", "usbtest")


@pytest.mark.parametrize("again", range(2))
def test_load_echo_unload(device, again):
    send(device, pattern(STREAM))
    assert receive(device, STREAM) == pattern(STREAM)
    unload()
    assert not PLATFORM.exists()
    assert not Path("/sys/bus/platform/drivers/sample_hcd").exists()
