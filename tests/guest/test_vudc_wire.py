# SPDX-License-Identifier: GPL-2.0
"""What an honest client gets of a virtual controller is what it gets of the server of a device: the
same tests."""

import pytest

from test_host_unlink import *  # noqa: F401,F403  pylint: disable=wildcard-import,unused-wildcard-import
from test_host_wire import *  # noqa: F401,F403  pylint: disable=wildcard-import,unused-wildcard-import
from vudc_fixtures import *  # noqa: F401,F403  pylint: disable=wildcard-import,unused-wildcard-import

pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.only("uml")]

# It takes nothing from the gadget while its client does not read, so few replies wait.
del test_replies_that_wait_go_out_together  # noqa: F821
