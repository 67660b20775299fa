// SPDX-License-Identifier: GPL-2.0

//! A direct-access SCSI block device: commands in, data and sense out. SPC-4 and SBC-3 as far as
//! Linux, and a careful initiator, ask for it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a block.
pub const BLOCK: u64 = 512;

/// Where blocks are kept.
pub enum Medium {
    /// In memory.
    Memory(Vec<u8>),
    /// In a file.
    File(File, u64),
}

impl Medium {
    /// `bytes` of zeros in memory, rounded down to blocks.
    pub fn memory(bytes: u64) -> Self {
        Self::Memory(vec![0; (bytes / BLOCK * BLOCK) as usize])
    }

    /// An existing file or block device.
    ///
    /// # Errors
    ///
    /// It cannot be opened for reading and writing.
    pub fn file(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let len = file.metadata()?.len() / BLOCK * BLOCK;
        Ok(Self::File(file, len))
    }

    fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, len) => *len,
        }
    }

    fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Memory(bytes) => {
                out.copy_from_slice(&bytes[at as usize..at as usize + out.len()]);
                Ok(())
            }
            Self::File(file, _) => file.read_exact_at(out, at),
        }
    }

    fn write(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Memory(bytes) => {
                bytes[at as usize..at as usize + data.len()].copy_from_slice(data);
                Ok(())
            }
            Self::File(file, _) => file.write_all_at(data, at),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::File(file, _) => file.sync_data(),
        }
    }
}

/// Sense key, additional code, qualifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense(u8, u8, u8);

impl Sense {
    const NONE: Self = Self(0, 0, 0);
    const INVALID_COMMAND: Self = Self(5, 0x20, 0);
    const INVALID_FIELD: Self = Self(5, 0x24, 0);
    const OUT_OF_RANGE: Self = Self(5, 0x21, 0);
    const WRITE_PROTECTED: Self = Self(7, 0x27, 0);
    const MEDIUM_ERROR: Self = Self(3, 0x11, 0);
}

/// What a command wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this data.
    Send(Vec<u8>),
    /// Receive `len` bytes and write them at `at`, both in bytes.
    Receive {
        /// Position on the medium.
        at: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Nothing more.
    Done,
}

/// The logical unit.
pub struct Disk {
    medium: Medium,
    read_only: bool,
    sense: Sense,
}

fn be(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |value, &byte| (value << 8) | u64::from(byte))
}

impl Disk {
    /// A disk on a medium.
    pub fn new(medium: Medium, read_only: bool) -> Self {
        Self {
            medium,
            read_only,
            sense: Sense::NONE,
        }
    }

    fn blocks(&self) -> u64 {
        self.medium.len() / BLOCK
    }

    /// Runs a command; [`None`] is CHECK CONDITION.
    pub fn command(&mut self, cdb: &[u8]) -> Option<Action> {
        let mut padded = [0; 16];
        let len = cdb.len().min(16);
        padded[..len].copy_from_slice(&cdb[..len]);
        match self.run(&padded) {
            Ok(action) => {
                if padded[0] != 0x03 {
                    self.sense = Sense::NONE;
                }
                Some(action)
            }
            Err(sense) => {
                self.sense = sense;
                None
            }
        }
    }

    /// Stores data that was received for [`Action::Receive`]; false is CHECK CONDITION.
    pub fn store(&mut self, at: u64, data: &[u8]) -> bool {
        let ok = self.medium.write(at, data).is_ok();
        if !ok {
            self.sense = Sense::MEDIUM_ERROR;
        }
        ok
    }

    fn run(&mut self, cdb: &[u8; 16]) -> Result<Action, Sense> {
        let send = |data: Vec<u8>, limit: u64| {
            let mut data = data;
            data.truncate(limit as usize);
            Ok(Action::Send(data))
        };
        match cdb[0] {
            0x00 | 0x1b | 0x1e | 0x2f | 0x8f => Ok(Action::Done),
            0x03 => {
                let Sense(key, code, qualifier) = std::mem::replace(&mut self.sense, Sense::NONE);
                let mut data = vec![0; 18];
                (data[0], data[2], data[7]) = (0x70, key, 10);
                (data[12], data[13]) = (code, qualifier);
                send(data, be(&cdb[4..5]))
            }
            0x12 => send(inquiry(cdb)?, be(&cdb[3..5])),
            0x1a => send(self.mode_sense(cdb, false)?, be(&cdb[4..5])),
            0x5a => send(self.mode_sense(cdb, true)?, be(&cdb[7..9])),
            0x23 => send(self.format_capacities(), be(&cdb[7..9])),
            0x25 => {
                let last = u32::try_from(self.blocks() - 1).unwrap_or(u32::MAX);
                let mut data = last.to_be_bytes().to_vec();
                data.extend((BLOCK as u32).to_be_bytes());
                Ok(Action::Send(data))
            }
            0x9e if cdb[1] & 0x1f == 0x10 => {
                let mut data = (self.blocks() - 1).to_be_bytes().to_vec();
                data.extend((BLOCK as u32).to_be_bytes());
                data.resize(32, 0);
                send(data, be(&cdb[10..14]))
            }
            0xa0 => send(
                vec![0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                be(&cdb[6..10]),
            ),
            0x35 | 0x91 => match self.medium.sync() {
                Ok(()) => Ok(Action::Done),
                Err(_) => Err(Sense::MEDIUM_ERROR),
            },
            0x08 => self.read(be(&cdb[1..4]) & 0x1f_ffff, six_byte_count(cdb[4])),
            0x28 => self.read(be(&cdb[2..6]), be(&cdb[7..9])),
            0xa8 => self.read(be(&cdb[2..6]), be(&cdb[6..10])),
            0x88 => self.read(be(&cdb[2..10]), be(&cdb[10..14])),
            0x0a => self.write(be(&cdb[1..4]) & 0x1f_ffff, six_byte_count(cdb[4])),
            0x2a => self.write(be(&cdb[2..6]), be(&cdb[7..9])),
            0xaa => self.write(be(&cdb[2..6]), be(&cdb[6..10])),
            0x8a => self.write(be(&cdb[2..10]), be(&cdb[10..14])),
            _ => Err(Sense::INVALID_COMMAND),
        }
    }

    fn span(&self, block: u64, count: u64) -> Result<(u64, u64), Sense> {
        match block.checked_add(count) {
            Some(end) if end <= self.blocks() => Ok((block * BLOCK, count * BLOCK)),
            _ => Err(Sense::OUT_OF_RANGE),
        }
    }

    fn read(&self, block: u64, count: u64) -> Result<Action, Sense> {
        let (at, len) = self.span(block, count)?;
        let mut data = vec![0; len as usize];
        self.medium
            .read(at, &mut data)
            .map_err(|_| Sense::MEDIUM_ERROR)?;
        Ok(Action::Send(data))
    }

    fn write(&self, block: u64, count: u64) -> Result<Action, Sense> {
        if self.read_only {
            return Err(Sense::WRITE_PROTECTED);
        }
        let (at, len) = self.span(block, count)?;
        Ok(Action::Receive { at, len })
    }

    fn mode_sense(&self, cdb: &[u8; 16], long: bool) -> Result<Vec<u8>, Sense> {
        // The caching page: write cache on, so that SYNCHRONIZE CACHE is used.
        let mut caching = vec![0x08, 0x12, 0x04];
        caching.resize(20, 0);
        let pages = match cdb[2] & 0x3f {
            0x08 | 0x3f => caching,
            0x00 | 0x1c => Vec::new(),
            _ => return Err(Sense::INVALID_FIELD),
        };
        let flags = if self.read_only { 0x80 } else { 0 };
        let mut data = if long {
            let [high, low] = (pages.len() as u16 + 6).to_be_bytes();
            vec![high, low, 0, flags, 0, 0, 0, 0]
        } else {
            vec![pages.len() as u8 + 3, 0, flags, 0]
        };
        data.extend(pages);
        Ok(data)
    }

    fn format_capacities(&self) -> Vec<u8> {
        let blocks = u32::try_from(self.blocks()).unwrap_or(u32::MAX);
        let mut data = vec![0, 0, 0, 8];
        data.extend(blocks.to_be_bytes());
        data.push(2);
        data.extend(&(BLOCK as u32).to_be_bytes()[1..]);
        data
    }
}

/// READ(6) and WRITE(6) say 256 with a zero.
fn six_byte_count(count: u8) -> u64 {
    if count == 0 {
        256
    } else {
        u64::from(count)
    }
}

fn inquiry(cdb: &[u8; 16]) -> Result<Vec<u8>, Sense> {
    if cdb[1] & 1 == 0 {
        let mut data = vec![0, 0x80, 0x06, 0x02, 31, 0, 0, 0];
        data.extend(b"rusbip  ");
        data.extend(b"test disk       ");
        data.extend(b"1.00");
        return Ok(data);
    }
    match cdb[2] {
        0x00 => Ok(vec![0, 0, 0, 2, 0x00, 0x80]),
        0x80 => Ok(vec![
            0, 0x80, 0, 8, b'0', b'0', b'0', b'0', b'0', b'0', b'0', b'1',
        ]),
        _ => Err(Sense::INVALID_FIELD),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        Disk::new(Medium::memory(64 * BLOCK), false)
    }

    #[test]
    fn what_is_written_is_read() {
        let mut disk = disk();
        let action = disk.command(&[0x2a, 0, 0, 0, 0, 3, 0, 0, 2, 0]).unwrap();
        assert_eq!(
            action,
            Action::Receive {
                at: 3 * BLOCK,
                len: 2 * BLOCK
            }
        );
        let data: Vec<u8> = (0..1024).map(|n| (n % 251) as u8).collect();
        assert!(disk.store(3 * BLOCK, &data));
        for read in [
            &[0x28, 0, 0, 0, 0, 3, 0, 0, 2, 0][..],
            &[0x08, 0, 0, 3, 2, 0],
            &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0],
        ] {
            assert_eq!(disk.command(read), Some(Action::Send(data.clone())));
        }
    }

    #[test]
    fn out_of_range_gives_sense() {
        let mut disk = disk();
        assert_eq!(disk.command(&[0x28, 0, 0, 0, 0, 63, 0, 0, 2, 0]), None);
        let Some(Action::Send(sense)) = disk.command(&[0x03, 0, 0, 0, 18, 0]) else {
            panic!("no sense");
        };
        assert_eq!((sense[2], sense[12]), (5, 0x21));
        assert_eq!(
            disk.command(&[0x28, 0, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]),
            None
        );
    }

    #[test]
    fn capacity() {
        let expected = [0, 0, 0, 63, 0, 0, 2, 0];
        assert_eq!(
            disk().command(&[0x25]),
            Some(Action::Send(expected.to_vec()))
        );
    }

    #[test]
    fn write_protection() {
        let mut disk = Disk::new(Medium::memory(8 * BLOCK), true);
        assert_eq!(disk.command(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0]), None);
    }
}
