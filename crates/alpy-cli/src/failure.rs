// SPDX-License-Identifier: GPL-3.0-or-later
//! Errors, and the exit statuses that they have.

use std::fmt;
use std::process::ExitCode;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::output::{Output, print};

/// An error with an exit status of its own.
#[derive(Debug)]
pub struct Failure {
    status: u8,
    text: String,
}

/// What was typed, or a file, cannot be right, or is not for such a test.
pub fn usage(text: impl Into<String>) -> anyhow::Error {
    failure(2, text)
}

/// There is no such test, link, node or machine, or the test is not in a state in which this can be done.
pub fn absent(text: impl Into<String>) -> anyhow::Error {
    failure(3, text)
}

/// A signal ended it. The status is the one that a shell reports.
pub fn interrupted(signal: Signal) -> anyhow::Error {
    match signal {
        Signal::SIGINT => failure(130, "interrupted"),
        signal => failure(128 + signal as u8, format!("ended by {signal}")),
    }
}

fn failure(status: u8, text: impl Into<String>) -> anyhow::Error {
    let text = text.into();
    Failure { status, text }.into()
}

/// Tells the user, and the caller.
pub fn tell(error: &anyhow::Error, output: &Output) -> ExitCode {
    let status = error
        .downcast_ref::<Failure>()
        .map_or(1, |failure| failure.status);
    if output.json {
        let told = json!({"error": format!("{error:#}"), "status": status});
        // Nobody may be reading, and the status says it too.
        let _ = print(&format!("{told}\n"));
    } else {
        eprintln!("alpy: {error:#}");
    }
    ExitCode::from(status)
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}
