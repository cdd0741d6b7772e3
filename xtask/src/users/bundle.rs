// SPDX-License-Identifier: GPL-3.0-or-later
//! All that the tests need besides programs, in one folder that looks like the workspace.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::images::{self, Manifest};
use crate::runner::{Outcome, Test};
use crate::workspace::Workspace;

/// The file of [`Manifest`], in the folder of the images.
const MANIFEST: &str = "manifest.json";
/// By this file alpy knows Cargo's target folder.
const TARGET_TAG: &str = "CACHEDIR.TAG";

/// The bundle: `xtask`; the folders of the crates as in the workspace; and `target`, with the test executables, the images and
/// the list of tests. All of it is root's, but for `target/alpy`, where the run writes.
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
    pub fn pack(folder: &Path, tests: &[Test], workspace: &Workspace) -> Result<Self> {
        let bundle = Self::at(folder);
        fs::create_dir_all(bundle.writable())?;
        fs::copy("/proc/self/exe", bundle.xtask()).context("copy xtask")?;
        let target = &workspace.target;
        let in_target =
            |path: &Path| Ok::<_, anyhow::Error>(bundle.target().join(path.strip_prefix(target)?));
        place(&target.join(TARGET_TAG), &in_target(&target.join(TARGET_TAG))?)?;
        let folders: BTreeSet<&Path> = tests.iter().map(|test| test.folder.as_path()).collect();
        for of_crate in folders {
            let copy = folder.join(of_crate.strip_prefix(&workspace.root)?);
            copy_folder(of_crate, &copy).with_context(|| format!("copy {}", of_crate.display()))?;
        }
        let mut packed = tests.to_vec();
        for test in &mut packed {
            let copy = in_target(&test.executable)?;
            place(&test.executable, &copy)?;
            test.executable = copy;
            for program in &mut test.programs {
                let copy = in_target(program)?;
                if !copy.exists() {
                    place(program, &copy)?;
                }
                *program = copy;
            }
            test.folder = folder.join(test.folder.strip_prefix(&workspace.root)?);
        }
        fs::write(bundle.tests_file(), serde_json::to_vec(&packed)?).context("write the list of tests")?;
        // Without images there are no rabbit tests, and the others do not need them.
        if tests.iter().any(|test| test.rabbit) {
            let images = target.join("alpy/images");
            let mut manifest = Manifest::read(&images).context("read the manifest of the images")?;
            let manifest_file = images.join(MANIFEST);
            // Machines may share a kernel.
            let files: BTreeSet<&Path> = manifest.paths_mut().map(|path| path.as_path()).collect();
            for file in files.into_iter().chain([manifest_file.as_path()]) {
                copy(file, &in_target(file)?)?;
            }
            let current = images.join(images::CURRENT);
            let folder = fs::read_link(&current).context("find the current images")?;
            symlink(folder, in_target(&current)?)?;
        }
        Ok(bundle)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The executable of xtask.
    pub fn xtask(&self) -> PathBuf {
        self.folder.join("xtask-executable")
    }

    /// In place of Cargo's target folder.
    pub fn target(&self) -> PathBuf {
        self.folder.join("target")
    }

    /// The one folder that the run writes to.
    pub fn writable(&self) -> PathBuf {
        self.target().join("alpy")
    }

    /// The tests.
    pub fn tests(&self) -> Result<Vec<Test>> {
        let tests = fs::read(self.tests_file()).context("read the list of tests")?;
        Ok(serde_json::from_slice(&tests)?)
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

    fn tests_file(&self) -> PathBuf {
        self.target().join("tests.json")
    }

    fn outcomes_file(&self) -> PathBuf {
        self.writable().join("outcomes.json")
    }
}

/// Another name for the file, so that a gigabyte of executables is not written again; where that cannot be, a copy.
fn place(from: &Path, to: &Path) -> Result<()> {
    let mode = fs::metadata(from)
        .with_context(|| format!("find {}", from.display()))?
        .permissions()
        .mode();
    fs::create_dir_all(to.parent().context("a file is in a folder")?)?;
    if mode == readable(mode) && fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    copy(from, to)
}

/// A copy that everybody may read, and run if the owner may.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file is in a folder")?)?;
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    let mode = fs::metadata(to)?.permissions().mode();
    Ok(fs::set_permissions(
        to,
        fs::Permissions::from_mode(readable(mode)),
    )?)
}

fn readable(mode: u32) -> u32 {
    let owner = mode & 0o500;
    mode | owner >> 3 | owner >> 6
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
            self::copy(&entry.path(), &copy)?;
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

    #[test]
    fn whatever_the_mode_was_everybody_may_read_and_nobody_else_may_write() {
        assert_eq!(readable(0o100_600), 0o100_644);
        assert_eq!(readable(0o100_700), 0o100_755);
        assert_eq!(readable(0o100_444), 0o100_444);
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("sub/to"));
        fs::write(&from, "text").unwrap();
        for mode in [0o600, 0o644] {
            fs::set_permissions(&from, fs::Permissions::from_mode(mode)).unwrap();
            place(&from, &to).unwrap();
            let mode_of = |file: &Path| fs::metadata(file).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode_of(&from), mode_of(&to)), (mode, 0o644));
            fs::remove_file(&to).unwrap();
        }
    }
}
