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

struct sk_buff;
struct sock;

/* What a TCP socket calls, with its lock held. */
struct kernel_ext_sock_callbacks {
	void (*data_ready)(struct sock *sk);
	void (*state_change)(struct sock *sk);
	void (*error_report)(struct sock *sk);
};

/* Who reads what has arrived. `take` returns how many of `len` bytes it has taken, 0 to end it. */
struct kernel_ext_tcp_reader {
	int (*take)(struct kernel_ext_tcp_reader *reader, struct sk_buff *skb,
		    unsigned int offset, size_t len);
};

#endif
