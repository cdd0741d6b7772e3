// SPDX-License-Identifier: GPL-3.0-or-later
//! The tests of an executable, and how each went.
//!
//! The names come from `--list`. Each test runs in a process of its own, and the exit status of that process is its verdict. What a test
//! prints is shown to people and decides nothing: a test may well print what looks like the result of another one.

use std::fmt;
use std::ops::AddAssign;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::process::{self, Kind};

/// How many tests passed, failed and were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed or timed out, and those that cannot be judged: they have not passed.
    pub failed: u64,
    /// How many of `failed` cannot be judged.
    pub unjudged: u64,
    /// Tests that said they cannot run on this machine.
    pub skipped: u64,
}

impl Counts {
    /// Counts tests by their verdicts.
    pub fn of_cases<'a>(cases: impl IntoIterator<Item = &'a Case>) -> Self {
        let mut counts = Self::default();
        for case in cases {
            match case.verdict {
                CaseVerdict::Passed => counts.passed += 1,
                CaseVerdict::Failed | CaseVerdict::TimedOut => counts.failed += 1,
                CaseVerdict::Unjudged => {
                    counts.failed += 1;
                    counts.unjudged += 1;
                }
                CaseVerdict::Skipped => counts.skipped += 1,
                CaseVerdict::Ignored => {}
            }
        }
        counts
    }

    /// A stage without tests of its own that failed.
    pub fn one_failure() -> Self {
        Self {
            failed: 1,
            ..Self::default()
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.unjudged += other.unjudged;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            unjudged,
            skipped,
        } = self;
        write!(f, "{passed} passed, {} failed, ", failed - unjudged)?;
        if *unjudged > 0 {
            write!(f, "{unjudged} cannot be judged, ")?;
        }
        write!(f, "{skipped} skipped")
    }
}

/// A test of an executable.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// Its name, with its modules.
    pub name: String,
    /// How it went.
    pub verdict: CaseVerdict,
    /// Why it failed or was skipped.
    pub why: String,
    /// How long it ran, in seconds.
    pub seconds: f64,
    /// The end of what it printed.
    pub output: String,
    /// The evidence directories that it named.
    pub evidence: Vec<PathBuf>,
}

/// How a test of an executable went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CaseVerdict {
    /// Its process succeeded.
    Passed,
    /// Its process failed, or there was none.
    #[default]
    Failed,
    /// It says that the host was too busy for what it measures.
    Unjudged,
    /// It was ended after its time.
    TimedOut,
    /// It said that it cannot run here.
    Skipped,
    /// It has the attribute `ignore`, and did not run.
    Ignored,
}

impl CaseVerdict {
    /// Whether it counts as a failure.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::TimedOut | Self::Unjudged)
    }

    /// In words.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::TimedOut => "timed out",
            Self::Unjudged => "cannot be judged",
            Self::Skipped => "skipped",
            Self::Ignored => "ignored",
        }
    }
}

/// The name of a test, and whether it is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    pub ignored: bool,
}

/// Asks an executable for its tests. `command` makes a command that starts it.
pub fn list(command: impl Fn() -> Command) -> Result<Vec<Listed>> {
    let ask = |arguments: &[&str]| {
        let mut command = command();
        command.args(["--list", "--format", "terse"]).args(arguments);
        let text = process::output(command, Kind::Group)?.success("list the tests")?;
        Ok::<_, anyhow::Error>(names(&text))
    };
    let ignored = ask(&["--ignored"])?;
    let all = ask(&[])?.into_iter();
    let listed = all.map(|name| Listed {
        ignored: ignored.contains(&name),
        name,
    });
    Ok(listed.collect())
}

fn names(text: &str) -> Vec<String> {
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    names.map(str::to_owned).collect()
}

/// How much of a test's output is kept, in bytes.
const KEPT: usize = 8 << 10;

/// The end of a text, from the beginning of a line if possible.
pub fn end_of(text: &str) -> String {
    let Some(from) = text.len().checked_sub(KEPT) else {
        return text.to_owned();
    };
    let from = (from..)
        .find(|from| text.is_char_boundary(*from))
        .unwrap_or(text.len());
    let end = &text[from..];
    match end.split_once('\n') {
        Some((_, lines)) => format!("...\n{lines}"),
        None => format!("...{end}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_the_tests_of_this_executable() {
        let own = || process::command("/proc/self/exe");
        let listed = list(own).unwrap();
        let this = "libtest::tests::lists_the_tests_of_this_executable";
        let found = listed.iter().find(|listed| listed.name == this);
        assert!(found.is_some_and(|listed| !listed.ignored), "{listed:?}");
        let error = list(|| process::command("false")).unwrap_err().to_string();
        assert!(error.starts_with("list the tests: exit status: 1"), "{error}");
    }

    #[test]
    fn a_benchmark_is_no_test() {
        assert_eq!(names("a::b: test\nquick: benchmark\n"), ["a::b"]);
    }

    #[test]
    fn ignored_tests_are_not_counted() {
        let of = |verdict| Case {
            verdict,
            ..Case::default()
        };
        use CaseVerdict::{Failed, Ignored, Passed, Skipped, TimedOut};
        let cases = [Passed, Failed, TimedOut, Skipped, Ignored].map(of);
        let counts = Counts::of_cases(&cases);
        assert_eq!(counts.to_string(), "1 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn of_a_long_output_the_end_is_kept() {
        let long: String = (0..10_000).map(|line| format!("zeile ü {line}\n")).collect();
        let end = end_of(&long);
        assert!(end.len() <= KEPT + 4 && end.starts_with("...\nzeile ü "), "{end}");
        assert!(end.ends_with("zeile ü 9999\n"), "{end}");
        assert!(end_of(&"ü".repeat(KEPT)).len() <= KEPT + 4);
        assert_eq!(end_of("short"), "short");
    }
}
