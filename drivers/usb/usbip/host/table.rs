// SPDX-License-Identifier: GPL-2.0

//! The names of devices that may be exported.
//!
//! C counterpart: the table of `stub_main.c`, without its limit of 16 and without states: whether a
//! device is exported at the moment is no business of the table, so nothing can get out of step
//! when a device is unplugged, or its name is removed while it is exported.

use kernel_ext::prelude::*;
use usbip_protocol::limits::BUSID_LEN;

/// A name in `/sys/bus/usb/devices`, as `3-1.2`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct BusId {
    /// Zeros behind the name.
    bytes: [u8; BUSID_LEN],
}

impl BusId {
    /// Takes what a user wrote; a newline at its end does not count.
    ///
    /// # Errors
    ///
    /// `EINVAL`: nothing, more than 31 bytes, or no text.
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        if text.is_empty() || text.len() >= BUSID_LEN || !text.is_ascii() || text.contains(&0) {
            return Err(EINVAL);
        }
        let mut bytes = [0; BUSID_LEN];
        for (to, from) in bytes.iter_mut().zip(text) {
            *to = *from;
        }
        Ok(Self { bytes })
    }

    /// The name.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        let len = self.bytes.iter().position(|b| *b == 0);
        self.bytes
            .get(..len.unwrap_or(BUSID_LEN))
            .unwrap_or_default()
    }

    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

/// The table.
pub(crate) struct Table {
    names: KVec<BusId>,
}

impl Table {
    /// An empty table.
    pub(crate) const fn new() -> Self {
        Self { names: KVec::new() }
    }

    /// Adds a name; that it is there already is no error.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn add(&mut self, name: BusId) -> Result {
        if !self.names.contains(&name) {
            self.names.push(name, GFP_KERNEL)?;
        }
        Ok(())
    }

    /// Removes a name; returns whether it was there.
    pub(crate) fn remove(&mut self, name: BusId) -> bool {
        let before = self.names.len();
        self.names.retain(|one| *one != name);
        self.names.len() < before
    }

    /// Whether a device of this name may be exported.
    pub(crate) fn contains(&self, name: &[u8]) -> bool {
        self.names.iter().any(|one| one.as_bytes() == name)
    }

    /// All names, in the order in which they were added.
    pub(crate) fn names(&self) -> &[BusId] {
        &self.names
    }
}
