// SPDX-License-Identifier: GPL-3.0-or-later
//! Errors that name line and column, and show them.

use std::ops::Range;
use std::path::Path;

use crate::failure::usage;

/// A file that is read.
pub struct Source<'a> {
    pub path: &'a Path,
    pub text: &'a str,
}

impl Source<'_> {
    /// What is wrong at a place, in bytes.
    pub fn error(&self, span: Range<usize>, message: &str) -> anyhow::Error {
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let before = &self.text[..start];
        let number = before.matches('\n').count() + 1;
        let begin = before.rfind('\n').map_or(0, |feed| feed + 1);
        let column = before[begin..].chars().count() + 1;
        let line = self.text[begin..].lines().next().unwrap_or_default();
        let margin = number.to_string().len();
        usage(format!(
            "{}:{number}:{column}: {}\n {number} | {line}\n {:margin$} | {:>column$}",
            self.path.display(),
            message.trim_end(),
            "",
            "^"
        ))
    }
}
