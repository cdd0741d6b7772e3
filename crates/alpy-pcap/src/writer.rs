// SPDX-License-Identifier: GPL-3.0-or-later
//! Frames into a stream of bytes.

use std::io::{self, Write};

use crate::Frame;
use crate::format::{file_header, record_header};

/// Writes frames as a classic pcap, with times in nanoseconds.
///
/// Each frame takes two writes: give it a [`BufWriter`](std::io::BufWriter) where that matters.
///
/// ```
/// use std::time::Duration;
///
/// use alpy_pcap::{Frame, Reader, Writer};
///
/// let mut file = Vec::new();
/// let mut writer = Writer::new(&mut file)?;
/// writer.write(&Frame::new(Duration::from_secs(1), &[0xff; 60][..]))?;
/// let mut reader = Reader::new(&file[..], "memory")?;
/// assert_eq!(reader.next_frame()?.map(|frame| frame.bytes().len()), Some(60));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Writer<W>(W);

impl<W: Write> Writer<W> {
    /// Writes the header of the file.
    ///
    /// # Errors
    /// What `output` says.
    pub fn new(mut output: W) -> io::Result<Self> {
        output.write_all(&file_header())?;
        Ok(Self(output))
    }

    /// Writes a frame. One that is longer than a record can be, 262,144 bytes, no reader takes.
    ///
    /// # Errors
    /// What the output says. A part of the record may be written.
    pub fn write(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        self.0.write_all(&record_header(frame))?;
        self.0.write_all(frame.bytes())
    }
}
