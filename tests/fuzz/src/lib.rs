// SPDX-License-Identifier: GPL-2.0

//! Fuzz targets: functions of any bytes that panic if something is wrong.

#![forbid(unsafe_code)]

pub mod client;
pub mod headers;
pub mod iso;
pub mod op;
pub mod seeds;
pub mod server;

/// A target: its name and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 5] = [
    ("headers", headers::run),
    ("op", op::run),
    ("iso", iso::run),
    ("client", client::run),
    ("server", server::run),
];

/// Takes bytes from the front of the input; zeros when there are none left.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let len = N.min(self.0.len());
        let (head, rest) = self.0.split_at(len);
        bytes[..len].copy_from_slice(head);
        self.0 = rest;
        bytes
    }

    fn byte(&mut self) -> u8 {
        u8::from_be_bytes(self.bytes())
    }

    fn word(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes())
    }
}
