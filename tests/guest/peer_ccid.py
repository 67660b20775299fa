# SPDX-License-Identifier: GPL-2.0
"""Commands to QEMU's smart card reader: CCID, Rev 1.1, chapter 6."""

import struct

import vhci
import vhci_usbfs as usbfs
from peer_stock import Remote

# PC_to_RDR_GetSlotStatus and RDR_to_PC_SlotStatus.
GET_SLOT_STATUS, SLOT_STATUS = 0x65, 0x81
NO_CARD = 2


def endpoints(device: Remote) -> dict:
    """The numbers of the endpoints "event", "in" and "out"."""
    found = {}
    for folder in device.path.glob(f"{device.path.name}:1.0/ep_*"):
        kind = (folder / "type").read_text().strip()
        way = (folder / "direction").read_text().strip()
        found["event" if kind == "Interrupt" else way] = int(folder.name[3:], 16) & 0x0F
    assert sorted(found) == ["event", "in", "out"]
    return found


def await_event(reader: usbfs.Device, ends: dict) -> usbfs.Urb:
    """An interrupt request that waits for a card, which nobody will ever put in. The reader has it
    already: what was said after it has been answered."""
    reader.claim()
    event = reader.submit(usbfs.interrupt_in(ends["event"], 8))
    assert slot_status(reader, ends, 0)[6] == 0
    return event


def check(device: Remote):
    """Commands are answered while an interrupt request waits, and that one can be taken back."""
    ends = endpoints(device)
    with usbfs.Device(device.usbfs()) as reader:
        event = await_event(reader, ends)
        for sequence in range(1, 21):
            assert slot_status(reader, ends, sequence) == struct.pack(
                "<BIBBBBB", SLOT_STATUS, 0, 0, sequence, NO_CARD, 0, 0)
        assert not event.reaped
        reader.discard(event)
        assert reader.reap() is event
        assert (event.status, event.actual) == (-2, 0)
        assert slot_status(reader, ends, 21)[6] == 21


def slot_status(reader: usbfs.Device, ends: dict, sequence: int) -> bytes:
    """Asks the reader for the state of slot 0; returns the answer."""
    answer = reader.submit(usbfs.bulk_in(ends["in"], 64))
    reader.submit(usbfs.bulk_out(ends["out"], struct.pack("<BIBB3x", GET_SLOT_STATUS, 0, 0,
                                                          sequence)))
    urbs = reader.reap_all(2, vhci.SOON)
    assert [urb.status for urb in urbs] == [0, 0]
    return answer.data()[:answer.actual]
