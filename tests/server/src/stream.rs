// SPDX-License-Identifier: GPL-2.0

//! Buffered ends of a stream socket: many small PDUs per system call, large data without a copy.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, Read, Write};

use usbip_protocol::wire::{HeaderBytes, HEADER_LEN};

use crate::device::Payload;

/// Size of the input buffer; data that does not fit is read straight into its place.
const BUFFER: usize = 256 << 10;

/// Payloads up to this size are copied behind their header instead of getting their own IoSlice.
const GATHER: usize = 1024;

/// Output is written out when this much has collected, even if more input is waiting.
const FLUSH: usize = 1 << 20;

/// The receiving end.
pub struct Input {
    file: File,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Input {
    /// Reads from `file`, which must be a blocking stream socket.
    pub fn new(file: File) -> Self {
        Self {
            file,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// Whether there is no complete header in the buffer: the next read may block.
    pub fn is_drained(&self) -> bool {
        self.end - self.start < HEADER_LEN
    }

    fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        if self.buffer.len() - self.start < wanted {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        while self.end - self.start < wanted {
            match self.file.read(&mut self.buffer[self.end..]) {
                Ok(0) if self.end == self.start => return Ok(false),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(got) => self.end += got,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The next header; [`None`] at a clean end of the stream.
    ///
    /// # Errors
    ///
    /// A broken connection, or one that ends inside the header.
    pub fn header(&mut self) -> io::Result<Option<HeaderBytes>> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if !self.fill(HEADER_LEN)? {
            return Ok(None);
        }
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(&self.buffer[self.start..self.start + HEADER_LEN]);
        self.start += HEADER_LEN;
        Ok(Some(header))
    }

    /// Exactly `len` bytes.
    ///
    /// # Errors
    ///
    /// The connection ends before.
    pub fn bytes(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut out = vec![0; len];
        let have = len.min(self.end - self.start);
        out[..have].copy_from_slice(&self.buffer[self.start..self.start + have]);
        self.start += have;
        self.file.read_exact(&mut out[have..])?;
        Ok(out)
    }

    /// Reads `len` bytes and forgets them.
    ///
    /// # Errors
    ///
    /// The connection ends before.
    pub fn discard(&mut self, len: usize) -> io::Result<()> {
        let mut left = len;
        loop {
            let have = left.min(self.end - self.start);
            self.start += have;
            left -= have;
            if left == 0 {
                return Ok(());
            }
            (self.start, self.end) = (0, 0);
            self.fill(1)?
                .then_some(())
                .ok_or(ErrorKind::UnexpectedEof)?;
        }
    }
}

enum Segment {
    /// Bytes `..end` of the gathered small ones, from where the previous segment of this kind ended.
    Small(usize),
    Large(Payload),
}

/// The sending end: collects PDUs and writes them with as few system calls as possible.
pub struct Output {
    file: File,
    small: Vec<u8>,
    segments: Vec<Segment>,
    pending: usize,
    /// Bytes per write, to imitate peers with tiny segments.
    pub segment: Option<usize>,
}

impl Output {
    /// Writes to `file`, which must be a blocking stream socket.
    pub fn new(file: File) -> Self {
        Self {
            file,
            small: Vec::new(),
            segments: Vec::new(),
            pending: 0,
            segment: None,
        }
    }

    /// Adds bytes that are copied.
    pub fn push(&mut self, bytes: &[u8]) {
        self.small.extend_from_slice(bytes);
        self.pending += bytes.len();
        let end = self.small.len();
        match self.segments.last_mut() {
            Some(Segment::Small(last)) => *last = end,
            _ => self.segments.push(Segment::Small(end)),
        }
    }

    /// Adds a payload.
    pub fn push_payload(&mut self, payload: Payload) {
        let len = payload.as_slice().len();
        if len <= GATHER {
            self.push(payload.as_slice());
        } else {
            self.pending += len;
            self.segments.push(Segment::Large(payload));
        }
    }

    /// Whether enough has collected to write it out now.
    pub fn is_full(&self) -> bool {
        self.pending >= FLUSH
    }

    /// Writes everything out.
    ///
    /// # Errors
    ///
    /// A broken connection. What was collected is lost.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.pending == 0 {
            return Ok(());
        }
        let mut start = 0;
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(self.segments.len());
        for segment in &self.segments {
            match segment {
                Segment::Small(end) => {
                    slices.push(IoSlice::new(&self.small[start..*end]));
                    start = *end;
                }
                Segment::Large(payload) => slices.push(IoSlice::new(payload.as_slice())),
            }
        }
        let result = match self.segment {
            None => write_all(&mut self.file, &mut slices),
            Some(size) => slices
                .iter()
                .flat_map(|slice| slice.chunks(size))
                .try_for_each(|chunk| self.file.write_all(chunk)),
        };
        self.small.clear();
        self.segments.clear();
        self.pending = 0;
        result
    }
}

/// `Write::write_all_vectored`, which is not stable yet.
fn write_all(file: &mut File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    /// `UIO_MAXIOV` of Linux.
    const MAX: usize = 1024;
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let count = slices.len().min(MAX);
        match file.write_vectored(&slices[..count]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(done) => IoSlice::advance_slices(&mut slices, done),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    fn pair() -> (File, File) {
        let (a, b) = UnixStream::pair().unwrap();
        (File::from(OwnedFd::from(a)), File::from(OwnedFd::from(b)))
    }

    #[test]
    fn input_survives_any_segmentation() {
        let sent: Vec<u8> = (0..3 * (HEADER_LEN + 5)).map(|n| n as u8).collect();
        for step in [1, 7, HEADER_LEN, sent.len()] {
            let (mut tx, rx) = pair();
            let mut input = Input::new(rx);
            let copy = sent.clone();
            let writer = std::thread::spawn(move || {
                copy.chunks(step)
                    .for_each(|chunk| tx.write_all(chunk).unwrap());
            });
            for part in sent.chunks(HEADER_LEN + 5) {
                assert_eq!(input.header().unwrap().unwrap()[..], part[..HEADER_LEN]);
                assert_eq!(input.bytes(2).unwrap(), part[HEADER_LEN..HEADER_LEN + 2]);
                input.discard(3).unwrap();
            }
            assert!(input.header().unwrap().is_none());
            writer.join().unwrap();
        }
    }

    #[test]
    fn input_refuses_a_torn_header() {
        let (mut tx, rx) = pair();
        tx.write_all(&[0; HEADER_LEN - 1]).unwrap();
        drop(tx);
        let error = Input::new(rx).header().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn output_keeps_order() {
        static LARGE: [u8; 3000] = [3; 3000];
        let (tx, mut rx) = pair();
        let mut output = Output::new(tx);
        for _ in 0..600 {
            output.push(&[1, 2]);
            output.push_payload(Payload::Static(&LARGE));
            output.push_payload(Payload::Owned(vec![4; 9]));
        }
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            rx.read_to_end(&mut all).unwrap();
            all
        });
        output.flush().unwrap();
        drop(output);
        let mut one = vec![1, 2];
        one.extend(LARGE);
        one.extend([4; 9]);
        assert_eq!(reader.join().unwrap(), one.repeat(600));
    }
}
