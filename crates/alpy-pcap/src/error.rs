// SPDX-License-Identifier: GPL-3.0-or-later
//! What can go wrong while a capture is read.

use std::io;
#[cfg(feature = "live")]
use std::panic::Location;
use std::time::Duration;

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
    /// A mark was used with another capture than the one it was made in.
    #[error("{origin}: the mark {mark:?} is one of {of}")]
    ForeignMark {
        /// What was to be read.
        origin: String,
        /// The name of the mark.
        mark: String,
        /// The capture that it was made in.
        of: String,
    },
    /// The time that merging was given is up.
    #[error("{origin}: out of time after {frames} frames")]
    Late {
        /// What was being read or written.
        origin: String,
        /// How many frames of it.
        frames: u64,
    },
    /// A file cannot be written.
    #[error("{path}: cannot write the captures")]
    Write {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A capture cannot be divided into intervals of this length.
    #[error(
        "{origin}: {length:?} is no length for intervals: more than 0, and such that there are a million of them at most"
    )]
    Intervals {
        /// What was being read.
        origin: String,
        /// The length that was asked for.
        length: Duration,
    },
    /// A frame that was expected did not come.
    #[cfg(feature = "live")]
    #[error(
        "{origin}: expected a frame as asked for at {asked} within {}, saw {looked_at} others{}",
        waited_text(*.within, *.waited), lines(last, *.since_start)
    )]
    Unseen {
        /// What was being read.
        origin: String,
        /// Where in the test it was asked for.
        asked: &'static Location<'static>,
        /// How long it was waited for.
        within: Duration,
        /// The wall time that passed. It is longer if the capture's timer did not count all of it.
        waited: Duration,
        /// How many frames there were.
        looked_at: usize,
        /// The last of them, at most 20, in tcpdump's manner.
        last: Vec<String>,
        /// Whether their times are seconds since [`Capture::clock_start`](crate::Capture::clock_start).
        since_start: bool,
    },
    /// A frame came that must not.
    #[cfg(feature = "live")]
    #[error(
        "{origin}: expected no frame as asked for at {asked}, saw {packet}{}",
        lines(last, *.since_start)
    )]
    Seen {
        /// What was being read.
        origin: String,
        /// Where in the test it was asked for.
        asked: &'static Location<'static>,
        /// The frame, in tcpdump's manner.
        packet: String,
        /// The last frames of the capture, at most 20.
        last: Vec<String>,
        /// Whether the times are seconds since [`Capture::clock_start`](crate::Capture::clock_start).
        since_start: bool,
    },
    /// What a capture is streamed to takes no more.
    #[cfg(feature = "live")]
    #[error("{origin}: cannot stream the capture")]
    Stream {
        /// What was being read.
        origin: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be followed as it grows.
    #[cfg(feature = "live")]
    #[error("{origin}: cannot follow the capture")]
    Follow {
        /// What was to be read.
        origin: String,
        /// What the system said.
        source: io::Error,
    },
}

#[cfg(feature = "live")]
fn waited_text(within: Duration, waited: Duration) -> String {
    let not_counted = waited.saturating_sub(within);
    if not_counted > within / 20 + Duration::from_millis(500) {
        let (all, not_counted) = (waited.as_secs_f64(), not_counted.as_secs_f64());
        format!(
            "{within:?} ({all:.1} s passed; for {not_counted:.1} s of them the host kept the machines from running)"
        )
    } else {
        format!("{within:?}")
    }
}

/// Frames, each in a line of its own.
#[cfg(feature = "live")]
fn lines(frames: &[String], since_start: bool) -> String {
    if frames.is_empty() {
        return String::new();
    }
    let clock = match since_start {
        true => ", with seconds since the run began",
        false => "",
    };
    format!("; the last frames{clock}:\n  {}", frames.join("\n  "))
}

impl Error {
    /// Whether the capture merely ends early: more bytes may come while the file is being written.
    pub fn is_torn(&self) -> bool {
        matches!(self, Self::Torn { .. })
    }
}
