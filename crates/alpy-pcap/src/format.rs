// SPDX-License-Identifier: GPL-3.0-or-later
//! The layout of a classic pcap file, as draft-ietf-opsawg-pcap describes it.

use std::time::Duration;

/// The length of the file header.
pub(crate) const FILE_HEADER_LEN: usize = 24;
/// The length of the header of a record.
pub(crate) const RECORD_HEADER_LEN: usize = 16;
/// The longest frame that a sane record holds: libpcap's MAXIMUM_SNAPLEN.
pub(crate) const MAX_CAPTURED_LEN: u32 = 262_144;

const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const LINK_TYPE_ETHERNET: u32 = 1;

/// What the magic number of a file says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Format {
    big_endian: bool,
    nanoseconds: bool,
}

/// The header of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecordHeader {
    pub(crate) timestamp: Duration,
    pub(crate) captured_len: u32,
    pub(crate) original_len: u32,
}

impl RecordHeader {
    /// The length of the whole record in bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        RECORD_HEADER_LEN + self.captured_len as usize
    }
}

/// A field of the file header that is not as it should be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) offset: u64,
    pub(crate) expected: &'static str,
    pub(crate) found: String,
}

/// The header of a file in this crate's own layout: little-endian, nanoseconds.
pub(crate) fn file_header() -> [u8; FILE_HEADER_LEN] {
    let mut header = [0; FILE_HEADER_LEN];
    header[..4].copy_from_slice(&NANOSECONDS.to_le_bytes());
    header[4] = 2;
    header[6] = 4;
    header[16..20].copy_from_slice(&MAX_CAPTURED_LEN.to_le_bytes());
    header[20..].copy_from_slice(&LINK_TYPE_ETHERNET.to_le_bytes());
    header
}

/// The header of a record in that layout.
pub(crate) fn record_header(frame: &crate::Frame<'_>) -> [u8; RECORD_HEADER_LEN] {
    let timestamp = frame.timestamp();
    let fields = [
        u32::try_from(timestamp.as_secs()).unwrap_or(u32::MAX),
        timestamp.subsec_nanos(),
        frame.bytes().len() as u32,
        frame.original_len(),
    ];
    let mut header = [0; RECORD_HEADER_LEN];
    for (to, field) in header.chunks_exact_mut(4).zip(fields) {
        to.copy_from_slice(&field.to_le_bytes());
    }
    header
}

impl Format {
    const ALL: [(Self, [u8; 4]); 4] = [
        (
            Self {
                big_endian: false,
                nanoseconds: false,
            },
            MICROSECONDS.to_le_bytes(),
        ),
        (
            Self {
                big_endian: true,
                nanoseconds: false,
            },
            MICROSECONDS.to_be_bytes(),
        ),
        (
            Self {
                big_endian: false,
                nanoseconds: true,
            },
            NANOSECONDS.to_le_bytes(),
        ),
        (
            Self {
                big_endian: true,
                nanoseconds: true,
            },
            NANOSECONDS.to_be_bytes(),
        ),
    ];

    /// Reads the file header, or as much of it as there is: none if it is right so far, but not whole.
    pub(crate) fn parse(head: &[u8]) -> Result<Option<Self>, Mismatch> {
        let known = Self::ALL
            .into_iter()
            .find(|(_, magic)| magic.starts_with(&head[..head.len().min(4)]));
        let Some((format, _)) = known else {
            return Err(Mismatch {
                offset: 0,
                expected: "a magic number",
                found: describe(head),
            });
        };
        let Some(head) = head.first_chunk::<FILE_HEADER_LEN>() else {
            return Ok(None);
        };
        let (major, minor) = (format.u16(head, 4), format.u16(head, 6));
        if (major, minor) != (2, 4) {
            return Err(Mismatch {
                offset: 4,
                expected: "version 2.4",
                found: format!("{major}.{minor}"),
            });
        }
        let link_type = format.u32(head, 20);
        if link_type != LINK_TYPE_ETHERNET {
            return Err(Mismatch {
                offset: 20,
                expected: "link type 1 (ethernet)",
                found: link_type.to_string(),
            });
        }
        Ok(Some(format))
    }

    /// Reads the header of a record; an error names the impossible value in it.
    #[inline]
    pub(crate) fn record(self, head: &[u8; RECORD_HEADER_LEN]) -> Result<RecordHeader, String> {
        let fraction = self.u32(head, 4);
        let (limit, nanos) = if self.nanoseconds {
            (1_000_000_000, 1)
        } else {
            (1_000_000, 1000)
        };
        let captured_len = self.u32(head, 8);
        let original_len = self.u32(head, 12);
        if captured_len > MAX_CAPTURED_LEN || captured_len > original_len || fraction >= limit {
            return Err(complaint(captured_len, original_len, fraction, limit));
        }
        let timestamp = Duration::new(self.u32(head, 0).into(), fraction * nanos);
        Ok(RecordHeader {
            timestamp,
            captured_len,
            original_len,
        })
    }

    /// Reads the header of the record that the bytes begin with; none if they end within the record, or if it can be none.
    #[inline]
    pub(crate) fn whole_record(self, bytes: &[u8]) -> Option<RecordHeader> {
        let record = self.record(bytes.first_chunk()?).ok()?;
        (record.len() <= bytes.len()).then_some(record)
    }

    #[inline]
    fn u16<const N: usize>(self, bytes: &[u8; N], at: usize) -> u16 {
        let field = [bytes[at], bytes[at + 1]];
        if self.big_endian {
            u16::from_be_bytes(field)
        } else {
            u16::from_le_bytes(field)
        }
    }

    #[inline]
    fn u32<const N: usize>(self, bytes: &[u8; N], at: usize) -> u32 {
        let field = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        if self.big_endian {
            u32::from_be_bytes(field)
        } else {
            u32::from_le_bytes(field)
        }
    }
}

#[cold]
fn complaint(captured_len: u32, original_len: u32, fraction: u32, limit: u32) -> String {
    if captured_len > MAX_CAPTURED_LEN {
        format!("{captured_len} bytes captured, more than the {MAX_CAPTURED_LEN} that can be")
    } else if captured_len > original_len {
        format!("{captured_len} bytes captured of a frame of {original_len}")
    } else {
        format!("a fraction of {fraction}/{limit} of a second")
    }
}

/// Says in words what a file is that begins with `head`.
fn describe(head: &[u8]) -> String {
    let first = &head[..head.len().min(16)];
    let kind = match head {
        [0x0a, 0x0d, 0x0d, 0x0a, ..] => "pcapng (`tcpdump -r` reads it, and `-w` writes classic pcap)",
        [0xa1, 0xb2, 0xcd, 0x34, ..] | [0x34, 0xcd, 0xb2, 0xa1, ..] => "pcap with Kuznetzov's record headers",
        [0x1f, 0x8b, ..] => "gzip data",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd data",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz data",
        _ if first
            .iter()
            .all(|byte| matches!(byte, b' '..=b'~' | b'\t' | b'\r' | b'\n')) =>
        {
            "text"
        }
        _ => "unknown data",
    };
    format!("{kind}: \"{}\"", first.escape_ascii())
}
