// SPDX-License-Identifier: GPL-3.0-or-later
//! What a program that draws a whole screen has said, as the setup of firmware does: it has no lines, but places.

use std::borrow::Cow;

const BACKSPACE: u8 = 0x08;

/// The same text in lines: one ends where the cursor moves to another place than behind the last character, or to the right of it. Colours are
/// gone, and so are blank lines, with which such a program clears its screen, and what a backspace has wiped away. What moves no cursor stays as
/// it is.
pub(crate) fn in_lines(bytes: &[u8]) -> Cow<'_, [u8]> {
    if !moves_cursor(bytes) {
        return Cow::Borrowed(bytes);
    }
    let mut lines = Lines::default();
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        rest = match Sequence::at(rest) {
            Some((sequence, after)) => {
                lines.obey(&sequence);
                after
            }
            None => {
                lines.print(*first);
                after
            }
        };
    }
    lines.end();
    Cow::Owned(lines.text)
}

fn moves_cursor(bytes: &[u8]) -> bool {
    if bytes.contains(&BACKSPACE) {
        return true;
    }
    let starts = (0..bytes.len()).filter(|at| bytes[*at] == 0x1b);
    let mut sequences = starts.filter_map(|at| Sequence::at(&bytes[at..]));
    sequences.any(|(sequence, _)| sequence.place().is_some())
}

/// A control sequence of ECMA-48: parameters, and what to do with them.
struct Sequence<'a> {
    parameters: &'a [u8],
    function: u8,
}

impl<'a> Sequence<'a> {
    /// The sequence that the bytes begin with, and what is behind it.
    fn at(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let body = bytes.strip_prefix(b"\x1b[")?;
        let length = body.iter().position(|byte| !(0x20..=0x3f).contains(byte))?;
        let (parameters, after) = body.split_at(length);
        let (function, after) = after.split_first()?;
        let sequence = Self {
            parameters,
            function: *function,
        };
        (0x40..=0x7e).contains(function).then_some((sequence, after))
    }

    /// Row and column that the cursor is moved to, if they are named.
    fn place(&self) -> Option<(usize, usize)> {
        let (row, column) = std::str::from_utf8(self.parameters).ok()?.split_once(';')?;
        let place = || Some((row.parse().ok()?, column.parse().ok()?));
        place().filter(|_| matches!(self.function, b'H' | b'f'))
    }
}

#[derive(Default)]
struct Lines {
    text: Vec<u8>,
    /// Where the last line begins.
    start: usize,
    /// Where the cursor is, by the last sequence and what was printed since.
    row: usize,
    column: usize,
}

impl Lines {
    fn obey(&mut self, sequence: &Sequence<'_>) {
        if let Some((row, column)) = sequence.place() {
            if row == self.row && column >= self.column {
                self.text.resize(self.text.len() + column - self.column, b' ');
            } else {
                self.end();
            }
            (self.row, self.column) = (row, column);
        }
    }

    fn print(&mut self, byte: u8) {
        match byte {
            b'\r' => {}
            BACKSPACE => self.wipe(),
            b'\n' => {
                self.end();
                (self.row, self.column) = (self.row + 1, 1);
            }
            _ => {
                self.text.push(byte);
                // A character has one first byte.
                self.column += usize::from(byte & 0xc0 != 0x80);
            }
        }
    }

    /// Takes the last character of the line away.
    fn wipe(&mut self) {
        while self.text.len() > self.start {
            let byte = self.text.pop();
            if byte.is_some_and(|byte| byte & 0xc0 != 0x80) {
                self.column = self.column.saturating_sub(1);
                return;
            }
        }
    }

    fn end(&mut self) {
        let line = self.text[self.start..].trim_ascii_end().len();
        self.text.truncate(self.start + line);
        if line > 0 {
            self.text.push(b'\n');
        }
        self.start = self.text.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> String {
        String::from_utf8(in_lines(bytes).into_owned()).unwrap()
    }

    #[test]
    fn texts_at_places_are_lines() {
        // As OVMF draws its menu.
        let menu = b"\x1b[2J\x1b[01;01H\x1b[0m\x1b[37m\x1b[40m\x1b[01;01H        \x1b[02;01H        \x1b[10;01H   \x1b[10;02H>\
            \x1b[10;04HDevice Manager\x1b[0m\x1b[30m\x1b[47m   \x1b[11;01H   \x1b[11;02H>\x1b[11;04HBoot Manager   \
            \x1b[08;58HThis selection will    \x1b[09;58Htake you to the        \x1b[10;58HDevice Manager    ";
        let text = "> Device Manager\n> Boot Manager\nThis selection will\ntake you to the\nDevice Manager\n";
        assert_eq!(lines(menu), text);
    }

    #[test]
    fn what_is_typed_at_its_place_stays_one_line() {
        let echo = b"\x1b[06;01H\x1b[1m\x1b[33m\x1b[40mShell> \x1b[0m\x1b[37m\x1b[40m\x1b[06;08Hv\x1b[06;09H\x1b[06;09He\
            \x1b[06;10H\x1b[06;10Hr\x1b[06;11H\r\nEDK II\r\n";
        assert_eq!(lines(echo), "Shell> ver\nEDK II\n");
        assert_eq!(lines("\x1b[1;1Hgrün\x1b[1;5H.".as_bytes()), "grün.\n");
    }

    #[test]
    fn what_was_wiped_away_is_gone() {
        // As iPXE counts down.
        let countdown = "in 2\x08 \x08".to_owned() + &"\x08 \x08".repeat(3) + "ü\x08iPXE> ";
        assert_eq!(lines(countdown.as_bytes()), "iPXE>\n");
    }

    #[test]
    fn what_moves_no_cursor_is_as_it_was() {
        for plain in [
            &b"\x1b[1mlogin:\x1b[0m \x1b[6n\r\n\r\n"[..],
            b"\x1b[H\x1b[1;",
            b"a [1;1H",
        ] {
            assert_eq!(*in_lines(plain), *plain);
        }
    }
}
