// SPDX-License-Identifier: GPL-3.0-or-later
//! Incremental search: each look costs what came since the last one, plus a bounded look back.

use std::ops::Range;

use memchr::memmem;

use crate::until::ReadUntil;

/// How far a look goes back for the beginning of a regular expression's match.
const REGEX_REACH: u64 = 4096;

/// The unread part of a stream as it is now.
pub(crate) struct Unread<'a> {
    pub(crate) bytes: &'a [u8],
    /// Where `bytes` begins in the stream.
    pub(crate) position: u64,
    /// Something in front of `bytes` fell out of the window.
    pub(crate) cut: bool,
    pub(crate) ended: bool,
}

/// Where a needle was found, in [`Unread::bytes`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) index: usize,
    pub(crate) range: Range<usize>,
    pub(crate) captures: Vec<Option<Range<usize>>>,
}

/// Looks for a needle in a stream that grows.
pub(crate) struct Searcher<'a> {
    needles: Vec<Needle<'a>>,
}

impl<'a> Searcher<'a> {
    pub(crate) fn new(until: &'a ReadUntil) -> Self {
        let mut needles = Vec::new();
        match until {
            ReadUntil::Any(any) => {
                for (index, until) in any.iter().enumerate() {
                    collect(until, index, &mut needles);
                }
            }
            one => collect(one, 0, &mut needles),
        }
        Self { needles }
    }

    /// The most bytes that one of the needles is sure to need.
    pub(crate) fn longest(&self) -> usize {
        let lengths = self.needles.iter().map(|needle| match &needle.kind {
            Kind::String(finder) => finder.needle().len(),
            Kind::NBytes(count) => *count,
            Kind::Regex(_) | Kind::Eof => 0,
        });
        lengths.max().unwrap_or(0)
    }

    /// Looks at what came since the last look.
    pub(crate) fn look(&mut self, unread: &Unread<'_>) -> Option<Hit> {
        self.look_from(unread, REGEX_REACH)
    }

    /// Looks at everything unread, for regular expressions whose match is longer than a look goes back.
    pub(crate) fn look_at_all(&mut self, unread: &Unread<'_>) -> Option<Hit> {
        self.look_from(unread, u64::MAX)
    }

    /// Whether [`look_at_all`](Self::look_at_all) may find what the last look could not.
    pub(crate) fn may_find_more(&self) -> bool {
        self.needles.iter().any(|needle| needle.skipped)
    }

    fn look_from(&mut self, unread: &Unread<'_>, reach: u64) -> Option<Hit> {
        // The end of the stream comes after every byte, so its needle loses against one that ends with the last byte.
        let complete_first = |hit: &Hit, is_eof: bool| (hit.range.end, is_eof, hit.range.start);
        let hits = self.needles.iter_mut().filter_map(|needle| {
            let hit = needle.look(unread, reach)?;
            Some((complete_first(&hit, matches!(needle.kind, Kind::Eof)), hit))
        });
        hits.min_by_key(|(rank, _)| *rank).map(|(_, hit)| hit)
    }
}

struct Needle<'a> {
    kind: Kind<'a>,
    index: usize,
    /// No match begins before this place of the stream (a regular expression's: of those that a look can see).
    scanned: u64,
    /// The last look left out a part of the unread bytes.
    skipped: bool,
}

enum Kind<'a> {
    String(Box<memmem::Finder<'a>>),
    Regex(&'a regex::bytes::Regex),
    NBytes(usize),
    Eof,
}

fn collect<'a>(until: &'a ReadUntil, index: usize, needles: &mut Vec<Needle<'a>>) {
    let kind = match until {
        ReadUntil::String(text) => Kind::String(Box::new(memmem::Finder::new(text))),
        ReadUntil::Regex(regex) => Kind::Regex(&regex.0),
        ReadUntil::NBytes(count) => Kind::NBytes(*count),
        ReadUntil::EOF => Kind::Eof,
        ReadUntil::Any(any) => return any.iter().for_each(|until| collect(until, index, needles)),
    };
    needles.push(Needle {
        kind,
        index,
        scanned: 0,
        skipped: false,
    });
}

impl Needle<'_> {
    fn look(&mut self, unread: &Unread<'_>, reach: u64) -> Option<Hit> {
        let bytes = unread.bytes;
        let end = unread.position + bytes.len() as u64;
        let mut captures = Vec::new();
        let range = match &self.kind {
            Kind::String(finder) => {
                let from = offset(self.scanned, unread.position);
                let found = finder.find(&bytes[from..]);
                let length = finder.needle().len();
                self.scanned = self.scanned.max((end + 1).saturating_sub(length as u64));
                let start = from + found?;
                start..start + length
            }
            Kind::Regex(regex) => {
                let mut from = offset(self.scanned.saturating_sub(reach), unread.position);
                self.skipped = from > 0;
                if unread.cut && from == 0 {
                    // `^` would match where the window begins, which is nowhere in particular.
                    from = bytes.len().min(1);
                }
                self.scanned = end;
                let found = regex.captures_at(bytes, from)?;
                captures.extend(found.iter().skip(1).map(|group| group.map(|group| group.range())));
                found.get(0)?.range()
            }
            Kind::NBytes(count) => (bytes.len() >= *count).then_some(0..*count)?,
            Kind::Eof => unread.ended.then_some(0..bytes.len())?,
        };
        Some(Hit {
            index: self.index,
            range,
            captures,
        })
    }
}

fn offset(place: u64, position: u64) -> usize {
    usize::try_from(place.saturating_sub(position)).unwrap_or(usize::MAX)
}
