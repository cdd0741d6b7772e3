// SPDX-License-Identifier: GPL-3.0-or-later
//! Programs that alpy is measured beside. Each ends when this process does.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Child, Command, Output};

use anyhow::{Context, Result, bail};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use serde_json::Value;

/// The Python of the virtual environment that the peers are installed in, if there is one.
const PYTHON: &str = "ALPY_BENCH_PYTHON";

/// A program, which is killed when this process ends.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    use std::os::unix::process::CommandExt;

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where this program makes commands"
    )]
    let mut command = Command::new(name);
    // SAFETY: between fork and exec this makes one system call and allocates nothing.
    unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
    command
}

/// This very program, for a part that has memory and processor time of its own.
pub(crate) fn own() -> Result<Command> {
    Ok(program(std::env::current_exe()?))
}

/// A script of `peers/`, if there is a Python to run it.
pub(crate) fn python(script: &str) -> Option<Command> {
    let mut command = program(std::env::var_os(PYTHON)?);
    let file: PathBuf = [env!("CARGO_MANIFEST_DIR"), "peers", script].iter().collect();
    command.arg("-B").arg(file);
    Some(command)
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn output(mut command: Command) -> Result<String> {
    let what = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("start {what}"))?;
    text(&what, output)
}

/// Runs a command to its end and reads the JSON that it printed.
pub(crate) fn json(command: Command) -> Result<Value> {
    let text = output(command)?;
    serde_json::from_str(&text).with_context(|| format!("expected JSON, saw {text:?}"))
}

fn text(what: &str, output: Output) -> Result<String> {
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{what}: {}\n{said}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A number in what a peer printed.
pub(crate) fn number(value: &Value, key: &str) -> Result<f64> {
    value[key]
        .as_f64()
        .with_context(|| format!("expected a number {key:?}, saw {value}"))
}

/// A process that is killed when this is dropped.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
