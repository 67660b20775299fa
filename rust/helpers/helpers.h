/* SPDX-License-Identifier: GPL-2.0 */
/* Types of the helpers. */
#ifndef _KERNEL_EXT_HELPERS_H
#define _KERNEL_EXT_HELPERS_H

#include <linux/types.h>

/* The address of the other end of a socket, in the byte order of the host but for the IP. */
struct kernel_ext_peer_address {
	u8 ip[16];	/* of which an IPv4 address takes the first 4 */
	u32 cid;	/* AF_VSOCK */
	u32 port;
};

#endif
