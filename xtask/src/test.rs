// SPDX-License-Identifier: GPL-3.0-or-later
//! `cargo xtask test`.

use std::fmt::Write;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::args::Args;
use crate::engine::{self, Engine};
use crate::images::{self, Base};
use crate::libtest::{self, Case, CaseVerdict, Counts};
use crate::process::{self, Kind};
use crate::runner::{self, Outcome, Test};
use crate::users::{self, Rights};
use crate::workspace::{Workspace, cargo};
use crate::{build, crates, needs, partitions, rabbit_tests, sabotage, suite, table};

const HELP: &str = "\
Everything that must hold for a change: formatting, lints, documentation, all tests of all crates, and the rabbit tests.

As root, it then runs all tests twice more, as users who are made for this and removed afterwards: one in no group, with a
rootless engine of his own, and one in the group that may use the socket of an engine that root runs. Documentation tests
are the exception, since they need the compiler. There a test that cannot run fails.

Usage: cargo xtask test

All runs and their reports are in target/alpy/index.html then, and junit.xml beside it.

With ALPY_REQUIRE=all in the environment, as in CI, a test that cannot run here fails instead of saying so.

Exit status: 0 if everything held, 2 if something must be done first, 130 after Ctrl-C, else 1.";

/// Runs all stages, the later ones even if one fails.
pub fn main(arguments: Vec<String>) -> Result<ExitCode> {
    let mut args = Args::new(arguments, HELP);
    match args.next()?.as_deref() {
        None => {}
        Some("-h" | "--help") => return Ok(args.help()),
        Some(other) => return Err(args.unknown(other)),
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
    let tests = run(&workspace, &engine, &mut stages)?;
    engine.release()?;
    if root && !tests.is_empty() {
        for rights in [Rights::None, Rights::EngineGroup] {
            stages.outcomes(rights.words(), || users::run(rights, &tests, &workspace))?;
        }
    }

    let suites = stages.suites.iter();
    let suites: Vec<_> = suites
        .map(|(name, outcomes)| (name.clone(), &outcomes[..]))
        .collect();
    suite::write(&workspace.target, &suites)?;
    let total = stages.total();
    print!(
        "\n{}{}\n{} passed, {} failed\n",
        stages.failures(),
        stages.table(),
        total.passed,
        total.failed
    );
    Ok(if total.failed == 0 && total.passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// All that this user can do himself. Returns the tests that can be run.
fn run(workspace: &Workspace, engine: &Engine, stages: &mut Stages) -> Result<Vec<Test>> {
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
    let images = stages.check("images", || {
        rabbit_tests::build_images(workspace, Base::default()).map(drop)
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
        let ran = Ran {
            counts: Counts { passed: 0, failed: 1 },
            failed: Vec::new(),
        };
        stages.add("rabbit tests", Duration::ZERO, "not run", ran);
    }
    let environment = rabbit_tests::environment(&workspace.target, engine);
    stages.tests("documentation tests", || {
        let mut doctests = with(&["test", "--quiet", "--workspace", "--doc", "--no-fail-fast"]);
        doctests.envs(environment.iter().cloned());
        run_doctests(doctests)
    })?;
    // The stage that builds them has failed, which counts.
    if tests.is_empty() {
        return Ok(tests);
    }
    if partitions::has_nextest() || std::env::var_os("ALPY_REQUIRE").is_some_and(|value| value == "all") {
        stages.check("partitions of nextest", || {
            partitions::check(partitions::JOBS).map(drop)
        })?;
    } else {
        eprintln!("SKIPPED: partitions: cargo-nextest is missing");
    }
    stages.outcomes(&who()?, || runner::run(&tests, &environment, runner::jobs()))?;
    let rabbit: Vec<Test> = tests.iter().filter(|test| test.rabbit).cloned().collect();
    stages.tests("sabotaged rabbit tests", || {
        sabotage::run(&rabbit, &environment, runner::jobs().get()).map(Ran::of)
    })?;
    Ok(tests)
}

/// The name of this user.
fn who() -> Result<String> {
    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid)?;
    Ok(user.map_or_else(|| uid.to_string(), |user| user.name))
}

/// Shows the output if a test fails, else only what was skipped.
fn run_doctests(command: Command) -> Result<Ran> {
    let output = process::output(command, Kind::Group)?;
    let text = output.stdout + &output.stderr;
    let counts = Counts::of_run(&text, output.status.success());
    if counts.failed > 0 {
        eprintln!("{text}\nxtask: documentation tests: {}", output.status);
    } else {
        let skipped = text.lines().filter(|line| line.starts_with("SKIPPED: "));
        skipped.for_each(|line| eprintln!("{line}"));
    }
    let mut failed = failed(libtest::cases(&text));
    if counts.failed > 0 && failed.is_empty() {
        // One that cannot be compiled may end all, before there is a test.
        failed.push(Case {
            name: output.status.to_string(),
            verdict: CaseVerdict::Failed,
            output: libtest::end_of(&text),
        });
    }
    Ok(Ran { counts, failed })
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

/// What comes of a stage.
#[derive(Default)]
struct Ran {
    counts: Counts,
    /// Each with the end of what it printed.
    failed: Vec<Case>,
}

impl Ran {
    fn of(cases: Vec<Case>) -> Self {
        Self {
            counts: Counts::of_cases(&cases),
            failed: failed(cases),
        }
    }
}

fn failed(cases: impl IntoIterator<Item = Case>) -> Vec<Case> {
    let cases = cases.into_iter();
    cases.filter(|case| case.verdict == CaseVerdict::Failed).collect()
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
            eprint!("\n{}\n", runner::table(&ran));
            let cases = ran.iter().flat_map(|outcome| {
                let name = |case: &Case| format!("{}: {}", outcome.name, case.name);
                outcome.cases.iter().map(move |case| Case {
                    name: name(case),
                    ..case.clone()
                })
            });
            Ok(Ran {
                counts: runner::total(&ran),
                failed: failed(cases),
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
                Ran::of(vec![Case {
                    name: "the stage itself".to_owned(),
                    verdict: CaseVerdict::Failed,
                    output: libtest::end_of(&format!("{error:#}")),
                }])
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

    /// What failed, once more and together: whoever looks at a log looks at its end.
    fn failures(&self) -> String {
        let mut text = String::new();
        for Stage { name, ran, .. } in &self.all {
            for case in &ran.failed {
                let _ = writeln!(text, "---- {name}: {}\n{}\n", case.name, case.output.trim_end());
            }
        }
        text
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
            ]
        };
        let rows: Vec<[String; 5]> = self.all.iter().map(row).collect();
        let right = ["seconds", "passed", "failed"];
        table::render(["stage", "verdict", right[0], right[1], right[2]], &rows, &right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_without_tests_that_fails_is_a_failure_in_the_sum() {
        let mut stages = Stages::default();
        let ran = Ran {
            counts: Counts { passed: 3, failed: 0 },
            failed: Vec::new(),
        };
        assert!(stages.tests("tests", || Ok(ran)).unwrap());
        assert!(stages.check("lint", || Ok(())).unwrap());
        assert!(!stages.check("format", || bail!("bad")).unwrap());
        assert_eq!(stages.total(), Counts { passed: 3, failed: 1 });
        assert!(stages.table().contains("format  failed"), "{}", stages.table());
        assert_eq!(stages.failures(), "---- format: the stage itself\nbad\n\n");
    }

    #[test]
    fn documentation_tests_that_end_badly_are_a_failure() {
        let mut command = process::command("echo");
        command.arg("test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        let good = run_doctests(command).unwrap();
        assert_eq!(good.counts, Counts { passed: 2, failed: 0 });
        assert!(good.failed.is_empty());
        let mut command = process::command("sh");
        command.args(["-c", "echo error: cannot compile; exit 1"]);
        let bad = run_doctests(command).unwrap();
        assert_eq!(bad.counts, Counts { passed: 0, failed: 1 });
        assert_eq!(bad.failed[0].output, "error: cannot compile\n");
    }

    #[test]
    fn what_failed_is_told_with_what_it_printed() {
        let output = "test good ... ok\ntest src/lib.rs - f (line 3) ... FAILED\n\n\
            ---- src/lib.rs - f (line 3) stdout ----\nleft is not right\n\nfailures:\n";
        let mut command = process::command("sh");
        command.args(["-c", "printf %s \"$0\"; exit 101", output]);
        let mut stages = Stages::default();
        assert!(
            !stages
                .tests("documentation tests", || run_doctests(command))
                .unwrap()
        );
        let told = "---- documentation tests: src/lib.rs - f (line 3)\nleft is not right\n\n";
        assert_eq!(stages.failures(), told);
    }
}
