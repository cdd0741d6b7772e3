// SPDX-License-Identifier: GPL-3.0-or-later
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::Failure;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text that cannot name an interface.
    #[error("bad interface name {name:?}: {reason}")]
    Name {
        /// The text.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A text that is no hardware address.
    #[error("bad hardware address {mac:?}: {reason}")]
    Mac {
        /// The text.
        mac: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A text that is no IP address with a prefix length.
    #[error("bad address prefix {prefix:?}: {reason}")]
    Prefix {
        /// The text.
        prefix: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A request that cannot be right, whatever the state of the system.
    #[error("step {step} of the request ({operation}): {reason}")]
    Request {
        /// The step, counted from 1; 0 is the namespace of the whole request.
        step: usize,
        /// The step in words, with its values.
        operation: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The helper refused the request or failed in it; what it had done is undone.
    #[error("{0}")]
    Failed(Failure),
    /// The socket for the helper could not be made.
    #[error("cannot {action} {}", path.display())]
    Socket {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The time given was up.
    #[error("the helper did not {expected} within {waited:?}")]
    Timeout {
        /// What was waited for.
        expected: &'static str,
        /// For how long.
        waited: Duration,
    },
    /// The helper ended, or closed its side, before it answered.
    #[error("the helper ended before it did {expected}; its output says why")]
    HelperGone {
        /// What was waited for.
        expected: &'static str,
    },
    /// The kernel does not tell of a link.
    #[error("cannot look at the link {link}")]
    Gauge {
        /// Its name.
        link: String,
        /// Why not.
        source: io::Error,
    },
    /// The connection to the helper broke.
    #[error("the connection to the helper broke")]
    Connection(#[source] io::Error),
    /// The helper is of another version, or no helper at all.
    #[error("not the helper of this alpy-netns: {reason}")]
    Protocol {
        /// What was seen.
        reason: String,
    },
    /// An earlier request on this session was dropped, or failed, half-way through its exchange.
    #[error("the session broke off in an earlier request")]
    Abandoned,
    /// The guardian could not be started, or is gone.
    #[error("cannot {action} the guardian, which removes what a killed process leaves")]
    Guardian {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The guardian was told to end and did not.
    #[error("the guardian did not end within {waited:?}")]
    GuardianStays {
        /// For how long it was waited.
        waited: Duration,
    },
}
