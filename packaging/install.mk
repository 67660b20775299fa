# SPDX-License-Identifier: GPL-2.0
# Installing without DKMS; included by the top Makefile.

.PHONY: install install-modules install-files uninstall check-modinfo

prefix ?= /usr/local
# Where modprobe looks below it.
modprobedir ?= $(prefix)/lib/modprobe.d
# The key that the machine trusts, and its certificate: both, or neither.
KEY ?=
CERT ?=
# A relative path would be one of the kernel's tree.
override DESTDIR := $(if $(DESTDIR),$(abspath $(DESTDIR)))

ours := $(filter %_rs,$(shell scripts/module-names))
release = $(or $(shell cat $(KDIR)/include/config/kernel.release), \
	$(error $(KDIR) is no prepared kernel tree))
updates = $(DESTDIR)/lib/modules/$(release)/updates
auto-conf = $(shell sed -n 's/^$1=//p' $(KDIR)/include/config/auto.conf)
# Not for a folder that a package is made of: it has no list of the kernel's own modules.
depmod = [ ! -e $(updates)/../modules.order ] || depmod $(if $(DESTDIR),-b $(DESTDIR)) $(release)

install: install-modules install-files

# Stripping goes before signing, compressing after it, and the kernel's make signs with its own key
# only. So it does neither of the latter; the modules are small.
install-modules: SAMPLES := n
install-modules: modules
	$(if $(KEY)$(CERT),$(if $(and $(KEY),$(CERT)),,$(error signing takes KEY=file and CERT=file)))
	+$(kbuild) INSTALL_MOD_PATH=$(DESTDIR) INSTALL_MOD_STRIP=1 INSTALL_MOD_DIR=updates \
		CONFIG_MODULE_SIG_ALL= CONFIG_MODULE_COMPRESS_ALL= modules_install
	$(if $(KEY),for module in $(ours); do $(KDIR)/scripts/sign-file \
		$(or $(call auto-conf,CONFIG_MODULE_SIG_HASH),sha256) \
		$(KEY) $(CERT) $(updates)/$$module.ko || exit; done)
	$(depmod)

# What serves all kernels.
install-files:
	mkdir -p $(DESTDIR)$(modprobedir)
	scripts/module-names --modprobe > $(DESTDIR)$(modprobedir)/rusbip.conf

# The modules of one kernel (KDIR), and what serves all.
uninstall:
	rm -f $(foreach m,$(ours),$(updates)/$m.ko)
	-rmdir --ignore-fail-on-non-empty $(updates)
	$(depmod)
	rm -f $(DESTDIR)$(modprobedir)/rusbip.conf

check-modinfo: SAMPLES := n
check-modinfo: modules
	scripts/check-modinfo $(foreach m,$(ours),$(MO)/$m.ko)
