// SPDX-License-Identifier: GPL-3.0-or-later
//! `cargo xtask rabbit-tests`.

use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::args::Args;
use crate::engine::{self, Engine};
use crate::images::{self, Base, Manifest, Options};
use crate::libtest::Counts;
use crate::progress::Progress;
use crate::runner::{self, Environment, Test};
use crate::summary::{self, Failure};
use crate::workspace::Workspace;
use crate::{build, image_task, needs, sabotage, stop, subids, suite, tun};

const HELP: &str = "\
Test rabbit, the sample appliance: real QEMU, real containers, real packets.

Usage: cargo xtask rabbit-tests [--list] [--jobs N] [--base host|alpine] [--sabotage] [--verbose] [NAME...]

  NAME        Run only the tests of these names
  --list      List the names
  --jobs      How many run at once. Default: one more than there are processors
  --verbose   Print all that the tests print, while they print it; where several run at once, behind their names. Default: a line for
              each test, and the whole log of those that fail
  --base      What rabbit is made of, see `cargo xtask images --help`
  --sabotage  Break what each test looks at, with the script `sabotage` beside it, and expect that the test fails and says why

At the end it repeats why tests failed, with the command that runs each again. All runs and their reports are in target/alpy/index.html
then, and junit.xml beside it.

Exit status: 0 if all tests passed, or noticed their sabotage, 2 if something must be done first, 130 after Ctrl-C, else 1.";

struct Request {
    names: Vec<String>,
    list: bool,
    jobs: NonZeroUsize,
    base: Base,
    sabotage: bool,
    verbose: bool,
}

/// Runs rabbit tests.
pub fn main(arguments: Vec<String>) -> Result<ExitCode> {
    let mut args = Args::new(arguments, HELP);
    let mut request = Request {
        names: Vec::new(),
        list: false,
        jobs: runner::jobs(),
        base: Base::default(),
        sabotage: false,
        verbose: false,
    };
    while let Some(argument) = args.next()? {
        match argument.as_str() {
            "--list" => request.list = true,
            "--sabotage" => request.sabotage = true,
            "--verbose" => request.verbose = true,
            "--jobs" => {
                let text = args.value("--jobs")?;
                request.jobs = text
                    .parse()
                    .map_err(|_| args.error(&format!("--jobs is a number from 1, not {text}")))?;
            }
            "--base" => request.base = image_task::base_of(&mut args)?,
            "-h" | "--help" => return Ok(args.help()),
            name if !name.starts_with('-') => request.names.push(name.to_owned()),
            other => return Err(args.unknown(other)),
        }
    }
    let workspace = Workspace::read()?;
    if request.list {
        workspace.rabbit_tests.iter().for_each(|name| println!("{name}"));
        return Ok(ExitCode::SUCCESS);
    }
    let progress = Progress::new(request.verbose);
    let good = if request.sabotage {
        sabotaged(&workspace, &request, &progress)?
    } else {
        let run = |tests: &[Test], environment: &Environment| {
            runner::run(tests, environment, request.jobs, &progress)
        };
        let started = Instant::now();
        let outcomes = with_tests(&workspace, &request, run)?;
        let seconds = started.elapsed().as_secs();
        suite::write(&workspace.target, &[("rabbit tests".to_owned(), &outcomes)])?;
        let mut failed = Failure::all_of(&outcomes);
        if let Base::Alpine = request.base {
            failed
                .iter_mut()
                .for_each(|failure| failure.again.push_str(" --base alpine"));
        }
        print!(
            "\n{}{} in {seconds} s\n",
            summary::failures(&failed),
            runner::total(&outcomes)
        );
        runner::all_passed(&outcomes)
    };
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Sabotages the tests. Tells whether all noticed it.
fn sabotaged(workspace: &Workspace, request: &Request, progress: &Progress) -> Result<bool> {
    let sabotage = |tests: &[Test], environment: &Environment| {
        sabotage::run(tests, environment, request.jobs.get(), progress)
    };
    let cases = with_tests(workspace, request, sabotage)?;
    let counts = Counts::of_cases(&cases);
    print!(
        "\n{}{} noticed their sabotage, {} did not\n",
        summary::failures(&sabotage::failures(&cases)),
        counts.passed,
        counts.failed
    );
    Ok(counts.passed > 0 && counts.failed == 0)
}

/// Does something with the tests that were asked for, with all that they need at hand.
fn with_tests<T>(
    workspace: &Workspace,
    request: &Request,
    work: impl FnOnce(&[Test], &Environment) -> Result<T>,
) -> Result<T> {
    let names = chosen(&request.names, &workspace.rabbit_tests)?;
    let mut needed = needs::RABBIT_TESTS.to_vec();
    needed.extend(images::PROGRAMS);
    let engine = ensure(needed, &workspace.target)?;
    build_images(workspace, request.base)?;
    let tests = build::rabbit_tests(&names)?;
    let done = work(&tests, &environment(&workspace.target, &engine))?;
    engine.release()?;
    Ok(done)
}

/// An engine, and before it what the task needs: first all that an ordinary user has to see to himself.
pub fn ensure(mut needed: Vec<needs::Need>, target: &Path) -> Result<Engine> {
    match engine::discover()? {
        Some(engine) => {
            needs::together([needs::ensure(&needed), tun::ensure(engine.rootless)])?;
            Ok(engine)
        }
        None => {
            prepare_private(&mut needed)?;
            // The package of the engine may just have started one.
            Engine::ensure(target)
        }
    }
}

/// A private engine, even if another one answers, and before it what the task needs.
pub fn ensure_private(mut needed: Vec<needs::Need>, target: &Path) -> Result<Engine> {
    prepare_private(&mut needed)?;
    Engine::private(target)
}

fn prepare_private(needed: &mut Vec<needs::Need>) -> Result<()> {
    needed.extend(engine::programs());
    let rootless = !nix::unistd::geteuid().is_root();
    let ids = if rootless { subids::ensure() } else { Ok(()) };
    needs::together([needs::ensure(needed), ids, tun::ensure(rootless)])
}

/// Builds the images, or finds them built.
pub fn build_images(workspace: &Workspace, base: Base) -> Result<Manifest> {
    let (root, target) = (workspace.root.clone(), workspace.target.clone());
    images::build(&Options {
        workspace: root,
        target,
        base,
        refresh: false,
    })
    .context("build the images")
}

/// What a test is told; the images are in `alpy/images` of the target folder.
pub fn environment(target: &Path, engine: &Engine) -> Environment {
    let alpy = target.join("alpy");
    vec![
        ("DOCKER_HOST", engine.host.clone().into()),
        ("ALPY_IMAGES", alpy.join("images").into()),
        ("ALPY_EVIDENCE", alpy.into()),
    ]
}

/// The tests that were asked for; all, if none was.
fn chosen(asked: &[String], all: &[String]) -> Result<Vec<String>> {
    if asked.is_empty() {
        return Ok(all.to_vec());
    }
    match asked.iter().find(|&name| !all.contains(name)) {
        Some(name) => Err(stop::before_start(format!(
            "no such rabbit test: {name}; there are: {}",
            all.join(", ")
        ))),
        None => Ok(asked.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_does_not_exist_lists_those_that_do() {
        let all = ["forward-ipv4", "rate-limit"].map(String::from);
        assert_eq!(chosen(&[], &all).unwrap(), all);
        assert_eq!(chosen(&all[1..], &all).unwrap(), ["rate-limit"]);
        let error = chosen(&["rate".to_owned()], &all).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no such rabbit test: rate; there are: forward-ipv4, rate-limit"
        );
        assert_eq!(error.downcast_ref::<stop::Stop>().unwrap().status, 2);
    }
}
