# SPDX-License-Identifier: GPL-2.0
# For users; the kernel's build system reads Kbuild instead.
#
#   make KDIR=/path/to/prepared/kernel/tree MO=/where/to/build

KDIR ?= /lib/modules/$(shell uname -r)/build
# Nothing is built in this folder. Absolute, as the kernel's make changes directory.
MO ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/rusbip/modules
# Samples are for trying the abstractions, not for installing: m to build them too.
SAMPLES ?= n
# Other variables for the kernel's make, as CC or ARCH=um, are simply given as well.
kbuild = $(MAKE) -C $(KDIR) M=$(CURDIR) MO=$(abspath $(MO)) SAMPLES=$(SAMPLES)

RUSTFMT ?= rustfmt
rust-files = $(shell find rust drivers samples -name '*.rs')

.DEFAULT_GOAL := modules
.PHONY: modules modules_install clean clippy rustfmt rustfmt-fix rustdoc rust-analyzer check-unsafe help

modules: | $(MO)
	+$(kbuild) modules

modules_install clean: | $(MO)
	+$(kbuild) $@

# Objects made by clippy are not shipped: they go into a folder of their own.
clippy: override MO := $(MO)/clippy
clippy: SAMPLES := m
clippy:
	@mkdir -p $(MO)
	+$(kbuild) CLIPPY=1 modules

rustdoc: | $(MO)
	+$(kbuild) RUSTDOC_MODULES=m modules
	@echo "$(abspath $(MO))/doc"

# Fails where rustfmt would change something; rustfmt-fix changes it.
rustfmt:
	$(RUSTFMT) --edition 2021 --check $(rust-files)

rustfmt-fix:
	$(RUSTFMT) --edition 2021 $(rust-files)

# For editors: rust-project.json at the top, with our crates as well as the kernel's.
rust-analyzer: SAMPLES := m
rust-analyzer: modules
	+$(kbuild) rust-analyzer
	scripts/rust_project.py --objects $(abspath $(MO)) --output rust-project.json

check-unsafe:
	scripts/check-unsafe

$(MO):
	@mkdir -p $@

help:
	@echo 'Modules (KDIR=prepared kernel tree, default the running kernel; MO=output folder;'
	@echo 'SAMPLES=m to build the samples as well; other variables are passed on):'
	@echo '  modules          build all modules (default)'
	@echo '  modules_install  only put them where that kernel finds them'
	@echo '  clean            remove what was built'
	@echo '  clippy           build with clippy, in $$MO/clippy'
	@echo '  rustfmt          check the format of the Rust sources; rustfmt-fix corrects it'
	@echo '  rustdoc          documentation of all crates, in $$MO/doc'
	@echo '  rust-analyzer    write rust-project.json for editors'
	@echo '  check-unsafe     check that drivers/ holds no unsafe code'
	@if [ -e packaging/install.mk ]; then \
		echo 'Installing (see Documentation/usb/usbip_install.rst):'; \
		echo '  install          modules for the kernel of KDIR, and modprobe vhci-hcd loads ours;'; \
		echo '                   KEY=file CERT=file signs them, prefix=/usr/local, DESTDIR=folder'; \
		echo '  uninstall        take them away again'; \
		echo '  metadata         make what Debian'\''s headers lack; prints what to say to make'; \
		echo '  deb              the Debian package rusbip-dkms'; \
		echo '  check-modinfo    check what modinfo says of the modules'; \
	fi
	@if [ -e scripts/targets.mk ]; then \
		echo 'Kernels and guests (scripts/targets.mk):'; \
		echo '  setup            fetch and build what the following need'; \
		echo '  test             run the test lanes (LANES="host stock-7.2 ...")'; \
		echo '  demo             a USB disk over USB/IP between two guests'; \
		echo '  shell            a guest with the modules loaded'; \
		echo '  bench            C modules against Rust modules'; \
	fi

-include packaging/install.mk
-include scripts/targets.mk
