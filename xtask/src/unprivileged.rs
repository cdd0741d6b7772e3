// SPDX-License-Identifier: GPL-3.0-or-later
//! Runs the rabbit tests as a user without any privilege, who is made for this and removed afterwards.
//!
//! That user can read neither the sources nor Cargo's target folder, which may be under root's home. So he gets a
//! bundle in a folder of his own: xtask itself, the test executables, the images.

mod account;
mod bundle;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use account::Account;
pub use account::remove_leftovers;
pub use bundle::Bundle;

use crate::process::{self, Kind};
use crate::runner::{Outcome, Test, Verdict};
use crate::tun;

/// Variables of xtask's own environment that mean the same to another user.
const KEPT: [&str; 5] = ["ALPY_ACCEL", "LANG", "RUST_BACKTRACE", "RUST_LOG", "TERM"];

/// Runs the tests, with a rootless engine, and copies the evidence of failures to `evidence`.
pub fn run(tests: &[Test], images: &Path, evidence: &Path) -> Result<Vec<Outcome>> {
    tun::ensure(true)?;
    remove_leftovers()?;
    let account = Account::create()?;
    eprintln!(
        "xtask: run the rabbit tests as user {}, who is removed afterwards",
        account.name()
    );
    let result = run_as(&account, tests, images, evidence);
    let removed = account.remove();
    let outcomes = result?;
    removed.map(|()| outcomes)
}

fn run_as(account: &Account, tests: &[Test], images: &Path, evidence: &Path) -> Result<Vec<Outcome>> {
    let bundle = Bundle::pack(&account.home().join("bundle"), tests, images).context("pack the bundle")?;
    account.own(&bundle.target())?;
    let mut command = process::command(bundle.xtask());
    command
        .args(["rabbit-tests", "--bundle"])
        .arg(bundle.folder())
        .current_dir(bundle.folder());
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.envs(
        KEPT.iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?))),
    );
    account.become_user(&mut command);
    // Its own limits are those of its tests.
    process::run(command, Kind::Group)?;
    let mut outcomes = bundle
        .outcomes()
        .context("the unprivileged run has ended early")?;
    if outcomes.len() != tests.len() {
        bail!(
            "the unprivileged run has {} outcomes of {} tests",
            outcomes.len(),
            tests.len()
        );
    }
    save_evidence(&mut outcomes, account.home(), evidence)?;
    Ok(outcomes)
}

/// Keeps the evidence of failures; that of successes goes with the user.
fn save_evidence(outcomes: &mut [Outcome], home: &Path, evidence: &Path) -> Result<()> {
    match fs::remove_dir_all(evidence) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).context("remove old evidence");
        }
        _ => {}
    }
    for outcome in outcomes {
        let folders = std::mem::take(&mut outcome.evidence);
        if outcome.verdict == Verdict::Passed {
            continue;
        }
        // What another user says is a path is believed where it is within his home.
        for folder in folders.iter().filter_map(|folder| folder.canonicalize().ok()) {
            let (true, Some(name)) = (folder.starts_with(home), folder.file_name()) else {
                continue;
            };
            let copy = evidence.join(name);
            bundle::copy_folder(&folder, &copy).with_context(|| format!("copy {}", folder.display()))?;
            outcome.evidence.push(copy);
        }
    }
    Ok(())
}
