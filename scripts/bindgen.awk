# SPDX-License-Identifier: GPL-2.0
# Cuts the definition of `cmd_bindgen` and of its flags out of the kernel's rust/Makefile, so that
# our bindings are always made with the flags of the kernel at hand.
BEGIN {
	# Without a file awk would read the terminal.
	if (ARGC < 2) {
		print "$(error the kernel's headers (KDIR) have no rust/Makefile, see make metadata)"
		ok = 1
		exit
	}
}
/^ifdef CONFIG_CC_IS_CLANG/ { on = 1 }
on { print }
on && /^[ \t]*\$\(bindgen_target_cflags\) \$\(bindgen_target_extra\)/ { ok = 1; exit }
END { if (!ok) print "$(error bindgen part of rust/Makefile not recognised)" }
