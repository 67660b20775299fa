// SPDX-License-Identifier: GPL-2.0

//! Every bound of the protocol and of this implementation, with its source.

/// Version field of every op PDU: `USBIP_VERSION` of the tools (`tools/usb/usbip/configure.ac`).
pub const OP_VERSION: u16 = 0x0111;

/// Default TCP port of `usbipd` (`tools/usb/usbip/src/usbip_network.c`).
pub const TCP_PORT: u16 = 3240;

/// Most isochronous packets in one URB: `USBIP_MAX_ISO_PACKETS` of `usbip_common.h`.
pub const MAX_ISO_PACKETS: u32 = 1024;

/// Highest endpoint number of USB (four bits of `bEndpointAddress`, USB 2.0 table 9-13).
pub const MAX_ENDPOINT: u32 = 15;

/// Most bytes one request may move, by default: 16 MiB.
///
/// That is all that usbfs lends out by default (`usbfs_memory_mb`); the largest request of the
/// storage drivers is 1 MiB.
pub const MAX_URB_BYTES: u32 = 16 << 20;

/// Most payload bytes a server reads and throws away to stay in step with a client whose request
/// it refuses; a longer one ends the connection.
pub const MAX_DRAIN_BYTES: u32 = 64 << 20;

/// Bytes in flight per connection on a server, by default: two full usbfs windows.
///
/// Counted from the moment a request is accepted until its reply has been sent.
pub const MAX_CONNECTION_BYTES: u64 = 32 << 20;

/// URBs in flight per connection, by default.
///
/// UAS with 256 streams and any number of webcams stay far below it.
pub const MAX_CONNECTION_URBS: usize = 4096;

/// Replies that may wait beyond [`MAX_CONNECTION_URBS`] for a client that does not read them.
pub const MAX_EXTRA_REPLIES: usize = 1024;

/// Finished requests a client remembers because their reply may still come.
pub const MAX_TOMBSTONES: usize = 256;

/// How long a server that has to answer a CMD_UNLINK may be silent, in milliseconds.
pub const UNLINK_ANSWER_MS: u64 = 10_000;

/// Time it has even if it sends all the while, in milliseconds: a task that waits for a URB longer than
/// 120 s counts as hung.
pub const UNLINK_LIMIT_MS: u64 = 100_000;

/// Size of the `path` field of a device record: `SYSFS_PATH_MAX` of the tools.
pub const PATH_LEN: usize = 256;

/// Size of a bus identifier: `SYSFS_BUS_ID_SIZE` of the tools, `BUSID_SIZE` of the stub.
pub const BUSID_LEN: usize = 32;
