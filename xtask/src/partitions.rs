// SPDX-License-Identifier: GPL-3.0-or-later
//! `cargo xtask partitions`: whether the jobs of a pipeline, each with its part of the tests, run all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::args::Args;
use crate::process::{self, Kind};
use crate::stop;
use crate::workspace::cargo;

const HELP: &str = "\
Check that the partitions of cargo-nextest are together the whole suite, and that no test is in two of them.

Usage: cargo xtask partitions [N]

  N  How many partitions, as `parallel: N` of a job of GitLab makes them: 3 if not given

Exit status: 0 if that is so, 2 if something must be done first, 130 after Ctrl-C, else 1.";

/// How many jobs share the rabbit tests, see `.gitlab-ci.yml`.
pub const JOBS: NonZeroU32 = NonZeroU32::new(3).unwrap();

/// The name of each test, behind that of its executable.
type Tests = BTreeSet<String>;

/// Checks it.
pub fn main(arguments: Vec<String>) -> Result<ExitCode> {
    let mut args = Args::new(arguments, HELP);
    let mut count = JOBS;
    while let Some(argument) = args.next()? {
        match argument.as_str() {
            "-h" | "--help" => return Ok(args.help()),
            text if !text.starts_with('-') => {
                count = text
                    .parse()
                    .map_err(|_| args.error(&format!("N is a number from 1, not {text}")))?;
            }
            other => return Err(args.unknown(other)),
        }
    }
    println!("{} tests, each in one of {count} partitions", check(count)?);
    Ok(ExitCode::SUCCESS)
}

/// Whether nextest is there, without which there are no partitions.
pub fn has_nextest() -> bool {
    process::find("cargo-nextest").is_some()
}

/// Compares the partitions with the whole. Counts the tests.
pub fn check(count: NonZeroU32) -> Result<usize> {
    if !has_nextest() {
        return Err(stop::before_start(
            "cargo-nextest is missing; remedy: cargo install --locked cargo-nextest".to_owned(),
        ));
    }
    let whole = list(None)?;
    let parts = (1..=count.get()).map(|index| list(Some(format!("slice:{index}/{count}"))));
    let parts = parts.collect::<Result<Vec<Tests>>>()?;
    compare(&whole, &parts)?;
    Ok(whole.len())
}

fn compare(whole: &Tests, parts: &[Tests]) -> Result<()> {
    ensure!(!whole.is_empty(), "there is no test");
    let mut home = BTreeMap::new();
    for (index, part) in parts.iter().enumerate() {
        for test in part {
            if let Some(other) = home.insert(test, index) {
                bail!("{test} is in partition {} and in {}", other + 1, index + 1);
            }
            ensure!(whole.contains(test), "{test} is in partition {} alone", index + 1);
        }
    }
    match whole.iter().find(|test| !home.contains_key(test)) {
        Some(test) => bail!("{test} is in no partition"),
        None => Ok(()),
    }
}

/// What nextest would run, of all tests or of a partition.
fn list(partition: Option<String>) -> Result<Tests> {
    let mut command = cargo();
    command.args(["nextest", "list", "--workspace", "--message-format", "json"]);
    if let Some(partition) = partition {
        command.args(["--partition", &partition]);
    }
    let text = process::output(command, Kind::Group)?.success("cargo nextest list")?;
    let list: List = serde_json::from_str(&text).context("the list of cargo nextest")?;
    Ok(list.tests())
}

/// What `cargo nextest list --message-format json` prints, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct List {
    rust_suites: BTreeMap<String, Suite>,
}

#[derive(Deserialize)]
struct Suite {
    testcases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Case {
    filter_match: Match,
}

#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
enum Match {
    Matches,
    Mismatch {},
}

impl List {
    fn tests(self) -> Tests {
        let of_suite = |(suite, Suite { testcases }): (String, Suite)| {
            let run = testcases
                .into_iter()
                .filter(|(_, case)| matches!(case.filter_match, Match::Matches));
            run.map(move |(name, _)| format!("{suite} {name}"))
        };
        self.rust_suites.into_iter().flat_map(of_suite).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tests(names: &[&str]) -> Tests {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn each_test_is_in_one_partition() {
        let whole = tests(&["a", "b", "c"]);
        let said = |parts: &[Tests]| compare(&whole, parts).map_err(|error| error.to_string());
        assert_eq!(said(&[tests(&["a", "c"]), tests(&[]), tests(&["b"])]), Ok(()));
        for (parts, why) in [
            (
                [tests(&["a", "b"]), tests(&["b", "c"])],
                "b is in partition 1 and in 2",
            ),
            ([tests(&["a"]), tests(&["b"])], "c is in no partition"),
            (
                [tests(&["a", "b", "c"]), tests(&["d"])],
                "d is in partition 2 alone",
            ),
        ] {
            assert_eq!(said(&parts), Err(why.to_owned()));
        }
        let none = compare(&tests(&[]), &[]).unwrap_err().to_string();
        assert_eq!(none, "there is no test");
    }

    #[test]
    fn reads_what_nextest_prints() {
        let text = r#"{"rust-build-meta": {}, "test-count": 2, "rust-suites": {"rabbit::rate-limit": {"package-name": "rabbit",
            "testcases": {"one": {"kind": "test", "ignored": false, "filter-match": {"status": "matches"}},
            "two": {"kind": "test", "ignored": true, "filter-match": {"status": "mismatch", "reason": "ignored"}}}}}}"#;
        let list: List = serde_json::from_str(text).unwrap();
        assert_eq!(list.tests(), tests(&["rabbit::rate-limit one"]));
    }
}
