// SPDX-License-Identifier: GPL-3.0-or-later
//! `cargo xtask images`: builds rabbit, the appliance of the tests, and the root file systems of the containers, from the
//! recipes in `rabbit/image` and `rabbit/containers`. Works for any user, with no container engine.

use std::path::PathBuf;

use anyhow::Result;

// One definition for the writer and the reader; rabbit depends on alpy, which xtask must build without.
#[path = "../../rabbit/src/images/manifest.rs"]
mod manifest;

pub use manifest::{Container, Manifest};

/// Programs that a build needs, with the Debian package that has each.
pub const PROGRAMS: &[(&str, &str)] =
    &[("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("sha256sum", "coreutils"), ("xz", "xz-utils"), ("zstd", "zstd")];

/// Where packages come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Base {
    /// The host's own distribution: Debian or Ubuntu.
    #[default]
    Host,
    /// A mirror of Alpine Linux.
    Alpine,
}

/// What to build, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Root of the workspace, for the recipes.
    pub workspace: PathBuf,
    /// Cargo's target folder; the images are in its `alpy/images`.
    pub target: PathBuf,
    /// Where packages come from.
    pub base: Base,
    /// Look for newer packages even if nothing else has changed.
    pub refresh: bool,
}

/// Builds the images unless they are there already. Paths in the manifest that it returns are usable as they are.
pub fn build(_options: &Options) -> Result<Manifest> {
    anyhow::bail!("not built yet")
}
