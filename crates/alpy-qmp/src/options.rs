// SPDX-License-Identifier: GPL-3.0-or-later
//! How a connection is made.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::timer::{self, Timer};

/// Which way a line went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From this client to the server.
    ToServer,
    /// From the server to this client.
    FromServer,
}

/// What [`Options::wire_log`] calls with each line, without its line end.
pub type WireLog = Arc<dyn Fn(Direction, &[u8]) + Send + Sync>;

/// Settings of a connection. The last word is the way to connect: [`connect`](Self::connect), [`listen`](Self::listen),
/// [`attach`](Self::attach) or [`attach_stream`](Self::attach_stream).
///
/// ```no_run
/// # async fn example() -> Result<(), alpy_qmp::Error> {
/// use std::time::Duration;
/// let client = alpy_qmp::Options::new()
///     .command_timeout(Duration::from_secs(5))
///     .connect("/run/vm/qmp.sock")
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Options {
    pub(crate) greeting_timeout: Duration,
    pub(crate) command_timeout: Duration,
    pub(crate) max_line_bytes: usize,
    pub(crate) history_events: usize,
    pub(crate) wire_log: Option<WireLog>,
    pub(crate) timer: Timer,
}

impl Options {
    /// The defaults: 10 s to the end of the handshake, 30 s for a command, lines of up to 128 MiB, 1024 events of history,
    /// no wire log.
    pub fn new() -> Self {
        Self {
            greeting_timeout: Duration::from_secs(10),
            command_timeout: Duration::from_secs(30),
            max_line_bytes: 128 << 20,
            history_events: 1024,
            wire_log: None,
            timer: timer::wall(),
        }
    }

    /// How long it may take to connect (or to be connected to), to be greeted and to agree on capabilities.
    pub fn greeting_timeout(mut self, timeout: Duration) -> Self {
        self.greeting_timeout = timeout;
        self
    }

    /// How long a command may take, from the `await` to the reply; [`Request::timeout`](crate::Request::timeout) overrides
    /// it for one command.
    pub fn command_timeout(mut self, timeout: Duration) -> Self {
        self.command_timeout = timeout;
        self
    }

    /// The longest line to take from the server; a longer one ends the connection. QEMU itself sends lines of 200 kB
    /// (`query-qmp-schema`) and accepts lines of up to 64 MiB.
    pub fn max_line_bytes(mut self, limit: usize) -> Self {
        self.max_line_bytes = limit;
        self
    }

    /// How many events to keep for those who look for them later.
    pub fn history_events(mut self, events: usize) -> Self {
        self.history_events = events;
        self
    }

    /// Calls `log` with each line, sent or received, in the order of this end of the wire.
    ///
    /// It is called from whatever task does the work, and the connection waits for it: it has to be quick, and must not call
    /// the client.
    pub fn wire_log(mut self, log: impl Fn(Direction, &[u8]) + Send + Sync + 'static) -> Self {
        self.wire_log = Some(Arc::new(log));
        self
    }

    /// Measures the limit of every wait for an event with this timer. Default: wall time. Connecting and commands have wall time.
    pub fn timer(mut self, timer: Timer) -> Self {
        self.timer = timer;
        self
    }

    pub(crate) fn log(&self, direction: Direction, line: &[u8]) {
        if let Some(log) = &self.wire_log {
            log(direction, line);
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("greeting_timeout", &self.greeting_timeout)
            .field("command_timeout", &self.command_timeout)
            .field("max_line_bytes", &self.max_line_bytes)
            .field("history_events", &self.history_events)
            .field("wire_log", &self.wire_log.is_some())
            .finish_non_exhaustive()
    }
}
