// SPDX-License-Identifier: GPL-3.0-or-later
//! A container in the background.

use std::time::Duration;

use bytes::Bytes;

use crate::{Container, Engine, ExitStatus, Output, Result};

/// A container in the background.
///
/// Dropping it removes the container without waiting for that: the safety net. The proper end is [`stop`](Self::stop) or
/// [`remove`](Self::remove).
#[derive(Debug)]
pub struct Running {}

pub(crate) async fn run(_spec: Container, _engine: &Engine) -> Result<Output> {
    unimplemented!()
}

impl Running {
    pub(crate) async fn start(_spec: Container, _engine: &Engine) -> Result<Self> {
        unimplemented!()
    }

    /// The engine's id of it.
    pub fn id(&self) -> &str {
        unimplemented!()
    }

    /// The process id of its first process, seen from the engine's host.
    pub async fn pid(&self) -> Result<u32> {
        unimplemented!()
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> Bytes {
        unimplemented!()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> Bytes {
        unimplemented!()
    }

    /// How it ended, if it has.
    pub fn status(&self) -> Option<ExitStatus> {
        unimplemented!()
    }

    /// Waits for its end and for the last of its output. Cancel safe.
    pub async fn wait(&self, _within: Duration) -> Result<Output> {
        unimplemented!()
    }

    /// Waits until standard output and error, taken as one text, contain `text`. Cancel safe.
    pub async fn wait_output(&self, _text: &str, _within: Duration) -> Result<()> {
        unimplemented!()
    }

    /// Sends a signal, such as `SIGHUP`. One that has already ended is fine.
    pub async fn kill(&self, _signal: &str) -> Result<()> {
        unimplemented!()
    }

    /// Sends a signal, such as `SIGTERM`, waits for the end, and after `grace` kills it. Returns what it wrote and how it
    /// ended: 143 for a process that SIGTERM ended, 137 for one that had to be killed.
    pub async fn stop(&self, _signal: &str, _grace: Duration) -> Result<Output> {
        unimplemented!()
    }

    /// Kills it if it runs, and removes it. Returns when the engine no longer knows it. One that is gone is fine.
    pub async fn remove(self) -> Result<()> {
        unimplemented!()
    }

    /// Writes a file into it, at an absolute path whose folder exists.
    pub async fn copy_in(&self, _path: &str, _content: &[u8], _mode: u32) -> Result<()> {
        unimplemented!()
    }

    /// Runs a further command in it, to its end.
    pub async fn exec<I: IntoIterator<Item: Into<String>>>(
        &self,
        _argv: I,
        _within: Duration,
    ) -> Result<Output> {
        unimplemented!()
    }

    /// Writes to its standard input, which [`Container::stdin`] gave it.
    pub async fn write_stdin(&self, _bytes: &[u8]) -> Result<()> {
        unimplemented!()
    }

    /// Closes its standard input: it reads end of file.
    pub async fn close_stdin(&self) -> Result<()> {
        unimplemented!()
    }
}
