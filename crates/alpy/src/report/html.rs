// SPDX-License-Identifier: GPL-3.0-or-later
//! Text in HTML. Whatever comes out of a machine or a container goes through [`text`] on its way into the report.

use std::fmt;

/// How many characters of a line are shown.
const LINE: usize = 400;

/// Text, to be written into an element or into an attribute in double quotes. It can end neither, and what it shows is what it is:
/// characters that are not seen, or that turn others around, are shown as escapes.
pub(super) fn text(text: &str) -> Text<'_> {
    Text(text)
}

/// A line of text of which the beginning is shown, with how much more there is.
pub(super) fn line(text: &str) -> Line<'_> {
    Line(text)
}

/// See [`text`].
pub(super) struct Text<'a>(&'a str);

/// See [`line`].
pub(super) struct Line<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut plain = 0;
        for (at, character) in self.0.char_indices() {
            let escape = match character {
                '&' => "&amp;",
                '<' => "&lt;",
                '>' => "&gt;",
                '"' => "&quot;",
                '\'' => "&#39;",
                '\n' | '\t' => continue,
                _ if is_unseen(character) => "",
                _ => continue,
            };
            f.write_str(&self.0[plain..at])?;
            plain = at + character.len_utf8();
            match character {
                _ if !escape.is_empty() => f.write_str(escape)?,
                '\0'..='\x7f' => write!(f, "\\x{:02x}", u32::from(character))?,
                _ => write!(f, "\\u{{{:x}}}", u32::from(character))?,
            }
        }
        f.write_str(&self.0[plain..])
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.chars().count();
        let Some(more @ 1..) = count.checked_sub(LINE) else {
            return text(self.0).fmt(f);
        };
        // What a line ends with says as much as what it begins with.
        let place = |character| {
            self.0
                .char_indices()
                .nth(character)
                .map_or(self.0.len(), |(at, _)| at)
        };
        let (begin, end) = (&self.0[..place(LINE / 2)], &self.0[place(count - LINE / 2)..]);
        write!(f, "{} ({more} characters more) {}", text(begin), text(end))
    }
}

/// Control characters, those that change the direction of text, and those without any width.
fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{200b}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff0}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
        // Not characters at all.
        || (u32::from(character) & 0xfffe) == 0xfffe
}

/// A number of bytes for people.
pub(super) fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{} kB", count / 1000),
        _ => format!("{} MB", count / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_neither_an_element_nor_an_attribute() {
        let hostile = "</script><img src=x onerror=\"alert(1)\"> &lt; 'x' `";
        assert_eq!(
            text(hostile).to_string(),
            "&lt;/script&gt;&lt;img src=x onerror=&quot;alert(1)&quot;&gt; &amp;lt; &#39;x&#39; `"
        );
    }

    #[test]
    fn what_cannot_be_seen_is_shown() {
        for (hidden, shown) in [
            ("a\0b\x1b[31m\x7f\r\n\tc", "a\\x00b\\x1b[31m\\x7f\\x0d\n\tc"),
            ("\u{9b}", "\\u{9b}"),
            (
                "user\u{202e}txt.exe\u{2069}\u{200f}",
                "user\\u{202e}txt.exe\\u{2069}\\u{200f}",
            ),
            (
                "\u{feff}\u{200b}\u{fffe}\u{1ffff}",
                "\\u{feff}\\u{200b}\\u{fffe}\\u{1ffff}",
            ),
            ("\u{e0041}", "\\u{e0041}"),
            ("grün 水 🐇 👩‍🚀 \u{fffd}", "grün 水 🐇 👩‍🚀 \u{fffd}"),
        ] {
            assert_eq!(text(hidden).to_string(), shown);
        }
    }

    #[test]
    fn no_character_ends_an_element_or_is_lost() {
        for character in '\0'..=char::MAX {
            let source = character.to_string();
            let escaped = text(&source).to_string();
            let harmless = !escaped.contains(['<', '>', '"', '\'', '\0']) && !escaped.is_empty();
            assert!(harmless, "{character:?} became {escaped:?}");
        }
    }

    #[test]
    fn of_a_long_line_the_middle_is_left_out() {
        let long = format!("<{}>", "ü".repeat(1_000_000));
        let shown = line(&long).to_string();
        assert!(shown.len() < 2 * LINE + 50, "{}", shown.len());
        assert!(shown.contains("ü (999602 characters more) ü"), "{shown}");
        assert!(shown.starts_with("&lt;") && shown.ends_with("&gt;"), "{shown}");
        assert_eq!(line("short").to_string(), "short");
    }
}
