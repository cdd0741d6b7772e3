// SPDX-License-Identifier: GPL-3.0-or-later
//! Runs the rabbit tests as a user without any privilege, who is made for this and removed afterwards.

use crate::runner::{Outcome, Test};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// All that the tests need besides programs, in a folder that any user can read: the executables of xtask and of the
/// tests, and the images.
pub struct Bundle {
    folder: PathBuf,
}

impl Bundle {
    /// The bundle in this folder.
    pub fn at(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// In place of Cargo's target folder.
    pub fn target(&self) -> PathBuf {
        self.folder.join("target")
    }

    /// The tests, in alphabetical order.
    pub fn tests(&self) -> Result<Vec<Test>> {
        let folder = self.folder.join("tests");
        let mut tests = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let entry = entry?;
            tests.push(Test {
                name: entry.file_name().to_string_lossy().into_owned(),
                executable: entry.path(),
            });
        }
        tests.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tests)
    }

    /// Writes how the tests went, for the xtask that has made the bundle.
    pub fn write_outcomes(&self, outcomes: &[Outcome]) -> Result<()> {
        fs::write(self.outcomes(), serde_json::to_vec(outcomes)?).context("write how the tests went")
    }

    fn outcomes(&self) -> PathBuf {
        self.target().join("outcomes.json")
    }
}
