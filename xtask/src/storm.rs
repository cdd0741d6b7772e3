// SPDX-License-Identifier: GPL-3.0-or-later
//! `cargo xtask storm`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::args::Args;
use crate::process::{self, Kind};
use crate::workspace::Workspace;
use crate::{build, engine, needs, rabbit_tests};

const HELP: &str = "\
End tests at random moments and in many ways, and look each time whether anything of them stays: containers, images, processes,
interfaces, namespaces, mounts, sockets, folders. Tests of one crate, with two links and two applications in each node.

Usage: cargo xtask storm [--rounds N] [--seed N] [--end END] [--after MILLISECONDS]

  --rounds  How many tests are ended: 200 if not given
  --seed    Repeats a storm: it is printed at the beginning of each
  --end     Always this one: sigkill, sigterm, sigint, panic, double-panic, abort or runner-timeout; in turn if not given
  --after   Always this long after the start of the test, or of its body for a panic; random if not given

The engine is a private one that nothing else uses, unless DOCKER_HOST names another.

Exit status: 0 if nothing stayed and nothing hung, 2 if something must be done first, 130 after Ctrl-C, else 1.";

/// The test that is the storm.
const TEST: &str = "nothing_is_left_however_a_test_ends";

/// For a round, and for what comes before the first one.
const ROUND: Duration = Duration::from_secs(30);
const START: Duration = Duration::from_secs(300);

/// Runs a storm.
pub fn main(arguments: Vec<String>) -> Result<ExitCode> {
    let mut args = Args::new(arguments, HELP);
    let mut rounds: u32 = 200;
    let mut settings = Vec::new();
    while let Some(argument) = args.next()? {
        match argument.as_str() {
            "--rounds" => rounds = number(&mut args, "--rounds")?,
            "--seed" => settings.push(("ALPY_STORM_SEED", number::<u64>(&mut args, "--seed")?.to_string())),
            "--after" => {
                let after: u64 = number(&mut args, "--after")?;
                settings.push(("ALPY_STORM_AFTER_MS", after.to_string()));
            }
            "--end" => settings.push(("ALPY_STORM_END", args.value("--end")?)),
            "-h" | "--help" => return Ok(args.help()),
            other => return Err(args.unknown(other)),
        }
    }
    let workspace = Workspace::read()?;
    let needed = [needs::RABBIT_TESTS, needs::CRATE_TESTS].concat();
    let engine = match engine::is_named() {
        true => rabbit_tests::ensure(needed, &workspace.target)?,
        false => rabbit_tests::ensure_private(needed, &workspace.target.join("alpy-storm"))?,
    };
    let test = build::test("alpy", "storm")?;
    let mut command = process::command(&test.executable);
    command
        .args([TEST, "--exact", "--nocapture"])
        .current_dir(&test.folder)
        .envs(rabbit_tests::environment(&workspace.target, &engine))
        .env("ALPY_REQUIRE", "all")
        .env("RUST_BACKTRACE", "0")
        .env("ALPY_STORM_ROUNDS", rounds.to_string())
        .envs(settings);
    let limit = START + ROUND * rounds;
    let ended = process::follow(command, Kind::Group, Some(limit.into()), |_, line| {
        eprint!("{line}");
    })?;
    engine.release()?;
    Ok(if ended.status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(args: &mut Args, option: &str) -> Result<T> {
    let text = args.value(option)?;
    text.parse()
        .map_err(|error| args.error(&format!("{option} {text}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_number_that_is_none() {
        let error = main(["--rounds", "many"].map(String::from).to_vec()).unwrap_err();
        assert!(
            error.to_string().starts_with("--rounds many: invalid digit"),
            "{error}"
        );
    }
}
