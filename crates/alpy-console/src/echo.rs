// SPDX-License-Identifier: GPL-3.0-or-later
//! Takes what alpy types at a shell for itself, and its echo, out of what a person reads.
//!
//! `console.raw` has every byte. Here a line goes that is an echo, a mark or a prompt of alpy's own; whatever else comes in the middle, such as
//! a message of the kernel, stays.

use crate::guest::needle::plain;

/// How much of what was typed is known. The far end acknowledges each 2 KiB of a content.
const TYPED: usize = 16 << 10;
/// A line that is longer is no echo: what alpy types at once is shorter.
const LONGEST: usize = 8 << 10;
/// How many prompts and other texts are known.
const TEXTS: usize = 16;

/// What is to be shown.
#[derive(Debug, PartialEq)]
pub(crate) enum Shown {
    Received(Vec<u8>),
    /// A command has ended with this code.
    Code(String),
}

/// The filter of one console.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    state: State,
    held: Vec<u8>,
    /// What was typed last.
    typed: Vec<u8>,
    /// Texts that are no line of their own, such as a prompt.
    texts: Vec<Vec<u8>>,
}

#[derive(Debug, Default)]
enum State {
    /// What comes is the guest's own.
    #[default]
    Idle,
    /// Lines are an echo or belong to a dialogue of alpy's.
    Typing,
    /// The same, until the output of a command begins: so many times it says so.
    Command { id: String, begins: usize },
    /// The output of a command, until its end.
    Output { id: String },
    /// The rest of the line that marks the end of a command.
    LineEnd,
}

impl Echo {
    /// Has a text taken out wherever it comes, such as a prompt of alpy's.
    pub(crate) fn hide(&mut self, text: &str) {
        if self.texts.len() == TEXTS {
            self.texts.remove(0);
        }
        self.texts.push(text.into());
    }

    /// What alpy types from here on is not shown, nor its echo.
    pub(crate) fn begin_typing(&mut self) -> Vec<Shown> {
        self.enter(State::Typing)
    }

    /// The same for a command, whose output begins where the far end has said so for the last of so many times.
    pub(crate) fn begin_command(&mut self, id: &str, begins: usize) -> Vec<Shown> {
        let id = id.to_owned();
        self.enter(State::Command { id, begins })
    }

    /// The dialogue is over.
    pub(crate) fn end_typing(&mut self) -> Vec<Shown> {
        self.enter(State::Idle)
    }

    pub(crate) fn is_typing(&self) -> bool {
        matches!(self.state, State::Typing)
    }

    /// What alpy has typed.
    pub(crate) fn typed(&mut self, bytes: &[u8]) {
        self.typed.extend_from_slice(bytes);
        let old = self.typed.len().saturating_sub(TYPED);
        self.typed.drain(..old);
    }

    /// What of these bytes is to be shown now.
    pub(crate) fn received(&mut self, bytes: &[u8]) -> Vec<Shown> {
        let mut shown = Vec::new();
        self.held.extend_from_slice(bytes);
        loop {
            let before = self.held.len();
            match std::mem::take(&mut self.state) {
                State::Idle => self.idle(&mut shown),
                State::Typing => {
                    self.state = State::Typing;
                    self.lines(&mut shown);
                }
                State::Command { id, begins } => self.command(id, begins, &mut shown),
                State::Output { id } => self.output(id, &mut shown),
                State::LineEnd => self.line_end(),
            }
            if self.held.is_empty() || self.held.len() == before {
                return shown;
            }
        }
    }

    /// What was held back and may be told of in an error.
    pub(crate) fn pending(&self) -> Vec<u8> {
        match &self.state {
            State::Idle if self.texts.iter().any(|text| text.starts_with(&self.held)) => Vec::new(),
            State::Idle | State::Output { .. } => self.held.clone(),
            State::Typing | State::Command { .. } => self.foreign(&self.held).unwrap_or_default(),
            State::LineEnd => Vec::new(),
        }
    }

    fn enter(&mut self, state: State) -> Vec<Shown> {
        let pending = self.pending();
        self.held.clear();
        self.state = state;
        received(pending)
    }

    fn idle(&mut self, shown: &mut Vec<Shown>) {
        let bytes = std::mem::take(&mut self.held);
        if self.texts.is_empty() {
            shown.extend(received(bytes));
            return;
        }
        let mut own = Vec::with_capacity(bytes.len());
        let mut rest = &bytes[..];
        loop {
            let found = self.texts.iter().filter_map(|text| {
                let at = memchr::memmem::find(rest, text)?;
                Some((at, std::cmp::Reverse(text.len())))
            });
            let Some((at, std::cmp::Reverse(length))) = found.min() else {
                break;
            };
            own.extend_from_slice(&rest[..at]);
            rest = &rest[at..];
            // The longest of those that match: one may begin as another one.
            if self.is_begun(rest) {
                break;
            }
            rest = &rest[length..];
        }
        let longest = self.texts.iter().map(Vec::len).max().unwrap_or(0);
        let ends = rest.len().saturating_sub(longest)..rest.len();
        let begun = ends.into_iter().find(|at| self.is_begun(&rest[*at..]));
        let (plain, held) = rest.split_at(begun.unwrap_or(rest.len()));
        own.extend_from_slice(plain);
        self.held = held.to_vec();
        shown.extend(received(own));
    }

    /// Whether this may be the beginning of a text.
    fn is_begun(&self, bytes: &[u8]) -> bool {
        let mut texts = self.texts.iter();
        texts.any(|text| text.len() > bytes.len() && text.starts_with(bytes))
    }

    fn command(&mut self, id: String, begins: usize, shown: &mut Vec<Shown>) {
        let begin = format!("<{id}|");
        let end = format!("|{id}>");
        self.state = State::Command {
            id: id.clone(),
            begins,
        };
        while !self.ends(&end, shown) {
            let Some(line) = self.next_line() else { return };
            let text = line.trim_ascii_end();
            if text.ends_with(begin.as_bytes()) {
                self.state = match begins {
                    0 | 1 => State::Output { id },
                    _ => State::Command {
                        id,
                        begins: begins - 1,
                    },
                };
                return;
            }
            shown.extend(self.foreign(&line).map(Shown::Received));
        }
    }

    /// Takes the end mark of a command whose output never began, for example because a file could not be opened.
    fn ends(&mut self, end: &str, shown: &mut Vec<Shown>) -> bool {
        let rest = self.held.strip_prefix(end.as_bytes());
        let Some(dot) = rest.and_then(|rest| rest.iter().position(|byte| *byte == b'.')) else {
            return false;
        };
        self.end_with(0, end.len(), dot, shown);
        true
    }

    /// Ends the command: output up to `at`, then the mark of length `mark`, then the code, `dot` bytes long, and a dot.
    fn end_with(&mut self, at: usize, mark: usize, dot: usize, shown: &mut Vec<Shown>) {
        let code = String::from_utf8_lossy(&self.held[at + mark..][..dot]).into_owned();
        let output = self.held[..at].strip_suffix(b"\r").unwrap_or(&self.held[..at]);
        shown.extend(received(output.to_vec()));
        shown.push(Shown::Code(code));
        self.held.drain(..=at + mark + dot);
        // The next command may begin before the rest of this line has arrived.
        self.state = State::LineEnd;
    }

    fn line_end(&mut self) {
        let returns = self.held.iter().take_while(|byte| **byte == b'\r').count();
        self.state = match self.held.get(returns) {
            Some(b'\n') => {
                self.held.drain(..=returns);
                State::Idle
            }
            Some(_) => State::Idle,
            None => State::LineEnd,
        };
    }

    fn output(&mut self, id: String, shown: &mut Vec<Shown>) {
        let end = format!("\n|{id}>");
        if let Some(at) = memchr::memmem::find(&self.held, end.as_bytes()) {
            let rest = &self.held[at + end.len()..];
            match rest.iter().position(|byte| *byte == b'.') {
                Some(dot) => self.end_with(at, end.len(), dot, shown),
                None => self.state = State::Output { id },
            }
            return;
        }
        // The end of what came may be the beginning of the mark.
        let tail = self.held.len().saturating_sub(end.len() + 1);
        let begun = self.held[tail..]
            .iter()
            .position(|byte| matches!(byte, b'\r' | b'\n'));
        let at = begun.map_or(self.held.len(), |begun| tail + begun);
        shown.extend(received(self.held.drain(..at).collect()));
        self.state = State::Output { id };
    }

    fn lines(&mut self, shown: &mut Vec<Shown>) {
        while let Some(line) = self.next_line() {
            shown.extend(self.foreign(&line).map(Shown::Received));
        }
    }

    /// The next whole line, or what is too long for an echo.
    fn next_line(&mut self) -> Option<Vec<u8>> {
        let end = memchr::memchr(b'\n', &self.held).map(|at| at + 1);
        let end = end.or((self.held.len() > LONGEST).then_some(self.held.len()))?;
        Some(self.held.drain(..end).collect())
    }

    /// What of a line is not alpy's.
    fn foreign(&self, line: &[u8]) -> Option<Vec<u8>> {
        let mut rest = plain(line);
        for text in self.texts.iter().rev() {
            while let Some(at) = memchr::memmem::find(&rest, text) {
                // What a line editor has drawn before its prompt is drawn anew behind it.
                rest.drain(..at + text.len());
            }
        }
        let is_own = rest
            .split(|byte| matches!(byte, b'\r' | b'\n'))
            .map(<[u8]>::trim_ascii)
            .all(|part| part.is_empty() || self.is_own(part));
        if !is_own {
            return Some(line.to_vec());
        }
        kernel_message(line)
    }

    fn is_own(&self, part: &[u8]) -> bool {
        let has = |text: &[u8]| memchr::memmem::find(part, text).is_some();
        let of_command = |id: &str| {
            [format!("<{id}|"), format!("<{id}+"), format!("alpy {id} ")]
                .iter()
                .any(|mark| has(mark.as_bytes()))
        };
        memchr::memmem::find(&self.typed, part).is_some()
            || match &self.state {
                State::Command { id, .. } | State::Output { id } => of_command(id),
                State::Idle | State::Typing | State::LineEnd => false,
            }
    }
}

fn received(bytes: Vec<u8>) -> Vec<Shown> {
    match bytes.is_empty() {
        true => Vec::new(),
        false => vec![Shown::Received(bytes)],
    }
}

/// A message of Linux' kernel in the middle of a line, such as `[   12.345678] eth0: link up`.
fn kernel_message(line: &[u8]) -> Option<Vec<u8>> {
    let starts = (0..line.len()).filter(|at| line[*at] == b'[');
    let is_time = |at: &usize| {
        let text = line[at + 1..]
            .split(|byte| *byte == b']')
            .next()
            .unwrap_or_default();
        let text = text.trim_ascii_start();
        let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
        let mut parts = text.splitn(2, |byte| *byte == b'.');
        text.len() < line.len() - at - 1
            && parts.next().is_some_and(digits)
            && parts.next().is_some_and(digits)
    };
    let mut times = starts.filter(is_time);
    times.next().map(|at| line[at..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown of a stream, however it is split.
    fn shown(echo: impl Fn() -> Echo, stream: &[u8]) -> String {
        let run = |size: usize| {
            let mut echo = echo();
            let mut text = String::new();
            let pieces = stream.chunks(size).flat_map(|piece| echo.received(piece));
            let pieces: Vec<_> = pieces.collect();
            for piece in pieces.into_iter().chain(received(echo.pending())) {
                match piece {
                    Shown::Received(bytes) => text.push_str(&String::from_utf8(bytes).unwrap()),
                    Shown::Code(code) => text.push_str(&format!("({code})")),
                }
            }
            text
        };
        let whole = run(stream.len());
        for size in 1..stream.len() {
            assert_eq!(run(size), whole, "in pieces of {size}");
        }
        whole
    }

    fn command(typed: &'static str, begins: usize) -> impl Fn() -> Echo {
        move || {
            let mut echo = Echo::default();
            echo.hide("alpy-0a0a0a0a# ");
            echo.hide("alpy-0a0a0a0a# \x1b[6n");
            assert_eq!(echo.begin_command("1b1b1b1b", begins), []);
            echo.typed(typed.as_bytes());
            echo
        }
    }

    #[test]
    fn of_a_command_the_output_and_the_code_are_shown() {
        let echo = command("alpy 1b1b1b1b 'id; printf a' </dev/null\n", 1);
        for (stream, expected) in [
            (
                "alpy 1b1b1b1b 'id; printf a' </dev/null\r\n<1b1b1b1b|\r\nroot\r\na\r\n|1b1b1b1b>3.\r\nalpy-0a0a0a0a# \x1b[6n",
                "root\r\na(3)",
            ),
            // Wrapped by a line editor, typed ahead of the prompt, and with a message of the kernel within.
            (
                "alpy 1b1b1b1b 'id; alpy-0a0a0a0a# alpy 1b1b1b1b 'id; pri\r\nntf a' </dev/null\r\n[    1.5] eth0: up\r\n<1b1b1b1b|\r\n\r\n|1b1b1b1b>0.\r\nalpy-0a0a0a0a# ",
                "[    1.5] eth0: up\r\n(0)",
            ),
            (
                "alpy 1b1b1[   12.345] eth0: up\r\nb1b\r\n",
                "[   12.345] eth0: up\r\n",
            ),
            // Nothing of what a guest says is lost where the command does not even begin.
            (
                "Kernel panic - not syncing\r\n---[ end ]---",
                "Kernel panic - not syncing\r\n---[ end ]---",
            ),
            // No mark but the right one ends it.
            (
                "<1b1b1b1b|\r\n|2c2c2c2c>0.\r\n<1b1b1b1b|\r\n",
                "|2c2c2c2c>0.\r\n<1b1b1b1b|\r\n",
            ),
        ] {
            assert_eq!(shown(&echo, stream.as_bytes()), expected, "{stream}");
        }
    }

    #[test]
    fn of_an_upload_neither_the_content_nor_the_acknowledgements_are_shown() {
        let echo = command("alpy 1b1b1b1b 'alpy_get >x'\n##!/bin/sh\\n\n: end 12\n", 2);
        let stream = "alpy 1b1b1b1b 'alpy_get >x'\r\n<1b1b1b1b|\r\n<1b1b1b1b+\r\n##!/bin/sh\\n\r\n: end 12\r\n<1b1b1b1b|\r\n\r\n|1b1b1b1b>0.\r\n";
        assert_eq!(shown(&echo, stream.as_bytes()), "(0)");
        let refused = "<1b1b1b1b|\r\nsh: can't create x: Read-only file system\r\n\r\n|1b1b1b1b>1.\r\n";
        assert_eq!(
            shown(&echo, refused.as_bytes()),
            "sh: can't create x: Read-only file system\r\n(1)"
        );
    }

    #[test]
    fn of_a_dialogue_of_alpys_neither_the_echo_nor_its_marks_are_shown() {
        let echo = || {
            let mut echo = Echo::default();
            echo.hide("alpy: done");
            assert_eq!(echo.begin_typing(), []);
            echo.typed(b"./wake && echo alpy: do''ne\n");
            echo
        };
        let stream = "./wake && echo alpy: do''ne\r\nalpy: done\r\n[    1.5] eth0: up\r\nalpy: failed 1\r\n";
        let expected = "[    1.5] eth0: up\r\nalpy: failed 1\r\n";
        assert_eq!(shown(echo, stream.as_bytes()), expected);
    }

    #[test]
    fn a_command_may_follow_before_the_line_is_at_its_end_that_ends_the_last_one() {
        for end in ["<1b1b1b1b|\r\nroot\r\n|1b1b1b1b>3.", "|1b1b1b1b>3."] {
            let mut echo = command("alpy 1b1b1b1b 'id' </dev/null\n", 1)();
            let mut all = echo.received(end.as_bytes());
            assert_eq!(all.pop(), Some(Shown::Code("3".to_owned())), "{end}");
            assert_eq!(echo.pending(), b"");
            assert_eq!(echo.begin_command("2c2c2c2c", 1), []);
            echo.typed(b"alpy 2c2c2c2c 'true' </dev/null\n");
            let rest = b"\r\nalpy 2c2c2c2c 'true' </dev/null\r\n<2c2c2c2c|\r\n\r\n|2c2c2c2c>0.\r\n";
            assert_eq!(echo.received(rest), [Shown::Code("0".to_owned())]);
        }
    }

    #[test]
    fn a_prompt_of_alpys_is_hidden_and_all_else_is_as_it_came() {
        let echo = || {
            let mut echo = Echo::default();
            echo.hide("alpy-0a0a0a0a# ");
            echo.hide("alpy-0a0a0a0a# \x1b[6n");
            echo
        };
        let stream = "login: alpy-0a0a0a0a# \x1b[6nreboot\r\nalpy-ffffffff# alpy-0a0a0a0a#x\r\nalpy-0a0a";
        assert_eq!(
            shown(echo, stream.as_bytes()),
            "login: reboot\r\nalpy-ffffffff# alpy-0a0a0a0a#x\r\n"
        );
    }
}
