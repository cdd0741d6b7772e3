// SPDX-License-Identifier: GPL-3.0-or-later
//! Runs test executables, and tells how it went.

use std::ffi::OsString;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::libtest::{self, Case, CaseVerdict, Counts};
use crate::process::{self, Ended, Kind, Stream};
use crate::table;

/// For all tests of one executable, boot of the appliance included.
const LIMIT: Duration = Duration::from_secs(300);

/// The variable that has testbeds wait for a person, who has all the time in the world.
const PAUSE: &str = "ALPY_PAUSE";

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
    /// The programs of its crate, which it may run.
    pub programs: Vec<PathBuf>,
}

impl Test {
    /// Whether no other one can run beside it: the storm looks for what is left on the whole machine, the tests of the console hold a time-out
    /// to 50 ms.
    pub fn is_alone(&self) -> bool {
        ["alpy/storm", "alpy-console/console"].contains(&self.name.as_str())
    }
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
    /// Its tests. A rabbit test is one, and so is an executable that ended before it has told of any.
    pub cases: Vec<Case>,
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

    /// In words.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::TimedOut => "timed out",
            Self::NoTest => "ran no test",
        }
    }
}

/// How many rabbit tests run at once if nobody says otherwise: one more than there are processors, for much of the time a test waits
/// for a guest to power off, or measures a rate.
pub fn jobs() -> NonZeroUsize {
    thread::available_parallelism()
        .unwrap_or(NonZeroUsize::MIN)
        .saturating_add(1)
}

/// Runs the executables, each in the folder of its crate, as Cargo does it: rabbit tests so many at once, of the others one fewer, for
/// each of them runs tests at once itself. What a rabbit test prints goes where that of xtask goes, behind its name where several
/// run; of others, what failed does and what was skipped.
pub fn run(tests: &[Test], environment: &Environment, jobs: NonZeroUsize) -> Result<Vec<Outcome>> {
    let kind = |test: &Test| (test.rabbit, test.is_alone());
    let mut outcomes = Vec::new();
    for tests in tests.chunk_by(|one, next| kind(one) == kind(next)) {
        let jobs = match kind(&tests[0]) {
            (_, true) => 1,
            (true, false) => jobs.get(),
            (false, false) => (jobs.get() - 1).max(1),
        };
        outcomes.extend(run_at_once(tests, environment, jobs.min(tests.len()))?);
    }
    Ok(outcomes)
}

fn run_at_once(tests: &[Test], environment: &Environment, jobs: usize) -> Result<Vec<Outcome>> {
    let width = tests.iter().map(|test| test.name.len()).max().unwrap_or(0);
    let label = |test: &Test| match jobs {
        1 => String::new(),
        _ => format!("{:width$}  ", test.name),
    };
    at_once(tests, jobs, |test| run_one(test, environment, &label(test)))
}

/// Does something with each of the tests, so many at once; what comes of it is in their order.
pub fn at_once<T: Send>(
    tests: &[Test],
    jobs: usize,
    run: impl Fn(&Test) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(test) = tests.get(index) else { return done };
            done.push((index, run(test)));
        }
    };
    let mut done: Vec<(usize, Result<T>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().map(thread::ScopedJoinHandle::join);
        ended.flat_map(|done| done.expect("no worker panics")).collect()
    });
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// In the name of a test that root alone can run. For others it is no test: neither passed nor failed.
const AS_ROOT: &str = "as_root::";

fn run_one(test: &Test, environment: &Environment, label: &str) -> Result<Outcome> {
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
        if !nix::unistd::geteuid().is_root() {
            command.args(["--skip", AS_ROOT]);
        }
    }
    let limit = std::env::var_os(PAUSE).map_or(Some(LIMIT), |_| None);
    let (mut output, mut evidence) = (String::new(), Vec::new());
    let started = Instant::now();
    let ended = process::follow(command, Kind::Group, limit, |stream, line| {
        match stream {
            _ if !test.rabbit => {}
            Stream::Out => {
                print!("{label}{line}");
                let _ = std::io::stdout().flush();
            }
            Stream::Err => eprint!("{label}{line}"),
        }
        output.push_str(line);
        evidence.extend(evidence_in(line).filter(|folder| !evidence.contains(folder)));
    })?;
    let mut counts = Counts::of_run(&output, ended.status.success());
    let verdict = Verdict::of(test, ended, counts);
    counts.failed = counts.failed.max(u64::from(verdict != Verdict::Passed));
    let mut cases = match test.rabbit {
        true => Vec::new(),
        false => libtest::cases(&output),
    };
    // What failed is among the tests, even if none of them says so.
    let told = cases.iter().any(|case| case.verdict == CaseVerdict::Failed);
    if test.rabbit || (verdict != Verdict::Passed && !told) {
        cases.push(Case {
            name: test.name.clone(),
            verdict: match verdict {
                Verdict::Passed => CaseVerdict::Passed,
                _ => CaseVerdict::Failed,
            },
            output: match verdict {
                Verdict::Passed => String::new(),
                _ => libtest::end_of(&output),
            },
        });
    }
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
        cases,
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
pub fn evidence_in(line: &str) -> Option<PathBuf> {
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
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    fn test(program: &str, rabbit: bool) -> Test {
        Test {
            name: program.to_owned(),
            rabbit,
            executable: program.into(),
            folder: "/".into(),
            programs: Vec::new(),
        }
    }

    #[test]
    fn an_executable_that_fails_without_a_word_is_one_failure() {
        let outcomes = run(
            &[test("true", false), test("false", false)],
            &Vec::new(),
            NonZeroUsize::MIN,
        )
        .unwrap();
        assert_eq!(total(&outcomes), Counts { passed: 0, failed: 1 });
        assert_eq!(outcomes[1].verdict, Verdict::Failed);
        let [case] = &outcomes[1].cases[..] else {
            panic!("{outcomes:?}")
        };
        assert_eq!((case.name.as_str(), case.verdict), ("false", CaseVerdict::Failed));
        assert!(!all_passed(&outcomes));
    }

    #[test]
    fn rabbit_tests_run_at_once_and_their_outcomes_are_in_order() {
        let folder = tempfile::tempdir().unwrap();
        // Each waits for the other.
        let script = |name: &str, other: &str| {
            let file = folder.path().join(name);
            let wait =
                format!("i=0; until [ -e came-{other} ] || [ $i = 100 ]; do i=$((i+1)); sleep 0.1; done");
            let text = format!(
                "#!/bin/sh\ncd {}\n>came-{name}\n{wait}\n[ -e came-{other} ]\n",
                folder.path().display()
            );
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).unwrap();
            test(file.to_str().unwrap(), true)
        };
        let tests = [script("one", "two"), script("two", "one"), test("true", false)];
        let outcomes = run(&tests, &Vec::new(), NonZeroUsize::new(2).unwrap()).unwrap();
        assert!(
            outcomes
                .iter()
                .zip(&tests)
                .all(|(outcome, test)| outcome.name == test.name)
        );
        // They ran no test, but ended well.
        assert_eq!(outcomes[0].verdict, Verdict::NoTest);
        assert_eq!(outcomes[1].verdict, Verdict::NoTest);
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
