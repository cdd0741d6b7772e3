// SPDX-License-Identifier: GPL-3.0-or-later
//! What can go wrong.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a foreign library, whose type is not part of this crate's interface.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Everything that a call of this crate can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody accepted a connection on the path in time, or the path cannot be one.
    #[error("cannot connect to the QMP socket {} within {after:?}", path.display())]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// How long it was tried.
        after: Duration,
        /// The last attempt's error.
        source: io::Error,
    },

    /// The socket cannot be bound, or its listener broke.
    #[error("cannot listen on the QMP socket {}", path.display())]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },

    /// No QMP server connected to the listener in time.
    #[error("no QMP server connected to {} within {after:?}", path.display())]
    AcceptTimeout {
        /// The socket's path.
        path: PathBuf,
        /// How long it was waited.
        after: Duration,
    },

    /// The connection stands, but nothing was said on it.
    #[error(
        "no QMP greeting within {after:?}: another client may hold this socket (QEMU serves one at a time), \
         or the server is stopped"
    )]
    GreetingTimeout {
        /// How long it was waited.
        after: Duration,
    },

    /// The server answered a command with an error.
    #[error(transparent)]
    Server(#[from] ServerError),

    /// The reply did not come in time.
    #[error(
        "no reply to {command} within {after:?}; {}",
        if *sent { "it was sent and may still take effect" } else { "it was not sent, earlier commands have no reply yet" }
    )]
    Timeout {
        /// The command, shortened.
        command: String,
        /// How long it was waited.
        after: Duration,
        /// Whether the command was on its way to the server; if not, it never will be.
        sent: bool,
    },

    /// The connection ended between a command and its reply. Whether the command took effect is not known.
    #[error("connection lost before the reply to {command}, its outcome is unknown")]
    OutcomeUnknown {
        /// The command, shortened.
        command: String,
        /// Why the connection ended.
        source: Disconnect,
    },

    /// The connection has ended, and so the command is not sent or the event does not come.
    #[error("the QMP connection ended before {wanted}")]
    Disconnected {
        /// What was to come, as a phrase: `event SHUTDOWN`, `{"execute":"cont"} was sent`, `the greeting`.
        wanted: String,
        /// Why the connection ended.
        source: Disconnect,
    },

    /// An event did not come in time.
    #[error("no QMP event {wanted} within {}; the last events: {last_events}", waited_text(*.after, *.waited))]
    EventTimeout {
        /// The event that was waited for.
        wanted: String,
        /// The limit of the wait.
        after: Duration,
        /// The wall time that passed. It is longer if the client's [`Timer`](crate::Timer) did not count all of it.
        waited: Duration,
        /// The last events that did come.
        last_events: String,
    },

    /// Events came faster than they were read, and the history no longer has them.
    #[error("{missed} QMP events were dropped before they were read; a longer history would have kept them")]
    Lagged {
        /// How many are lost.
        missed: u64,
    },

    /// This connection is no unix socket, so no descriptor can go with a command.
    #[error("cannot pass a file descriptor with {command}: the connection is not a unix socket")]
    NoDescriptors {
        /// The command, shortened.
        command: String,
    },

    /// The server offers no out-of-band execution on this connection.
    #[error("cannot send {command} out of band: the server does not offer the capability oob")]
    NoOutOfBand {
        /// The command, shortened.
        command: String,
    },

    /// QEMU's parser would refuse the command, and with an error that names no command.
    #[error("{command} is beyond what QEMU's JSON parser takes: {limit}")]
    BeyondServerLimit {
        /// The command, shortened.
        command: String,
        /// The limit that is exceeded.
        limit: &'static str,
    },

    /// The arguments cannot be written as JSON.
    #[error("cannot write the arguments of {command} as JSON")]
    Encode {
        /// The command's name.
        command: String,
        /// The JSON writer's error.
        source: BoxError,
    },

    /// The server's value is not what the command's reply type expects.
    #[error("unexpected reply to {command}: {reply}")]
    Decode {
        /// The command, shortened.
        command: String,
        /// The value, shortened.
        reply: String,
        /// The JSON reader's error.
        source: BoxError,
    },

    /// A job ended with an error.
    #[error("job {id} failed: {message}")]
    Job {
        /// The job's id.
        id: String,
        /// The server's text.
        message: String,
    },
}

/// The error that a server answers a command with (QEMU, docs/interop/qmp-spec, "Error").
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("QMP command {command} failed: {desc} ({class})")]
#[non_exhaustive]
pub struct ServerError {
    /// What programs may look at.
    pub class: ErrorClass,
    /// What people may read; not stable between versions of QEMU.
    pub desc: String,
    /// The command, shortened.
    pub command: String,
}

/// The kind of a [`ServerError`] (QEMU, qapi/error.json, `QapiErrorClass`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorClass {
    /// Anything without a class of its own.
    GenericError,
    /// The server has no such command.
    CommandNotFound,
    /// The device is there, but not in use.
    DeviceNotActive,
    /// There is no such device.
    DeviceNotFound,
    /// KVM lacks a capability that the command needs.
    KvmMissingCap,
    /// A class this crate does not know.
    Other(String),
}

impl ErrorClass {
    /// The name as the protocol has it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::GenericError => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::DeviceNotFound => "DeviceNotFound",
            Self::KvmMissingCap => "KVMMissingCap",
            Self::Other(name) => name,
        }
    }
}

impl From<&str> for ErrorClass {
    fn from(name: &str) -> Self {
        [
            Self::GenericError,
            Self::CommandNotFound,
            Self::DeviceNotActive,
            Self::DeviceNotFound,
            Self::KvmMissingCap,
        ]
        .into_iter()
        .find(|class| class.as_str() == name)
        .unwrap_or_else(|| Self::Other(name.to_owned()))
    }
}

impl std::fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Disconnect {
    /// The server closed its end; usually QEMU has exited.
    #[error("the server closed the connection")]
    Eof,
    /// The last [`Client`](crate::Client) was dropped, or the runtime that drove the connection ended.
    #[error("the connection was closed on this side")]
    Closed,
    /// Reading or writing failed.
    #[error("the connection failed: {0}")]
    Io(Arc<io::Error>),
    /// A line was longer than [`Options::max_line_bytes`](crate::Options::max_line_bytes) allows.
    #[error("the server sent a line of more than {limit} bytes")]
    Oversized {
        /// The limit in bytes.
        limit: usize,
    },
    /// A line was not a QMP message. What follows cannot be trusted either, so the connection is given up.
    #[error("the server sent something that is not QMP: {reason}: {line}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
        /// The line, shortened.
        line: String,
    },
}

/// The beginning of a long text, for a message.
pub(crate) fn shorten(text: &str) -> String {
    const SHOWN: usize = 300;
    if text.len() <= SHOWN {
        return text.to_owned();
    }
    let end = (0..=SHOWN)
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0);
    format!("{}... ({} bytes)", &text[..end], text.len())
}

fn waited_text(after: Duration, waited: Duration) -> String {
    let not_counted = waited.saturating_sub(after);
    if not_counted > after / 20 + Duration::from_millis(500) {
        let (all, not_counted) = (waited.as_secs_f64(), not_counted.as_secs_f64());
        format!(
            "{after:?} ({all:.1} s passed; for {not_counted:.1} s of them the host kept the machine from running)"
        )
    } else {
        format!("{after:?}")
    }
}
