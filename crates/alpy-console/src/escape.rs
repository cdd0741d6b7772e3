// SPDX-License-Identifier: GPL-3.0-or-later
//! Bytes of a terminal as text that any terminal shows safely.

use std::borrow::Cow;
use std::io::Write;

use crate::screen::in_lines;

/// All of `bytes` as text: see [`Escaper`].
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(bytes.len());
    let mut escaper = Escaper::default();
    escaper.push(bytes, &mut text);
    escaper.finish(&mut text);
    String::from_utf8(text).expect("what is not UTF-8 is escaped")
}

/// The last `count` lines of `bytes` as text; a line that comes again and again counts once. Of a program that draws a whole screen, the last
/// `count` texts. Escape sequences are shown: a text is not found where one is within it.
pub(crate) fn last_lines(bytes: &[u8], count: usize) -> String {
    let text = escaped(&in_lines(bytes));
    let lines: Vec<&str> = text.lines().collect();
    let runs: Vec<_> = lines.chunk_by(|one, next| one == next).collect();
    let last = &runs[runs.len().saturating_sub(count)..];
    let shown = last.iter().map(|run| match (run[0], run.len()) {
        ("", _) => String::new(),
        (line, 1) => shortened(line).into_owned(),
        (line, times) => format!("{} ({times} times)", shortened(line)),
    });
    shown.collect::<Vec<_>>().join("\n")
}

/// A line without its middle if it is long: what it ends with says as much as what it begins with.
pub(crate) fn shortened(line: &str) -> Cow<'_, str> {
    const LONGEST: usize = 400;
    let count = line.chars().count();
    let Some(more @ 1..) = count.checked_sub(LONGEST) else {
        return Cow::Borrowed(line);
    };
    let begin: String = line.chars().take(LONGEST / 2).collect();
    let end: String = line.chars().skip(count - LONGEST / 2).collect();
    Cow::Owned(format!("{begin} ({more} characters more) {end}"))
}

/// Turns a stream into text: `\r\n` and `\n` become a line's end, tabs and printable characters stay, a backslash is doubled,
/// everything else is shown as `\r`, `\x1b`, `\u{9b}`. A character or a `\r\n` that is split between two pushes stays whole.
///
/// The text is UTF-8, and is bytes because it is for a file: that spares a check of all of it.
#[derive(Default)]
pub(crate) struct Escaper {
    held: Vec<u8>,
}

impl Escaper {
    /// Appends the text of the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8], text: &mut Vec<u8>) {
        let mut rest = Cow::Borrowed(bytes);
        if !self.held.is_empty() {
            let mut joined = std::mem::take(&mut self.held);
            joined.extend_from_slice(bytes);
            rest = Cow::Owned(joined);
        }
        let mut rest = &rest[..];
        while !rest.is_empty() {
            let (run, special) = rest.split_at(plain_length(rest));
            text.extend_from_slice(run);
            rest = match special {
                [] => special,
                [b'\r', b'\n', ..] => &special[1..],
                [b'\r'] => self.hold(special),
                [b'\\', after @ ..] => {
                    text.extend_from_slice(b"\\\\");
                    after
                }
                [0x80..=0xff, ..] => self.push_not_ascii(special, text),
                [control, after @ ..] => {
                    push_byte(*control, text);
                    after
                }
            };
        }
    }

    /// Appends what was held back, as the escapes it turned out to be.
    pub(crate) fn finish(&mut self, text: &mut Vec<u8>) {
        for byte in self.held.drain(..) {
            push_byte(byte, text);
        }
    }

    fn hold<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        self.held.extend_from_slice(bytes);
        &[]
    }

    fn push_not_ascii<'a>(&mut self, bytes: &'a [u8], text: &mut Vec<u8>) -> &'a [u8] {
        let length = bytes.iter().position(u8::is_ascii).unwrap_or(bytes.len());
        let (run, after) = bytes.split_at(length);
        for chunk in run.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() {
                    write!(text, "{}", character.escape_unicode()).expect("memory takes it");
                } else {
                    text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
            let invalid = chunk.invalid();
            let incomplete = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if incomplete && is_last(bytes, invalid) {
                return self.hold(invalid);
            }
            invalid.iter().for_each(|byte| push_byte(*byte, text));
        }
        after
    }
}

/// Whether `part` of `whole` is its end.
fn is_last(whole: &[u8], part: &[u8]) -> bool {
    whole.as_ptr_range().end == part.as_ptr_range().end
}

/// How many bytes from the start are plain. Whole blocks first: a compiler makes vector instructions of that.
fn plain_length(bytes: &[u8]) -> usize {
    let blocks = bytes.chunks_exact(16);
    let plain = |block: &[u8]| block.iter().fold(true, |plain, byte| plain & is_plain(*byte));
    let start = 16 * blocks.take_while(|block| plain(block)).count();
    let rest = bytes[start..].iter().position(|byte| !is_plain(*byte));
    rest.map_or(bytes.len(), |length| start + length)
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\n' | b'\t') && byte != b'\\'
}

fn push_byte(byte: u8, text: &mut Vec<u8>) {
    match byte {
        b'\r' => text.extend_from_slice(b"\\r"),
        byte => write!(text, "\\x{byte:02x}").expect("memory takes it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_a_line_that_comes_again_and_again_once() {
        let text = b"Give root password\r\n\r\n\r\n(initramfs) \r\n(initramfs) \r\n(initramfs) \r\na\r\n(initramfs) ";
        let lines = "Give root password\n\n(initramfs)  (3 times)\na\n(initramfs) ";
        assert_eq!(last_lines(text, 10), lines);
        assert_eq!(last_lines(text, 3), lines.split_once("\n\n").unwrap().1);
        assert_eq!(last_lines(b"", 3), "");
    }

    #[test]
    fn a_line_without_an_end_is_shortened() {
        let long = format!("<{}>\nshort", "ü".repeat(30_000));
        let shown = last_lines(long.as_bytes(), 5);
        assert!(shown.len() < 1000, "{}", shown.len());
        assert!(shown.starts_with("<ü") && shown.ends_with("ü>\nshort"), "{shown}");
        assert!(shown.contains(" (29602 characters more) "), "{shown}");
    }

    #[test]
    fn shows_what_is_printable_and_escapes_the_rest() {
        for (bytes, text) in [
            (&b"a b\tc\r\nd\ne"[..], "a b\tc\nd\ne"),
            (b"a\rb\r\r\nc\r", "a\\rb\\r\nc\\r"),
            (b"\x1b[31mred\x1b[0m\x00\x7f", "\\x1b[31mred\\x1b[0m\\x00\\x7f"),
            ("grün 水 🐇".as_bytes(), "grün 水 🐇"),
            ("\u{9b}".as_bytes(), "\\u{9b}"),
            (b"caf\xe9 \xf0\x9f\x90", "caf\\xe9 \\xf0\\x9f\\x90"),
            (b"\xc3\xc3\xbc\xff", "\\xc3ü\\xff"),
            (b"C:\\x1b", "C:\\\\x1b"),
        ] {
            assert_eq!(escaped(bytes), text);
        }
    }

    #[test]
    fn shows_the_same_however_the_stream_is_split() {
        let stream = "a\r\nb\rü水🐇\u{9b}\\\r\r\n".as_bytes();
        let stream = [stream, b"\xe6\xb0x\xf0\x9f\xff\r", stream, b"\xe6\xb0"].concat();
        for first in 0..stream.len() {
            for second in first..stream.len() {
                let mut escaper = Escaper::default();
                let mut text = Vec::new();
                for chunk in [&stream[..first], &stream[first..second], &stream[second..]] {
                    escaper.push(chunk, &mut text);
                }
                escaper.finish(&mut text);
                assert_eq!(text, escaped(&stream).as_bytes(), "at {first}, {second}");
            }
        }
    }
}
