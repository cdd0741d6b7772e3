// SPDX-License-Identifier: GPL-3.0-or-later
//! What to wait for, in rexpect's words, and what was found.

use std::borrow::Cow;
use std::fmt;

use crate::Error;

/// What to read until: the needles of rexpect under the names they have there.
///
/// The type is alpy's own and not `rexpect::ReadUntil`, for three reasons: that one's regular expression works on `str`, while
/// a console carries bytes; it cannot be cloned, so a shell cannot keep its prompt; and a new version of rexpect would be a new
/// version of every signature here.
///
/// `"login: "` and `String`s convert by themselves, so `console.expect("login: ", deadline)` reads well.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ReadUntil {
    /// This text, byte for byte. Note that lines end with `\r\n` on a terminal.
    String(String),
    /// The first match of this pattern in what has come so far; see [`Regex`].
    Regex(Regex),
    /// Exactly this many bytes; they are the match, and nothing is before it.
    NBytes(usize),
    /// The end of the stream; all that was unread is the match, and nothing is before it.
    EOF,
    /// The one of these whose match is complete first in the stream, so that the answer does not depend on how the bytes
    /// were split on their way. Of two that end at the same byte, the longer.
    Any(Vec<ReadUntil>),
}

impl ReadUntil {
    /// A needle from a pattern, in the syntax of the `regex` crate.
    ///
    /// # Errors
    /// [`Error::Regex`] if the pattern is none.
    pub fn regex(pattern: &str) -> Result<Self, Error> {
        Regex::new(pattern).map(Self::Regex)
    }
}

impl From<&str> for ReadUntil {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for ReadUntil {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<Regex> for ReadUntil {
    fn from(regex: Regex) -> Self {
        Self::Regex(regex)
    }
}

impl fmt::Display for ReadUntil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(text) => write!(f, "{text:?}"),
            Self::Regex(Regex(_, Some(text))) => write!(f, "{text:?}"),
            Self::Regex(Regex(regex, None)) => write!(f, "a match of /{}/", regex.as_str()),
            Self::NBytes(count) => write!(f, "{count} bytes"),
            Self::EOF => write!(f, "the end of the stream"),
            Self::Any(needles) => {
                f.write_str(if needles.len() == 1 { "" } else { "any of " })?;
                for (index, needle) in needles.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(f, "{separator}{needle}")?;
                }
                Ok(())
            }
        }
    }
}

/// A regular expression over the bytes of a console, in the syntax of the `regex` crate.
///
/// - `.` and classes mean Unicode characters in UTF-8; `(?-u:\xff)` means a byte.
/// - `^` is where reading stopped last and `$` is the end of what has come so far; `(?m)` makes them mean lines.
/// - A pattern is tried whenever bytes come, so let it end with something definite: `\d+` is content with the first digit of a
///   number, `(\d+)\r` waits for all of it.
/// - While bytes keep coming, a match of up to 4 KiB is found at once. A longer one is found when the stream pauses for 50 ms
///   or ends, so that a flood costs no more than to look at each byte a few times.
#[derive(Clone, Debug)]
pub struct Regex(
    pub(crate) regex::bytes::Regex,
    /// The text that a pattern of alpy's own stands for.
    Option<String>,
);

impl Regex {
    /// In an error, it is this text.
    pub(crate) fn standing_for(self, text: &str) -> Self {
        Self(self.0, Some(text.to_owned()))
    }

    /// Compiles a pattern.
    ///
    /// # Errors
    /// [`Error::Regex`] if the pattern is none.
    pub fn new(pattern: &str) -> Result<Self, Error> {
        regex::bytes::Regex::new(pattern)
            .map(|regex| Self(regex, None))
            .map_err(|source| Error::Regex {
                pattern: pattern.to_owned(),
                source: source.into(),
            })
    }
}

/// What [`Console::expect`](crate::Console::expect) found: the bytes, and views of them as text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Match {
    /// What came since the last read and before the match.
    pub before: Vec<u8>,
    /// What matched.
    pub matched: Vec<u8>,
    /// The groups of a regular expression: `captures[0]` is the first pair of parentheses; `None` where it took no part.
    pub captures: Vec<Option<Vec<u8>>>,
    /// Which needle of [`ReadUntil::Any`] it was, counted from 0; 0 for every other needle.
    pub index: usize,
    /// Bytes in front of `before` that fell out of the window unread, see
    /// [`Builder::window_bytes`](crate::Builder::window_bytes). The transcript has them.
    pub dropped: u64,
}

impl Match {
    /// [`before`](Self::before) as text; bytes that are not UTF-8 become U+FFFD.
    pub fn before_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.before)
    }

    /// [`matched`](Self::matched) as text; bytes that are not UTF-8 become U+FFFD.
    pub fn matched_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.matched)
    }

    /// Group `group` of a regular expression as text, counted from 1 as in the pattern; `None` if it took no part or is none.
    pub fn group_text(&self, group: usize) -> Option<Cow<'_, str>> {
        let bytes = self.captures.get(group.checked_sub(1)?)?.as_ref()?;
        Some(String::from_utf8_lossy(bytes))
    }
}
