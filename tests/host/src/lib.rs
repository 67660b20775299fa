// SPDX-License-Identifier: GPL-2.0

//! What the host tests share.

#![forbid(unsafe_code)]

pub mod golden;
pub mod pcap;

/// The bytes of a hexadecimal string; white space is ignored.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16).expect("a hexadecimal digit"))
        .collect();
    assert!(digits.len() % 2 == 0, "half a byte");
    digits
        .chunks(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect()
}
