// SPDX-License-Identifier: GPL-3.0-or-later
//! Where an engine may be listening.

use std::fmt;

/// A place where an engine was looked for in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The address, such as `unix:///var/run/docker.sock`.
    pub address: String,
    /// Why it is of no use.
    pub reason: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, self.reason)
    }
}
