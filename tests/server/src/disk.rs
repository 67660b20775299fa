// SPDX-License-Identifier: GPL-2.0

//! The disk cases of the benchmark: one request after another, past the page cache.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::bench::Case;
use crate::deadline::Deadline;

const fn case(name: &'static str, incoming: bool, size: usize) -> Case {
    Case {
        name,
        incoming,
        size,
        depth: 1,
        by_kernel: false,
    }
}

/// Every case.
pub const CASES: [Case; 4] = [
    case("read-4k", true, 4 << 10),
    case("write-4k", false, 4 << 10),
    case("read-1m", true, 1 << 20),
    case("write-1m", false, 1 << 20),
];

/// What is read and written: the start of the disk. Written once beforehand, it is in the memory of
/// the machine that emulates the disk, and the emulation does not allocate anything any more.
pub const AREA: u64 = 16 << 20;

/// Alignment of a buffer that suits every disk.
const ALIGN: usize = 4096;

/// A disk, opened past the page cache.
pub struct Disk {
    file: File,
    buffer: Vec<u8>,
}

impl Disk {
    /// Opens a block device.
    ///
    /// # Errors
    ///
    /// As of open(2).
    pub fn open(node: &Path) -> io::Result<Self> {
        let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(node)?;
        Ok(Self {
            file,
            buffer: vec![0xa5; (1 << 20) + ALIGN],
        })
    }

    /// Reads or writes [`AREA`] again and again for `span`; returns the number of requests.
    ///
    /// # Errors
    ///
    /// As of the system calls.
    pub fn run(&mut self, case: &Case, span: Duration) -> io::Result<u64> {
        let start = self.buffer.as_ptr().align_offset(ALIGN);
        let buffer = self
            .buffer
            .get_mut(start..start + case.size)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let deadline = Deadline::after(span);
        let (mut finished, mut offset) = (0, 0);
        while !deadline.has_passed() {
            if case.incoming {
                self.file.read_exact_at(buffer, offset)?;
            } else {
                self.file.write_all_at(buffer, offset)?;
            }
            finished += 1;
            offset = (offset + case.size as u64) % AREA;
        }
        Ok(finished)
    }
}
