# SPDX-License-Identifier: GPL-2.0
"""What the scripts share: the cache, the Debian root, kernels, guests and module builds.

Standard library only; Python 3.11 and newer. The entry points beside this folder (setup, guest,
build-modules, demo) and tests/run are thin users of it.
"""
