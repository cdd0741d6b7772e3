// SPDX-License-Identifier: GPL-3.0-or-later
//! `cargo xtask test`.

use std::fs;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::args::Args;
use crate::engine::{self, Engine};
use crate::images::{self, Base};
use crate::libtest::Counts;
use crate::process::{self, Kind};
use crate::progress::Progress;
use crate::runner::{self, Outcome, Test};
use crate::summary::{self, Failure};
use crate::users::{self, Rights};
use crate::workspace::{Workspace, cargo};
use crate::{build, commands, crates, needs, rabbit_tests, sabotage, suite, table};

const HELP: &str = "\
Everything that must hold for a change: formatting, lints, documentation, all tests of all crates, and the rabbit tests.

As root, it then runs all tests twice more, as users who are made for this and removed afterwards: one in no group, with a
rootless engine of his own, and one in the group that may use the socket of an engine that root runs. Documentation tests
are the exception, since they need the compiler. There a test that cannot run fails.

Usage: cargo xtask test [--verbose]

  --verbose  Print all that the tests print, while they print it. Default: a line for each rabbit test and for the tests of each other
             executable, and the whole log of those that fail

At the end it repeats why tests failed, with the command that runs each again, and how many passed, failed and were skipped. All runs and their reports are in target/alpy/index.html then, and junit.xml beside it.

With ALPY_REQUIRE=all in the environment, as in CI, a test that cannot run here fails instead of saying so.

Exit status: 0 if everything held, 2 if something must be done first, 130 after Ctrl-C, else 1.";

/// Runs all stages, the later ones even if one fails.
pub fn main(arguments: Vec<String>) -> Result<ExitCode> {
    let mut args = Args::new(arguments, HELP);
    let mut verbose = false;
    while let Some(argument) = args.next()? {
        match argument.as_str() {
            "--verbose" => verbose = true,
            "-h" | "--help" => return Ok(args.help()),
            other => return Err(args.unknown(other)),
        }
    }
    let root = nix::unistd::geteuid().is_root();
    let workspace = Workspace::read()?;
    let mut needed = [needs::RABBIT_TESTS, &needs::crate_tests(), images::PROGRAMS].concat();
    if root {
        needed.extend(needs::USERS);
        needed.extend(engine::programs());
        needed.extend(engine::ROOTLESS);
    }
    let engine = rabbit_tests::ensure(needed, &workspace.target)?;
    let mut stages = Stages::default();
    let tests = run(&workspace, &engine, &mut stages, &Progress::new(verbose))?;
    engine.release()?;
    if root && !tests.is_empty() {
        for rights in [Rights::None, Rights::EngineGroup] {
            stages.outcomes(rights.words(), || users::run(rights, &tests, &workspace, verbose))?;
        }
    }

    let suites = stages.suites.iter();
    let suites: Vec<_> = suites
        .map(|(name, outcomes)| (name.clone(), &outcomes[..]))
        .collect();
    suite::write(&workspace.target, &suites)?;
    let total = stages.total();
    print!("\n{}\n{}{total}\n", stages.table(), stages.failures());
    Ok(if total.failed == 0 && total.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// All that this user can do himself. Returns the tests that can be run.
fn run(
    workspace: &Workspace,
    engine: &Engine,
    stages: &mut Stages,
    progress: &Progress,
) -> Result<Vec<Test>> {
    // The images need the network, the compiler needs the processors.
    let images = thread::scope(|scope| {
        let images = scope.spawn(|| rabbit_tests::build_images(workspace, Base::default()).map(drop));
        let checked = without_images(workspace, stages);
        let images = stages.check("images", || joined(images));
        checked.and(images)
    })?;
    let mut tests = Vec::new();
    stages.check("build of the tests", || {
        let mut log = String::new();
        tests = build::all_tests(|line| log.push_str(line)).inspect_err(|_| eprint!("{log}"))?;
        Ok(())
    })?;
    if !images {
        tests.retain(|test| !test.rabbit);
    }
    if !tests.iter().any(|test| test.rabbit) {
        let ran = Ran::failed("rabbit tests", "an earlier stage failed");
        stages.add("rabbit tests", Duration::ZERO, "not run", ran);
    }
    let environment = rabbit_tests::environment(&workspace.target, engine);
    let jobs = runner::jobs();
    // Cargo compiles documentation tests one after another, which leaves a processor for the commands.
    thread::scope(|scope| {
        let doctests = scope.spawn(|| {
            let mut doctests = with(&["test", "--quiet", "--workspace", "--doc", "--no-fail-fast"]);
            doctests.envs(environment.iter().cloned());
            run_doctests(doctests)
        });
        // They run before the tests, so that the tests' evidence stays.
        let ready = images && !tests.is_empty();
        let commands = match ready {
            true => stages.tests("documented commands", || {
                commands::run(workspace, &environment, jobs.get()).map(Ran::of_commands)
            }),
            // The earlier stage that failed is counted already.
            false => Ok(false),
        };
        let doctests = stages.tests("documentation tests", || joined(doctests));
        commands.and(doctests)
    })?;
    // The stage that builds them has failed, which counts.
    if tests.is_empty() {
        return Ok(tests);
    }
    stages.tests("a storm of one round", || {
        commands::storm(&environment).map(Ran::of_commands)
    })?;
    stages.outcomes(&who()?, || runner::run(&tests, &environment, jobs, progress))?;
    let rabbit: Vec<Test> = tests.iter().filter(|test| test.rabbit).cloned().collect();
    stages.tests("sabotaged rabbit tests", || {
        let cases = sabotage::run(&rabbit, &environment, jobs.get(), progress)?;
        Ok(Ran {
            counts: Counts::of_cases(&cases),
            failed: sabotage::failures(&cases),
        })
    })?;
    Ok(tests)
}

/// The stages that need no images.
fn without_images(workspace: &Workspace, stages: &mut Stages) -> Result<()> {
    stages.check("formatting", || quiet(with(&["fmt", "--all", "--check"])))?;
    let clippy = [
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ];
    stages.check("clippy", || quiet(with(&clippy)))?;
    stages.check("documentation", || {
        let mut doc = with(&["doc", "--quiet", "--workspace", "--no-deps"]);
        doc.env("RUSTDOCFLAGS", "--deny warnings");
        quiet(doc)
    })?;
    stages.check("crates in the README", || crates::check(workspace))?;
    Ok(())
}

/// The result of a thread.
fn joined<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| bail!("the stage has panicked"))
}

/// The name of this user.
fn who() -> Result<String> {
    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid)?;
    Ok(user.map_or_else(|| uid.to_string(), |user| user.name))
}

/// Shows the output if a test fails, else only what was skipped. All of them together are one test: the compiler runs them, and says in its
/// exit status alone how they went.
fn run_doctests(mut command: Command) -> Result<Ran> {
    let notes = tempfile::NamedTempFile::new().context("create a temporary file")?;
    command.env(alpy_need::SKIPS, notes.path());
    quiet(command)?;
    let notes = fs::read_to_string(notes.path())?;
    let skipped = notes.lines().filter_map(|note| note.split_once(' '));
    let skipped = skipped.inspect(|(_, reason)| eprintln!("SKIPPED: {reason}"));
    Ok(Ran {
        counts: Counts {
            passed: 1,
            skipped: skipped.count() as u64,
            ..Counts::default()
        },
        failed: Vec::new(),
    })
}

fn with(arguments: &[&str]) -> Command {
    let mut command = cargo();
    command.args(arguments);
    command
}

/// Runs a command whose output matters only if it fails.
fn quiet(command: Command) -> Result<()> {
    let output = process::output(command, Kind::Group)?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{}\n{}{}", output.status, output.stdout, output.stderr)
}

/// What was done, and how it went.
#[derive(Default)]
struct Stages {
    all: Vec<Stage>,
    /// The tests, by who ran them.
    suites: Vec<(String, Vec<Outcome>)>,
}

struct Stage {
    name: String,
    verdict: &'static str,
    time: Duration,
    ran: Ran,
}

/// The result of a stage.
#[derive(Default)]
struct Ran {
    counts: Counts,
    failed: Vec<Failure>,
}

impl Ran {
    fn of_commands(all: Vec<commands::Ended>) -> Self {
        let mut ran = Self::default();
        for commands::Ended { name, failure } in all {
            match failure {
                None => ran.counts.passed += 1,
                Some(why) => {
                    ran.counts.failed += 1;
                    ran.failed.push(Failure {
                        again: name.clone(),
                        name,
                        why,
                        evidence: None,
                    });
                }
            }
        }
        ran
    }

    /// A stage that failed itself.
    fn failed(name: &str, why: &str) -> Self {
        Self {
            counts: Counts::one_failure(),
            failed: vec![Failure {
                name: name.to_owned(),
                why: why.to_owned(),
                again: "cargo xtask test".to_owned(),
                evidence: None,
            }],
        }
    }
}

impl Stages {
    /// A stage that holds or not. One that does not counts as one failure.
    fn check(&mut self, name: &str, stage: impl FnOnce() -> Result<()>) -> Result<bool> {
        self.tests(name, || stage().map(|()| Ran::default()))
    }

    /// All tests, as one user runs them.
    fn outcomes(&mut self, who: &str, stage: impl FnOnce() -> Result<Vec<Outcome>>) -> Result<bool> {
        let mut ran = Vec::new();
        let name = format!("tests as {who}");
        let good = self.tests(&name, || {
            ran = stage()?;
            let mut failed = Failure::all_of(&ran);
            for failure in &mut failed {
                failure.name = format!("{name}: {}", failure.name);
            }
            Ok(Ran {
                counts: runner::total(&ran),
                failed,
            })
        });
        self.suites.push((name, ran));
        good
    }

    /// A stage that has tests. An error, except of a signal, counts as one failure.
    fn tests(&mut self, name: &str, stage: impl FnOnce() -> Result<Ran>) -> Result<bool> {
        let started = Instant::now();
        let ran = match stage() {
            Ok(ran) => ran,
            Err(error) => {
                process::check_interrupted()?;
                eprintln!("xtask: {name}: {error:#}");
                Ran::failed(name, &first_error(&format!("{error:#}")))
            }
        };
        let good = ran.counts.failed == 0;
        self.add(name, started.elapsed(), if good { "ok" } else { "failed" }, ran);
        Ok(good)
    }

    fn add(&mut self, name: &str, time: Duration, verdict: &'static str, ran: Ran) {
        eprintln!("xtask: {name}: {verdict}, {:.1} s", time.as_secs_f64());
        self.all.push(Stage {
            name: name.to_owned(),
            verdict,
            time,
            ran,
        });
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.all.iter().for_each(|stage| total += stage.ran.counts);
        total
    }

    /// What failed, once more and together: a person looks at the end of a log first.
    fn failures(&self) -> String {
        let all = self.all.iter().flat_map(|stage| stage.ran.failed.iter().cloned());
        summary::failures(&all.collect::<Vec<_>>())
    }

    fn table(&self) -> String {
        let number = |n: u64| if n == 0 { String::new() } else { n.to_string() };
        let row = |Stage {
                       name,
                       verdict,
                       time,
                       ran: Ran { counts, .. },
                   }: &Stage| {
            let seconds = format!("{:.1}", time.as_secs_f64());
            [
                name.clone(),
                verdict.to_string(),
                seconds,
                number(counts.passed),
                number(counts.failed),
                number(counts.skipped),
            ]
        };
        let rows: Vec<[String; 6]> = self.all.iter().map(row).collect();
        let right = ["seconds", "passed", "failed", "skipped"];
        let head = ["stage", "verdict", right[0], right[1], right[2], right[3]];
        table::render(head, &rows, &right)
    }
}

/// The first line of a tool's output that says what is wrong, else the first line.
fn first_error(output: &str) -> String {
    let mut lines = output.lines();
    let error = output.lines().find(|line| line.starts_with("error"));
    error.or(lines.next()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_without_tests_that_fails_is_a_failure_in_the_sum() {
        let mut stages = Stages::default();
        let ran = Ran {
            counts: Counts {
                passed: 3,
                skipped: 2,
                ..Counts::default()
            },
            failed: Vec::new(),
        };
        assert!(stages.tests("tests", || Ok(ran)).unwrap());
        assert!(stages.check("lint", || Ok(())).unwrap());
        assert!(!stages.check("format", || bail!("bad")).unwrap());
        assert_eq!(stages.total().to_string(), "3 passed, 1 failed, 2 skipped");
        assert!(stages.table().contains("format  failed"), "{}", stages.table());
        assert_eq!(stages.failures(), "format: bad\n  again: cargo xtask test\n\n");
    }

    fn doctests(script: &str) -> (Stages, bool) {
        let mut command = process::command("sh");
        command.args(["-c", script]);
        let mut stages = Stages::default();
        let good = stages
            .tests("documentation tests", || run_doctests(command))
            .unwrap();
        (stages, good)
    }

    #[test]
    fn documentation_tests_go_as_their_exit_status_says() {
        let looks_failed =
            "echo 'test src/lib.rs - f (line 3) ... FAILED'; echo '---- src/lib.rs - f (line 3) stdout ----'
            echo 'left is not right'; echo 'test result: FAILED. 0 passed; 1 failed'; echo 'SKIPPED: godot'";
        let (stages, good) = doctests(looks_failed);
        assert!(good && stages.failures().is_empty(), "{}", stages.failures());
        assert_eq!(stages.total().to_string(), "1 passed, 0 failed, 0 skipped");
        let (stages, good) =
            doctests("echo 'test result: ok. 2 passed; 0 failed'; echo 'error: cannot compile' >&2; exit 1");
        assert!(!good);
        assert_eq!(
            stages.failures(),
            "documentation tests: error: cannot compile\n  again: cargo xtask test\n\n"
        );
    }

    #[test]
    fn documentation_tests_that_are_skipped_are_counted() {
        let (stages, good) = doctests("echo \"$$ this test needs ip\" >> $ALPY_SKIPS");
        assert!(good);
        assert_eq!(stages.total().skipped, 1);
    }
}
