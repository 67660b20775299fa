// SPDX-License-Identifier: GPL-2.0

//! The setup packet of a control request.

/// A setup packet (USB 2.0 table 9-2): `struct usb_ctrlrequest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup(pub [u8; 8]);

impl Setup {
    fn word(&self, at: usize) -> u16 {
        match self.0.get(at..at.saturating_add(2)) {
            Some(&[low, high]) => u16::from_le_bytes([low, high]),
            _ => 0,
        }
    }

    /// `bmRequestType` and `bRequest`.
    pub fn request(&self) -> (u8, u8) {
        let [kind, request, ..] = self.0;
        (kind, request)
    }

    /// Whether data goes to the host.
    pub fn is_in(&self) -> bool {
        self.request().0 & 0x80 != 0
    }

    /// `wValue`.
    pub fn value(&self) -> u16 {
        self.word(2)
    }

    /// `wIndex`.
    pub fn index(&self) -> u16 {
        self.word(4)
    }

    /// `wLength`.
    pub fn length(&self) -> u16 {
        self.word(6)
    }
}
