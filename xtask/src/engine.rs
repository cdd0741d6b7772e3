// SPDX-License-Identifier: GPL-3.0-or-later
//! The container engine: one that answers already, else a private one that ends with its last user.

mod discover;
mod keeper;
mod lease;
pub mod remains;

use std::path::Path;

use anyhow::Result;

use crate::needs::Need;
pub use discover::{at, discover, is_named};
pub use keeper::{KEEPER, main as keeper};
use lease::Lease;
pub use lease::remove_leftovers;

/// An engine that answers.
pub struct Engine {
    /// Its address, for `DOCKER_HOST`.
    pub host: String,
    /// Whether it runs as an ordinary user, who cannot open every device.
    pub rootless: bool,
    /// Keeps a private engine running.
    lease: Option<Lease>,
}

impl Engine {
    /// The engine that answers, else a private one with its data in `alpy/engine` of the target folder.
    pub fn ensure(target: &Path) -> Result<Self> {
        match discover()? {
            Some(engine) => Ok(engine),
            None => Self::private(target),
        }
    }

    /// A private engine, even if another one answers.
    pub fn private(target: &Path) -> Result<Self> {
        Self::join(&target.join("alpy/engine"), None)
    }

    /// A private engine of root's with its data in this folder, and with a socket that this group may use.
    pub fn for_group(folder: &Path, group: &str) -> Result<Self> {
        Self::join(folder, Some(group))
    }

    fn join(folder: &Path, group: Option<&str>) -> Result<Self> {
        let (host, lease) = lease::join(folder, group)?;
        Ok(Self {
            host,
            rootless: !nix::unistd::geteuid().is_root(),
            lease: Some(lease),
        })
    }

    /// Gives a private engine back. Dropping does it too, without a word about what goes wrong.
    pub fn release(mut self) -> Result<()> {
        self.lease.take().map_or(Ok(()), Lease::release)
    }
}

/// The programs that a private engine of this user needs.
pub fn programs() -> Vec<Need> {
    let mut needs = vec![("dockerd", "docker.io", ENGINE)];
    if !nix::unistd::geteuid().is_root() {
        needs.extend(ROOTLESS);
    }
    needs
}

/// What a private engine of an ordinary user needs besides.
pub const ROOTLESS: [Need; 2] = [
    ("rootlesskit", "rootlesskit", "a container engine without root"),
    ("newuidmap", "uidmap", "a container engine without root"),
];

const ENGINE: &str = "a private container engine, as none answers";
