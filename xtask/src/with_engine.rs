// SPDX-License-Identifier: GPL-3.0-or-later
//! `cargo xtask with-engine`.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;

use anyhow::Result;

use crate::args::Args;
use crate::images;
use crate::process::{self, Kind};
use crate::workspace::Workspace;
use crate::{image_task, needs, rabbit_tests};

const HELP: &str = "\
Run a command with all that the tests need at hand: programs, a container engine, the images.

Usage: cargo xtask with-engine [--base host|alpine] -- COMMAND [ARGUMENT...]

  --base  What rabbit is made of, see `cargo xtask images --help`

The command finds the engine by DOCKER_HOST and the images by ALPY_IMAGES. Its exit status is that of the task.

With ALPY_REQUIRE=all in the environment, the programs that the tests of alpy's own crates need are among them.

Example: cargo xtask with-engine -- cargo test --package rabbit --test rate-limit";

/// Runs the command.
pub fn main(arguments: Vec<String>) -> Result<ExitCode> {
    let mut args = Args::new(arguments, HELP);
    let mut base = images::Base::default();
    loop {
        match args.next()?.as_deref() {
            Some("--base") => base = image_task::base_of(&mut args)?,
            Some("-h" | "--help") => return Ok(args.help()),
            Some("--") => break,
            Some(other) => return Err(args.unknown(other)),
            None => return Err(args.error("no command given")),
        }
    }
    let words = args.rest();
    let Some((program, words)) = words.split_first() else {
        return Err(Args::new(Vec::new(), HELP).error("no command given"));
    };
    let workspace = Workspace::read()?;
    let mut needed = [needs::RABBIT_TESTS, images::PROGRAMS].concat();
    if needs::skips_fail() {
        needed.extend(needs::crate_tests());
    }
    let engine = rabbit_tests::ensure(needed, &workspace.target)?;
    rabbit_tests::build_images(&workspace, base)?;
    let mut command = process::command(program);
    command
        .args(words)
        .envs(rabbit_tests::environment(&workspace.target, &engine))
        .stdin(std::process::Stdio::inherit());
    let status = process::run(command, Kind::Foreground)?;
    engine.release()?;
    // As a shell reports it: 128 and the signal.
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
