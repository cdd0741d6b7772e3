// SPDX-License-Identifier: GPL-3.0-or-later
//! What holds of the window and the matcher whatever comes: one oracle for the fuzzer and for the property tests below.

use std::collections::VecDeque;
use std::iter;
use std::ops::Range;

use crate::ReadUntil;
use crate::matcher::{Hit, REGEX_REACH, Searcher, Unread};
use crate::window::Window;

/// Needles may end in an assertion that looks at what follows, so a match this much shorter than a look's reach is sure to be
/// found.
const SLACK: usize = 8;
/// Patterns that match nothing at the end of what was read would do so for ever.
const MOST_HITS: usize = 100;

/// One byte of a match each, whatever comes before and after it.
const DEFINITE: [&str; 12] = [
    "a",
    "b",
    "(a)",
    "[ab]",
    "(a|b)",
    "(?:a|(b))",
    r"\n",
    r"\r",
    r"(?-u:\xc3)",
    "(?-u:[^b])",
    "(?s-u:.)",
    r"\x20",
];

/// The others: repeated, optional, anchored, or of more than one byte.
const LOOSE: [&str; 20] = [
    "a*",
    "b+",
    "b+?",
    "(a?)",
    "|",
    "^",
    "$",
    "(?m:^)",
    "(?m:$)",
    r"(?-u:\b)",
    r"(?-u:\B)",
    r"\z",
    r"\A",
    ".",
    "é",
    "(?s:.*)",
    "(?s:.*?)",
    r"\s{2,3}",
    "(a|ab)(b|)",
    r"[^\n]+",
];

/// What a needle was found as: its index, its place in the stream, and the places of its groups.
pub type Found = (usize, Range<u64>, Vec<Option<Range<u64>>>);

/// A pattern, valid whatever is chosen. A definite one is found at the same place however the stream is cut.
pub fn pattern(choices: &[u8], definite: bool) -> String {
    let parts = choices.iter().map(|&choice| {
        let choice = usize::from(choice);
        match choice.checked_sub(DEFINITE.len()) {
            Some(loose) if !definite => LOOSE[loose % LOOSE.len()],
            _ => DEFINITE[choice % DEFINITE.len()],
        }
    });
    parts.collect()
}

/// Reads all of a stream with one needle after another, and compares each look with a plain search in all that is unread.
///
/// The stream comes in pieces of these lengths and then the rest; a piece of no length is a pause. The window keeps `limit`
/// bytes.
pub fn matcher(until: &ReadUntil, stream: &[u8], pieces: &[usize], limit: usize) -> Vec<Found> {
    let mut window = Window::new(limit);
    let mut searcher = Searcher::new(until);
    let mut found = Vec::new();
    let mut rest = stream;
    let mut pieces = pieces.iter().copied().chain(iter::once(usize::MAX));
    let (mut paused, mut ended) = (false, false);
    loop {
        let unread = Unread {
            bytes: window.unread(),
            position: window.position(),
            cut: window.dropped() > 0,
            ended,
        };
        if let Some(hit) = look(until, &mut searcher, &unread, paused || ended) {
            let end = hit.range.end;
            let in_stream = |range: Range<usize>| {
                unread.position + range.start as u64..unread.position + range.end as u64
            };
            let captures = hit.captures.into_iter().map(|group| group.map(in_stream));
            found.push((hit.index, in_stream(hit.range), captures.collect()));
            if end == 0 || found.len() == MOST_HITS {
                return found;
            }
            window.take(end);
            searcher = Searcher::new(until);
            continue;
        }
        if ended {
            return found;
        }
        match pieces.next() {
            Some(length) => {
                let (piece, later) = rest.split_at(length.min(rest.len()));
                window.push(piece);
                (paused, rest) = (piece.is_empty(), later);
            }
            None => ended = true,
        }
    }
}

/// The answer is the same however the stream is cut. For needles of text, lengths, the end, and definite patterns; others may
/// match more once more has come.
pub fn matcher_is_indifferent_to_cuts(until: &ReadUntil, stream: &[u8], pieces: &[usize]) {
    let at_once = matcher(until, stream, &[], usize::MAX);
    assert_eq!(
        matcher(until, stream, pieces, usize::MAX),
        at_once,
        "{until} in pieces of {pieces:?}"
    );
    // Not all of a long one: the plain search begins anew with each byte.
    let bytewise = vec![1; stream.len().min(500)];
    assert_eq!(
        matcher(until, stream, &bytewise, usize::MAX),
        at_once,
        "{until} byte by byte"
    );
}

/// The window holds the newest bytes, each once and in order, and knows what it lost.
///
/// A step brings that many bytes, or reads that many of those there are.
pub fn window(limit: usize, steps: &[Step]) {
    let mut window = Window::new(limit);
    let mut model = VecDeque::new();
    let (mut came, mut dropped) = (0_u64, 0_u64);
    for &step in steps {
        match step {
            Step::Come(length) => {
                // No two places that are near each other have the same bytes around them.
                let chunk = (came..came + length as u64).map(|at| (at ^ (at >> 8).wrapping_mul(0x9d)) as u8);
                let chunk: Vec<u8> = chunk.collect();
                window.push(&chunk);
                came += length as u64;
                model.extend(chunk);
                let excess = model.len().saturating_sub(limit);
                model.drain(..excess);
                dropped += excess as u64;
            }
            Step::Read(length) => {
                let length = length.min(model.len());
                let read: Vec<u8> = model.drain(..length).collect();
                assert_eq!(window.take(length), (read, dropped));
                dropped = 0;
            }
        }
        assert_eq!(window.unread(), model.make_contiguous());
        assert_eq!(window.position() + model.len() as u64, came);
        assert_eq!((window.dropped(), window.limit()), (dropped, limit));
        let (held, most) = (window.capacity(), limit.saturating_mul(3));
        assert!(held <= most, "{held} bytes of memory for a window of {limit}");
    }
}

/// What happens to a window.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// So many bytes come.
    Come(usize),
    /// So many bytes are read, or all if there are fewer.
    Read(usize),
}

/// One look, which must find what a search in everything unread finds.
fn look(until: &ReadUntil, searcher: &mut Searcher<'_>, unread: &Unread<'_>, at_all: bool) -> Option<Hit> {
    let mut all = Vec::new();
    search(until, None, unread, &mut all);
    let is_in_reach = all
        .iter()
        .all(|(_, hit, is_regex)| !is_regex || hit.range.len() + SLACK <= REGEX_REACH as usize);
    let expected = all
        .into_iter()
        .min_by_key(|(is_eof, hit, _)| (hit.range.end, *is_eof, hit.range.start))
        .map(|(_, hit, _)| hit);
    let bytes = unread.bytes.len();
    if at_all {
        let found = searcher.look_at_all(unread);
        assert_eq!(found, expected, "{until} in all of {bytes} bytes");
        return found;
    }
    let found = searcher.look(unread);
    if is_in_reach {
        assert_eq!(found, expected, "{until} in {bytes} bytes");
    } else if found.is_none() {
        assert!(searcher.may_find_more(), "{until}, whose match is long");
    }
    found
}

/// Every needle's first match: whether the needle is the end, the match, and whether the needle is a pattern.
fn search(until: &ReadUntil, index: Option<usize>, unread: &Unread<'_>, all: &mut Vec<(bool, Hit, bool)>) {
    let bytes = unread.bytes;
    let mut captures = Vec::new();
    let range = match until {
        ReadUntil::Any(any) => {
            for (place, until) in any.iter().enumerate() {
                search(until, index.or(Some(place)), unread, all);
            }
            None
        }
        ReadUntil::String(text) if text.is_empty() => Some(0..0),
        ReadUntil::String(text) => {
            let mut places = bytes.windows(text.len());
            let found = places.position(|place| place == text.as_bytes());
            found.map(|start| start..start + text.len())
        }
        ReadUntil::Regex(regex) => {
            // The first byte of a window that lost some is not the beginning of anything.
            let from = if unread.cut { bytes.len().min(1) } else { 0 };
            regex.0.captures_at(bytes, from).map(|groups| {
                captures.extend(
                    groups
                        .iter()
                        .skip(1)
                        .map(|group| group.map(|group| group.range())),
                );
                groups.get_match().range()
            })
        }
        ReadUntil::NBytes(count) => (bytes.len() >= *count).then_some(0..*count),
        ReadUntil::EOF => unread.ended.then_some(0..bytes.len()),
    };
    if let Some(range) = range {
        let index = index.unwrap_or(0);
        let hit = Hit {
            index,
            range,
            captures,
        };
        let (is_eof, is_regex) = (
            matches!(until, ReadUntil::EOF),
            matches!(until, ReadUntil::Regex(_)),
        );
        all.push((is_eof, hit, is_regex));
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    /// The same cases in each run; the fuzzer is there to find others.
    fn cases(cases: u32) -> ProptestConfig {
        ProptestConfig {
            cases,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(0x5eed),
            ..ProptestConfig::default()
        }
    }

    fn text() -> impl Strategy<Value = String> {
        vec(prop::sample::select(&['a', 'b', 'b', '\n', 'é'][..]), 0..5).prop_map(String::from_iter)
    }

    fn needle(definite: bool) -> impl Strategy<Value = ReadUntil> {
        let pattern = vec(any::<u8>(), 1..6).prop_map(move |choices| pattern(&choices, definite));
        let one = prop_oneof![
            3 => text().prop_map(ReadUntil::from),
            3 => pattern.prop_map(|pattern| ReadUntil::regex(&pattern).unwrap()),
            1 => (0..40_usize).prop_map(ReadUntil::NBytes),
            1 => Just(ReadUntil::EOF),
        ];
        one.prop_recursive(2, 8, 4, |needle| vec(needle, 0..5).prop_map(ReadUntil::Any))
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        vec(prop::sample::select(&b"ab\n\xc3\xa9\r "[..]), 0..80)
    }

    /// One that is longer than a look reaches back.
    fn long_stream() -> impl Strategy<Value = Vec<u8>> {
        let run = (
            prop::sample::select(&b"ab\n "[..]),
            prop_oneof![1..4_usize, 1000..3000_usize],
        );
        vec(run, 1..8).prop_map(|runs| {
            let runs = runs.into_iter().map(|(byte, length)| vec![byte; length]);
            runs.collect::<Vec<_>>().concat()
        })
    }

    proptest! {
        #![proptest_config(cases(700))]

        #[test]
        fn finds_what_a_plain_search_finds(
            until in needle(false),
            stream in stream(),
            pieces in vec(0..12_usize, 0..20),
            limit in prop_oneof![4..40_usize, Just(usize::MAX)],
        ) {
            matcher(&until, &stream, &pieces, limit);
        }

        #[test]
        fn gives_the_same_answer_however_the_stream_is_cut(
            until in needle(true),
            stream in stream(),
            pieces in vec(0..12_usize, 0..20),
        ) {
            matcher_is_indifferent_to_cuts(&until, &stream, &pieces);
        }

        #[test]
        fn keeps_the_newest_bytes_and_no_more(
            limit in 0..300_usize,
            steps in vec(prop_oneof![(0..400_usize).prop_map(Step::Come), (0..400_usize).prop_map(Step::Read)], 0..60),
        ) {
            window(limit, &steps);
        }
    }

    proptest! {
        #![proptest_config(cases(60))]

        #[test]
        fn finds_what_a_plain_search_finds_in_a_flood(
            until in needle(false),
            stream in long_stream(),
            pieces in vec(prop_oneof![0..5_usize, 500..4000_usize], 0..12),
            limit in prop_oneof![Just(5000_usize), Just(usize::MAX)],
        ) {
            matcher(&until, &stream, &pieces, limit);
        }

        #[test]
        fn finds_a_match_that_is_longer_than_a_look_reaches_back(
            between in prop::sample::select(&["(?s:.*)", "((?s:.*?))", "[^\n]+", "a*"][..]),
            length in 3900..9000_usize,
            pieces in vec(500..5000_usize, 0..4),
            behind in 0..20_usize,
        ) {
            let until = ReadUntil::regex(&format!("x{between}b")).unwrap();
            let stream = [b"ax".to_vec(), vec![b'a'; length], b"b".to_vec(), vec![b'a'; behind]].concat();
            let found = matcher(&until, &stream, &pieces, usize::MAX);
            assert_eq!(found[0].1, 1..(length + 3) as u64);
        }
    }
}
