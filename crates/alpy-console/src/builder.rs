// SPDX-License-Identifier: GPL-3.0-or-later
//! Settings of a console before it starts.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tracing::Instrument;

use crate::console::Inner;
use crate::observer::Observer;
use crate::shared::{Shared, drain};
use crate::transcript::Transcript;
use crate::{CommandEnd, Console, Error, Timer, timer};

/// Settings of a console; made by [`Console::builder`].
#[derive(Clone)]
#[must_use]
pub struct Builder {
    transcript: Option<PathBuf>,
    history: Option<(PathBuf, Vec<u8>)>,
    window_bytes: usize,
    send_deadline: Duration,
    timer: Timer,
    observer: Option<Observer>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self {
            transcript: None,
            history: None,
            window_bytes: 4 << 20,
            send_deadline: Duration::from_secs(10),
            timer: timer::wall(),
            observer: None,
        }
    }

    /// Records every byte into this directory, which is made if need be; by default nothing is recorded.
    ///
    /// - `console.log` is for people: lines received begin with `< `, lines sent with `> `, a
    ///   [secret](Console::send_secret_line) one as `> <password>`, control characters and bytes that
    ///   are not UTF-8 are shown as escapes (`\x1b`), a backslash is doubled. A line that the other direction interrupts goes
    ///   on in the next one. A command of a [shell](crate::RemoteShell) is `$ command`, its output and `[exit code 0]`; what alpy types for itself
    ///   to run it, and its echo, are left out.
    /// - `console.raw` holds the bytes received, exactly.
    /// - `console.times` says when: a line such as `1234 1700000000.123` for what begins at byte 1234 of `console.log`, in seconds since 1970, 10 ms
    ///   or more between two of them.
    ///
    /// All are written as the bytes come, before anything is matched, so `tail -F console.log` works meanwhile. Files of an
    /// earlier run are overwritten.
    pub fn transcript(mut self, dir: impl Into<PathBuf>) -> Self {
        self.transcript = Some(dir.into());
        self
    }

    /// Goes on where a console that was closed had come to, with its transcript in this directory: this transcript begins with that one,
    /// and what the other had not read yet is the first to be read here. The [last lines](Console::tail) are those that come from now on.
    pub fn history(mut self, dir: impl Into<PathBuf>, unread: impl Into<Vec<u8>>) -> Self {
        self.history = Some((dir.into(), unread.into()));
        self
    }

    /// How many unread bytes are kept at most, 4 MiB by default. When more comes the oldest fall out; the next
    /// [`Match::dropped`](crate::Match::dropped) says how many. Memory stays below three times this.
    pub fn window_bytes(mut self, bytes: usize) -> Self {
        self.window_bytes = bytes;
        self
    }

    /// How long one [`Console::send`] may take, 10 s by default.
    pub fn send_deadline(mut self, deadline: Duration) -> Self {
        self.send_deadline = deadline;
        self
    }

    /// Measures the limit of every wait for the far end with this timer. Default: wall time.
    pub fn timer(mut self, timer: Timer) -> Self {
        self.timer = timer;
        self
    }

    /// Sets a function that the console calls when a command of its [`RemoteShell`](crate::RemoteShell) or [`CliSession`](crate::CliSession)
    /// begins. It returns a second function, which the console calls when that command ends. An [upload](crate::RemoteShell::upload) counts as a
    /// command; the dialogue of a login does not. Default: none.
    ///
    /// The task that awaits the command calls both functions, so they must not block. Commands of one console do not overlap.
    pub fn on_command<E>(mut self, begin: impl Fn(&str) -> E + Send + Sync + 'static) -> Self
    where
        E: FnOnce(CommandEnd) + Send + 'static,
    {
        self.observer = Some(Arc::new(move |command| Box::new(begin(command))));
        self
    }

    /// Starts to read `stream` in the background, in the current span of tracing.
    ///
    /// The stream is in practice one end of a socket pair whose other end QEMU's serial port has. An error to read it counts
    /// as its end.
    ///
    /// # Errors
    /// [`Error::Transcript`] if a file cannot be made, or one of the [history](Self::history) cannot be read, [`Error::NoRuntime`] outside a tokio runtime.
    pub fn start<S>(self, stream: S) -> Result<Console, Error>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let mut transcript = match &self.transcript {
            Some(dir) => Transcript::create(dir)?,
            None => Transcript::default(),
        };
        let mut unread = Vec::new();
        if let Some((dir, bytes)) = self.history {
            transcript.continue_from(&dir)?;
            unread = bytes;
        }
        let shared = Arc::new(Shared::new(transcript, self.window_bytes));
        shared.state().window.push(&unread);
        let (reader, writer) = tokio::io::split(stream);
        let (closing, closed) = watch::channel(false);
        let task = runtime.spawn(drain(reader, Arc::clone(&shared), closed).in_current_span());
        Ok(Console::from(Inner {
            shared,
            writer: Mutex::new(Some(Box::pin(writer))),
            runtime,
            send_deadline: self.send_deadline,
            timer: self.timer,
            observer: self.observer,
            closing,
            reader: task.abort_handle(),
        }))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("transcript", &self.transcript)
            .field("window_bytes", &self.window_bytes)
            .field("send_deadline", &self.send_deadline)
            .finish_non_exhaustive()
    }
}
