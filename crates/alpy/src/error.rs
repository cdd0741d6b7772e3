// SPDX-License-Identifier: GPL-3.0-or-later
//! What can go wrong around a testbed.

use std::io;
use std::path::PathBuf;

/// The result of the facade's own operations.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a testbed, or a part of one, could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name of a test is used for a directory and for containers.
    #[error("test name {name:?} is not made of ASCII letters, digits, '.', '_' and '-' alone, or starts with a '.'")]
    TestName {
        /// The name.
        name: String,
    },
    /// The evidence directory cannot be used.
    #[error("evidence directory {}", dir.display())]
    Evidence {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}
