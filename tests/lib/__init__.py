# SPDX-License-Identifier: GPL-2.0
"""What the runner and the guests share: the oracle for kernel logs, lanes, results, the monitor."""
