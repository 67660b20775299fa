# SPDX-License-Identifier: GPL-2.0
# Installing without DKMS, and what packages are made of; included by the top Makefile.

.PHONY: metadata install install-modules install-files install-source deb uninstall check-modinfo

prefix ?= /usr/local
# Where modprobe, systemd and udev look below it.
modprobedir ?= $(prefix)/lib/modprobe.d
modulesloaddir ?= $(prefix)/lib/modules-load.d
unitdir ?= $(prefix)/lib/systemd/system
rulesdir ?= $(prefix)/lib/udev/rules.d
libexecdir ?= $(prefix)/libexec/rusbip
# The key that the machine trusts, and its certificate: both, or neither.
KEY ?=
CERT ?=
# A relative path would be one of the kernel's tree.
override DESTDIR := $(if $(DESTDIR),$(abspath $(DESTDIR)))

version := $(shell sed -n 's/^rusbip-version := //p' Kbuild)
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

# Debian's headers lack what Rust modules are built against.
metadata:
	@RUSBIP_DKMS_CACHE=$(abspath $(dir $(MO)))/metadata \
		packaging/dkms/rust-metadata prepare $(notdir $(patsubst %/build,%,$(KDIR))) $(KDIR)

# What serves all kernels. None of the units is enabled.
units := $(notdir $(wildcard packaging/systemd/*.service))
folders = $(addprefix $(DESTDIR),$(modprobedir) $(modulesloaddir) $(unitdir) $(rulesdir) $(libexecdir))
install-files:
	mkdir -p $(folders)
	scripts/module-names --modprobe > $(DESTDIR)$(modprobedir)/rusbip.conf
	for unit in $(units); do sed 's,@LIBEXEC@,$(libexecdir),' packaging/systemd/$$unit \
		> $(DESTDIR)$(unitdir)/$$unit || exit; done
	install -m 755 packaging/systemd/usbip-attach $(DESTDIR)$(libexecdir)
	install -m 644 packaging/udev/70-usbip.rules $(DESTDIR)$(rulesdir)
	install -m 644 packaging/modules-load.d/usbip.conf $(DESTDIR)$(modulesloaddir)

# What DKMS builds from.
source-dir = $(DESTDIR)$(prefix)/src/rusbip-$(version)
install-source:
	mkdir -p $(source-dir)
	cp -R --parents Kbuild Makefile COPYING dkms.conf rust drivers samples/rust \
		scripts/bindgen.awk scripts/module-names packaging/dkms $(source-dir)

# rusbip-dkms, with debhelper and dh-dkms. Away from the sources, as everything that is built.
deb-dir ?= $(abspath $(dir $(MO)))/deb
deb: deb-tree = $(deb-dir)/rusbip-$(version)
deb:
	rm -rf $(deb-dir)
	mkdir -p $(deb-tree)
	cp -R Kbuild Makefile COPYING README.md dkms.conf rust drivers samples scripts packaging \
		Documentation debian $(deb-tree)
	cd $(deb-tree) && dpkg-buildpackage --build=binary --no-sign
	@ls $(deb-dir)/*.deb

# The modules of one kernel (KDIR), and what serves all.
uninstall:
	rm -f $(foreach m,$(ours),$(updates)/$m.ko)
	$(depmod)
	rm -f $(DESTDIR)$(modprobedir)/rusbip.conf $(addprefix $(DESTDIR)$(unitdir)/,$(units)) \
		$(DESTDIR)$(rulesdir)/70-usbip.rules $(DESTDIR)$(libexecdir)/usbip-attach \
		$(DESTDIR)$(modulesloaddir)/usbip.conf
	for folder in $(updates) $(folders) $(dir $(DESTDIR)$(unitdir) $(DESTDIR)$(rulesdir)); do \
		[ ! -d $$folder ] || rmdir --ignore-fail-on-non-empty $$folder; done

check-modinfo: SAMPLES := n
check-modinfo: modules
	scripts/check-modinfo $(foreach m,$(ours),$(MO)/$m.ko)
