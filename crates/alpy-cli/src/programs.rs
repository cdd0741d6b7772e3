// SPDX-License-Identifier: GPL-3.0-or-later
//! Programs of this machine.

use std::env;
use std::path::{Path, PathBuf};

/// The file of a program, if it is in PATH.
pub fn find(program: impl AsRef<Path>) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(&program));
    found.into_iter().find(|file| file.is_file())
}
