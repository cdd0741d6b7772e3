// SPDX-License-Identifier: GPL-3.0-or-later
//! The peers in Python, in a virtual environment of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::{self, Kind};

/// What is installed. The original brings docker-py and the rest.
const PACKAGES: [&str; 3] = ["alpy==3.0.0", "qemu.qmp==0.0.6", "pexpect==4.9.0"];

/// How long an installation may take.
const LIMIT: Duration = Duration::from_secs(300);

/// The Python that has the peers, in `venv` of the folder. None, after a word about it, if they cannot be installed.
pub fn ensure(folder: &Path) -> Result<Option<PathBuf>> {
    let venv = folder.join("venv");
    let python = venv.join("bin/python");
    // What is in there, written when it was complete.
    let list = venv.join("installed");
    let packages = PACKAGES.join(" ");
    if fs::read_to_string(&list).is_ok_and(|installed| installed == packages) {
        return Ok(Some(python));
    }
    eprintln!("xtask: install {packages}...");
    let mut make = process::command("python3");
    make.args(["-m", "venv", "--clear"]).arg(&venv);
    let mut install = process::command(&python);
    install
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(["--timeout", "20", "--retries", "1"])
        .args(PACKAGES);
    for (command, remedy) in [
        (make, "apt-get install python3-venv provides it"),
        (install, "it takes a way to PyPI"),
    ] {
        if let Some(why) = failure(command)? {
            eprintln!("xtask: install {packages}... failed: their rows will be missing; {remedy}: {why}");
            return Ok(None);
        }
    }
    fs::write(&list, packages).with_context(|| list.display().to_string())?;
    eprintln!("xtask: install {}... done", PACKAGES.join(" "));
    Ok(Some(python))
}

/// Why a command failed, in a line; none if it did not.
fn failure(command: Command) -> Result<Option<String>> {
    if process::find(command.get_program()).is_none() {
        return Ok(Some(format!(
            "{} is missing",
            Path::new(command.get_program()).display()
        )));
    }
    let mut last = String::new();
    let ended = process::follow(command, Kind::Group, Some(LIMIT.into()), |_, line| {
        if !line.trim().is_empty() {
            line.trim().clone_into(&mut last);
        }
    })?;
    Ok(if ended.timed_out {
        Some(format!("not done within {} s", LIMIT.as_secs()))
    } else if ended.status.success() {
        None
    } else {
        Some(last)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_the_last_line_of_what_failed() {
        let shell = |script: &str| {
            let mut command = process::command("sh");
            command.args(["-c", script]);
            failure(command).unwrap()
        };
        assert_eq!(shell("true"), None);
        let why = shell("echo one; echo; echo 'No route to host' >&2; exit 1").unwrap();
        // Two streams have no order between them.
        assert!(["one", "No route to host"].contains(&why.as_str()), "{why}");
        let missing = failure(process::command("no-such-python")).unwrap();
        assert_eq!(missing.as_deref(), Some("no-such-python is missing"));
    }
}
