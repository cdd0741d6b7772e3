// SPDX-License-Identifier: GPL-3.0-or-later
//! The command, a base of evidence for each test, and waiting.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use alpy::runs::RunState;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{interval, timeout};

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A place of its own for a test.
pub(crate) struct Desk {
    folder: TempDir,
}

/// What the command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Where the command runs.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where its evidence is.
    pub(crate) fn base(&self) -> PathBuf {
        self.folder.path().join("evidence")
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// The command with arguments, not started yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("ALPY_EVIDENCE", self.base())
            .env_remove("ALPY_PAUSE")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn alpy(&self, arguments: &[&str]) -> Said {
        let output = timeout(LIMIT, self.command(arguments).output()).await;
        let output = output.expect("the command ends").unwrap();
        Said {
            status: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The row of a test in `alpy ps --json`, null if it has none.
    pub(crate) async fn row(&self, test: &str) -> Value {
        let rows = self.alpy(&["ps", "--all", "--json"]).await.json();
        let row = rows.as_array().unwrap().iter().find(|row| {
            row["name"] == test
                && row["dir"]
                    .as_str()
                    .unwrap()
                    .starts_with(self.base().to_str().unwrap())
        });
        row.cloned().unwrap_or_default()
    }
}

/// Of a test that fails in the middle, no testbed stays.
impl Drop for Desk {
    fn drop(&mut self) {
        let under_way = alpy::runs::below(&self.base()).into_iter();
        for run in under_way.filter(|run| run.state == RunState::UnderWay) {
            let pid = run.pid.and_then(|pid| i32::try_from(pid).ok());
            let _ = pid.map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
        }
    }
}

impl Said {
    /// It must have been done.
    pub(crate) fn good(self) -> Self {
        assert_eq!(self.status, 0, "{self:?}");
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Cargo puts it beside the folder of the tests' executables, and so does who runs these elsewhere.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("alpy")
}

/// Waits for a condition that something else brings about.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let met = async {
        let mut looks = interval(Duration::from_millis(50));
        loop {
            looks.tick().await;
            if condition().await {
                return;
            }
        }
    };
    timeout(LIMIT, met)
        .await
        .unwrap_or_else(|_| panic!("it never came to be that {what}"));
}

/// Whether a process is there.
pub(crate) fn is_process(pid: &Value) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
