// SPDX-License-Identifier: GPL-3.0-or-later
//! `cargo xtask test`.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::args::Args;
use crate::build::{self, Executable};
use crate::engine::{self, Engine};
use crate::images::{self, Base};
use crate::libtest::Counts;
use crate::process::{self, Kind};
use crate::runner::{self, Outcome, Surroundings, Test};
use crate::workspace::{Workspace, cargo};
use crate::{needs, rabbit_tests, table, unprivileged};

const HELP: &str = "\
Everything that must hold for a change: formatting, lints, documentation, all tests of all crates, and the rabbit tests;
as root, the rabbit tests once more as a user without any privilege, with a rootless engine.

Usage: cargo xtask test

With ALPY_REQUIRE=all in the environment, as in CI, a test that cannot run here fails instead of saying so.

Exit status: 0 if everything held, 2 if something must be done first, 130 after Ctrl-C, else 1.";

/// For all tests of one executable.
const LIMIT: Duration = Duration::from_secs(300);

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
    let mut needed = [needs::RABBIT_TESTS, needs::CRATE_TESTS, images::PROGRAMS].concat();
    if root {
        needed.extend(needs::UNPRIVILEGED);
        needed.extend(engine::programs());
        needed.extend(engine::ROOTLESS);
    }
    let engine = rabbit_tests::ensure(needed, &workspace.target)?;
    let mut stages = Stages::default();
    run(&workspace, &engine, root, &mut stages)?;
    engine.release()?;

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

fn run(workspace: &Workspace, engine: &Engine, root: bool, stages: &mut Stages) -> Result<()> {
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
    let images = stages.check("images", || {
        rabbit_tests::build_images(workspace, Base::default()).map(drop)
    })?;
    let mut built = Vec::new();
    stages.check("build of the tests", || {
        let mut log = String::new();
        built = build::all_tests(|line| log.push_str(line)).inspect_err(|_| eprint!("{log}"))?;
        Ok(())
    })?;
    let (rabbit, crates): (Vec<_>, Vec<_>) = built
        .into_iter()
        .partition(|executable| executable.target.is_rabbit_test());
    let rabbit = build::as_rabbit_tests(rabbit);
    let surroundings = rabbit_tests::surroundings(&workspace.root.join("rabbit"), &workspace.target, engine);

    stages.tests("tests of the crates", || run_crate_tests(&crates, &surroundings))?;
    stages.tests("documentation tests", || {
        let mut doctests = with(&["test", "--quiet", "--workspace", "--doc", "--no-fail-fast"]);
        doctests.envs(surroundings.env.clone());
        run_tests(doctests, None)
    })?;
    if !images || rabbit.is_empty() {
        stages.add(
            "rabbit tests",
            Duration::ZERO,
            "not run",
            Counts { passed: 0, failed: 1 },
        );
        return Ok(());
    }
    let mut run_rabbit = |stage: &'static str, run: &dyn Fn() -> Result<Vec<Outcome>>| {
        stages.tests(stage, || {
            let outcomes = run()?;
            eprint!("\n{}\n", runner::table(&outcomes));
            Ok(counts(&outcomes))
        })
    };
    run_rabbit("rabbit tests", &|| runner::run(&rabbit, &surroundings))?;
    if root {
        run_rabbit("rabbit tests, unprivileged", &|| {
            run_unprivileged(workspace, &rabbit)
        })?;
    }
    Ok(())
}

fn run_unprivileged(workspace: &Workspace, tests: &[Test]) -> Result<Vec<Outcome>> {
    let images = workspace.target.join("alpy/images");
    unprivileged::run(tests, &images, &workspace.target.join("alpy-unprivileged"))
}

/// Every crate's own tests, each executable in the folder of its crate, as Cargo does it. Cargo cannot leave out the
/// rabbit tests without leaving out their crate, and then would build with other features.
fn run_crate_tests(executables: &[Executable], surroundings: &Surroundings) -> Result<Counts> {
    let mut counts = Counts::default();
    for executable in executables {
        let mut command = process::command(&executable.path);
        // Skips are printed by tests that pass, which nothing shows otherwise.
        command
            .arg("--show-output")
            .current_dir(&executable.folder)
            .envs(surroundings.env.clone());
        command.env("CARGO_MANIFEST_DIR", &executable.folder);
        counts += run_tests(command, Some(LIMIT))?;
    }
    Ok(counts)
}

/// Runs a command that prints results as libtest does; shows its output if a test fails, else only what it skipped.
fn run_tests(command: Command, limit: Option<Duration>) -> Result<Counts> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut output = String::new();
    let ended = process::follow(command, Kind::Group, limit, |_, line| output.push_str(line))?;
    let counts = Counts::of_run(&output, ended.status.success());
    if counts.failed > 0 {
        let why = if ended.timed_out { "timed out" } else { "failed" };
        eprintln!("{output}\nxtask: {name} {why}: {}", ended.status);
    } else {
        output
            .lines()
            .filter(|line| line.starts_with("SKIPPED: "))
            .for_each(|line| eprintln!("{line}"));
    }
    Ok(counts)
}

fn counts(outcomes: &[Outcome]) -> Counts {
    let mut counts = Counts::default();
    outcomes.iter().for_each(|outcome| counts += outcome.counts);
    counts
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
struct Stages(Vec<Stage>);

struct Stage {
    name: &'static str,
    verdict: &'static str,
    time: Duration,
    counts: Counts,
}

impl Stages {
    /// A stage that holds or not. One that does not counts as one failure.
    fn check(&mut self, name: &'static str, stage: impl FnOnce() -> Result<()>) -> Result<bool> {
        self.tests(name, || stage().map(|()| Counts::default()))
    }

    /// A stage that has tests. An error, except of a signal, counts as one failure.
    fn tests(&mut self, name: &'static str, stage: impl FnOnce() -> Result<Counts>) -> Result<bool> {
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

    fn add(&mut self, name: &'static str, time: Duration, verdict: &'static str, counts: Counts) {
        eprintln!("xtask: {name}: {verdict}, {:.1} s", time.as_secs_f64());
        self.0.push(Stage {
            name,
            verdict,
            time,
            counts,
        });
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.0.iter().for_each(|stage| total += stage.counts);
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
                name.to_string(),
                verdict.to_string(),
                seconds,
                number(counts.passed),
                number(counts.failed),
            ]
        };
        let rows: Vec<[String; 5]> = self.0.iter().map(row).collect();
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
    fn shows_nothing_but_counts_of_a_run_that_passes() {
        let mut command = process::command("echo");
        command.arg("test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!(run_tests(command, None).unwrap(), Counts { passed: 2, failed: 0 });
        let counts = run_tests(process::command("false"), None).unwrap();
        assert_eq!(counts, Counts { passed: 0, failed: 1 });
    }
}
