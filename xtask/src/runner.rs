// SPDX-License-Identifier: GPL-3.0-or-later
//! Runs test executables one after another, and tells how it went.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::libtest::Counts;
use crate::process::{self, Ended, Kind, Stream};
use crate::table;

/// For all tests of one executable, boot of the appliance included.
const LIMIT: Duration = Duration::from_secs(300);

/// How many folders of evidence of one executable the summary names.
const SHOWN: usize = 2;

/// A test executable, built.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Test {
    /// Of a rabbit test, its name; else those of the crate and of the target.
    pub name: String,
    /// Whether it is a rabbit test: one whose steps are for people to watch.
    pub rabbit: bool,
    /// The file.
    pub executable: PathBuf,
    /// The folder of its crate.
    pub folder: PathBuf,
}

/// Environment variables besides those of xtask.
pub type Environment = Vec<(&'static str, OsString)>;

/// How an executable went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Name of the test.
    pub name: String,
    /// Whether it is a rabbit test.
    pub rabbit: bool,
    /// Whether it passed, and why not.
    pub verdict: Verdict,
    /// How long it ran.
    pub seconds: f64,
    /// Tests of the executable.
    pub counts: Counts,
    /// Where the evidence is, as the test itself says.
    pub evidence: Vec<PathBuf>,
}

/// Whether the tests of an executable passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// They passed.
    Passed,
    /// One failed, or the executable itself.
    Failed,
    /// It was ended after its time.
    TimedOut,
    /// A rabbit test that ran no test at all. A crate may well have nothing to test.
    NoTest,
}

impl Verdict {
    fn of(test: &Test, ended: Ended, counts: Counts) -> Self {
        match ended {
            Ended { timed_out: true, .. } => Self::TimedOut,
            Ended { status, .. } if !status.success() || counts.failed > 0 => Self::Failed,
            _ if test.rabbit && counts.passed == 0 => Self::NoTest,
            _ => Self::Passed,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::TimedOut => "timed out",
            Self::NoTest => "ran no test",
        }
    }
}

/// Runs the executables in turn, each in the folder of its crate, as Cargo does it. What a rabbit test prints goes where
/// that of xtask goes; of others, what failed does and what was skipped.
pub fn run(tests: &[Test], environment: &Environment) -> Result<Vec<Outcome>> {
    tests.iter().map(|test| run_one(test, environment)).collect()
}

fn run_one(test: &Test, environment: &Environment) -> Result<Outcome> {
    let mut command = process::command(&test.executable);
    command
        .current_dir(&test.folder)
        .envs(environment.iter().cloned())
        .env("CARGO_MANIFEST_DIR", &test.folder);
    if test.rabbit {
        eprintln!("\nxtask: rabbit test {}", test.name);
        // xtask has seen to it that nothing is missing, so a test that skips itself is one that fails.
        command.arg("--nocapture").env("ALPY_REQUIRE", "all");
    } else {
        // Skips are printed by tests that pass, which nothing shows otherwise.
        command.arg("--show-output");
    }
    let (mut output, mut evidence) = (String::new(), Vec::new());
    let started = Instant::now();
    let ended = process::follow(command, Kind::Group, Some(LIMIT), |stream, line| {
        match stream {
            _ if !test.rabbit => {}
            Stream::Out => {
                print!("{line}");
                let _ = std::io::stdout().flush();
            }
            Stream::Err => eprint!("{line}"),
        }
        output.push_str(line);
        evidence.extend(evidence_in(line).filter(|folder| !evidence.contains(folder)));
    })?;
    let mut counts = Counts::of_run(&output, ended.status.success());
    let verdict = Verdict::of(test, ended, counts);
    counts.failed = counts.failed.max(u64::from(verdict != Verdict::Passed));
    if !test.rabbit {
        show(&test.name, verdict, ended, &output);
    }
    Ok(Outcome {
        name: test.name.clone(),
        rabbit: test.rabbit,
        verdict,
        seconds: started.elapsed().as_secs_f64(),
        counts,
        evidence,
    })
}

fn show(name: &str, verdict: Verdict, ended: Ended, output: &str) {
    if verdict == Verdict::Passed {
        let skipped = output.lines().filter(|line| line.starts_with("SKIPPED: "));
        skipped.for_each(|line| eprintln!("{line}"));
    } else {
        eprintln!("{output}\nxtask: {name} {}: {}", verdict.word(), ended.status);
    }
}

/// The folder in a line such as `INFO alpy::testbed  Evidence: /src/target/alpy/rate-limit`.
fn evidence_in(line: &str) -> Option<PathBuf> {
    let (_, folder) = line.split_once("Evidence: ")?;
    let folder = PathBuf::from(folder.trim_end().trim_end_matches("\u{1b}[0m"));
    folder.is_absolute().then_some(folder)
}

/// The sum of all executables.
pub fn total(outcomes: &[Outcome]) -> Counts {
    let mut total = Counts::default();
    outcomes.iter().for_each(|outcome| total += outcome.counts);
    total
}

/// The summary: the rabbit tests, and whatever did not pass.
pub fn table(outcomes: &[Outcome]) -> String {
    let worth = |outcome: &&Outcome| outcome.rabbit || outcome.verdict != Verdict::Passed;
    let rows: Vec<[String; 4]> = outcomes.iter().filter(worth).map(row).collect();
    table::render(["test", "verdict", "seconds", "evidence"], &rows, &["seconds"])
}

fn row(outcome: &Outcome) -> [String; 4] {
    let shown = outcome.evidence.iter().take(SHOWN);
    let mut evidence: Vec<String> = shown.map(|folder| folder.display().to_string()).collect();
    if let Some(more @ 1..) = outcome.evidence.len().checked_sub(SHOWN) {
        evidence.push(format!("and {more} more"));
    }
    let Outcome {
        name,
        verdict,
        seconds,
        ..
    } = outcome;
    [
        name.clone(),
        verdict.word().to_owned(),
        format!("{seconds:.1}"),
        evidence.join(" "),
    ]
}

/// Whether every test passed, and there was one.
pub fn all_passed(outcomes: &[Outcome]) -> bool {
    !outcomes.is_empty() && outcomes.iter().all(|outcome| outcome.verdict == Verdict::Passed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn test(program: &str, rabbit: bool) -> Test {
        Test {
            name: program.to_owned(),
            rabbit,
            executable: program.into(),
            folder: "/".into(),
        }
    }

    #[test]
    fn an_executable_that_fails_without_a_word_is_one_failure() {
        let outcomes = run(&[test("true", false), test("false", false)], &Vec::new()).unwrap();
        assert_eq!(total(&outcomes), Counts { passed: 0, failed: 1 });
        assert_eq!(outcomes[1].verdict, Verdict::Failed);
        assert!(!all_passed(&outcomes));
    }

    #[test]
    fn finds_the_evidence_in_a_log_line() {
        let line = "INFO  alpy::testbed        Evidence: /t/alpy/rate-limit.2\n";
        assert_eq!(evidence_in(line).unwrap(), PathBuf::from("/t/alpy/rate-limit.2"));
        assert_eq!(evidence_in("INFO  main  Evidence: none yet\n"), None);
        assert_eq!(evidence_in("INFO  alpy::node  Create nodes...\n"), None);
    }

    #[test]
    fn only_a_test_that_ran_and_succeeded_has_passed() {
        let ended = |code: i32, timed_out| Ended {
            status: ExitStatus::from_raw(code << 8),
            timed_out,
        };
        let counts = |passed, failed| Counts { passed, failed };
        let of = |ended, counts| Verdict::of(&test("true", true), ended, counts);
        assert_eq!(of(ended(0, false), counts(1, 0)), Verdict::Passed);
        assert_eq!(of(ended(0, false), counts(0, 0)), Verdict::NoTest);
        assert_eq!(of(ended(101, false), counts(1, 0)), Verdict::Failed);
        assert_eq!(of(ended(0, false), counts(1, 1)), Verdict::Failed);
        assert_eq!(of(ended(0, true), counts(1, 0)), Verdict::TimedOut);
        let crate_without_tests = Verdict::of(&test("true", false), ended(0, false), counts(0, 0));
        assert_eq!(crate_without_tests, Verdict::Passed);
        assert!(!all_passed(&[]), "no test is no success");
    }
}
