// SPDX-License-Identifier: GPL-2.0
/*
 * The layout of the C types that the Rust code touches, as the kernel's compiler sees it. Compiled
 * to assembly only; the build turns it into assertions that rustc checks against the bindings.
 *
 * Bit-fields have no offset to compare.
 */

#include <linux/device.h>
#include <linux/moduleparam.h>
#include <linux/net.h>
#include <linux/platform_device.h>
#include <linux/pm.h>
#include <linux/sched.h>
#include <linux/socket.h>
#include <linux/sysfs.h>
#include <linux/sysinfo.h>
#include <linux/uio.h>
#include <linux/usb.h>
#include <linux/usb/gadget.h>
#include <linux/usb/hcd.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <net/sock.h>

#define CHECK(expr, val) asm volatile("\n.ascii \"->" expr " %0 \"" : : "i" (val))
#define SIZE(t)		CHECK("size_of::<" #t ">()", sizeof(struct t))
#define OFFSET(t, f)	CHECK("offset_of!(" #t ", " #f ")", offsetof(struct t, f))

void kernel_ext_layout(void);

void kernel_ext_layout(void)
{
	/* Host controllers */
	SIZE(hc_driver);
	OFFSET(hc_driver, description);
	OFFSET(hc_driver, product_desc);
	OFFSET(hc_driver, hcd_priv_size);
	OFFSET(hc_driver, flags);
	OFFSET(hc_driver, start);
	OFFSET(hc_driver, stop);
	OFFSET(hc_driver, get_frame_number);
	OFFSET(hc_driver, urb_enqueue);
	OFFSET(hc_driver, urb_dequeue);
	OFFSET(hc_driver, hub_status_data);
	OFFSET(hc_driver, hub_control);
	OFFSET(hc_driver, bus_suspend);
	OFFSET(hc_driver, bus_resume);
	OFFSET(hc_driver, alloc_dev);
	OFFSET(hc_driver, free_dev);
	OFFSET(hc_driver, address_device);
	SIZE(usb_hcd);
	/* `self` is a keyword */
	CHECK("offset_of!(usb_hcd, self_)", offsetof(struct usb_hcd, self));
	OFFSET(usb_hcd, flags);
	OFFSET(usb_hcd, speed);
	OFFSET(usb_hcd, state);
	OFFSET(usb_hcd, hcd_priv);
	SIZE(usb_bus);
	OFFSET(usb_bus, controller);
	OFFSET(usb_bus, sg_tablesize);
	OFFSET(usb_bus, root_hub);
	OFFSET(usb_bus, busnum);
	OFFSET(usb_bus, bus_name);

	/* URBs and devices */
	SIZE(urb);
	OFFSET(urb, hcpriv);
	OFFSET(urb, dev);
	OFFSET(urb, ep);
	OFFSET(urb, pipe);
	OFFSET(urb, status);
	OFFSET(urb, transfer_flags);
	OFFSET(urb, transfer_buffer);
	OFFSET(urb, sg);
	OFFSET(urb, num_sgs);
	OFFSET(urb, transfer_buffer_length);
	OFFSET(urb, actual_length);
	OFFSET(urb, setup_packet);
	OFFSET(urb, start_frame);
	OFFSET(urb, number_of_packets);
	OFFSET(urb, interval);
	OFFSET(urb, error_count);
	OFFSET(urb, context);
	OFFSET(urb, complete);
	OFFSET(urb, iso_frame_desc);
	SIZE(usb_iso_packet_descriptor);
	OFFSET(usb_iso_packet_descriptor, actual_length);
	OFFSET(usb_iso_packet_descriptor, status);
	SIZE(usb_device);
	OFFSET(usb_device, devnum);
	OFFSET(usb_device, speed);
	OFFSET(usb_device, parent);
	OFFSET(usb_device, bus);
	OFFSET(usb_device, dev);
	OFFSET(usb_device, descriptor);
	OFFSET(usb_device, portnum);
	OFFSET(usb_device, state);
	OFFSET(usb_device, ep_in);
	OFFSET(usb_device, ep_out);
	SIZE(usb_anchor);
	SIZE(usb_device_driver);
	OFFSET(usb_device_driver, probe);
	OFFSET(usb_device_driver, disconnect);
	OFFSET(usb_device_driver, driver);
	SIZE(usb_host_endpoint);
	OFFSET(usb_host_endpoint, desc);
	SIZE(scatterlist);
	OFFSET(scatterlist, length);
	SIZE(sysinfo);
	OFFSET(sysinfo, totalram);
	OFFSET(sysinfo, mem_unit);

	/* Gadgets */
	SIZE(usb_gadget);
	OFFSET(usb_gadget, ops);
	OFFSET(usb_gadget, ep0);
	OFFSET(usb_gadget, ep_list);
	OFFSET(usb_gadget, dev);
	SIZE(usb_gadget_ops);
	SIZE(usb_ep);
	OFFSET(usb_ep, ops);
	OFFSET(usb_ep, desc);
	SIZE(usb_ep_ops);
	SIZE(usb_request);
	OFFSET(usb_request, actual);
	SIZE(usb_gadget_driver);

	/* Driver core */
	SIZE(device);
	OFFSET(device, parent);
	OFFSET(device, kobj);
	OFFSET(device, driver);
	SIZE(attribute);
	OFFSET(attribute, mode);
	SIZE(device_attribute);
	SIZE(attribute_group);
	SIZE(driver_attribute);
	OFFSET(driver_attribute, show);
	OFFSET(driver_attribute, store);
	SIZE(device_driver);
	OFFSET(device_driver, name);
	OFFSET(device_driver, owner);
	OFFSET(device_driver, pm);
	OFFSET(device_driver, groups);
	SIZE(platform_device);
	OFFSET(platform_device, id);
	OFFSET(platform_device, dev);
	SIZE(platform_device_info);
	SIZE(platform_driver);
	OFFSET(platform_driver, probe);
	OFFSET(platform_driver, remove);
	OFFSET(platform_driver, driver);
	SIZE(dev_pm_ops);
	OFFSET(dev_pm_ops, suspend);
	OFFSET(dev_pm_ops, resume);
	OFFSET(dev_pm_ops, restore);
	SIZE(kernel_param);
	OFFSET(kernel_param, ops);
	OFFSET(kernel_param, perm);
	OFFSET(kernel_param, level);

	/* Tasks, waiting, sockets */
	SIZE(task_struct);
	OFFSET(task_struct, flags);
	SIZE(wait_queue_head);
	SIZE(wait_queue_entry);
	SIZE(work_struct);
	SIZE(kvec);
	SIZE(msghdr);
	OFFSET(msghdr, msg_flags);
	SIZE(socket);
	CHECK("offset_of!(socket, type_)", offsetof(struct socket, type));
	OFFSET(socket, file);
	OFFSET(socket, sk);
}
