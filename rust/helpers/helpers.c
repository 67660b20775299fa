// SPDX-License-Identifier: GPL-2.0
/*
 * Inline functions and macros of the kernel for Rust, as global functions. `kernel_ext_helper_x`
 * is called `x` in Rust. (The kernel's own prefix, rust_helper_, is taken by the kernel's own.)
 *
 * Exported, because generic and inlined Rust functions call them from the modules that use them.
 */

#include <linux/device.h>
#include <linux/export.h>
#include <linux/file.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/net.h>
#include <linux/netdevice.h>
#include <linux/scatterlist.h>
#include <linux/sched/mm.h>
#include <linux/skbuff.h>
#include <linux/slab.h>
#include <linux/sockptr.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/tcp.h>
#include <linux/uio.h>
#include <linux/usb.h>
#include <linux/usb/gadget.h>
#include <linux/usb/hcd.h>
#include <linux/vm_sockets.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <net/sock.h>
#include <net/tcp.h>
#include <net/tls.h>
#include <net/tls_prot.h>
#include <uapi/linux/tls.h>

#include "helpers.h"

/* -- Locks, waiting, tasks ------------------------------------------------------------------- */

unsigned long kernel_ext_helper_spin_lock_irqsave(spinlock_t *lock)
{
	unsigned long flags;

	spin_lock_irqsave(lock, flags);
	return flags;
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_spin_lock_irqsave);

bool kernel_ext_helper_spin_trylock_irqsave(spinlock_t *lock, unsigned long *flags)
{
	unsigned long saved;

	if (!spin_trylock_irqsave(lock, saved))
		return false;
	*flags = saved;
	return true;
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_spin_trylock_irqsave);

void kernel_ext_helper_spin_unlock_irqrestore(spinlock_t *lock, unsigned long flags)
{
	spin_unlock_irqrestore(lock, flags);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_spin_unlock_irqrestore);

void kernel_ext_helper_local_bh_disable(void)
{
	local_bh_disable();
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_local_bh_disable);

void kernel_ext_helper_local_bh_enable(void)
{
	local_bh_enable();
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_local_bh_enable);

unsigned int kernel_ext_helper_memalloc_noio_save(void)
{
	return memalloc_noio_save();
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_memalloc_noio_save);

void kernel_ext_helper_memalloc_noio_restore(unsigned int flags)
{
	memalloc_noio_restore(flags);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_memalloc_noio_restore);

unsigned long kernel_ext_helper_msecs_to_jiffies(unsigned int ms)
{
	return msecs_to_jiffies(ms);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_msecs_to_jiffies);

/* kthread_should_stop() may be called by kernel threads only. */
bool kernel_ext_helper_current_should_stop(void)
{
	return (current->flags & PF_KTHREAD) && kthread_should_stop();
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_current_should_stop);

struct workqueue_struct *kernel_ext_helper_alloc_workqueue(const char *name, unsigned int flags,
							   int max_active)
{
	return alloc_workqueue("%s", flags, max_active, name);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_alloc_workqueue);

/* -- Devices --------------------------------------------------------------------------------- */

void kernel_ext_helper_dev_pm_syscore_device(struct device *dev, bool val)
{
	dev_pm_syscore_device(dev, val);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_dev_pm_syscore_device);

void kernel_ext_helper_device_lock(struct device *dev)
{
	device_lock(dev);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_device_lock);

void kernel_ext_helper_device_unlock(struct device *dev)
{
	device_unlock(dev);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_device_unlock);

bool kernel_ext_helper_device_trylock(struct device *dev)
{
	return device_trylock(dev);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_device_trylock);

void *kernel_ext_helper_sg_virt(struct scatterlist *sg)
{
	return sg_virt(sg);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_sg_virt);

struct page *kernel_ext_helper_sg_page(struct scatterlist *sg)
{
	return sg_page(sg);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_sg_page);

/* -- USB ------------------------------------------------------------------------------------- */

struct usb_hcd *kernel_ext_helper_bus_to_hcd(struct usb_bus *bus)
{
	return bus_to_hcd(bus);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_bus_to_hcd);

struct usb_bus *kernel_ext_helper_hcd_to_bus(struct usb_hcd *hcd)
{
	return hcd_to_bus(hcd);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_hcd_to_bus);

bool kernel_ext_helper_hcd_hw_accessible(struct usb_hcd *hcd)
{
	return HCD_HW_ACCESSIBLE(hcd);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_hcd_hw_accessible);

void kernel_ext_helper_hcd_set_hw_accessible(struct usb_hcd *hcd, bool accessible)
{
	if (accessible)
		set_bit(HCD_FLAG_HW_ACCESSIBLE, &hcd->flags);
	else
		clear_bit(HCD_FLAG_HW_ACCESSIBLE, &hcd->flags);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_hcd_set_hw_accessible);

void kernel_ext_helper_hcd_unlink_urb_irqsave(struct usb_hcd *hcd, struct urb *urb)
{
	unsigned long flags;

	local_irq_save(flags);
	usb_hcd_unlink_urb_from_ep(hcd, urb);
	local_irq_restore(flags);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_hcd_unlink_urb_irqsave);

bool kernel_ext_helper_usb_urb_dir_in(struct urb *urb)
{
	return usb_urb_dir_in(urb);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_usb_urb_dir_in);

int kernel_ext_helper_usb_endpoint_type(const struct usb_endpoint_descriptor *epd)
{
	return usb_endpoint_type(epd);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_usb_endpoint_type);

void kernel_ext_helper_init_usb_anchor(struct usb_anchor *anchor)
{
	init_usb_anchor(anchor);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_init_usb_anchor);

unsigned int kernel_ext_helper_usb_create_pipe(struct usb_device *udev, unsigned int ep)
{
	return __create_pipe(udev, ep);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_usb_create_pipe);

/* The number in a name of /dev and on the wire; changes when the device is re-enumerated. */
int kernel_ext_helper_usb_devnum(struct usb_device *udev)
{
	return READ_ONCE(udev->devnum);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_usb_devnum);

/* -- Gadgets ---------------------------------------------------------------------------------- */

/*
 * Gadget drivers are called as from a softirq with interrupts off, as dummy_hcd does it: network
 * drivers pass packets on to softirqs, which must not run before interrupts are on again. With
 * PREEMPT_RT a controller's interrupts are threads. Nests, also in a section of the caller's.
 */
unsigned long kernel_ext_helper_gadget_callback_begin(void)
{
	unsigned long flags = 0;

	if (!irqs_disabled())
		local_bh_disable();
	if (!IS_ENABLED(CONFIG_PREEMPT_RT))
		local_irq_save(flags);
	else
		local_save_flags(flags);
	return flags;
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_gadget_callback_begin);

void kernel_ext_helper_gadget_callback_end(unsigned long flags)
{
	if (!IS_ENABLED(CONFIG_PREEMPT_RT))
		local_irq_restore(flags);
	if (!irqs_disabled_flags(flags))
		local_bh_enable();
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_gadget_callback_end);

void kernel_ext_helper_gadget_init_endpoints(struct usb_gadget *gadget)
{
	INIT_LIST_HEAD(&gadget->ep_list);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_gadget_init_endpoints);

/* The first is endpoint 0. Packets of any size: usb_ep_set_maxpacket_limit() is in udc-core. */
void kernel_ext_helper_gadget_add_endpoint(struct usb_gadget *gadget, struct usb_ep *ep,
					   bool dir_in, bool dir_out)
{
	bool is_ep0 = !gadget->ep0;

	ep->caps.type_control = is_ep0;
	ep->caps.type_iso = !is_ep0;
	ep->caps.type_bulk = !is_ep0;
	ep->caps.type_int = !is_ep0;
	ep->caps.dir_in = dir_in;
	ep->caps.dir_out = dir_out;
	ep->maxpacket_limit = U16_MAX;
	ep->maxpacket = U16_MAX;
	ep->max_streams = 0;
	if (is_ep0) {
		gadget->ep0 = ep;
		INIT_LIST_HEAD(&ep->ep_list);
	} else {
		list_add_tail(&ep->ep_list, &gadget->ep_list);
	}
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_gadget_add_endpoint);

/* Whether there are references besides the caller's. */
bool kernel_ext_helper_gadget_is_shared(struct usb_gadget *gadget)
{
	return kref_read(&gadget->dev.kobj.kref) > 1;
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_gadget_is_shared);

void kernel_ext_helper_gadget_put(struct usb_gadget *gadget)
{
	usb_put_gadget(gadget);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_gadget_put);

/* -- Memory for transfers -------------------------------------------------------------------- */

/*
 * Pages whose size somebody else chose: give up early and silently, and do not eat into the reserve.
 * Whoever can do with less passes a large order only to try.
 */
struct page *kernel_ext_helper_alloc_transfer_pages(unsigned int order)
{
	gfp_t gfp = GFP_KERNEL | __GFP_NOWARN | __GFP_NORETRY | __GFP_NOMEMALLOC;

	if (order)
		gfp = (gfp & ~__GFP_DIRECT_RECLAIM) | __GFP_COMP;
	return alloc_pages(gfp, order);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_alloc_transfer_pages);

void kernel_ext_helper_sg_mark_end(struct scatterlist *sg)
{
	sg_mark_end(sg);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_sg_mark_end);

void kernel_ext_helper_put_page(struct page *page)
{
	put_page(page);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_put_page);

/* Whether nobody but the caller has a reference. */
bool kernel_ext_helper_page_is_exclusive(struct page *page)
{
	return page_count(page) == 1;
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_page_is_exclusive);

/* One piece of memory for a device to read or write. */
void *kernel_ext_helper_alloc_transfer_memory(size_t len, bool atomic)
{
	gfp_t gfp = atomic ? GFP_ATOMIC : GFP_KERNEL | __GFP_NORETRY;

	return kmalloc(len, gfp | __GFP_NOWARN | __GFP_NOMEMALLOC);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_alloc_transfer_memory);

/* Memory that others may write to meanwhile, which only C may read: then what is copied is either. */
void kernel_ext_helper_copy_shared(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_copy_shared);

void kernel_ext_helper_sg_set_page(struct scatterlist *sg, struct page *page, unsigned int len,
				   unsigned int offset)
{
	sg_set_page(sg, page, len, offset);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_sg_set_page);

/* -- Sockets --------------------------------------------------------------------------------- */

/* Established, and neither end has said that it will send or receive no more. */
bool kernel_ext_helper_sock_is_connected(struct socket *sock)
{
	const struct sock *sk = sock->sk;

	return READ_ONCE(sk->sk_state) == TCP_ESTABLISHED &&
	       !(READ_ONCE(sk->sk_shutdown) & SHUTDOWN_MASK);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_sock_is_connected);

u16 kernel_ext_helper_sock_family(struct socket *sock)
{
	return READ_ONCE(sock->sk->sk_family);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_sock_family);

bool kernel_ext_helper_sock_is_tcp(struct socket *sock)
{
	return sk_is_tcp(sock->sk);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_sock_is_tcp);

/* Allocations on behalf of the socket wait for no I/O, and leave current->task_frag alone. */
void kernel_ext_helper_sock_set_noio(struct socket *sock)
{
	sock->sk->sk_allocation = GFP_NOIO;
	sock->sk->sk_use_task_frag = false;
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_sock_set_noio);

/* Bytes in buffers that wait to be sent or acknowledged: TCP counts them one way, others the other. */
unsigned int kernel_ext_helper_sock_unsent(struct socket *sock)
{
	return max_t(unsigned int, READ_ONCE(sock->sk->sk_wmem_queued),
		     sk_wmem_alloc_get(sock->sk));
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_sock_unsent);

/* In ms, -1 for no limit. Neither type of socket reads them under a lock. */
static long timeo_to_ms(long timeo)
{
	return timeo == MAX_SCHEDULE_TIMEOUT ? -1L : (long)jiffies_to_msecs(timeo);
}

static long ms_to_timeo(long ms)
{
	return ms < 0 ? MAX_SCHEDULE_TIMEOUT : max(1L, (long)msecs_to_jiffies(ms));
}

long kernel_ext_helper_sock_rcvtimeo(struct socket *sock)
{
	return timeo_to_ms(READ_ONCE(sock->sk->sk_rcvtimeo));
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_sock_rcvtimeo);

void kernel_ext_helper_sock_set_rcvtimeo(struct socket *sock, long ms)
{
	WRITE_ONCE(sock->sk->sk_rcvtimeo, ms_to_timeo(ms));
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_sock_set_rcvtimeo);

long kernel_ext_helper_sock_sndtimeo(struct socket *sock)
{
	return timeo_to_ms(READ_ONCE(sock->sk->sk_sndtimeo));
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_sock_sndtimeo);

void kernel_ext_helper_sock_set_sndtimeo(struct socket *sock, long ms)
{
	WRITE_ONCE(sock->sk->sk_sndtimeo, ms_to_timeo(ms));
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_sock_set_sndtimeo);

/* A TCP socket (sk_is_tcp) for all of the following. */
void kernel_ext_helper_tcp_set_nodelay(struct socket *sock)
{
	tcp_sock_set_nodelay(sock->sk);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_tcp_set_nodelay);

/* Values that are 0 were never set and follow the network namespace's sysctl. */
void kernel_ext_helper_tcp_set_keepalive(struct socket *sock, int idle, int interval, int count)
{
	struct tcp_sock *tp = tcp_sk(sock->sk);

	if (!READ_ONCE(tp->keepalive_time))
		tcp_sock_set_keepidle(sock->sk, idle);
	if (!READ_ONCE(tp->keepalive_intvl))
		tcp_sock_set_keepintvl(sock->sk, interval);
	if (!READ_ONCE(tp->keepalive_probes))
		tcp_sock_set_keepcnt(sock->sk, count);
	sock_set_keepalive(sock->sk);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_tcp_set_keepalive);

void kernel_ext_helper_tcp_set_user_timeout(struct socket *sock, int ms)
{
	if (!READ_ONCE(inet_csk(sock->sk)->icsk_user_timeout))
		tcp_sock_set_user_timeout(sock->sk, ms);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_tcp_set_user_timeout);

int kernel_ext_helper_sock_peer(struct socket *sock, struct kernel_ext_peer_address *peer)
{
	union {
		struct sockaddr_storage storage;
		struct sockaddr addr;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_vm vm;
	} u = {};
	int ret = kernel_getpeername(sock, &u.addr);

	memset(peer, 0, sizeof(*peer));
	if (ret < 0)
		return ret;
	switch (u.addr.sa_family) {
	case AF_INET:
		memcpy(peer->ip, &u.in.sin_addr, sizeof(u.in.sin_addr));
		peer->port = ntohs(u.in.sin_port);
		break;
	case AF_INET6:
		memcpy(peer->ip, &u.in6.sin6_addr, sizeof(u.in6.sin6_addr));
		peer->port = ntohs(u.in6.sin6_port);
		break;
	case AF_VSOCK:
		peer->cid = u.vm.svm_cid;
		peer->port = u.vm.svm_port;
		break;
	}
	return ret;
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_sock_peer);

/* Whether keys for both directions were set. They never go away again. */
bool kernel_ext_helper_sock_is_tls(struct socket *sock)
{
	const struct inet_connection_sock *icsk = inet_csk(sock->sk);
	const struct tls_context *ctx;
	bool is_tls = false;

	if (!sk_is_tcp(sock->sk))
		return false;
	lock_sock(sock->sk);
	if (icsk->icsk_ulp_ops && !strcmp(icsk->icsk_ulp_ops->name, "tls")) {
		ctx = tls_get_ctx(sock->sk);
		is_tls = ctx->tx_conf != TLS_BASE && ctx->rx_conf != TLS_BASE;
	}
	release_sock(sock->sk);
	return is_tls;
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_sock_is_tls);

/*
 * Receives a piece of a record that is not application data, without blocking. Returns the number
 * of bytes; the record's type, or 0 if the socket did not say, is in *type.
 */
int kernel_ext_helper_tls_recv_control(struct socket *sock, void *buf, size_t len, u8 *type)
{
	union {
		struct cmsghdr cmsg;
		u8 buf[CMSG_SPACE(sizeof(u8))];
	} u = {};
	struct msghdr msg = {
		.msg_control = &u,
		.msg_controllen = sizeof(u),
	};
	struct kvec vec = { .iov_base = buf, .iov_len = len };
	int ret = kernel_recvmsg(sock, &msg, &vec, 1, len, MSG_DONTWAIT);

	*type = 0;
	if (ret >= 0 && u.cmsg.cmsg_level == SOL_TLS && u.cmsg.cmsg_type == TLS_GET_RECORD_TYPE)
		*type = *(u8 *)CMSG_DATA(&u.cmsg);
	return ret;
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_tls_recv_control);

/* -- Taps: what a TCP socket calls, in the place of what it was set up with ------------------- */

/*
 * Installs callbacks and their data, unless somebody else is between the socket and its reader
 * already: kernel TLS, a BPF map, another part of the kernel. Returns whether that was so.
 */
bool kernel_ext_helper_tcp_tap(struct socket *sock, void *data,
			       const struct kernel_ext_sock_callbacks *callbacks,
			       struct kernel_ext_sock_callbacks *before)
{
	struct sock *sk = sock->sk;
	bool done = false;

	lock_sock(sk);
	write_lock_bh(&sk->sk_callback_lock);
	if (sk_is_tcp(sk) && !inet_csk_has_ulp(sk) && !sk->sk_user_data) {
		before->data_ready = sk->sk_data_ready;
		before->state_change = sk->sk_state_change;
		before->error_report = sk->sk_error_report;
		sk->sk_user_data = data;
		WRITE_ONCE(sk->sk_data_ready, callbacks->data_ready);
		WRITE_ONCE(sk->sk_state_change, callbacks->state_change);
		WRITE_ONCE(sk->sk_error_report, callbacks->error_report);
		done = true;
	}
	write_unlock_bh(&sk->sk_callback_lock);
	release_sock(sk);
	return done;
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_tcp_tap);

/*
 * Takes them out again. Whoever has put others on top meanwhile, as kernel TLS does, goes on calling
 * them: then the callbacks stay, without data, and so does the module that they are in.
 */
void kernel_ext_helper_tcp_untap(struct socket *sock,
				 const struct kernel_ext_sock_callbacks *callbacks,
				 const struct kernel_ext_sock_callbacks *before)
{
	struct sock *sk = sock->sk;

	lock_sock(sk);
	write_lock_bh(&sk->sk_callback_lock);
	sk->sk_user_data = NULL;
	if (sk->sk_data_ready == callbacks->data_ready &&
	    sk->sk_state_change == callbacks->state_change &&
	    sk->sk_error_report == callbacks->error_report) {
		WRITE_ONCE(sk->sk_data_ready, before->data_ready);
		WRITE_ONCE(sk->sk_state_change, before->state_change);
		WRITE_ONCE(sk->sk_error_report, before->error_report);
	} else {
		__module_get(THIS_MODULE);
	}
	write_unlock_bh(&sk->sk_callback_lock);
	release_sock(sk);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_tcp_untap);

/* The data of the callbacks, which stay installed until kernel_ext_helper_tap_leave(). */
void *kernel_ext_helper_tap_enter(struct sock *sk)
{
	read_lock_bh(&sk->sk_callback_lock);
	return sk->sk_user_data;
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_tap_enter);

void kernel_ext_helper_tap_leave(struct sock *sk)
{
	read_unlock_bh(&sk->sk_callback_lock);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_tap_leave);

void kernel_ext_helper_sock_lock(struct socket *sock)
{
	lock_sock(sock->sk);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_sock_lock);

void kernel_ext_helper_sock_unlock(struct socket *sock)
{
	release_sock(sock->sk);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_sock_unlock);

/* With the lock of the socket: whether what comes in is still what the peer has sent. */
bool kernel_ext_helper_tcp_is_plain(struct sock *sk)
{
	return !inet_csk_has_ulp(sk);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_tcp_is_plain);

/* With the lock of the socket: whether a reader would wait, and for as long as it takes. */
bool kernel_ext_helper_tcp_is_quiet(struct sock *sk)
{
	return skb_queue_empty(&sk->sk_receive_queue) && sk->sk_state == TCP_ESTABLISHED &&
	       !(sk->sk_shutdown & RCV_SHUTDOWN) && !sk->sk_err && !sock_flag(sk, SOCK_DONE) &&
	       READ_ONCE(sk->sk_rcvtimeo) == MAX_SCHEDULE_TIMEOUT;
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_tcp_is_quiet);

/*
 * Takes the lock of a socket where others sleep for it, if nobody has it who does, and if what is sent
 * goes to the peer as it is. Not with interrupts off: sending ends with local_bh_enable().
 */
bool kernel_ext_helper_tcp_lock_now(struct socket *sock)
{
	struct sock *sk = sock->sk;

	if (irqs_disabled() || !sk_is_tcp(sk))
		return false;
	local_bh_disable();
	bh_lock_sock(sk);
	if (!sock_owned_by_user(sk) && !inet_csk_has_ulp(sk))
		return true;
	bh_unlock_sock(sk);
	local_bh_enable();
	return false;
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_tcp_lock_now);

void kernel_ext_helper_tcp_unlock_now(struct socket *sock)
{
	bh_unlock_sock(sock->sk);
	local_bh_enable();
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_tcp_unlock_now);

/*
 * With the lock of the socket, in atomic context: sends as much as there is room for. Not for whoever
 * sleeps for the lock and is working through what has arrived meanwhile: TCP might do that once more
 * from here.
 */
int kernel_ext_helper_tcp_send_now(struct sock *sk, const void *buf, size_t len)
{
	struct msghdr msg = { .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL };
	struct kvec vec = { .iov_base = (void *)buf, .iov_len = len };
	gfp_t allocation = sk->sk_allocation;
	int ret;

	if (sock_owned_by_user(sk))
		return -EAGAIN;
	/* Those who sleep in the socket allocate with its lock held, too. */
	sk->sk_allocation = GFP_ATOMIC;
	iov_iter_kvec(&msg.msg_iter, ITER_SOURCE, &vec, 1, len);
	ret = tcp_sendmsg_locked(sk, &msg, len);
	sk->sk_allocation = allocation;
	return ret;
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_tcp_send_now);

static int tcp_reader_take(read_descriptor_t *desc, struct sk_buff *skb, unsigned int offset,
			   size_t len)
{
	struct kernel_ext_tcp_reader *reader = desc->arg.data;

	return reader->take(reader, skb, offset, len);
}

/* With the lock of the socket. */
void kernel_ext_helper_tcp_read(struct sock *sk, struct kernel_ext_tcp_reader *reader)
{
	read_descriptor_t desc = { .arg.data = reader, .count = 1 };

	tcp_read_sock(sk, &desc, tcp_reader_take);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_tcp_read);

/*
 * Waits until there may be `len` bytes to read, a good part of what there is room for, or something to
 * hear of, like the end of the stream. Returns -EAGAIN if the socket's timeout ran out and there is
 * nothing.
 */
int kernel_ext_helper_tcp_wait(struct socket *sock, size_t len)
{
	struct sock *sk = sock->sk;
	int lowat, enough;
	long timeo;

	lock_sock(sk);
	timeo = sock_rcvtimeo(sk, false);
	if (skb_queue_empty(&sk->sk_receive_queue) && sk->sk_state == TCP_ESTABLISHED &&
	    !(sk->sk_shutdown & RCV_SHUTDOWN) && !sk->sk_err) {
		/* The reader is woken up once, not for each packet. */
		lowat = READ_ONCE(sk->sk_rcvlowat);
		enough = max(1, READ_ONCE(sk->sk_rcvbuf) / 4);
		WRITE_ONCE(sk->sk_rcvlowat, (int)min_t(size_t, len, enough));
		sk_wait_data(sk, &timeo, NULL);
		WRITE_ONCE(sk->sk_rcvlowat, lowat);
		if (!skb_queue_empty(&sk->sk_receive_queue))
			timeo = 1;
	}
	release_sock(sk);
	return timeo ? 0 : -EAGAIN;
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_tcp_wait);

/* -- Data that stays in its socket buffer ----------------------------------------------------- */

/*
 * The most pieces of memory that the data of a socket buffer is in, if it may be kept and has an address;
 * otherwise 0. Lists of buffers are for those who copy, and so is what was received with the last memory.
 */
unsigned int kernel_ext_helper_skb_pieces(const struct sk_buff *skb)
{
	const struct skb_shared_info *info = skb_shinfo(skb);
	unsigned int i;

	if (skb_has_frag_list(skb) || !skb_frags_readable(skb) || skb_pfmemalloc(skb))
		return 0;
	for (i = 0; i < info->nr_frags; i++)
		if (PageHighMem(skb_frag_page(&info->frags[i])))
			return 0;
	return 1 + info->nr_frags;
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_skb_pieces);

/* The memory that it takes. */
unsigned int kernel_ext_helper_skb_truesize(const struct sk_buff *skb)
{
	return skb->truesize;
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_skb_truesize);

/* Another reference to its data; NULL if there is no memory. May sleep, but not for I/O. */
struct sk_buff *kernel_ext_helper_skb_hold(struct sk_buff *skb)
{
	return skb_clone(skb, GFP_NOIO | __GFP_NOWARN);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_skb_hold);

/* Any context. */
void kernel_ext_helper_skb_drop(struct sk_buff *skb)
{
	dev_consume_skb_any(skb);
}
EXPORT_SYMBOL_GPL(kernel_ext_helper_skb_drop);
