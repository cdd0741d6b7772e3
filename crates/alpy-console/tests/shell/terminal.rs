// SPDX-License-Identifier: GPL-3.0-or-later
//! A real shell on a real terminal, behind a socket pair as QEMU's serial port would be.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alpy_console::{Builder, CommandEnd, Console, RemoteShell};

/// Which shell.
#[derive(Clone, Copy)]
pub(crate) enum Shell {
    Busybox,
    Bash,
    Dash,
    /// BusyBox's as root of a user namespace where `/proc/sys/kernel/printk` is the file `printk`.
    BusyboxWithPrintk,
}

/// A terminal with a shell and the directory in which it works; all gone when dropped.
pub(crate) struct Scene {
    dir: tempfile::TempDir,
    child: Child,
    pub(crate) console: Console,
    /// The calls of the console's observer.
    pub(crate) commands: Commands,
}

/// A line for each command that began, and one for each that ended.
#[derive(Clone, Default)]
pub(crate) struct Commands(Arc<Mutex<Vec<String>>>);

impl Commands {
    pub(crate) fn of(&self, console: Builder) -> Builder {
        let commands = self.clone();
        console.on_command(move |command| {
            commands.push(command.to_owned());
            let commands = commands.clone();
            move |end: CommandEnd| commands.push(format!("{end:?}"))
        })
    }

    /// All lines since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn push(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }
}

impl Scene {
    pub(crate) fn start(shell: Shell) -> Self {
        // Set last of all: the user's shell, which runs the command, may be one that drops the prompt where nobody types.
        let prompted = |shell: &str| format!(r#"exec env "PS1=rabbit # " {shell}"#);
        Self::with(&match shell {
            Shell::Busybox => prompted("busybox sh -i"),
            Shell::Bash => prompted("bash --norc --noprofile -i"),
            Shell::Dash => prompted("dash -i"),
            Shell::BusyboxWithPrintk => format!(
                "exec unshare -Urm sh -c 'mount --bind printk /proc/sys/kernel/printk && {}'",
                prompted("busybox sh -i")
            ),
        })
    }

    /// What this script of a POSIX shell does on the terminal.
    #[expect(clippy::disallowed_methods, reason = "killed and waited for when dropped")]
    pub(crate) fn with(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = tokio::net::UnixStream::from_std(ours).unwrap();
        let commands = Commands::default();
        let console = Console::builder().transcript(dir.path().join("evidence"));
        let console = commands.of(console).start(ours).unwrap();
        let work = dir.path().join("work");
        fs::create_dir(&work).unwrap();
        fs::write(work.join("printk"), "7\t4\t1\t7\n").unwrap();
        // Whoever starts the tests in the background has SIGINT ignored, and no shell can undo that for itself.
        let child = std::process::Command::new("env")
            .args([
                "--default-signal=INT",
                "script",
                "-qfE",
                "always",
                "-c",
                &format!("stty cols 80 rows 24 echo; {script}"),
                "/dev/null",
            ])
            .current_dir(work)
            .env("TERM", "vt100")
            .stdin(Stdio::from(OwnedFd::from(theirs.try_clone().unwrap())))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        Self {
            dir,
            child,
            console,
            commands,
        }
    }

    pub(crate) async fn attach(&self) -> RemoteShell {
        let shell = RemoteShell::builder(self.console.clone(), "# ").deadline(Duration::from_secs(20));
        shell.attach().await.unwrap()
    }

    /// The names of all files there, sorted.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("")).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("work").join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Waits until a file is there.
    pub(crate) async fn exists(&self, name: &str) {
        while !self.path(name).exists() {
            tokio::task::yield_now().await;
        }
    }

    /// Waits until this has come, and leaves it unread.
    pub(crate) async fn logged(&self, text: &str) {
        while !self.log().contains(text) {
            tokio::task::yield_now().await;
        }
    }

    /// Waits until a file has content.
    pub(crate) async fn written(&self, name: &str) {
        while fs::metadata(self.path(name)).map_or(0, |file| file.len()) == 0 {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn raw(&self) -> String {
        let bytes = fs::read(self.dir.path().join("evidence/console.raw")).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("evidence/console.log")).unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the console:\n{}", self.console.tail(30));
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
