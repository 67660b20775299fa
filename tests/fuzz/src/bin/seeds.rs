// SPDX-License-Identifier: GPL-2.0

//! Writes the seed corpus: `seeds DIRECTORY` makes a folder for every target.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let root = PathBuf::from(std::env::args_os().nth(1).expect("a directory"));
    for (target, _) in usbip_fuzz::TARGETS {
        let folder = root.join(target);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in usbip_fuzz::seeds::of(target).iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:03}")), seed)?;
        }
    }
    Ok(())
}
