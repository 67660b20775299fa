// SPDX-License-Identifier: GPL-2.0

//! Devices described on a command line.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use anyhow::{bail, Context, Result};
use usbip_protocol::speed::Speed;

use crate::device::Model;
use crate::models::audio::{Audio, Recording};
use crate::models::gadget_zero::{GadgetZero, Pattern};
use crate::models::keyboard::{Keyboard, Keys};
use crate::models::null::Null;
use crate::models::scsi::{Disk, Medium};
use crate::models::storage::Storage;
use crate::session::{Bell, Style};

/// `KIND[,NAME=VALUE]...`
#[derive(Clone, Debug)]
pub struct Spec {
    kind: String,
    options: BTreeMap<String, String>,
}

/// How a model is driven from outside.
pub enum Handle {
    /// Not at all.
    None,
    /// Keys to press.
    Keys(Keys),
    /// What an audio device has played.
    Recording(Recording),
}

/// Help for [`Spec`].
pub const HELP: &str = "\
disk[,size=BYTES|file=PATH][,ro][,serial=TEXT]   mass storage
keyboard                                         boot keyboard
zero[,pattern=0|1]                               source and sink for usbtest
audio                                            playback and capture, UAC1
null                                             benchmark
All: speed=low|full|high|super|super-plus or 1..6, busid=TEXT, and what a peer may do:
echo, packets=NUMBER, segment=BYTES";

impl FromStr for Spec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split(',');
        let kind = parts.next().unwrap_or_default().to_owned();
        let options = parts
            .map(|part| match part.split_once('=') {
                Some((name, value)) => (name.to_owned(), value.to_owned()),
                None => (part.to_owned(), String::new()),
            })
            .collect();
        Ok(Self { kind, options })
    }
}

/// A number of bytes with an optional K, M or G.
fn bytes(text: &str) -> Result<u64> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().with_context(|| format!("size {text:?}"))?;
    number
        .checked_mul(1 << shift)
        .with_context(|| format!("size {text:?}"))
}

fn speed(text: &str) -> Result<Speed> {
    Ok(match text {
        "low" => Speed::Low,
        "full" => Speed::Full,
        "high" => Speed::High,
        "super" => Speed::Super,
        "super-plus" => Speed::SuperPlus,
        _ => text
            .parse()
            .ok()
            .and_then(Speed::from_raw)
            .filter(|speed| speed.is_attachable())
            .with_context(|| format!("speed {text:?}"))?,
    })
}

impl Spec {
    fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>> {
        self.option(name)
            .map(|text| {
                text.parse()
                    .ok()
                    .with_context(|| format!("{name}={text:?}"))
            })
            .transpose()
    }

    /// Its bus identifier, if it has been given one.
    pub fn busid(&self) -> Option<&str> {
        self.option("busid")
    }

    /// How its server behaves.
    ///
    /// # Errors
    ///
    /// A value that is not a number.
    pub fn style(&self) -> Result<Style> {
        let segment = self.number("segment")?;
        if segment == Some(0) {
            bail!("segment=0");
        }
        Ok(Style {
            echo: self.option("echo").is_some(),
            packets: self.number("packets")?,
            segment,
        })
    }

    /// Makes the model. `bell` is for models that are driven from outside.
    ///
    /// # Errors
    ///
    /// An unknown kind, an unknown option or a bad value.
    pub fn build(&self, bell: &Bell) -> Result<(Box<dyn Model>, Handle)> {
        let (default, own): (Speed, &[&str]) = match self.kind.as_str() {
            "disk" => (Speed::High, &["size", "file", "ro", "serial"]),
            "keyboard" => (Speed::Low, &[]),
            "zero" => (Speed::High, &["pattern"]),
            "audio" => (Speed::Full, &[]),
            "null" => (Speed::High, &[]),
            other => bail!("unknown device {other:?}; there are:\n{HELP}"),
        };
        let common = ["speed", "busid", "echo", "packets", "segment"];
        for name in self.options.keys() {
            if !common.contains(&name.as_str()) && !own.contains(&name.as_str()) {
                bail!("{} has no option {name:?}", self.kind);
            }
        }
        let speed = self.option("speed").map_or(Ok(default), speed)?;
        if speed == Speed::Low && self.kind != "keyboard" {
            bail!("a low-speed device has no bulk or isochronous endpoints");
        }
        Ok(match self.kind.as_str() {
            "disk" => (Box::new(self.disk(speed)?), Handle::None),
            "keyboard" => {
                let (keyboard, keys) = Keyboard::new(speed, bell.clone());
                (Box::new(keyboard), Handle::Keys(keys))
            }
            "zero" => {
                let pattern = match self.option("pattern") {
                    None | Some("0") => Pattern::Zeros,
                    Some("1") => Pattern::Mod63,
                    Some(other) => bail!("pattern={other:?}"),
                };
                (Box::new(GadgetZero::new(speed, pattern)), Handle::None)
            }
            "audio" => {
                let (audio, recording) = Audio::new(speed);
                (Box::new(audio), Handle::Recording(recording))
            }
            _ => (Box::new(Null::new(speed)), Handle::None),
        })
    }

    fn disk(&self, speed: Speed) -> Result<Storage> {
        let medium = match self.option("file") {
            Some(path) => Medium::file(Path::new(path)).with_context(|| path.to_owned())?,
            None => Medium::memory(bytes(self.option("size").unwrap_or("16M"))?),
        };
        let read_only = self.option("ro").is_some();
        let serial = self.option("serial").unwrap_or("000000000001");
        Ok(Storage::new(speed, Disk::new(medium, read_only), serial))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(text: &str) -> Result<(Box<dyn Model>, Handle)> {
        text.parse::<Spec>()?.build(&Bell::default())
    }

    #[test]
    fn every_kind_at_every_speed() {
        for kind in [
            "disk,size=1M",
            "keyboard",
            "zero,pattern=1",
            "audio",
            "null",
        ] {
            for speed in 2..=6 {
                let (model, _) = build(&format!("{kind},speed={speed}")).unwrap();
                assert_eq!(model.descriptors().speed.raw(), speed);
            }
        }
        assert!(build("keyboard,speed=low").is_ok());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "tv",
            "disk,size=x",
            "null,size=1M",
            "disk,speed=0",
            "disk,speed=1",
        ] {
            assert!(build(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("3M").unwrap(), 3 << 20);
        assert_eq!(bytes("77").unwrap(), 77);
        assert!(bytes("99999999999G").is_err());
    }
}
