# SPDX-License-Identifier: GPL-2.0
"""Clients of a virtual controller that lie, flood and stop reading: the tests of the server, but
for what is another device's and for what its emulated controller cannot do."""

import pytest

import test_host_hostile
from test_host_hostile import *  # noqa: F401,F403  pylint: disable=wildcard-import,unused-wildcard-import
from vudc_fixtures import *  # noqa: F401,F403  pylint: disable=wildcard-import,unused-wildcard-import

pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.only("uml")]

# A controller has one device, which usbipd calls 0-0; requests need not name it.
del test_s114_another_device  # noqa: F821
# Intervals mean nothing to it but those of its own descriptors.
del test_s123_interval  # noqa: F821
# It takes nothing from the gadget while its client does not read.
del test_data_that_nobody_reads  # noqa: F821
# These expect that nothing isochronous works; test_vudc_iso.py has those that do.
for name in [name for name in vars(test_host_hostile) if "iso" in name and name.startswith("test_")]:
    del globals()[name]
