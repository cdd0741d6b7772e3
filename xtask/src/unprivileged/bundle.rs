// SPDX-License-Identifier: GPL-3.0-or-later
//! All that the rabbit tests need besides programs, in one folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::images::Manifest;
use crate::runner::{Outcome, Test};

/// The file of [`Manifest`], in the folder of the images.
const MANIFEST: &str = "manifest.json";

/// The bundle: `xtask`, `tests/<name>`, and `target` with the images, where the run writes.
pub struct Bundle {
    folder: PathBuf,
}

impl Bundle {
    /// The bundle that is in this folder.
    pub fn at(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Puts a bundle together in a folder that does not exist yet.
    pub fn pack(folder: &Path, tests: &[Test], images: &Path) -> Result<Self> {
        let bundle = Self::at(folder);
        fs::create_dir_all(bundle.tests_folder())?;
        fs::copy("/proc/self/exe", bundle.xtask()).context("copy xtask")?;
        for test in tests {
            let copy = bundle.tests_folder().join(&test.name);
            fs::copy(&test.executable, copy)
                .with_context(|| format!("copy {}", test.executable.display()))?;
        }
        let mut manifest = Manifest::read(images).context("read the manifest of the images")?;
        let manifest_file = images.join(MANIFEST);
        for file in manifest
            .paths_mut()
            .map(|path| path.as_path())
            .chain([manifest_file.as_path()])
        {
            let copy = bundle
                .target()
                .join("alpy/images")
                .join(file.strip_prefix(images)?);
            fs::create_dir_all(copy.parent().context("a file is in a folder")?)?;
            fs::copy(file, copy).with_context(|| format!("copy {}", file.display()))?;
        }
        Ok(bundle)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The executable of xtask.
    pub fn xtask(&self) -> PathBuf {
        self.folder.join("xtask")
    }

    /// In place of Cargo's target folder.
    pub fn target(&self) -> PathBuf {
        self.folder.join("target")
    }

    fn tests_folder(&self) -> PathBuf {
        self.folder.join("tests")
    }

    /// The tests, in alphabetical order.
    pub fn tests(&self) -> Result<Vec<Test>> {
        let mut tests = Vec::new();
        for entry in fs::read_dir(self.tests_folder()).context("read the bundle")? {
            let entry = entry?;
            tests.push(Test {
                name: entry.file_name().to_string_lossy().into_owned(),
                executable: entry.path(),
            });
        }
        tests.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tests)
    }

    /// Writes how the tests went, for the xtask that has put the bundle together.
    pub fn write_outcomes(&self, outcomes: &[Outcome]) -> Result<()> {
        fs::write(self.outcomes_file(), serde_json::to_vec(outcomes)?).context("write how the tests went")
    }

    /// How the tests went.
    pub fn outcomes(&self) -> Result<Vec<Outcome>> {
        Ok(serde_json::from_slice(
            &fs::read(self.outcomes_file()).context("read how the tests went")?,
        )?)
    }

    fn outcomes_file(&self) -> PathBuf {
        self.target().join("outcomes.json")
    }
}

/// Copies folders and regular files; what is neither, as a link, is left out, since root does the copying.
pub fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, copy) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_folder(&entry.path(), &copy)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), copy)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_copy_has_files_and_folders_and_no_links() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("sub")).unwrap();
        fs::write(from.join("sub/debug.log"), "text").unwrap();
        symlink("/etc/shadow", from.join("secret")).unwrap();
        symlink("/etc", from.join("secrets")).unwrap();
        copy_folder(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("sub/debug.log")).unwrap(), "text");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    }
}
