// SPDX-License-Identifier: GPL-3.0-or-later
//! The command `alpy`: a person at a testbed. `alpy --help` says what it can do.
#![expect(
    unreachable_pub,
    reason = "a program has no API: `pub` is what a module offers to the others"
)]

mod args;
mod capture;
mod console;
mod doctor;
mod exec;
mod failure;
mod files;
mod find;
mod link;
mod list;
mod output;
mod programs;
mod report;
mod stop;
mod sweep;
mod topology;
mod up;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser};

use args::{Args, Command};
use find::Runs;
use output::{Output, print};

fn main() -> ExitCode {
    let args = Args::parse();
    let output = Output::new(args.json);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(args, &output));
            // A thread may be waiting for the keyboard.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(code) => code,
        Err(error) => failure::tell(&error, &output),
    }
}

async fn run(args: Args, output: &Output) -> Result<ExitCode> {
    let runs = Runs::below(args.evidence);
    match args.command {
        Command::Ps(ps) => list::run(&runs, &ps, output).await,
        Command::Console(console) => console::run(&runs, &console).await,
        Command::Exec(exec) => exec::run(&runs, &exec).await,
        Command::Capture(capture) => capture::run(&runs, &capture).await,
        Command::Link(link) => link::run(&runs, &link, output).await,
        Command::Resume(resume) => up::resume(&runs, &resume, output).await,
        Command::Doctor => doctor::run(output).await,
        Command::Sweep(sweep) => sweep::run(&runs, &sweep, output).await,
        Command::Up(up) => up::run(&runs, &up, output).await,
        Command::Down(down) => up::down(&runs, &down, output).await,
        Command::Report(report) => report::run(&runs, &report, output),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "alpy", &mut script);
            print(&String::from_utf8(script)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Schema => {
            print(&format!("{}\n", topology::schema()?))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
