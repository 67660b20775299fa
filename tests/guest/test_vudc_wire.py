# SPDX-License-Identifier: GPL-2.0
"""What an honest client gets of a virtual controller is what it gets of the server of a device: the
same tests."""

import pytest

from test_host_unlink import *  # noqa: F401,F403  pylint: disable=wildcard-import,unused-wildcard-import
from test_host_wire import *  # noqa: F401,F403  pylint: disable=wildcard-import,unused-wildcard-import
from vudc_fixtures import *  # noqa: F401,F403  pylint: disable=wildcard-import,unused-wildcard-import

pytestmark = [pytest.mark.usefixtures("host_watched"), pytest.mark.only("uml")]
