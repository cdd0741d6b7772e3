// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds test executables and learns from Cargo where they are.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::process::{self, Kind, Stream};
use crate::runner::Test;
use crate::workspace::{Target, cargo};

/// A test executable of any crate.
pub struct Executable {
    /// What it is made from.
    pub target: Target,
    /// The folder of its crate.
    pub folder: PathBuf,
    /// The file.
    pub path: PathBuf,
}

/// A line of Cargo's about one target.
#[derive(Deserialize)]
struct Artifact {
    manifest_path: PathBuf,
    target: Target,
    executable: Option<PathBuf>,
    profile: Profile,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Builds the rabbit tests of these names.
pub fn rabbit_tests(names: &[String]) -> Result<Vec<Test>> {
    let mut command = no_run();
    for name in names {
        command.args(["--test", name]);
    }
    let tests = as_rabbit_tests(executables(command, |line| eprint!("{line}"))?);
    match names
        .iter()
        .find(|&name| tests.iter().all(|test| test.name != *name))
    {
        Some(name) => bail!("cargo has built no executable of the rabbit test {name}"),
        None => Ok(tests),
    }
}

/// Builds the integration test of this name, which only one crate has.
pub fn test(name: &str) -> Result<Executable> {
    let mut command = no_run();
    command.args(["--test", name]);
    let mut built = executables(command, |line| eprint!("{line}"))?;
    built.retain(|executable| executable.target.name == name);
    built
        .pop()
        .with_context(|| format!("cargo has built no test {name}"))
}

/// Builds every test of the workspace. What Cargo says goes to `line`.
pub fn all_tests(line: impl FnMut(&str)) -> Result<Vec<Executable>> {
    executables(no_run(), line)
}

/// The rabbit tests among the executables, in alphabetical order.
pub fn as_rabbit_tests(executables: Vec<Executable>) -> Vec<Test> {
    let rabbit = executables
        .into_iter()
        .filter(|executable| executable.target.is_rabbit_test());
    let mut tests: Vec<Test> = rabbit
        .map(|executable| Test {
            name: executable.target.name,
            executable: executable.path,
        })
        .collect();
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    tests
}

/// Always for the whole workspace: its crates together ask for other features of their dependencies than one alone
/// does, and with other features everything would be built once more.
fn no_run() -> Command {
    let mut command = cargo();
    command.args([
        "test",
        "--workspace",
        "--no-run",
        "--message-format=json-render-diagnostics",
    ]);
    command
}

fn executables(command: Command, mut line: impl FnMut(&str)) -> Result<Vec<Executable>> {
    let mut found = Vec::new();
    let mut unreadable = Ok(());
    let ended = process::follow(command, Kind::Group, None, |stream, text| match stream {
        Stream::Out => match executable_in(text) {
            Ok(executable) => found.extend(executable),
            Err(error) => unreadable = Err(error),
        },
        Stream::Err => line(text),
    })?;
    if !ended.status.success() {
        bail!("the tests do not build");
    }
    unreadable.map(|()| found)
}

fn executable_in(line: &str) -> Result<Option<Executable>> {
    // Cargo's lines are JSON objects; a test harness or a build script may print others.
    if !line.contains(r#""reason":"compiler-artifact""#) {
        return Ok(None);
    }
    let artifact: Artifact =
        serde_json::from_str(line).with_context(|| format!("read Cargo's line {line}"))?;
    let folder = artifact
        .manifest_path
        .parent()
        .context("a manifest is in a folder")?
        .to_owned();
    let executable = artifact.executable.filter(|_| artifact.profile.test);
    Ok(executable.map(|path| Executable {
        target: artifact.target,
        folder,
        path,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_test_executables_alone() {
        let line = |test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"x","manifest_path":"/s/rabbit/Cargo.toml",
                "target":{{"kind":["test"],"name":"rate-limit","src_path":"/s/rabbit/tests/rate-limit/main.rs"}},
                "profile":{{"test":{test}}},"executable":{executable},"fresh":true}}"#
            )
        };
        let found = executable_in(&line(true, r#""/t/rate_limit-1""#))
            .unwrap()
            .unwrap();
        assert_eq!(
            (found.folder, found.path),
            (PathBuf::from("/s/rabbit"), PathBuf::from("/t/rate_limit-1"))
        );
        assert!(found.target.is_rabbit_test());
        assert!(executable_in(&line(false, r#""/t/helper""#)).unwrap().is_none());
        assert!(executable_in(&line(true, "null")).unwrap().is_none());
        assert!(
            executable_in(r#"{"reason":"build-finished","success":true}"#)
                .unwrap()
                .is_none()
        );
        assert!(executable_in(r#"{"reason":"compiler-artifact"}"#).is_err());
    }
}
