// SPDX-License-Identifier: GPL-3.0-or-later
//! The commands that the documentation names, each run in a short form.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::libtest::end_of;
use crate::process::{self, Kind, Stream};
use crate::runner::{self, Environment};
use crate::workspace::Workspace;
use crate::{fuzz, partitions};

/// The time limit for one command. Fuzzing and measuring take the longest.
const LIMIT: Duration = Duration::from_secs(900);

/// The tasks of `cargo xtask --help`.
const TASKS: [&str; 8] = [
    "rabbit-tests",
    "test",
    "images",
    "storm",
    "with-engine",
    "fuzz",
    "partitions",
    "bench",
];

/// A command, and its expected end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Run {
    /// The arguments after `cargo xtask`.
    arguments: Vec<String>,
    status: i32,
    /// A part of what it prints on standard output, or on standard error if its status is not 0.
    says: String,
    /// Its error is one line, the last on standard error.
    in_a_line: bool,
    variables: Vec<(&'static str, &'static str)>,
}

/// How a command went.
pub struct Ended {
    /// What was typed.
    pub name: String,
    /// Why it failed, and the end of what it printed.
    pub failure: Option<String>,
}

impl Run {
    fn new(arguments: &[&str], status: i32, says: &str) -> Self {
        Self {
            arguments: arguments.iter().map(ToString::to_string).collect(),
            status,
            says: says.to_owned(),
            in_a_line: false,
            variables: Vec::new(),
        }
    }

    fn name(&self) -> String {
        let words = ["cargo", "xtask"]
            .into_iter()
            .chain(self.arguments.iter().map(String::as_str));
        words.collect::<Vec<_>>().join(" ")
    }

    fn check(&self, environment: &Environment) -> Result<()> {
        let mut command = process::command(std::env::current_exe().context("this program's own path")?);
        command
            .args(&self.arguments)
            .envs(environment.iter().cloned())
            .envs(self.variables.iter().copied());
        let (mut stdout, mut stderr) = (String::new(), String::new());
        let ended = process::follow(
            command,
            Kind::Group,
            Some(LIMIT.into()),
            |stream, line| match stream {
                Stream::Out => stdout.push_str(line),
                Stream::Err => stderr.push_str(line),
            },
        )?;
        process::check_interrupted()?;
        let all = || format!("{stdout}{stderr}");
        ensure!(
            !ended.timed_out,
            "not done within {} s\n{}",
            LIMIT.as_secs(),
            all()
        );
        ensure!(
            ended.status.code() == Some(self.status),
            "expected exit status {}, saw {}\n{}",
            self.status,
            ended.status,
            all()
        );
        let said = if self.status == 0 { &stdout } else { &stderr };
        ensure!(said.contains(&self.says), "expected {:?}\n{}", self.says, all());
        // Lines of progress may come before it.
        let is_error = |line: &str| line.starts_with("xtask: ");
        let (last, errors) = (
            stderr.lines().last(),
            stderr.lines().filter(|line| is_error(line)).count(),
        );
        ensure!(
            !self.in_a_line || (errors == 1 && last.is_some_and(is_error)),
            "expected one line of error at the end\n{}",
            all()
        );
        // The log of this stage shows what was skipped.
        stderr
            .lines()
            .filter(|line| line.starts_with("SKIPPED: "))
            .for_each(|line| eprintln!("{line}"));
        Ok(())
    }
}

/// Runs the commands that can run at the same time, `jobs` at once.
pub fn run(workspace: &Workspace, environment: &Environment, jobs: usize) -> Result<Vec<Ended>> {
    let mut others = others();
    // With ALPY_REQUIRE=all nothing may be skipped, so a missing nextest fails.
    let all = std::env::var_os("ALPY_REQUIRE").is_some_and(|value| value == "all");
    match all || partitions::has_nextest() {
        true => others.push(Run::new(&["partitions", "3"], 0, "each in one of 3 partitions")),
        false => eprintln!("SKIPPED: cargo xtask partitions: cargo-nextest is missing"),
    }
    match fuzz::is_missing(workspace)? {
        None => others.push(fuzzing()),
        Some(why) => eprintln!("SKIPPED: cargo xtask fuzz: {}", why.replace('\n', " ")),
    }
    run_at_once(&others, environment, jobs)
}

/// Runs the storm, which looks for remains on the whole machine: nothing else may run.
pub fn storm(environment: &Environment) -> Result<Vec<Ended>> {
    run_at_once(&[one_round()], environment, 1)
}

fn run_at_once(runs: &[Run], environment: &Environment, jobs: usize) -> Result<Vec<Ended>> {
    runner::at_once(runs, jobs, |run| {
        let checked = run.check(environment);
        process::check_interrupted()?;
        Ok(Ended {
            name: run.name(),
            failure: checked.err().map(|error| end_of(&format!("{error:#}"))),
        })
    })
}

fn one_round() -> Run {
    Run::new(
        &[
            "storm",
            "--rounds",
            "1",
            "--end",
            "sigkill",
            "--after=500",
            "--seed=1",
        ],
        0,
        "",
    )
}

/// Each target for three seconds.
fn fuzzing() -> Run {
    Run::new(&["fuzz", "--minutes", "0.05"], 0, "executions")
}

/// Those that always run, and can run beside each other. The longest comes first.
fn others() -> Vec<Run> {
    let mut runs = vec![
        Run::new(&["bench", "--smoke"], 0, "figures, each measured once"),
        Run::new(
            &["rabbit-tests", "--sabotage", "mtu"],
            0,
            "1 noticed their sabotage, 0 did not",
        ),
        Run::new(&["rabbit-tests", "--jobs=1", "mtu"], 0, "passed"),
        Run::new(&["images"], 0, "alpy/images"),
        Run {
            in_a_line: true,
            // A port that nothing listens on: the mirror itself may be within reach.
            variables: vec![("ALPINE_MIRROR", "http://127.0.0.1:9")],
            ..Run::new(&["images", "--base", "alpine"], 1, "127.0.0.1:9")
        },
        Run::new(
            &[
                "with-engine",
                "--",
                "sh",
                "-c",
                "test -S \"${DOCKER_HOST#unix://}\" && test -d \"$ALPY_IMAGES\" && exit 7",
            ],
            7,
            "",
        ),
        Run::new(&["with-engine", "--", "true"], 0, ""),
        Run::new(&["rabbit-tests", "--list"], 0, "forward-ipv4\n"),
        Run::new(&["fuzz", "--list"], 0, "qmp_codec\n"),
        Run::new(&["--help"], 0, "Usage: cargo xtask <TASK>"),
        Run::new(&[], 2, "no task given"),
        Run::new(&["tests"], 2, "no such task: tests"),
    ];
    for task in TASKS {
        runs.push(Run::new(
            &[task, "--help"],
            0,
            &format!("Usage: cargo xtask {task}"),
        ));
        runs.push(Run::new(&[task, "--no-such-option"], 2, "--no-such-option"));
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The tasks that a text names, as `cargo xtask TASK`.
    fn named_in(text: &str) -> Vec<&str> {
        let behind = text.split("cargo xtask ").skip(1);
        let tasks = behind.map(|rest| {
            let end = rest.find(|character: char| !character.is_ascii_lowercase() && character != '-');
            &rest[..end.unwrap_or(rest.len())]
        });
        tasks
            .filter(|task| !task.is_empty() && !task.starts_with('-'))
            .collect()
    }

    #[test]
    fn every_task_of_the_help_is_run() {
        let listed = crate::HELP
            .split_once("Tasks:\n")
            .unwrap()
            .1
            .split_once("\n\n")
            .unwrap()
            .0;
        let listed: Vec<_> = listed
            .lines()
            .map(|line| line.split_whitespace().next().unwrap())
            .collect();
        assert_eq!(listed, TASKS);
        let runs = [others(), vec![one_round(), fuzzing()]].concat();
        for task in TASKS.iter().filter(|task| !["test", "partitions"].contains(task)) {
            let runs = runs
                .iter()
                .filter(|run| run.arguments.first().is_some_and(|first| first == task));
            let mut words = runs.map(|run| run.arguments.get(1).map_or("", String::as_str));
            assert!(
                words.any(|word| !["--help", "--list", "--no-such-option"].contains(&word)),
                "{task}"
            );
        }
    }

    #[test]
    fn the_documents_name_tasks_that_exist() {
        let check = |file: &str, text: &str| {
            for task in named_in(text) {
                assert!(TASKS.contains(&task), "{file}: {task}");
            }
        };
        check("README.md", include_str!("../../README.md"));
        let xtask = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
        let guide = Path::new(&xtask).join("../crates/alpy/src/guide");
        let mut files = 0;
        for entry in guide.read_dir().unwrap() {
            let file = entry.unwrap().path();
            check(&file.display().to_string(), &fs::read_to_string(&file).unwrap());
            files += 1;
        }
        assert!(files > 0, "{} is empty", guide.display());
        let named =
            named_in("`cargo xtask storm` and cargo xtask nothing\ncargo xtask --help, `cargo xtask`");
        assert_eq!(named, ["storm", "nothing"]);
    }

    #[test]
    fn a_command_that_ends_otherwise_fails_and_shows_what_it_printed() {
        // In a test, this program is a libtest harness, which takes `--list`.
        let check = |status, says: &str| {
            let run = Run::new(&["--list", "commands::tests::named"], status, says);
            run.check(&Vec::new()).map_err(|error| error.to_string())
        };
        assert_eq!(check(0, "0 tests"), Ok(()));
        let error = check(1, "").unwrap_err();
        assert!(
            error.starts_with("expected exit status 1, saw exit status: 0\n0 tests"),
            "{error}"
        );
        let error = check(0, "no such words").unwrap_err();
        assert!(
            error.starts_with("expected \"no such words\"\n0 tests"),
            "{error}"
        );
    }
}
