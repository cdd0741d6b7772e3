// SPDX-License-Identifier: GPL-3.0-or-later
//! Tasks of the alpy workspace: `cargo xtask --help`.
#![expect(
    unreachable_pub,
    reason = "a program has no API: `pub` is what a module offers to the others"
)]

mod args;
mod bench;
mod build;
mod commands;
mod crates;
mod engine;
mod fuzz;
mod image_task;
mod images;
mod libtest;
mod limit;
mod needs;
mod partitions;
mod process;
mod progress;
mod rabbit_tests;
mod runner;
mod sabotage;
mod stop;
mod storm;
mod subids;
mod suite;
mod summary;
mod table;
mod test;
mod tun;
mod users;
mod with_engine;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;

const HELP: &str = "\
Tasks of the alpy workspace.

Usage: cargo xtask <TASK> [ARGUMENTS]

Tasks:
  rabbit-tests  Test rabbit, the sample appliance, for real
  test          Everything that must hold for a change: lints, documentation, all tests
  images        Build rabbit and the root file systems of the containers
  storm         End tests at random moments, in many ways, and look whether anything stays
  with-engine   Run a command with an engine and the images at hand
  fuzz          Fuzz what alpy parses
  partitions    Check that a suite in parts is the whole suite
  bench         Measure alpy beside its peers

`cargo xtask <TASK> --help` says more.";

fn main() -> ExitCode {
    match dispatch(std::env::args().skip(1).collect()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            let status = error.downcast_ref::<stop::Stop>().map_or(1, |stop| stop.status);
            ExitCode::from(status)
        }
    }
}

fn dispatch(mut arguments: Vec<String>) -> Result<ExitCode> {
    if arguments.is_empty() {
        return Err(stop::before_start(format!("no task given\n\n{HELP}")));
    }
    let task = arguments.remove(0);
    if let Some(folder) = std::env::var_os("TMPDIR").filter(|folder| !std::path::Path::new(folder).is_dir()) {
        let folder = folder.to_string_lossy();
        return Err(stop::before_start(format!(
            "TMPDIR={folder} is not a directory; remedy: create it, or unset TMPDIR"
        )));
    }
    process::handle_signals()?;
    match task.as_str() {
        "rabbit-tests" => rabbit_tests::main(arguments),
        "test" => test::main(arguments),
        "images" => image_task::main(arguments),
        "storm" => storm::main(arguments),
        "with-engine" => with_engine::main(arguments),
        "fuzz" => fuzz::main(arguments),
        "bench" => bench::main(arguments),
        "partitions" => partitions::main(arguments),
        users::BUNDLE_TESTS => users::bundle_tests(&arguments),
        engine::KEEPER => engine::keeper(&arguments),
        "-h" | "--help" | "help" => {
            println!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        other => Err(stop::before_start(format!("no such task: {other}\n\n{HELP}"))),
    }
}
