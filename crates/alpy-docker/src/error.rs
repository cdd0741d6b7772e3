// SPDX-License-Identifier: GPL-3.0-or-later
//! What can go wrong with an engine, an image or a container.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::Failure;
use crate::output::title;

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no engine to talk to.
    #[error(transparent)]
    NoEngine(#[from] alpy_engine_address::Error),

    /// A value that no engine would take, refused before anything was touched.
    #[error("{what} {value:?} is not usable: {why}")]
    Invalid {
        /// What the value is.
        what: &'static str,
        /// The value.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },

    /// The engine does not have the image.
    #[error(
        "the engine has no image {image:?}; remedy: build, import or pull it first (docker image ls shows what is there)"
    )]
    ImageAbsent {
        /// The image's name.
        image: String,
    },

    /// The image cannot be pulled.
    #[error("cannot pull image {image:?}: {reason}")]
    PullFailed {
        /// The image's name.
        image: String,
        /// What the engine said.
        reason: String,
    },

    /// The image cannot be built, imported or loaded.
    #[error("cannot {verb} image {image:?}: {reason}")]
    ImageFailed {
        /// "build", "import" or "load".
        verb: &'static str,
        /// The image's name, or the archive's.
        image: String,
        /// What the engine said.
        reason: String,
    },

    /// Another container has the name.
    #[error(
        "the container name {name:?} is taken; remedy: docker rm -f {name}, or choose a name that is unique by construction"
    )]
    NameTaken {
        /// The name.
        name: String,
    },

    /// Only a running container can do this, and this one is not running, or gone.
    #[error("container {container} is not running")]
    NotRunning {
        /// The container's id.
        container: String,
    },

    /// The container has no standard input, or it was closed.
    #[error("container {container} has no standard input, or it was closed; remedy: Container::stdin()")]
    NoStdin {
        /// The container's id.
        container: String,
    },

    /// The container was created and cannot start. It is removed again.
    #[error("{} cannot start {argv:?}: {reason}", title(.name.as_deref(), image))]
    StartFailed {
        /// The container's name, if the caller gave it one.
        name: Option<String>,
        /// The image's name.
        image: String,
        /// Entry point and command, as far as the caller set them.
        argv: Vec<String>,
        /// What the engine said.
        reason: String,
    },

    /// The engine does not see a file or folder that this process sees, so it cannot mount it into a container.
    #[error(
        "the engine cannot enter {}, which this process can: it runs in another container or on another machine, or the file system \
         is closed to it (FUSE, NFS with root squash); remedy: an engine that runs where the test runs, such as that of `cargo xtask \
         with-engine`, or a folder that both can enter, by ALPY_EVIDENCE; the engine says: {reason}", path.display()
    )]
    NotShared {
        /// The file or folder.
        path: PathBuf,
        /// What the engine said.
        reason: String,
    },

    /// A command in a container ended with another status than 0, or its output is incomplete.
    #[error(transparent)]
    Failed(#[from] Box<Failure>),

    /// A container ended before it had written what was waited for.
    #[error("waited for {waited_for:?} in the output, and {failure}")]
    EndedEarly {
        /// The text.
        waited_for: String,
        /// How it ended and what it wrote.
        failure: Box<Failure>,
    },

    /// A step took longer than it may.
    #[error("timed out after {after:?}: {step}")]
    Timeout {
        /// The step, with what was seen last where there is something to see.
        step: String,
        /// The time that the step had.
        after: Duration,
    },

    /// The engine answered a request with an error that has no variant of its own.
    #[error("the engine refused to {step} (status {status}): {reason}")]
    Refused {
        /// What was asked.
        step: String,
        /// The HTTP status.
        status: u16,
        /// What the engine said.
        reason: String,
    },

    /// The conversation with the engine broke: it went away, or what it says is not its protocol.
    #[error("lost the engine in the step {step:?}: {reason}")]
    Lost {
        /// What was being done.
        step: String,
        /// What happened.
        reason: String,
    },

    /// A file of the caller's cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}
