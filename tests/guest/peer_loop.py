# SPDX-License-Identifier: GPL-2.0
"""A device that sends back what it gets, by way of usbfs."""

import random

import vhci
import vhci_usbfs as usbfs
from peer_stock import Remote


def check(device: Remote, turns: int = 3):
    """Transfers of several lengths, all under way at once, come back as they were, in order."""
    device.bound(None)
    addresses = [int(one.name[3:], 16) for one in device.path.glob("*:1.0/ep_*")]
    incoming, outgoing = max(addresses), min(addresses)
    # The last packet of each is a short one, and so its end.
    sent = [random.Random(size).randbytes(size) for size in (1, 63, 511, 513, 700, 4095)]
    with usbfs.Device(device.usbfs()) as node:
        node.claim()
        for _ in range(turns):
            answers = [node.submit(usbfs.bulk_in(incoming, 4096)) for _ in sent]
            for data in sent:
                node.submit(usbfs.bulk_out(outgoing, data))
            done = node.reap_all(2 * len(sent), vhci.ENUMERATION)
            assert [one.status for one in done] == [0] * len(done)
            assert [one.data()[:one.actual] for one in answers] == sent
