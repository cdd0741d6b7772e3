// SPDX-License-Identifier: GPL-3.0-or-later
//! Incremental search: each look costs what came since the last one, plus a bounded look back.

use std::ops::Range;

use memchr::memmem;

use crate::until::ReadUntil;

/// How far a look goes back for the beginning of a regular expression's match.
pub(crate) const REGEX_REACH: u64 = 4096;

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

#[cfg(test)]
mod tests {
    use super::*;

    /// The stream as it grows: one look at each of these lengths, then one at the end.
    fn search(until: &ReadUntil, stream: &[u8], lengths: impl IntoIterator<Item = usize>) -> Option<Hit> {
        let mut searcher = Searcher::new(until);
        let unread = |length, ended| Unread {
            bytes: &stream[..length],
            position: 7,
            cut: false,
            ended,
        };
        let mut found = lengths
            .into_iter()
            .map(|length| searcher.look(&unread(length, false)));
        let found = found.find_map(|hit| hit);
        found.or_else(|| searcher.look_at_all(&unread(stream.len(), true)))
    }

    #[test]
    fn finds_a_needle_split_at_every_position() {
        let stream = b"boot\xff rab rabbit rabbit login: ";
        for until in [
            ReadUntil::from("rabbit login: "),
            ReadUntil::regex("rabbit login: ").unwrap(),
        ] {
            for first in 0..stream.len() {
                for second in first..stream.len() {
                    let hit = search(&until, stream, [first, second, stream.len()]).unwrap();
                    assert_eq!(hit.range, 17..31, "{until} at {first}, {second}");
                }
            }
        }
    }

    #[test]
    fn finds_a_needle_at_both_ends() {
        for until in [ReadUntil::from("abc"), ReadUntil::regex("abc").unwrap()] {
            assert_eq!(search(&until, b"abc", [0, 3]).unwrap().range, 0..3);
            assert_eq!(search(&until, b"abcd", [4]).unwrap().range, 0..3);
            assert_eq!(search(&until, b"xabc", [1, 2, 4]).unwrap().range, 1..4);
            assert_eq!(search(&until, b"xab", [1, 2, 3]), None);
        }
        assert_eq!(search(&ReadUntil::from(""), b"", [0]).unwrap().range, 0..0);
    }

    #[test]
    fn prefers_the_match_that_is_complete_first_and_then_the_longer() {
        let any = |needles: &[&str]| ReadUntil::Any(needles.iter().map(|needle| (*needle).into()).collect());
        let hit = search(&any(&["hello", "hell"]), b"hi hello", [8]).unwrap();
        assert_eq!((hit.index, hit.range), (1, 3..7));
        let hit = search(&any(&["login: ", "Last login: "]), b"Last login: ", [12]).unwrap();
        assert_eq!((hit.index, hit.range), (1, 0..12));
        let end = ReadUntil::Any(vec![ReadUntil::EOF, "# ".into()]);
        assert_eq!(search(&end, b"rabbit # ", [8]).unwrap().index, 1);
        assert_eq!(search(&end, b"rabbit ", [7]).unwrap().index, 0);
    }

    #[test]
    fn finds_a_long_regex_match_only_when_it_looks_at_all() {
        let until = ReadUntil::regex("(?s)BEGIN(.*)END").unwrap();
        let stream = [b"BEGIN".to_vec(), vec![b'x'; 10_000], b"END".to_vec()].concat();
        let mut searcher = Searcher::new(&until);
        let unread = |length: usize| Unread {
            bytes: &stream[..length],
            position: 0,
            cut: false,
            ended: false,
        };
        assert_eq!(searcher.look(&unread(9_000)), None);
        assert!(!searcher.may_find_more());
        assert_eq!(searcher.look(&unread(stream.len())), None);
        assert!(searcher.may_find_more());
        let hit = searcher.look_at_all(&unread(stream.len())).unwrap();
        assert_eq!((hit.range, hit.captures), (0..10_008, vec![Some(5..10_005)]));
    }

    #[test]
    fn goes_on_where_it_was_when_bytes_fall_out_in_front() {
        for until in [ReadUntil::from("needle"), ReadUntil::regex("^?needle").unwrap()] {
            let mut searcher = Searcher::new(&until);
            let look = |searcher: &mut Searcher<'_>, bytes: &[u8], position| {
                searcher.look(&Unread {
                    bytes,
                    position,
                    cut: position > 0,
                    ended: false,
                })
            };
            assert_eq!(look(&mut searcher, b"0123456789nee", 0), None);
            assert_eq!(look(&mut searcher, b"9needle", 9).unwrap().range, 1..7);
        }
    }

    #[test]
    fn anchors_only_where_reading_stopped() {
        let until = ReadUntil::regex("^abc").unwrap();
        let unread = |cut| Unread {
            bytes: b"abc",
            position: 3,
            cut,
            ended: false,
        };
        assert!(Searcher::new(&until).look(&unread(false)).is_some());
        assert!(Searcher::new(&until).look(&unread(true)).is_none());
    }
}
