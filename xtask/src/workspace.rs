// SPDX-License-Identifier: GPL-3.0-or-later
//! What Cargo knows about the workspace.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process::{self, Kind};

/// The workspace, its folders and the names of the rabbit tests.
pub struct Workspace {
    /// Where the workspace is.
    pub root: PathBuf,
    /// Where Cargo builds.
    pub target: PathBuf,
    /// The names of the rabbit tests, in alphabetical order.
    pub rabbit_tests: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    workspace_root: PathBuf,
    target_directory: PathBuf,
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

/// A target of a package, as Cargo tells about it.
#[derive(Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// `test` for an integration test.
    pub kind: Vec<String>,
    /// Its root file.
    pub src_path: PathBuf,
}

impl Target {
    /// Whether this is a rabbit test: an integration test with a folder of its own, `rabbit/tests/<name>/main.rs`.
    pub fn is_rabbit_test(&self) -> bool {
        let end = Path::new("rabbit/tests").join(&self.name).join("main.rs");
        self.kind == ["test"] && self.src_path.ends_with(end)
    }
}

impl Workspace {
    /// Asks Cargo.
    pub fn read() -> Result<Self> {
        let mut command = cargo();
        command.args(["metadata", "--no-deps", "--format-version=1"]);
        let text = process::output(command, Kind::Group)?.success("cargo metadata")?;
        let metadata: Metadata = serde_json::from_str(&text).context("read the output of cargo metadata")?;
        let rabbit = metadata
            .packages
            .into_iter()
            .filter(|package| package.name == "rabbit");
        let mut rabbit_tests: Vec<String> = rabbit
            .flat_map(|package| package.targets)
            .filter(Target::is_rabbit_test)
            .map(|target| target.name)
            .collect();
        rabbit_tests.sort();
        Ok(Self {
            root: metadata.workspace_root,
            target: metadata.target_directory,
            rabbit_tests,
        })
    }
}

/// The Cargo that runs xtask, in the folder of the workspace.
pub fn cargo() -> Command {
    let mut command = process::command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    if let Some(xtask) = std::env::var_os("CARGO_MANIFEST_DIR") {
        command.current_dir(Path::new(&xtask).join(".."));
    }
    // `cargo run` sets these for xtask; they are about nothing that is to be built.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "LD_LIBRARY_PATH"] {
        command.env_remove(name);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_test_with_its_own_folder_is_a_rabbit_test() {
        let target = |kind: &str, path: &str| {
            let target = Target {
                name: "rate-limit".to_owned(),
                kind: vec![kind.to_owned()],
                src_path: path.into(),
            };
            target.is_rabbit_test()
        };
        assert!(target("test", "/src/rabbit/tests/rate-limit/main.rs"));
        assert!(!target("test", "/src/rabbit/tests/rate-limit.rs"));
        assert!(!target("lib", "/src/rabbit/tests/rate-limit/main.rs"));
        assert!(!target("test", "/src/carrot/tests/rate-limit/main.rs"));
    }
}
