// SPDX-License-Identifier: GPL-3.0-or-later
//! Runs the tests of test executables, each test in a process of its own.

mod case;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::libtest::{self, Case, CaseVerdict, Counts, Listed};
use crate::process;
use crate::progress::Progress;
pub use case::evidence_in;

/// A test executable, built.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Test {
    /// The name of a rabbit test; else the names of the crate and of the target.
    pub name: String,
    /// Whether it is a rabbit test.
    pub rabbit: bool,
    /// Cargo's options that choose it, as `--package alpy --test faults`.
    pub chosen_by: String,
    /// The file.
    pub executable: PathBuf,
    /// The folder of its crate.
    pub folder: PathBuf,
    /// The programs of its crate, which it may run.
    pub programs: Vec<PathBuf>,
}

impl Test {
    /// Whether its tests must run alone: the storm looks for remains on the whole machine.
    pub fn is_alone(&self) -> bool {
        self.name == "alpy/storm"
    }

    /// The command that runs one of its tests again.
    pub fn again(&self, case: &str) -> String {
        match self.rabbit {
            true => format!("cargo xtask rabbit-tests {}", self.name),
            false => format!(
                "cargo xtask with-engine -- cargo test {} -- --exact {case}",
                self.chosen_by
            ),
        }
    }
}

/// Environment variables besides those of xtask.
pub type Environment = Vec<(&'static str, OsString)>;

/// How the tests of an executable went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The executable.
    pub test: Test,
    /// Its tests, in the order in which it lists them.
    pub cases: Vec<Case>,
}

impl Outcome {
    /// How many of its tests passed, failed and were skipped.
    pub fn counts(&self) -> Counts {
        Counts::of_cases(&self.cases)
    }

    /// How long its tests ran, in seconds. They ran at once, so the clock went less far.
    pub fn seconds(&self) -> f64 {
        self.cases.iter().map(|case| case.seconds).sum()
    }
}

/// How many rabbit tests run at once by default: one more than there are processors, because a test often waits for a guest to power off,
/// or measures a rate.
pub fn jobs() -> NonZeroUsize {
    thread::available_parallelism()
        .unwrap_or(NonZeroUsize::MIN)
        .saturating_add(1)
}

/// Runs all tests of the executables, each in the folder of its crate, as Cargo does it. So many rabbit tests run at once; of other tests,
/// which are smaller, twice as many.
pub fn run(
    tests: &[Test],
    environment: &Environment,
    jobs: NonZeroUsize,
    progress: &Progress,
) -> Result<Vec<Outcome>> {
    let listed = at_once(tests, jobs.get(), |test| Ok(list(test)))?;
    let plans: Vec<Plan<'_>> = tests
        .iter()
        .zip(listed)
        .map(|(test, listed)| Plan::new(test, listed))
        .collect();
    let scratch = tempfile::tempdir().context("create a temporary directory")?;
    let runner = case::Runner::new(environment, scratch.path(), progress);
    let kind = |plan: &Plan<'_>| (plan.test.rabbit, plan.test.is_alone());
    let total = plans.iter().map(|plan| plan.to_run.len()).sum();
    progress.during(total, || {
        for plans in plans.chunk_by(|one, next| kind(one) == kind(next)) {
            let jobs = match kind(&plans[0]) {
                (_, true) => 1,
                (true, false) => jobs.get(),
                (false, false) => 2 * jobs.get(),
            };
            let cases: Vec<(&Plan<'_>, &str)> = plans
                .iter()
                .flat_map(|plan| plan.to_run.iter().map(move |name| (plan, name.as_str())))
                .collect();
            at_once(&cases, jobs, |(plan, name)| {
                let ticket = progress.begin(&plan.label(name));
                let (case, log) = runner.run(plan.test, name, ticket)?;
                let failed = case.verdict.is_failure();
                progress.end(ticket, failed, &plan.end(case, &log));
                Ok(())
            })?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    Ok(plans.into_iter().map(Plan::outcome).collect())
}

/// Does something with each of the items, so many at once; the results are in the order of the items.
pub fn at_once<I: Sync, T: Send>(
    items: &[I],
    jobs: usize,
    run: impl Fn(&I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return done };
            done.push((index, run(item)));
        }
    };
    let mut done: Vec<(usize, Result<T>)> = thread::scope(|scope| {
        let jobs = jobs.min(items.len());
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().map(thread::ScopedJoinHandle::join);
        ended.flat_map(|done| done.expect("no worker panics")).collect()
    });
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Part of the name of a test that only root can run. Other users do not run it.
const AS_ROOT: &str = "as_root::";

fn list(test: &Test) -> Result<Vec<Listed>> {
    let command = || {
        let mut command = process::command(&test.executable);
        command.current_dir(&test.folder);
        command
    };
    let mut listed = libtest::list(command)?;
    if !nix::unistd::geteuid().is_root() {
        listed.retain(|listed| !listed.name.contains(AS_ROOT));
    }
    Ok(listed)
}

/// The tests of an executable while they run.
struct Plan<'a> {
    test: &'a Test,
    /// The names of the tests to run.
    to_run: Vec<String>,
    /// Cases without a process.
    others: Vec<Case>,
    done: Mutex<Vec<Case>>,
}

impl<'a> Plan<'a> {
    fn new(test: &'a Test, listed: Result<Vec<Listed>>) -> Self {
        let (mut to_run, mut others) = (Vec::new(), Vec::new());
        let mut failed = |why: String| {
            others.push(Case {
                name: test.name.clone(),
                output: why.clone(),
                why,
                ..Case::default()
            });
        };
        match listed {
            Ok(listed) => {
                // A crate may well have nothing to test.
                if test.rabbit && listed.iter().all(|listed| listed.ignored) {
                    failed("it has no test".to_owned());
                }
                for Listed { name, ignored } in listed {
                    match ignored {
                        false => to_run.push(name),
                        true => others.push(Case {
                            name,
                            verdict: CaseVerdict::Ignored,
                            ..Case::default()
                        }),
                    }
                }
            }
            Err(error) => failed(format!("{error:#}")),
        }
        Self {
            test,
            to_run,
            others,
            done: Mutex::default(),
        }
    }

    /// What one of its tests is called here.
    fn label(&self, name: &str) -> String {
        match self.test.rabbit && self.to_run.len() == 1 {
            true => self.test.name.clone(),
            false => format!("{}: {name}", self.test.name),
        }
    }

    /// Takes the case of a test that ended, and returns what is to be said: of a failure, its log; of a rabbit test, a line; of other tests,
    /// a line when the last one of the executable ended.
    fn end(&self, case: Case, log: &str) -> String {
        let mut text = String::new();
        if case.verdict.is_failure() {
            text = failure(&self.label(&case.name), &case, log);
        } else if self.test.rabbit || case.verdict == CaseVerdict::Skipped {
            text = line(
                case.verdict.word(),
                &self.label(&case.name),
                case.seconds,
                &case.why,
            );
        }
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.push(case);
        if !self.test.rabbit && done.len() == self.to_run.len() {
            let counts = Counts::of_cases(&*done);
            let seconds = done.iter().map(|case| case.seconds).sum();
            let word = if counts.failed == 0 { "passed" } else { "failed" };
            text.push_str(&line(word, &self.test.name, seconds, &counts.to_string()));
        }
        text
    }

    fn outcome(self) -> Outcome {
        let mut cases = self.done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let place = |case: &Case| self.to_run.iter().position(|name| *name == case.name);
        cases.sort_by_cached_key(place);
        cases.extend(self.others);
        Outcome {
            test: self.test.clone(),
            cases,
        }
    }
}

/// A line about a test, or about the tests of an executable.
pub fn line(word: &str, name: &str, seconds: f64, more: &str) -> String {
    let line = format!("{word:<9}  {name:<24}  {seconds:6.1} s  {}", first_line(more));
    format!("{}\n", line.trim_end())
}

/// The line about a test that failed, and its whole log.
pub fn failure(name: &str, case: &Case, log: &str) -> String {
    format!(
        "{}---- log of {name}\n{}\n---- end of the log of {name}\n",
        line(&case.verdict.word().to_uppercase(), name, case.seconds, ""),
        log.trim_end()
    )
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// The sum of all executables.
pub fn total(outcomes: &[Outcome]) -> Counts {
    let mut total = Counts::default();
    outcomes.iter().for_each(|outcome| total += outcome.counts());
    total
}

/// Whether every test passed or was skipped, and one passed.
pub fn all_passed(outcomes: &[Outcome]) -> bool {
    let total = total(outcomes);
    total.failed == 0 && total.passed > 0
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::progress;

    /// A test executable: a shell script that lists `tests`, and runs `body` with the name of a test in `$1`.
    pub(super) fn executable(folder: &Path, name: &str, rabbit: bool, tests: &[&str], body: &str) -> Test {
        let file = folder.join(name);
        let list: String = tests.iter().map(|test| format!("{test}: test\\n")).collect();
        let text = format!(
            "#!/bin/sh\ncase \"$*\" in *--ignored*) exit;; --list*) printf '{list}'; exit;; esac\n\
             cd {}\n{body}\n",
            folder.display()
        );
        // Another process writes it: a child that another thread forks meanwhile would keep this one's file open, and no file can be run
        // that is open for writing.
        let mut write = process::command("sh");
        write
            .args(["-c", "printf %s \"$TEXT\" > \"$0\" && chmod 700 \"$0\""])
            .arg(&file)
            .env("TEXT", text);
        assert!(process::run(write, process::Kind::Group).unwrap().success());
        Test {
            name: name.to_owned(),
            rabbit,
            chosen_by: format!("--package some --test {name}"),
            executable: file,
            folder: folder.to_owned(),
            programs: Vec::new(),
        }
    }

    pub(super) fn run_all(tests: &[Test], jobs: usize) -> Vec<Outcome> {
        let jobs = NonZeroUsize::new(jobs).unwrap();
        let (progress, _) = progress::tests::quiet(false, false);
        run(tests, &Vec::new(), jobs, &progress).unwrap()
    }

    #[test]
    fn an_executable_that_lists_nothing_and_fails_is_one_failure() {
        let folder = tempfile::tempdir().unwrap();
        let mut broken = executable(folder.path(), "broken", false, &[], "exit 1");
        broken.executable = "false".into();
        let empty = executable(folder.path(), "empty", false, &[], "exit 1");
        let outcomes = run_all(&[broken, empty.clone()], 1);
        assert_eq!(total(&outcomes), Counts::one_failure());
        let [case] = &outcomes[0].cases[..] else {
            panic!("{outcomes:?}")
        };
        assert_eq!(
            (case.name.as_str(), case.verdict),
            ("broken", CaseVerdict::Failed)
        );
        assert!(!all_passed(&outcomes));
        assert!(
            !all_passed(&run_all(std::slice::from_ref(&empty), 1)),
            "no test is no success"
        );
        // A crate may have no tests, a rabbit test may not.
        let rabbit = Test {
            rabbit: true,
            ..empty
        };
        assert_eq!(run_all(&[rabbit], 1)[0].cases[0].why, "it has no test");
    }

    #[test]
    fn tests_run_at_once_and_their_outcomes_are_in_order() {
        let folder = tempfile::tempdir().unwrap();
        // Each waits for the other.
        let wait = |other: &str| {
            format!(
                "> came-$1; i=0; until [ -e came-{other} ] || [ $i = 600 ]; do i=$((i+1)); sleep 0.1; done; [ -e came-{other} ]"
            )
        };
        let rabbits = [
            executable(folder.path(), "one", true, &["one"], &wait("two")),
            executable(folder.path(), "two", true, &["two"], &wait("one")),
        ];
        let outcomes = run_all(&rabbits, 2);
        assert!(all_passed(&outcomes), "{outcomes:?}");
        let names: Vec<_> = outcomes.iter().map(|outcome| &outcome.test.name).collect();
        assert_eq!(names, ["one", "two"]);
        // Two of one executable, too.
        let both = "case $1 in a) other=b;; b) other=a;; esac; > here-$1
            i=0; until [ -e here-$other ] || [ $i = 600 ]; do i=$((i+1)); sleep 0.1; done; [ -e here-$other ]";
        let outcomes = run_all(&[executable(folder.path(), "both", false, &["b", "a"], both)], 1);
        assert!(all_passed(&outcomes), "{outcomes:?}");
        let names: Vec<_> = outcomes[0].cases.iter().map(|case| &case.name).collect();
        assert_eq!(names, ["b", "a"], "as listed");
    }

    #[test]
    fn a_failure_is_said_with_its_log_and_a_success_in_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let test = executable(folder.path(), "nat", true, &["forwards"], "");
        let plan = Plan::new(&test, list(&test));
        let case = |verdict| Case {
            name: "forwards".to_owned(),
            verdict,
            seconds: 3.25,
            ..Case::default()
        };
        let passed = plan.end(case(CaseVerdict::Passed), "a long log\n");
        assert_eq!(passed, "passed     nat                          3.2 s\n");
        let failed = plan.end(case(CaseVerdict::TimedOut), "one\ntwo\n\n");
        assert_eq!(
            failed,
            "TIMED OUT  nat                          3.2 s\n---- log of nat\none\ntwo\n---- end of the log of nat\n"
        );
        assert_eq!(test.again("forwards"), "cargo xtask rabbit-tests nat");
        let test = executable(folder.path(), "of_a_crate", false, &["a", "b"], "");
        let plan = Plan::new(&test, list(&test));
        assert_eq!(
            plan.end(case(CaseVerdict::Passed), ""),
            "",
            "there is another one"
        );
        assert_eq!(
            plan.end(case(CaseVerdict::Passed), ""),
            "passed     of_a_crate                   6.5 s  2 passed, 0 failed, 0 skipped\n"
        );
        assert_eq!(
            test.again("a"),
            "cargo xtask with-engine -- cargo test --package some --test of_a_crate -- --exact a"
        );
    }
}
