/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The headers of which Rust bindings are made, see rust/bindgen_parameters for what of them.
 */

/* Avoids a forward reference to an enum, as in the kernel's rust/bindings/bindings_helper.h. */
#include <linux/hrtimer_types.h>

#include <linux/usb.h>
#include <linux/usb/gadget.h>
#include <linux/usb/hcd.h>
