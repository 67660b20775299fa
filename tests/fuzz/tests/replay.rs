// SPDX-License-Identifier: GPL-2.0

//! The fuzz targets without a fuzzer: every seed, cut off everywhere, and with each byte changed.

use usbip_fuzz::{seeds, TARGETS};

fn replay(name: &str) {
    let (_, run) = TARGETS.into_iter().find(|target| target.0 == name).unwrap();
    let seeds = seeds::of(name);
    assert!(!seeds.is_empty());
    for seed in seeds {
        for len in 0..=seed.len() {
            run(&seed[..len]);
        }
        for at in 0..seed.len() {
            for change in [1, 0x80, 0xff] {
                let mut input = seed.clone();
                input[at] ^= change;
                run(&input);
            }
        }
    }
}

#[test]
fn headers() {
    replay("headers");
}

#[test]
fn op() {
    replay("op");
}

#[test]
fn iso() {
    replay("iso");
}

#[test]
fn client() {
    replay("client");
}

#[test]
fn server() {
    replay("server");
}
