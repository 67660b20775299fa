// SPDX-License-Identifier: GPL-2.0
/*
 * Exports the symbols of the shared Rust crates to the other modules, as the kernel's own
 * rust/exports.c does for its crates.
 */

#include <linux/export.h>

#define EXPORT_SYMBOL_RUST_GPL(sym) extern int sym; EXPORT_SYMBOL_GPL(sym)

#include "exports_generated.h"
