// SPDX-License-Identifier: GPL-3.0-or-later
//! What a container wrote, and the error made of it when it failed.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use crate::{ExitStatus, Result};

/// The two channels on which a container speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a container wrote and how it ended.
///
/// Of each stream the last 16 MiB at least are kept. Look at [`incomplete`](Self::incomplete), or call [`success`](Self::success), before
/// concluding from the output that something was not printed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Output {
    /// The container's name, if the caller gave it one.
    pub name: Option<String>,
    /// The image's name.
    pub image: String,
    /// Entry point and command, as far as the caller set them.
    pub argv: Vec<String>,
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: Bytes,
    /// Standard error.
    pub stderr: Bytes,
    /// Why a part of the output is missing; `None` if it is whole. It is missing if the engine's stream broke, if the stream was
    /// still open 10 s after the end, or if there was more than is kept.
    pub incomplete: Option<String>,
}

impl Output {
    /// Standard output as text, with U+FFFD for what is not UTF-8.
    pub fn stdout_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stdout)
    }

    /// Standard error as text, with U+FFFD for what is not UTF-8.
    pub fn stderr_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stderr)
    }

    /// Makes a status other than 0 an error that shows the command, the status and the tail of the output. Incomplete output is an
    /// error too, whatever the status.
    ///
    /// # Errors
    /// [`Error::Failed`](crate::Error::Failed).
    pub fn success(self) -> Result<Self> {
        if self.status.success() && self.incomplete.is_none() {
            Ok(self)
        } else {
            Err(Box::new(Failure::new(self)).into())
        }
    }
}

/// A command in a container that did not succeed, or whose output is incomplete.
#[derive(Debug, Clone)]
pub struct Failure {
    output: Output,
}

impl Failure {
    pub(crate) fn new(output: Output) -> Self {
        Self { output }
    }

    /// All that is known of it.
    pub fn output(&self) -> &Output {
        &self.output
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Output {
            name,
            image,
            argv,
            status,
            stdout,
            stderr,
            incomplete,
        } = &self.output;
        write!(
            f,
            "{argv:?} in {} ended with {status}",
            title(name.as_deref(), image)
        )?;
        if let Some(reason) = incomplete {
            write!(f, "; its output is incomplete: {reason}")?;
        }
        f.write_str(&tail("stdout", stdout))?;
        let errors = tail("stderr", stderr);
        f.write_str(&errors)?;
        // What EPERM and EACCES are in words.
        let lower = errors.to_lowercase();
        if lower.contains("operation not permitted") || lower.contains("permission denied") {
            f.write_str("; a container has no capability that it is not given, such as capability(\"NET_RAW\") for ping")?;
        }
        Ok(())
    }
}

/// What a container is called in messages.
pub(crate) fn title(name: Option<&str>, image: &str) -> String {
    match name {
        Some(name) => format!("container {name} of image {image}"),
        None => format!("a container of image {image}"),
    }
}

/// The last lines, for a message. Empty when there is nothing to show.
pub(crate) fn tail(name: &str, bytes: &[u8]) -> String {
    const LINES: usize = 20;
    const BYTES: usize = 4096;
    let end = &bytes[bytes.len().saturating_sub(BYTES)..];
    let text = String::from_utf8_lossy(end);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    if lines.is_empty() {
        return String::new();
    }
    format!(
        "; {name} ends with: {}",
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_of_capabilities_where_something_is_not_permitted() {
        let failure = |stderr: &str| {
            let output = Output {
                name: None,
                image: "busybox".to_owned(),
                argv: vec!["ping".to_owned()],
                status: ExitStatus::new(1),
                stdout: Bytes::new(),
                stderr: stderr.to_owned().into(),
                incomplete: None,
            };
            Failure::new(output).to_string()
        };
        for stderr in [
            "ping: permission denied (are you root?)",
            "socket: Operation not permitted",
        ] {
            assert!(failure(stderr).contains("capability(\"NET_RAW\")"), "{stderr}");
        }
        assert!(!failure("ping: bad address").contains("capability"));
    }
}
