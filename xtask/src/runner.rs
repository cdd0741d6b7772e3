// SPDX-License-Identifier: GPL-3.0-or-later
//! Runs rabbit tests one after another, each an executable of its own, and tells how it went.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::libtest::Counts;
use crate::process::{self, Ended, Kind, Stream};
use crate::table;

/// For one test, boot of the appliance included.
const LIMIT: Duration = Duration::from_secs(300);

/// A rabbit test, built.
pub struct Test {
    /// Name of the test.
    pub name: String,
    /// Its executable.
    pub executable: PathBuf,
}

/// How a test went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Name of the test.
    pub name: String,
    /// Whether it passed, and why not.
    pub verdict: Verdict,
    /// How long it ran.
    pub seconds: f64,
    /// Tests of the executable.
    pub counts: Counts,
    /// Where the evidence is, as the test itself says.
    pub evidence: Vec<PathBuf>,
}

/// Whether a test passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It was ended after its time.
    TimedOut,
    /// The executable ran no test at all.
    NoTest,
}

impl Verdict {
    fn of(ended: Ended, counts: Counts) -> Self {
        match ended {
            Ended { timed_out: true, .. } => Self::TimedOut,
            Ended { status, .. } if !status.success() || counts.failed > 0 => Self::Failed,
            _ if counts.passed == 0 => Self::NoTest,
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

/// What the tests find around them.
pub struct Surroundings {
    /// The current folder.
    pub folder: PathBuf,
    /// Environment variables besides those of xtask.
    pub env: Vec<(&'static str, OsString)>,
}

/// Runs the tests in turn; their output goes where that of xtask goes.
pub fn run(tests: &[Test], surroundings: &Surroundings) -> Result<Vec<Outcome>> {
    tests.iter().map(|test| run_one(test, surroundings)).collect()
}

fn run_one(test: &Test, surroundings: &Surroundings) -> Result<Outcome> {
    eprintln!("\nxtask: rabbit test {}", test.name);
    let mut command = process::command(&test.executable);
    command
        .arg("--nocapture")
        .current_dir(&surroundings.folder)
        .envs(surroundings.env.clone());
    // xtask has seen to it that nothing is missing, so a test that skips itself is one that fails.
    command.env("ALPY_REQUIRE", "all");
    let (mut output, mut evidence) = (String::new(), Vec::new());
    let started = Instant::now();
    let ended = process::follow(command, Kind::Group, Some(LIMIT), |stream, line| match stream {
        Stream::Out => {
            print!("{line}");
            let _ = std::io::stdout().flush();
            output.push_str(line);
        }
        Stream::Err => {
            eprint!("{line}");
            evidence.extend(evidence_in(line).filter(|folder| !evidence.contains(folder)));
        }
    })?;
    let mut counts = Counts::of_run(&output, ended.status.success());
    let verdict = Verdict::of(ended, counts);
    counts.failed = counts.failed.max(u64::from(verdict != Verdict::Passed));
    Ok(Outcome {
        name: test.name.clone(),
        verdict,
        seconds: started.elapsed().as_secs_f64(),
        counts,
        evidence,
    })
}

/// The folder in a line such as `INFO alpy::testbed  Evidence: /src/target/alpy/rate-limit`.
fn evidence_in(line: &str) -> Option<PathBuf> {
    let (_, folder) = line.split_once("Evidence: ")?;
    let folder = PathBuf::from(folder.trim_end().trim_end_matches("\u{1b}[0m"));
    folder.is_absolute().then_some(folder)
}

/// The summary.
pub fn table(outcomes: &[Outcome]) -> String {
    let rows: Vec<[String; 4]> = outcomes.iter().map(row).collect();
    table::render(["test", "verdict", "seconds", "evidence"], &rows, &["seconds"])
}

fn row(outcome: &Outcome) -> [String; 4] {
    let evidence: Vec<String> = outcome
        .evidence
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
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
        assert_eq!(Verdict::of(ended(0, false), counts(1, 0)), Verdict::Passed);
        assert_eq!(Verdict::of(ended(0, false), counts(0, 0)), Verdict::NoTest);
        assert_eq!(Verdict::of(ended(101, false), counts(1, 0)), Verdict::Failed);
        assert_eq!(Verdict::of(ended(0, false), counts(1, 1)), Verdict::Failed);
        assert_eq!(Verdict::of(ended(0, true), counts(1, 0)), Verdict::TimedOut);
        assert!(!all_passed(&[]), "no test is no success");
    }
}
