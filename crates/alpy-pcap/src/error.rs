// SPDX-License-Identifier: GPL-3.0-or-later
//! What can go wrong while a capture is read.

use std::io;

/// Why a capture cannot be read.
///
/// `origin` is the path of the file, or the name that was given to [`Reader::new`](crate::Reader::new). Offsets are in bytes from
/// the beginning of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be opened.
    #[error("{origin}: cannot open the capture")]
    Open {
        /// What was being read.
        origin: String,
        /// What the system said.
        source: io::Error,
    },
    /// The source of bytes failed.
    #[error("{origin}: cannot read the capture at byte {offset}")]
    Read {
        /// What was being read.
        origin: String,
        /// Where the failed read began.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The file is something else than a classic pcap file of Ethernet frames.
    #[error(
        "{origin}: not a classic pcap file of ethernet frames: byte {offset}: expected {expected}, found {found}"
    )]
    Foreign {
        /// What was being read.
        origin: String,
        /// The first byte of the offending field.
        offset: u64,
        /// What belongs there.
        expected: &'static str,
        /// What is there, in words.
        found: String,
    },
    /// The bytes end within the file header or within a record, as they do while the file is being written.
    #[error("{origin}: byte {offset}: the capture ends {have} bytes into {part} of {need} bytes")]
    Torn {
        /// What was being read.
        origin: String,
        /// Where the torn part begins.
        offset: u64,
        /// The torn part: the file header, a record header, or a record.
        part: &'static str,
        /// How many bytes of it there are.
        have: usize,
        /// How many it should have.
        need: usize,
    },
    /// A record header holds what no writer of captures puts there.
    #[error("{origin}: byte {offset}: damaged record: {found}")]
    Damaged {
        /// What was being read.
        origin: String,
        /// Where the record begins.
        offset: u64,
        /// The impossible value, in words.
        found: String,
    },
}

impl Error {
    /// Whether the capture merely ends early: more bytes may come while the file is being written.
    pub fn is_torn(&self) -> bool {
        matches!(self, Self::Torn { .. })
    }
}
