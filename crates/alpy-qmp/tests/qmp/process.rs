// SPDX-License-Identifier: GPL-3.0-or-later
//! Real servers, which end with the test whatever becomes of it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};

use alpy_qmp::{Client, Options};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fake::LONG;

pub(crate) struct Process(Option<Child>);

impl Process {
    #[expect(clippy::disallowed_methods, reason = "a test's server, which its guard ends")]
    pub(crate) fn start(program: &str, arguments: &[&str], stdin: Stdio) -> Self {
        let child = Command::new(program)
            .args(arguments)
            .stdin(stdin)
            .stdout(Stdio::null())
            .spawn();
        Self(Some(child.expect("the program starts")))
    }

    /// QEMU without a machine, and arguments of the test's.
    pub(crate) fn qemu(arguments: &[&str], stdin: Stdio) -> Self {
        let all = [&["-nodefaults", "-display", "none", "-accel", "tcg"], arguments].concat();
        Self::start("qemu-system-x86_64", &all, stdin)
    }

    /// QEMU with a client on a pair of sockets, of which it inherits one as its standard input.
    pub(crate) async fn qemu_on_pair(arguments: &[&str]) -> (Client, Self) {
        let (client, _, process) = Self::qemu_with_meddler(arguments).await;
        (client, process)
    }

    /// Likewise, and a second handle of the client's end, for bytes that the client would never send.
    pub(crate) async fn qemu_with_meddler(arguments: &[&str]) -> (Client, UnixStream, Self) {
        let (ours, theirs) = pair();
        let monitor = ["-chardev", "socket,id=qmp,fd=0", "-qmp", "chardev:qmp"];
        let process = Self::qemu(&[arguments, &monitor].concat(), theirs);
        let meddler = ours.try_clone().expect("a second handle");
        (attach(ours).await, meddler, process)
    }

    /// The storage daemon, likewise.
    pub(crate) async fn storage_daemon_on_pair() -> (Client, Self) {
        let (ours, theirs) = pair();
        let arguments = ["--chardev", "socket,id=qmp,fd=0", "--monitor", "chardev=qmp"];
        let process = Self::start("qemu-storage-daemon", &arguments, theirs);
        (attach(ours).await, process)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.as_ref().expect("not waited for yet").id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("a child takes signals");
    }

    /// Waits for an end that is near, and makes one if it does not come.
    pub(crate) async fn status(mut self) -> ExitStatus {
        let pid = Pid::from_raw(i32::try_from(self.id()).expect("a process id"));
        let mut child = self.0.take().expect("not waited for yet");
        let mut wait = tokio::task::spawn_blocking(move || child.wait());
        let Ok(status) = tokio::time::timeout(LONG, &mut wait).await else {
            kill(pid, Signal::SIGKILL).expect("a child takes signals");
            panic!("the process did not end");
        };
        status.expect("no panic").expect("a child")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

fn pair() -> (UnixStream, Stdio) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    ours.set_nonblocking(true).expect("a socket");
    (ours, Stdio::from(OwnedFd::from(theirs)))
}

async fn attach(socket: UnixStream) -> Client {
    let socket = tokio::net::UnixStream::from_std(socket).expect("a socket");
    Options::new().attach(socket).await.expect("a connection")
}
