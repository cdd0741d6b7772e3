// SPDX-License-Identifier: GPL-3.0-or-later
//! Why there is no engine.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::FoundBy;

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why there is no engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No engine answered.
    #[error(
        "no container engine answers; remedy: {}; tried {}",
        remedy(tried),
        list(tried)
    )]
    Unreachable {
        /// Each place that was tried, and why it is of no use.
        tried: Vec<Attempt>,
    },

    /// There is an engine, and this user may not talk to it.
    #[error(
        "permission denied on the engine's socket {}; remedy: join the group that owns it (sudo usermod -aG docker $USER, then \
         log in again), or set DOCKER_HOST to a rootless engine of your own; tried {}", socket.display(), list(tried)
    )]
    Denied {
        /// The socket that exists and does not let this user in.
        socket: PathBuf,
        /// Each place that was tried, and why it is of no use.
        tried: Vec<Attempt>,
    },

    /// An address that is not a unix socket.
    #[error(
        "{found_by} names the engine {address:?}, which is not a unix socket of this machine, and alpy passes file descriptors to \
         containers through one; remedy: {}",
        remedy_of_address(found_by)
    )]
    UnsupportedAddress {
        /// What named the address.
        found_by: FoundBy,
        /// The address.
        address: String,
    },

    /// A variable that chooses the engine is not UTF-8.
    #[error("{name} is {value:?}, which is not UTF-8; remedy: set it to UTF-8, or unset it")]
    NotUnicode {
        /// The name of the variable.
        name: &'static str,
        /// Its value.
        value: OsString,
    },

    /// The settings of the Docker CLI cannot be followed.
    #[error(
        "cannot follow the Docker context {context:?} in {}: {reason}; remedy: choose one that `docker context ls` shows, by \
         DOCKER_CONTEXT or `docker context use`; `default` is the usual sockets", place.display()
    )]
    BadContext {
        /// The name of the context.
        context: String,
        /// The file or folder that was read.
        place: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl Error {
    /// The error of these attempts, all in vain: [`Denied`](Self::Denied) if an engine's socket did not let this user in.
    pub fn of(tried: Vec<Attempt>) -> Self {
        let denied = tried.iter().find(|attempt| attempt.reason == Reason::Denied);
        match denied.map(|attempt| attempt.socket.clone()) {
            Some(socket) => Self::Denied { socket, tried },
            None => Self::Unreachable { tried },
        }
    }

    /// Whether a person chose the engine that is of no use. If not, there is none at the usual sockets.
    pub fn is_choice(&self) -> bool {
        match self {
            Self::Unreachable { tried } | Self::Denied { tried, .. } => {
                tried.iter().any(|attempt| attempt.found_by.is_choice())
            }
            _ => true,
        }
    }
}

fn remedy(tried: &[Attempt]) -> String {
    match tried.first().map(|attempt| &attempt.found_by) {
        Some(FoundBy::DockerHost) => "start the engine, or correct or unset DOCKER_HOST".to_owned(),
        Some(FoundBy::Context(_)) => {
            "start the engine, or choose another context; DOCKER_CONTEXT=default is the usual sockets"
                .to_owned()
        }
        _ => "start Docker, or set DOCKER_HOST to where it listens".to_owned(),
    }
}

fn remedy_of_address(found_by: &FoundBy) -> &'static str {
    match found_by {
        FoundBy::DockerHost => {
            "run an engine on this machine and set DOCKER_HOST to its socket, as in unix:///var/run/docker.sock, or unset it"
        }
        FoundBy::Context(_) => {
            "run an engine on this machine and set DOCKER_HOST to its socket, as in unix:///var/run/docker.sock"
        }
        _ => "pass the socket of an engine on this machine, as in unix:///var/run/docker.sock",
    }
}

fn list(tried: &[Attempt]) -> String {
    let all: Vec<String> = tried.iter().map(ToString::to_string).collect();
    all.join("; ")
}

/// A place where an engine was looked for in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The path of the socket.
    pub socket: PathBuf,
    /// What named it.
    pub found_by: FoundBy,
    /// Why it is of no use.
    pub reason: Reason,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            socket,
            found_by,
            reason,
        } = self;
        write!(f, "unix://{} ({found_by}): {reason}", socket.display())
    }
}

/// Why a socket is of no use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// There is none.
    NoSocket,
    /// No process listens on it.
    NotListening,
    /// This user may not connect to it.
    Denied,
    /// Nothing came within this time.
    Silent(Duration),
    /// Anything else.
    Other(String),
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NoSocket,
            io::ErrorKind::ConnectionRefused => Self::NotListening,
            io::ErrorKind::PermissionDenied => Self::Denied,
            _ => Self::Other(error.to_string()),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSocket => f.write_str("no such socket"),
            Self::NotListening => f.write_str("nothing listens there"),
            Self::Denied => f.write_str("permission denied"),
            Self::Silent(limit) => write!(f, "no answer within {limit:?}"),
            Self::Other(reason) => f.write_str(reason),
        }
    }
}
