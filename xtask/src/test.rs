// SPDX-License-Identifier: GPL-3.0-or-later
//! `cargo xtask test`.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::args::Args;
use crate::engine::{self, Engine};
use crate::images::{self, Base};
use crate::libtest::Counts;
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
        "\n{}\n{} passed, {} failed\n",
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
        let counts = Counts { passed: 0, failed: 1 };
        stages.add("rabbit tests", Duration::ZERO, "not run", counts);
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
        sabotage::run(&rabbit, &environment, runner::jobs().get())
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
fn run_doctests(command: Command) -> Result<Counts> {
    let output = process::output(command, Kind::Group)?;
    let text = output.stdout + &output.stderr;
    let counts = Counts::of_run(&text, output.status.success());
    if counts.failed > 0 {
        eprintln!("{text}\nxtask: documentation tests: {}", output.status);
    } else {
        let skipped = text.lines().filter(|line| line.starts_with("SKIPPED: "));
        skipped.for_each(|line| eprintln!("{line}"));
    }
    Ok(counts)
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
    counts: Counts,
}

impl Stages {
    /// A stage that holds or not. One that does not counts as one failure.
    fn check(&mut self, name: &str, stage: impl FnOnce() -> Result<()>) -> Result<bool> {
        self.tests(name, || stage().map(|()| Counts::default()))
    }

    /// All tests, as one user runs them.
    fn outcomes(&mut self, who: &str, stage: impl FnOnce() -> Result<Vec<Outcome>>) -> Result<bool> {
        let mut ran = Vec::new();
        let name = format!("tests as {who}");
        let good = self.tests(&name, || {
            ran = stage()?;
            eprint!("\n{}\n", runner::table(&ran));
            Ok(runner::total(&ran))
        });
        self.suites.push((name, ran));
        good
    }

    /// A stage that has tests. An error, except of a signal, counts as one failure.
    fn tests(&mut self, name: &str, stage: impl FnOnce() -> Result<Counts>) -> Result<bool> {
        let started = Instant::now();
        let counts = match stage() {
            Ok(counts) => counts,
            Err(error) => {
                process::check_interrupted()?;
                eprintln!("xtask: {name}: {error:#}");
                Counts { passed: 0, failed: 1 }
            }
        };
        let verdict = if counts.failed == 0 { "ok" } else { "failed" };
        self.add(name, started.elapsed(), verdict, counts);
        Ok(counts.failed == 0)
    }

    fn add(&mut self, name: &str, time: Duration, verdict: &'static str, counts: Counts) {
        eprintln!("xtask: {name}: {verdict}, {:.1} s", time.as_secs_f64());
        self.all.push(Stage {
            name: name.to_owned(),
            verdict,
            time,
            counts,
        });
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.all.iter().for_each(|stage| total += stage.counts);
        total
    }

    fn table(&self) -> String {
        let number = |n: u64| if n == 0 { String::new() } else { n.to_string() };
        let row = |Stage {
                       name,
                       verdict,
                       time,
                       counts,
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
        assert!(
            stages
                .tests("tests", || Ok(Counts { passed: 3, failed: 0 }))
                .unwrap()
        );
        assert!(stages.check("lint", || Ok(())).unwrap());
        assert!(!stages.check("format", || bail!("bad")).unwrap());
        assert_eq!(stages.total(), Counts { passed: 3, failed: 1 });
        assert!(stages.table().contains("format  failed"), "{}", stages.table());
    }

    #[test]
    fn documentation_tests_that_end_badly_are_a_failure() {
        let mut command = process::command("echo");
        command.arg("test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!(run_doctests(command).unwrap(), Counts { passed: 2, failed: 0 });
        let counts = run_doctests(process::command("false")).unwrap();
        assert_eq!(counts, Counts { passed: 0, failed: 1 });
    }
}
