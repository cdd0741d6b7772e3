// SPDX-License-Identifier: GPL-3.0-or-later
//! Builds test executables and learns from Cargo where they are.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::process::{self, Kind, Stream};
use crate::runner::Test;
use crate::workspace::{Target, cargo};

/// A line of Cargo's about one target.
#[derive(Deserialize)]
struct Artifact {
    package_id: String,
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
    let tests = tests(command, |line| eprint!("{line}"))?;
    let tests: Vec<Test> = tests.into_iter().filter(|test| test.rabbit).collect();
    match names
        .iter()
        .find(|&name| tests.iter().all(|test| test.name != *name))
    {
        Some(name) => bail!("cargo has built no executable of the rabbit test {name}"),
        None => Ok(tests),
    }
}

/// Builds one integration test of a crate.
pub fn test(of: &str, target: &str) -> Result<Test> {
    let mut command = no_run();
    command.args(["--test", target]);
    let name = format!("{of}/{target}");
    let built = tests(command, |line| eprint!("{line}"))?;
    let found = built.into_iter().find(|test| test.name == name);
    found.with_context(|| format!("cargo has built no test {name}"))
}

/// Builds a program beside an integration test of its crate, with the features and the profile of the tests.
pub fn program(of: &str, test: &str) -> Result<PathBuf> {
    let programs = self::test(of, test)?.programs;
    let found = programs
        .into_iter()
        .find(|file| file.file_name().is_some_and(|name| name == of));
    found.with_context(|| format!("cargo has built no program {of}"))
}

/// Builds every test of the workspace. What Cargo says goes to `line`.
pub fn all_tests(line: impl FnMut(&str)) -> Result<Vec<Test>> {
    tests(no_run(), line)
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

/// The executables that Cargo builds: those that run alone, those of the crates, then the rabbit tests, each in alphabetical order.
fn tests(command: Command, mut line: impl FnMut(&str)) -> Result<Vec<Test>> {
    let (mut found, mut programs) = (Vec::new(), Vec::new());
    let mut unreadable = Ok(());
    let ended = process::follow(command, Kind::Group, None, |stream, text| match stream {
        Stream::Out => match executable_in(text) {
            Ok(Some(Executable::Test(test))) => found.push(test),
            Ok(Some(Executable::Program { folder, file })) => programs.push((folder, file)),
            Ok(None) => {}
            Err(error) => unreadable = Err(error),
        },
        Stream::Err => line(text),
    })?;
    if !ended.status.success() {
        bail!("the tests do not build");
    }
    for test in &mut found {
        let own = programs.iter().filter(|(folder, _)| *folder == test.folder);
        test.programs = own.map(|(_, file)| file.clone()).collect();
    }
    let place = |test: &Test| (test.rabbit, !test.is_alone(), test.name.clone());
    found.sort_by_cached_key(place);
    unreadable.map(|()| found)
}

/// What Cargo has built that can be run.
enum Executable {
    Test(Test),
    Program { folder: PathBuf, file: PathBuf },
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
    let rabbit = artifact.target.is_rabbit_test();
    let package = package_in(&artifact.package_id).unwrap_or_default();
    let target = artifact.target.name;
    let chosen_by = match artifact.target.kind.first().map(String::as_str) {
        Some(kind @ ("test" | "bin" | "example")) => format!("--package {package} --{kind} {target}"),
        _ => format!("--package {package} --lib"),
    };
    let name = match folder.file_name() {
        Some(of) if !rabbit => format!("{}/{target}", of.to_string_lossy()),
        _ => target,
    };
    let Some(executable) = artifact.executable else {
        return Ok(None);
    };
    Ok(Some(match artifact.profile.test {
        true => Executable::Test(Test {
            name,
            rabbit,
            chosen_by,
            executable,
            folder,
            programs: Vec::new(),
        }),
        false => Executable::Program {
            folder,
            file: executable,
        },
    }))
}

/// The name in `path+file:///src/crates/alpy#0.1.0` and in `path+file:///src/crates/alpy#other-name@0.1.0`.
fn package_in(id: &str) -> Option<&str> {
    let (path, version) = id.rsplit_once('#')?;
    match version.split_once('@') {
        Some((name, _)) => Some(name),
        None => path.rsplit('/').next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_in(line: &str) -> Option<Test> {
        match executable_in(line).unwrap() {
            Some(Executable::Test(test)) => Some(test),
            _ => None,
        }
    }

    #[test]
    fn tells_tests_from_programs() {
        let line = |test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///s/rabbit#0.1.0","manifest_path":"/s/rabbit/Cargo.toml",
                "target":{{"kind":["test"],"name":"rate-limit","src_path":"/s/rabbit/tests/rate-limit/main.rs"}},
                "profile":{{"test":{test}}},"executable":{executable},"fresh":true}}"#
            )
        };
        let found = test_in(&line(true, r#""/t/rate_limit-1""#)).unwrap();
        assert_eq!(
            (found.folder, found.executable),
            (PathBuf::from("/s/rabbit"), PathBuf::from("/t/rate_limit-1"))
        );
        assert_eq!((found.rabbit, found.name.as_str()), (true, "rate-limit"));
        assert_eq!(found.chosen_by, "--package rabbit --test rate-limit");
        assert_eq!(package_in("path+file:///s/rabbit#hare@0.1.0"), Some("hare"));
        let of_a_crate = line(true, r#""/t/rate_limit-1""#).replace("main.rs", "other.rs");
        let found = test_in(&of_a_crate).unwrap();
        assert_eq!((found.rabbit, found.name.as_str()), (false, "rabbit/rate-limit"));
        let helper = executable_in(&line(false, r#""/t/helper""#)).unwrap();
        assert!(
            matches!(helper, Some(Executable::Program { file, .. }) if file.as_path() == std::path::Path::new("/t/helper"))
        );
        assert!(executable_in(&line(true, "null")).unwrap().is_none());
        let finished = executable_in(r#"{"reason":"build-finished","success":true}"#);
        assert!(finished.unwrap().is_none());
        let torn = executable_in(r#"{"reason":"compiler-artifact"}"#).err().unwrap();
        assert_eq!(
            torn.to_string(),
            r#"read Cargo's line {"reason":"compiler-artifact"}"#
        );
    }
}
