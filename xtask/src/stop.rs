// SPDX-License-Identifier: GPL-3.0-or-later
//! Errors that decide the exit status of xtask.

use std::fmt;

/// Ends xtask with a status of its own; any other error ends it with 1.
#[derive(Debug)]
pub struct Stop {
    /// Exit status.
    pub status: u8,
    message: String,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Stop {}

/// The caller has to do something first: other arguments, a package to install. Status 2.
pub fn before_start(message: impl Into<String>) -> anyhow::Error {
    Stop {
        status: 2,
        message: message.into(),
    }
    .into()
}

/// A signal asked xtask to end. Status 130, as a shell reports Ctrl-C.
pub fn interrupted() -> anyhow::Error {
    Stop {
        status: 130,
        message: "interrupted".to_owned(),
    }
    .into()
}
