// SPDX-License-Identifier: GPL-3.0-or-later
//! Errors that name line and column, and show them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use anyhow::Result;

use super::words::in_words;
use crate::failure::usage;

/// A file that is read, and what is wrong with it.
pub struct Source<'a> {
    path: &'a Path,
    text: &'a str,
    /// Where, in bytes, and what.
    mistakes: RefCell<BTreeSet<(usize, String)>>,
}

impl<'a> Source<'a> {
    /// A file with nothing wrong so far.
    pub fn new(path: &'a Path, text: &'a str) -> Self {
        let mistakes = RefCell::default();
        Self { path, text, mistakes }
    }

    /// Notes what is wrong at a place, in bytes.
    pub fn mistake(&self, span: Range<usize>, message: &str) {
        self.mistakes
            .borrow_mut()
            .insert((span.start, message.to_owned()));
    }

    /// How many mistakes are noted so far.
    pub fn count(&self) -> usize {
        self.mistakes.borrow().len()
    }

    /// All that is wrong, in the order of its places.
    pub fn check(&self) -> Result<()> {
        let mistakes = self.mistakes.borrow();
        let shown: Vec<String> = mistakes
            .iter()
            .map(|(start, text)| self.shown(*start, text))
            .collect();
        if shown.is_empty() {
            return Ok(());
        }
        Err(usage(shown.join("\n")))
    }

    /// What is wrong at a place, in bytes, and the line.
    pub fn shown(&self, start: usize, message: &str) -> String {
        let mut start = start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let before = &self.text[..start];
        let number = before.matches('\n').count() + 1;
        let begin = before.rfind('\n').map_or(0, |feed| feed + 1);
        let column = before[begin..].chars().count() + 1;
        let line = self.text[begin..].lines().next().unwrap_or_default();
        let margin = number.to_string().len();
        format!(
            "{}:{number}:{column}: {}\n {number} | {line}\n {:margin$} | {:>column$}",
            self.path.display(),
            in_words(message.trim_end()),
            "",
            "^"
        )
    }
}
