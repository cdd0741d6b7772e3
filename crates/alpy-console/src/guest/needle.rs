// SPDX-License-Identifier: GPL-3.0-or-later
//! Texts of a guest, found through what a terminal and a kernel put between their characters.

use crate::{ReadUntil, Regex};

/// A sequence of ECMA-48 that sets colours, asks for the cursor or names the window; and a message of Linux' kernel with its time.
const NOISE: &str = concat!(
    r"(?-u:",
    r"\x1b\[[0-?]*[ -/]*[@-~]",
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)",
    r"|\x1b[()][0-~]|\x1b[=>78]",
    r"|\[ *[0-9]+\.[0-9]+\][^\n]*\n",
    r")*"
);

/// What finds this text, whatever is between its characters.
pub(crate) fn needle(text: &str) -> ReadUntil {
    ReadUntil::Regex(compiled(&pattern(text)).standing_for(text))
}

/// What finds this text where nothing but noise comes behind it.
pub(crate) fn last(text: &str) -> Regex {
    let pattern = format!("{}{NOISE}[ ]*{NOISE}$", pattern(text.trim_end()));
    compiled(&pattern).standing_for(text)
}

/// The bytes without noise.
pub(crate) fn plain(bytes: &[u8]) -> Vec<u8> {
    compiled(NOISE).0.replace_all(bytes, &b""[..]).into_owned()
}

/// At the right edge of the terminal, a line editor makes the cursor go to the next line before it goes on. In the POSIX locale,
/// readline prints the next character, `\r`, and this character once more; elsewhere others print a space and `\r`.
fn pattern(text: &str) -> String {
    let mut pattern = String::new();
    for (index, character) in text.chars().enumerate() {
        let character = regex::escape(character.encode_utf8(&mut [0; 4]));
        if index > 0 {
            pattern += &format!("{NOISE}(?:(?:{character}| )\\r)?{NOISE}");
        }
        pattern += &character;
    }
    pattern
}

fn compiled(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a literal text with noise is a pattern of moderate size")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(text: &str, stream: &str) -> bool {
        let ReadUntil::Regex(regex) = needle(text) else {
            panic!("it is a pattern");
        };
        regex.0.is_match(stream.as_bytes())
    }

    #[test]
    fn finds_a_text_through_colours_and_kernel_messages() {
        for stream in [
            "login: ",
            "\x1b[1mlog\x1b[0;31min\x1b[0m:\x1b[6n ",
            "lo[   12.345678] eth0: Link is Up\r\ngin: ",
            "login:[ 1.0] a\r\n[  1.1][    T1] b: c\r\n ",
            "\x1b]0;title\x07l\x1b(Bogin: ",
            "log \rin:\x1b[K \r ",
            "logi\rin: ",
        ] {
            assert!(finds("login: ", stream), "{stream:?}");
        }
        for stream in [
            "lo\r\ngin: ",
            "lo\rgin: ",
            "log\rog\rgin: ",
            "lo[  OK  ] Started.\r\ngin: ",
            "logon: ",
        ] {
            assert!(!finds("login: ", stream), "{stream:?}");
        }
        assert!(finds("(a+) [x].*?", "(a+) [x].*?"));
    }

    #[test]
    fn an_error_says_the_text_and_not_its_pattern() {
        let one = ReadUntil::Any(vec![ReadUntil::from(last("iPXE> "))]);
        assert_eq!(one.to_string(), "\"iPXE> \"");
        let two = ReadUntil::Any(vec![needle("login: "), needle("panic")]);
        assert_eq!(two.to_string(), "any of \"login: \", \"panic\"");
    }

    #[test]
    fn knows_what_is_last() {
        for (stream, is_last) in [
            ("\r\nrabbit login: ", true),
            ("login: \x1b[6n", true),
            ("login: [ 1.0] eth0: up\r\n", true),
            ("Last login: Mon Nov 25", false),
            ("login: root", false),
        ] {
            assert_eq!(
                last("login: ").0.is_match(stream.as_bytes()),
                is_last,
                "{stream:?}"
            );
        }
    }

    #[test]
    fn takes_noise_away() {
        assert_eq!(
            plain(b"\x1b[1;33mShell>\x1b[0m \xffls[ 1.0] up\r\n."),
            b"Shell> \xffls."
        );
    }
}
