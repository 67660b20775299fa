# SPDX-License-Identifier: GPL-2.0
# Targets that need kernels and guests; included by the top Makefile. What they prepare lies in
# $XDG_CACHE_HOME/rusbip (~/.cache/rusbip) and is used again.

.PHONY: setup test demo shell bench prerequisites

prerequisites:
	@sh scripts/prerequisites

# Debian root, kernels, trees, debug kernels
setup: prerequisites
	@scripts/setup all

# All lanes, or LANES="host stock-7.2"; further arguments for tests/run in ARGS
test: prerequisites
	@tests/run $(LANES) $(ARGS)

# A USB disk of one guest used in another over USB/IP
demo: prerequisites
	@scripts/demo $(ARGS)

# A guest with the modules loaded and a device to play with
shell: prerequisites
	@scripts/shell $(ARGS)

# C modules against Rust modules in one guest
bench: prerequisites
	@scripts/bench $(ARGS)
