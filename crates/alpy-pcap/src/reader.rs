// SPDX-License-Identifier: GPL-3.0-or-later
//! Frames from a stream of bytes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use crate::format::{FILE_HEADER_LEN, Format, RECORD_HEADER_LEN, RecordHeader};
use crate::{Error, Frame};

/// How much is read at once. It exceeds the longest sane record, so that the buffer never grows.
const BUFFER_LEN: usize = 512 * 1024;

/// Reads the frames of a capture one after another, without copying them.
///
/// ```no_run
/// let mut reader = alpy_pcap::Reader::open("link0.pcap")?;
/// let mut bytes = 0;
/// while let Some(frame) = reader.next_frame()? {
///     bytes += u64::from(frame.original_len());
/// }
/// # Ok::<_, alpy_pcap::Error>(())
/// ```
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    origin: String,
    format: Format,
    buffer: Box<[u8]>,
    /// The part of the buffer that was read and not yet given out.
    unread: Range<usize>,
    /// Where in the file `unread` begins.
    offset: u64,
}

impl Reader<File> {
    /// Opens a capture file and reads its header. It has to be a regular file: others, such as a pipe, may never end, or not even open.
    /// [`Reader::new`] reads a stream.
    ///
    /// # Errors
    /// [`Error::Open`]; else as [`Reader::new`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let origin = path.display().to_string();
        let open = || {
            let kind = std::fs::metadata(path)?.file_type();
            match kind.is_file() || kind.is_dir() {
                true => File::open(path),
                false => Err(io::Error::other("it is not a regular file")),
            }
        };
        match open() {
            Ok(file) => Self::new(file, origin),
            Err(source) => Err(Error::Open { origin, source }),
        }
    }

    /// How long the file is now, in bytes.
    #[cfg(feature = "live")]
    pub(crate) fn file_length(&self) -> Result<u64, Error> {
        let length = self.source.metadata().map(|file| file.len());
        length.map_err(|source| Error::Read {
            origin: self.origin.clone(),
            offset: self.offset,
            source,
        })
    }

    /// Goes on at an offset at which a record begins.
    pub(crate) fn skip_to(&mut self, offset: u64) -> Result<(), Error> {
        self.source
            .seek(SeekFrom::Start(offset))
            .map_err(|source| Error::Read {
                origin: self.origin.clone(),
                offset,
                source,
            })?;
        self.unread = 0..0;
        self.offset = offset;
        Ok(())
    }
}

impl<R: Read> Reader<R> {
    /// Reads the file header from `source`; errors will call it `origin`.
    ///
    /// # Errors
    /// [`Error::Foreign`] if this is no classic pcap of Ethernet frames, [`Error::Torn`] if it ends within the header, and
    /// [`Error::Read`].
    pub fn new(source: R, origin: impl Into<String>) -> Result<Self, Error> {
        let mut reader = Self {
            source,
            origin: origin.into(),
            format: Format::default(),
            buffer: vec![0; BUFFER_LEN].into_boxed_slice(),
            unread: 0..0,
            offset: 0,
        };
        while reader.unread.len() < FILE_HEADER_LEN && reader.refill()? {}
        match Format::parse(reader.unread_bytes()) {
            Ok(Some(format)) => reader.format = format,
            Ok(None) => return Err(reader.torn("a file header", FILE_HEADER_LEN)),
            Err(mismatch) => {
                return Err(Error::Foreign {
                    origin: reader.origin,
                    offset: mismatch.offset,
                    expected: mismatch.expected,
                    found: mismatch.found,
                });
            }
        }
        reader.consume(FILE_HEADER_LEN);
        Ok(reader)
    }

    /// The next frame, or none at the end of the capture.
    ///
    /// None and [`Error::Torn`] lose nothing: if the source has more bytes later, as a file that is being written has, the next
    /// call gives what they complete.
    ///
    /// # Errors
    /// [`Error::Torn`] if the source ends within a record; [`Error::Damaged`] if what should be a record cannot be one, and then
    /// so will each further call; [`Error::Read`].
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, Error> {
        let record = match self.format.whole_record(self.unread_bytes()) {
            Some(record) => record,
            None => match self.read_record()? {
                Some(record) => record,
                None => return Ok(None),
            },
        };
        let start = self.unread.start + RECORD_HEADER_LEN;
        self.consume(record.len());
        let end = self.unread.start;
        Ok(Some(Frame::captured(
            record.timestamp,
            record.original_len,
            &self.buffer[start..end],
        )))
    }

    /// Whether the next frame is there in whole: [`next_frame`](Self::next_frame) then neither waits nor fails.
    #[cfg(feature = "live")]
    pub(crate) fn has_frame(&mut self) -> Result<bool, Error> {
        if self.format.whole_record(self.unread_bytes()).is_some() {
            return Ok(true);
        }
        match self.read_record() {
            Ok(record) => Ok(record.is_some()),
            Err(error) if error.is_torn() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Where the next record begins, in bytes from the beginning of the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads until the next record is in the buffer; none if the source ends before it begins.
    #[cold]
    fn read_record(&mut self) -> Result<Option<RecordHeader>, Error> {
        loop {
            let head = self.unread_bytes().first_chunk();
            let record = match head.map(|head| self.format.record(head)).transpose() {
                Ok(Some(record)) if record.len() <= self.unread.len() => return Ok(Some(record)),
                Ok(record) => record,
                Err(found) => return Err(self.damaged(found)),
            };
            if self.refill()? {
                continue;
            }
            return match record {
                Some(record) => Err(self.torn("a record", record.len())),
                None if self.unread.is_empty() => Ok(None),
                None => Err(self.torn("a record header", RECORD_HEADER_LEN)),
            };
        }
    }

    /// Reads once; false at the end of the source.
    fn refill(&mut self) -> Result<bool, Error> {
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        loop {
            match self.source.read(&mut self.buffer[self.unread.end..]) {
                Ok(count) => {
                    self.unread.end += count;
                    return Ok(count > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let offset = self.offset + self.unread.len() as u64;
                    return Err(Error::Read {
                        origin: self.origin.clone(),
                        offset,
                        source,
                    });
                }
            }
        }
    }

    #[inline]
    fn unread_bytes(&self) -> &[u8] {
        &self.buffer[self.unread.clone()]
    }

    #[inline]
    fn consume(&mut self, count: usize) {
        self.unread.start += count;
        self.offset += count as u64;
    }

    fn torn(&self, part: &'static str, need: usize) -> Error {
        let have = self.unread.len();
        Error::Torn {
            origin: self.origin.clone(),
            offset: self.offset,
            part,
            have,
            need,
        }
    }

    fn damaged(&self, found: String) -> Error {
        Error::Damaged {
            origin: self.origin.clone(),
            offset: self.offset,
            found,
        }
    }
}
