// SPDX-License-Identifier: GPL-3.0-or-later
//! Files that a person or a run's evidence names: regular ones. A pipe in their place may never open, and a device never end.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;

/// Opens a regular file for reading.
pub fn open(path: &Path) -> Result<File> {
    let open = || {
        let flags = OFlag::O_NONBLOCK.bits();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("it is not a regular file")),
        }
    };
    open().with_context(|| format!("cannot read {}", path.display()))
}

/// The text of a regular file.
pub fn text(path: &Path) -> Result<String> {
    io::read_to_string(open(path)?).with_context(|| format!("cannot read {}", path.display()))
}
