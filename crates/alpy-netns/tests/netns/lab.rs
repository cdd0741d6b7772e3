// SPDX-License-Identifier: GPL-3.0-or-later
//! Network namespaces that need no privilege: those of a user namespace, which all end with the processes that hold them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use alpy_netns::{Answer, Error, HELPER, InterfaceName, Listener, Request, Session};
use serde_json::Value;
use tempfile::TempDir;

/// Far more than anything here takes; a loaded machine is slow.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A network namespace with nothing in it but a loopback, in a user namespace of its own.
pub(crate) struct Lab {
    holder: Holder,
    // After its users.
    folder: TempDir,
}

/// A process that does nothing but keep its namespaces, until its standard input ends.
pub(crate) struct Holder(Child);

impl Lab {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut unshare = program("unshare");
        unshare.arg("-Urn");
        let lab = Self {
            holder: Holder::start(unshare),
            folder,
        };
        // Not written here: a test that forks at that moment would keep the file open, and it could not be run ("text file busy").
        let bytes = lab.folder.path().join("bytes");
        fs::write(&bytes, HELPER).unwrap();
        let install = program("install")
            .args(["-m", "755"])
            .arg(bytes)
            .arg(lab.helper())
            .status();
        assert!(install.unwrap().success());
        lab
    }

    pub(crate) fn helper(&self) -> PathBuf {
        self.folder.path().join("helper")
    }

    pub(crate) fn listener(&self) -> Listener {
        Listener::bind_in(self.folder.path()).unwrap()
    }

    /// A session with a helper in the lab's namespace, and the helper itself.
    pub(crate) async fn session(&self) -> (Session, Kill) {
        self.session_of(&[]).await
    }

    /// The same with words before the helper's, that take something away from it.
    pub(crate) async fn session_of(&self, before: &[&str]) -> (Session, Kill) {
        let listener = self.listener();
        let mut helper = self.enter();
        helper
            .args(before)
            .arg(self.helper())
            .arg("serve")
            .arg(listener.socket());
        let helper = Kill(helper.spawn().unwrap());
        (listener.accept(DEADLINE).await.unwrap(), helper)
    }

    /// One request to a helper of its own.
    pub(crate) async fn run(&self, request: &Request) -> Result<Answer, Error> {
        let (mut session, _helper) = self.session().await;
        session.run(request, DEADLINE).await
    }

    /// A second network namespace beside the lab's.
    pub(crate) fn neighbour(&self) -> Holder {
        let mut unshare = self.enter();
        unshare.args(["unshare", "-n"]);
        Holder::start(unshare)
    }

    /// A command in the lab's namespace.
    pub(crate) fn enter(&self) -> Command {
        enter(self.holder.pid())
    }

    /// What `ip -json` answers here.
    pub(crate) fn ip(&self, arguments: &str) -> Value {
        self.holder.ip(arguments)
    }

    /// What there is to see of links, addresses and routes, but for counters and times.
    pub(crate) fn state(&self) -> Value {
        [
            "-d link",
            "addr",
            "route show table all",
            "-6 route show table all",
        ]
        .map(|show| self.ip(show))
        .into()
    }
}

impl Holder {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .args(["sh", "-c", "echo here; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "here\n");
        Self(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// A command in these namespaces.
    pub(crate) fn enter(&self) -> Command {
        enter(self.pid())
    }

    pub(crate) fn ip(&self, arguments: &str) -> Value {
        let output = self
            .enter()
            .args(["ip", "-json"])
            .args(arguments.split(' '))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "ip {arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        // Where there is nothing to tell, some of its commands print nothing at all.
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Array(Vec::new()))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A child that does not outlive its test.
pub(crate) struct Kill(pub(crate) Child);

impl Drop for Kill {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "the tests watch over what they start")]
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    // Where an ordinary user's PATH does not have it, ip is still there.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// A command in the user and network namespaces of a process, as root there.
fn enter(pid: u32) -> Command {
    let mut nsenter = program("nsenter");
    nsenter.args(["-t", &pid.to_string(), "-U", "-n", "--preserve-credentials"]);
    nsenter
}

pub(crate) fn name(name: &str) -> InterfaceName {
    name.parse().unwrap()
}

/// The one link, or address, or route, of an answer of `ip` that has this under this key.
pub(crate) fn find<'a>(list: &'a Value, key: &str, value: &str) -> &'a Value {
    let mut found = list
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry[key] == value);
    let first = found
        .next()
        .unwrap_or_else(|| panic!("no {key} {value} in {list:#}"));
    assert!(found.next().is_none(), "more than one {key} {value} in {list:#}");
    first
}
