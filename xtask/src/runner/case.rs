// SPDX-License-Identifier: GPL-3.0-or-later
//! One test in a process of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Environment, Test};
use crate::libtest::{Case, CaseVerdict, end_of};
use crate::limit::Limit;
use crate::process::{self, Ended, Kind};
use crate::progress::{Progress, Ticket};

/// The time limit of a test: 600 s, while the longest deadline of a testbed in a test is 480 s. The time for which the host kept the test from
/// running does not count. In all it is 3,300 s at most, a little more than ten times a testbed's default deadline, which is alpy's own limit.
const LIMIT: Limit = Limit::of_running(Duration::from_secs(600), Duration::from_secs(3300));

/// The variable that has testbeds wait for a person. Such a test has no limit.
const PAUSE: &str = "ALPY_PAUSE";

/// The record of a run in its evidence, as alpy writes it.
const RECORD: &str = "run.json";

/// A record that is longer is not read.
const LONGEST: u64 = 64 << 20;

/// Runs tests.
pub(super) struct Runner<'a> {
    environment: &'a Environment,
    scratch: &'a Path,
    progress: &'a Progress,
    limit: Option<Limit>,
}

impl<'a> Runner<'a> {
    /// `scratch` is an empty folder.
    pub(super) fn new(environment: &'a Environment, scratch: &'a Path, progress: &'a Progress) -> Self {
        Self {
            environment,
            scratch,
            progress,
            limit: std::env::var_os(PAUSE).map_or(Some(LIMIT), |_| None),
        }
    }

    /// Runs a test of an executable. Returns its whole log, too.
    pub(super) fn run(&self, test: &Test, name: &str, ticket: Ticket) -> Result<(Case, String)> {
        let notes = tempfile::NamedTempFile::new_in(self.scratch)?;
        let mut command = process::command(&test.executable);
        command
            .args([name, "--exact", "--nocapture"])
            .current_dir(&test.folder)
            .envs(self.environment.iter().cloned())
            .env("CARGO_MANIFEST_DIR", &test.folder)
            .env(alpy_need::SKIPS, notes.path());
        if test.rabbit {
            // xtask has installed all that it needs, so a test that skips itself is one that fails.
            command.env("ALPY_REQUIRE", "all");
        }
        let (mut log, mut evidence) = (String::new(), Vec::new());
        let started = Instant::now();
        let ended = process::follow(command, Kind::Group, self.limit, |stream, line| {
            self.progress.line(ticket, stream, line);
            log.push_str(line);
            evidence.extend(evidence_in(line).filter(|folder| !evidence.contains(folder)));
        })?;
        let skip = skip_of(ended.pid, &fs::read_to_string(notes.path())?);
        let (verdict, why) = match ended {
            Ended { timed_out: true, .. } => {
                let seconds = started.elapsed().as_secs();
                (
                    CaseVerdict::TimedOut,
                    format!("it did not end, and was ended after {seconds} s"),
                )
            }
            Ended { status, .. } if !status.success() => {
                let record = evidence.iter().find_map(|folder| record(folder, ended.pid));
                let verdict = match &record {
                    Some(record) if record["verdict"] == "unjudged" => CaseVerdict::Unjudged,
                    _ => CaseVerdict::Failed,
                };
                let cause = record.as_ref().and_then(cause);
                (verdict, cause.unwrap_or_else(|| reason(&log)))
            }
            _ => match skip {
                Some(reason) => (CaseVerdict::Skipped, reason),
                None => (CaseVerdict::Passed, String::new()),
            },
        };
        let case = Case {
            name: name.to_owned(),
            verdict,
            why,
            seconds: started.elapsed().as_secs_f64(),
            output: match verdict.is_failure() {
                true => end_of(&log),
                false => String::new(),
            },
            evidence,
        };
        Ok((case, log))
    }
}

/// Why the test of this process was skipped, if it was. A child of the test that skips something is not the test.
fn skip_of(pid: u32, notes: &str) -> Option<String> {
    let mut notes = notes.lines().filter_map(|note| note.split_once(' '));
    let own = notes.find(|(of, _)| of.parse() == Ok(pid));
    own.map(|(_, reason)| reason.to_owned())
}

/// What a run has recorded of itself; only if this process ran it.
fn record(folder: &Path, pid: u32) -> Option<serde_json::Value> {
    let path = folder.join(RECORD);
    let metadata = fs::symlink_metadata(&path).ok()?;
    if !metadata.is_file() || metadata.len() > LONGEST {
        return None;
    }
    let record: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (record["pid"].as_u64() == Some(u64::from(pid))).then_some(record)
}

/// Why a run failed.
fn cause(record: &serde_json::Value) -> Option<String> {
    let failure = &record["failure"];
    let cause = failure["cause"].as_str()?;
    Some(match failure["step"].as_str() {
        Some(step) => format!("{cause} ({step})"),
        None => cause.to_owned(),
    })
}

/// The part of a failed test's output that tells a person most: the error or the panic message, else the last line.
pub(super) fn reason(output: &str) -> String {
    let lines = || output.lines().map(str::trim_end);
    // The last one of each, because the earlier ones are those of the test's children.
    let error = || {
        lines()
            .rev()
            .find_map(|line| line.strip_prefix("Error: "))
            .map(str::to_owned)
    };
    let panic = || {
        let (_, message) = output
            .rsplit_once("\nthread '")
            .or(output.strip_prefix("thread '").map(|all| ("", all)))?;
        let message = message.lines().skip(1).take_while(|line| {
            !line.is_empty() && !line.starts_with("note: ") && *line != "stack backtrace:"
        });
        let message: Vec<_> = message.map(str::trim).collect();
        Some(message.join("\n")).filter(|message| !message.is_empty())
    };
    let last = || lines().rfind(|line| !line.is_empty()).map(str::to_owned);
    let found = error().or_else(panic).or_else(last);
    found.unwrap_or_else(|| "it printed nothing".to_owned())
}

/// The folder in a line such as `INFO alpy::testbed  Evidence: /src/target/alpy/rate-limit`.
pub fn evidence_in(line: &str) -> Option<PathBuf> {
    let (_, folder) = line.split_once("Evidence: ")?;
    let folder = PathBuf::from(folder.trim_end().trim_end_matches("\u{1b}[0m"));
    folder.is_absolute().then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{executable, run_all};
    use super::*;

    fn verdict_and_why(body: &str) -> (CaseVerdict, String) {
        let folder = tempfile::tempdir().unwrap();
        let outcomes = run_all(&[executable(folder.path(), "some", false, &["one"], body)], 1);
        let case = outcomes[0].cases[0].clone();
        (case.verdict, case.why)
    }

    #[test]
    fn an_output_that_looks_like_results_decides_nothing() {
        // What a test of a parser of such output prints, and what a test prints that runs other tests.
        let looks_failed =
            "echo 'test one ... FAILED'; echo; echo failures:; echo; echo '---- other stdout ----'
            echo 'left is not right'; echo 'test other ... FAILED'; echo 'SKIPPED: this test needs godot'
            echo 'test result: FAILED. 0 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out'";
        assert_eq!(
            verdict_and_why(looks_failed),
            (CaseVerdict::Passed, String::new())
        );
        let looks_passed = "echo 'test one ... ok'
            echo 'test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out'; echo bad; exit 1";
        assert_eq!(
            verdict_and_why(looks_passed),
            (CaseVerdict::Failed, "bad".to_owned())
        );
    }

    #[test]
    fn a_test_is_skipped_if_it_notes_so_itself() {
        let (verdict, why) = verdict_and_why("echo \"$$ this test needs qemu\" >> $ALPY_SKIPS");
        assert_eq!(
            (verdict, why.as_str()),
            (CaseVerdict::Skipped, "this test needs qemu")
        );
        let (verdict, _) = verdict_and_why("sh -c 'echo \"$$ needs qemu\" >> $ALPY_SKIPS'; true");
        assert_eq!(verdict, CaseVerdict::Passed, "its child skipped something");
        let (verdict, _) = verdict_and_why("echo \"$$ needs qemu\" >> $ALPY_SKIPS; false");
        assert_eq!(verdict, CaseVerdict::Failed);
    }

    #[test]
    fn the_record_of_its_own_run_says_why() {
        let record = |pid: &str| {
            format!(
                r#"echo "{{\"pid\": {pid}, \"failure\": {{\"cause\": \"saw 0\", \"step\": \"Ping\"}}}}" > run.json
                echo "INFO  alpy::testbed  Evidence: $PWD"; echo the last line; exit 1"#
            )
        };
        assert_eq!(
            verdict_and_why(&record("$$")),
            (CaseVerdict::Failed, "saw 0 (Ping)".to_owned())
        );
        let unjudged = record("$$, \\\"verdict\\\": \\\"unjudged\\\"");
        assert_eq!(verdict_and_why(&unjudged).0, CaseVerdict::Unjudged);
        assert_eq!(
            verdict_and_why(&record("1")).1,
            "the last line",
            "a child's run, or another's, is not the test's"
        );
    }

    #[test]
    fn a_reason_is_the_error_else_the_panic_else_the_last_line() {
        assert_eq!(reason("Error: no\nfailures:\n"), "no");
        let panic = "thread 'bad' (7) panicked at src/lib.rs:1:\nassertion failed\n  left: 1\n right: 2\nnote: run with\n";
        assert_eq!(reason(panic), "assertion failed\nleft: 1\nright: 2");
        let traced = "thread 'bad' (7) panicked at src/lib.rs:1:\nsaw 0\nstack backtrace:\n   0: main\n";
        assert_eq!(reason(traced), "saw 0");
        assert_eq!(reason("one\nlast\n\n"), "last");
        assert_eq!(reason(""), "it printed nothing");
    }

    #[test]
    fn finds_the_evidence_in_a_log_line() {
        let line = "INFO  alpy::testbed        Evidence: /t/alpy/rate-limit.2\n";
        assert_eq!(evidence_in(line).unwrap(), PathBuf::from("/t/alpy/rate-limit.2"));
        assert_eq!(evidence_in("INFO  main  Evidence: none yet\n"), None);
        assert_eq!(evidence_in("INFO  alpy::node  Create nodes...\n"), None);
    }
}
