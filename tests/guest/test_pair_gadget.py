# SPDX-License-Identifier: GPL-2.0
"""Two machines: a gadget that the other machine has at a virtual controller."""

import hashlib

import pytest

import pair_gadget
import peer_disk
from lib import pair

pytest_plugins = ("vhci_fixtures", "pair_fixtures")
pytestmark = [pytest.mark.lanes("pair"), pytest.mark.usefixtures("watched_server"),
              pytest.mark.pairs("rust-rust", "rust-c")]


def test_disk(server):
    """What is written to a disk is in its image on the other machine, and the reverse."""
    number = pair.call(pair_gadget.export_disk, server.implementation)
    try:
        with server.attached(number) as device:
            expected = peer_disk.check_image(device, pair_gadget.CONTENT)
    finally:
        found = pair.call(pair_gadget.unexport_disk)
    assert found == hashlib.sha256(expected).hexdigest()
