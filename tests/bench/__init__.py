# SPDX-License-Identifier: GPL-2.0
"""What becomes of the benchmark's samples: medians and ratios, table, plot."""
