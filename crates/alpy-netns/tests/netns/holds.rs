// SPDX-License-Identifier: GPL-3.0-or-later
use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use alpy_need::need;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{DEADLINE, Kill, Lab, program};

/// `hold` as process 1 of a pid namespace, and unshare(1), its parent, which ends as it ends.
struct Node {
    unshare: Kill,
    hold: u32,
    _lab: Lab,
}

impl Node {
    async fn start() -> Self {
        let lab = Lab::new();
        let mut unshare = program("unshare");
        unshare
            .args(["-Urpf", "--kill-child"])
            .arg(lab.helper())
            .arg("hold")
            .stdin(Stdio::piped());
        let unshare = Kill(unshare.spawn().unwrap());
        let pid = unshare.0.id();
        let hold = until("hold runs", || {
            let child = *children(pid).first()?;
            let program = fs::read_link(format!("/proc/{child}/exe")).ok()?;
            // A signal that comes before its handler is there is lost on a process 1.
            (program.ends_with("helper") && catches_sigterm(child)).then_some(child)
        })
        .await;
        Self {
            unshare,
            hold,
            _lab: lab,
        }
    }

    /// A command inside, where it is nobody's child but `hold`'s once its parent ends.
    fn enter(&self) -> Command {
        let mut nsenter = program("nsenter");
        nsenter.args(["-t", &self.hold.to_string(), "-U", "-p", "--preserve-credentials"]);
        nsenter
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.hold.try_into().unwrap()), signal).unwrap();
    }

    async fn status(&mut self) -> ExitStatus {
        end(&mut self.unshare.0).await
    }
}

#[tokio::test]
async fn hold_ends_well_when_standard_input_ends_and_takes_the_namespace_along() {
    need!(user_namespaces);
    let mut node = Node::start().await;
    // It is not waited for: without hold, it would stay.
    let mut application = Kill(node.enter().args(["sleep", "1000"]).spawn().unwrap());
    until("the application runs", || {
        (!children(application.0.id()).is_empty()).then_some(())
    })
    .await;
    drop(node.unshare.0.stdin.take());
    assert_eq!(node.status().await.code(), Some(0));
    assert!(!end(&mut application.0).await.success());
}

#[tokio::test]
async fn hold_ends_at_once_on_sigterm_and_sigint() {
    need!(user_namespaces);
    for (signal, status) in [(Signal::SIGTERM, 128 + 15), (Signal::SIGINT, 128 + 2)] {
        let mut node = Node::start().await;
        node.signal(signal);
        assert_eq!(node.status().await.code(), Some(status), "{signal}");
    }
}

#[tokio::test]
async fn hold_reaps_the_orphans_of_its_namespace() {
    need!(user_namespaces);
    let node = Node::start().await;
    // The shell leaves a `cat` behind that ends when this test closes its input.
    let mut shell = node.enter();
    shell
        .args(["sh", "-c", "exec 3<&0; (cat <&3 &)"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut shell = shell.spawn().unwrap();
    let input = shell.stdin.take();
    assert!(end(&mut shell).await.success());
    assert_eq!(children(node.hold).len(), 1, "the orphan is adopted");
    drop(input);
    // A zombie would still be a child.
    until("the orphan is reaped", || {
        children(node.hold).is_empty().then_some(())
    })
    .await;
}

async fn end(child: &mut Child) -> ExitStatus {
    until("the process ends", || child.try_wait().unwrap()).await
}

/// Looks again and again until there is something.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let look = async {
        let mut often = tokio::time::interval(Duration::from_millis(5));
        loop {
            often.tick().await;
            if let Some(seen) = look() {
                return seen;
            }
        }
    };
    tokio::time::timeout(DEADLINE, look)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"))
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn catches_sigterm(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask
        .map(|mask| u64::from_str_radix(mask.trim(), 16).unwrap())
        .unwrap_or(0);
    // SIGINT's handler is set after SIGTERM's.
    mask & (1 << (2 - 1)) != 0
}
