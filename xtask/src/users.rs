// SPDX-License-Identifier: GPL-3.0-or-later
//! Runs the tests once more as users of other rights than root's, who are made for this and removed afterwards.
//!
//! Such a user can read neither the sources nor Cargo's target folder, which may be under root's home. So he gets a bundle
//! in a folder of his own: xtask itself, the test executables, the folders of the crates, the images.
//!
//! He runs all that root does but the documentation tests, which need the compiler and the sources. Two things differ with a
//! rootless engine, and the tests look at that: taps by name are refused, and limits of containers may be dropped.

mod account;
mod bundle;

use std::env;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use nix::sys::stat::{Mode, umask};

use account::Account;
use bundle::Bundle;

use crate::engine::{self, Engine};
use crate::process::{self, Kind};
use crate::progress::Progress;
use crate::runner::{self, Outcome, Test};
use crate::workspace::Workspace;
use crate::{needs, rabbit_tests, tun};

/// The hidden task of xtask that such a user runs.
pub const BUNDLE_TESTS: &str = "bundle-tests";

/// Its argument that has all be printed.
const VERBOSE: &str = "--verbose";

/// Variables of xtask's own environment that mean the same to another user.
const KEPT: [&str; 5] = ["ALPY_ACCEL", "LANG", "RUST_BACKTRACE", "RUST_LOG", "TERM"];

/// What a user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Nothing: he is in no group but his own, and his engine is a rootless one, run by himself.
    None,
    /// He is in the group that may use the socket of an engine that root runs, as in the group `docker` of a machine.
    EngineGroup,
}

impl Rights {
    /// In a few words.
    pub fn words(self) -> &'static str {
        match self {
            Self::None => "a user in no group, rootless engine",
            Self::EngineGroup => "a user in the engine's group",
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::None => "no-group",
            Self::EngineGroup => "engine-group",
        }
    }
}

/// Runs the tests as a new user, and copies the evidence of failures to `alpy-users` of the target folder.
pub fn run(rights: Rights, tests: &[Test], workspace: &Workspace, verbose: bool) -> Result<Vec<Outcome>> {
    // The tests of alpy-netns open the device themselves, whatever the engine.
    tun::ensure(true)?;
    account::remove_leftovers()?;
    // What is made for the user here is for him to read.
    umask(Mode::from_bits_truncate(0o022));
    let account = Account::create(rights)?;
    eprintln!(
        "xtask: run the tests as {}: {}, removed afterwards",
        rights.words(),
        account.name()
    );
    let evidence = workspace.target.join("alpy-users").join(rights.folder());
    let result = run_as(&account, tests, workspace, &evidence, verbose);
    let removed = account.remove();
    let outcomes = result?;
    removed.map(|()| outcomes)
}

fn run_as(
    account: &Account,
    tests: &[Test],
    workspace: &Workspace,
    evidence: &Path,
    verbose: bool,
) -> Result<Vec<Outcome>> {
    let bundle = Bundle::pack(&account.home().join("bundle"), tests, workspace).context("pack the bundle")?;
    account.own(&bundle.writable())?;
    let mut command = process::command(bundle.xtask());
    command
        .arg(BUNDLE_TESTS)
        .arg(bundle.folder())
        .args(verbose.then_some(VERBOSE))
        .current_dir(bundle.folder());
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.envs(
        KEPT.iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?))),
    );
    // All that a test may need is there, so one that skips itself is one that fails.
    command.env("ALPY_REQUIRE", "all");
    account.become_user(&mut command);
    let engine = match account.group() {
        Some(group) => Some(Engine::for_group(&account.engine(), group)?),
        None => None,
    };
    if let Some(engine) = &engine {
        command.env("DOCKER_HOST", &engine.host);
    }
    // Its own limits are those of its tests.
    process::run(command, Kind::Group)?;
    engine.map_or(Ok(()), Engine::release)?;
    let mut outcomes = bundle.outcomes().context("the user's run has ended early")?;
    if outcomes.len() != tests.len() {
        bail!(
            "the user's run has {} outcomes of {} tests",
            outcomes.len(),
            tests.len()
        );
    }
    save_evidence(&mut outcomes, account.home(), evidence)?;
    Ok(outcomes)
}

/// The hidden task: runs what is in the bundle, with the engine that `DOCKER_HOST` names or else a rootless one, and writes
/// down how it went.
pub fn bundle_tests(arguments: &[String]) -> Result<ExitCode> {
    let (folder, verbose) = match arguments {
        [folder] => (folder, false),
        [folder, verbose] if verbose == VERBOSE => (folder, true),
        _ => bail!("{BUNDLE_TESTS} is started by xtask itself"),
    };
    let bundle = Bundle::at(Path::new(folder));
    needs::ensure(&[needs::RABBIT_TESTS, needs::CRATE_TESTS].concat())?;
    let engine = match env::var("DOCKER_HOST") {
        Ok(host) => engine::at(&host)?,
        // Another engine that happens to answer would prove nothing about a rootless one.
        Err(_) => rabbit_tests::ensure_private(Vec::new(), &bundle.target())?,
    };
    let environment = rabbit_tests::environment(&bundle.target(), &engine);
    let progress = Progress::new(verbose);
    let outcomes = runner::run(&bundle.tests()?, &environment, runner::jobs(), &progress)?;
    engine.release()?;
    bundle.write_outcomes(&outcomes)?;
    Ok(ExitCode::SUCCESS)
}

/// Keeps the evidence of failures; that of successes goes with the user.
fn save_evidence(outcomes: &mut [Outcome], home: &Path, evidence: &Path) -> Result<()> {
    match fs::remove_dir_all(evidence) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context("remove old evidence");
        }
        _ => {}
    }
    for case in outcomes.iter_mut().flat_map(|outcome| &mut outcome.cases) {
        let folders = std::mem::take(&mut case.evidence);
        if !case.verdict.is_failure() {
            continue;
        }
        // What another user says is a path is believed where it is within his home.
        for folder in folders.iter().filter_map(|folder| folder.canonicalize().ok()) {
            let (true, Some(name)) = (folder.starts_with(home), folder.file_name()) else {
                continue;
            };
            let copy = evidence.join(name);
            bundle::copy_folder(&folder, &copy).with_context(|| format!("copy {}", folder.display()))?;
            case.evidence.push(copy);
        }
    }
    Ok(())
}
