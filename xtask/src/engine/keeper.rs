// SPDX-License-Identifier: GPL-3.0-or-later
//! The keeper: a process of its own, detached from every terminal, that runs the private engine while connections to
//! it are open. Its standard input is the first one.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::iter;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid, setsid};

use super::remains;
use crate::{needs, process};

/// The hidden task of xtask that is the keeper.
pub const KEEPER: &str = "engine-keeper";
/// Held while the keeper lives; in the engine's folder.
pub const LOCK: &str = "keeper.lock";
/// What the engine and the keeper print; in the engine's folder.
pub const LOG: &str = "engine.log";
/// Where the keeper accepts connections; in the folder of sockets.
pub const SOCKET: &str = "keeper";

/// For the engine to answer.
const START: Duration = Duration::from_secs(60);
/// For the engine to stop its containers and itself.
const STOP: Duration = Duration::from_secs(20);

enum Event {
    Joined(UnixStream),
    Left(u64),
    Exited(Pid),
    /// A signal asked the keeper to end, as when the machine is shut down.
    Interrupted,
}

/// Runs the engine until nobody is connected. Arguments: its folder and that of its sockets, and the group that may use it,
/// if there is one.
pub fn main(arguments: &[String]) -> Result<ExitCode> {
    let (folder, runtime, group) = match arguments {
        [folder, runtime] => (folder, runtime, None),
        [folder, runtime, group] => (folder, runtime, Some(group.as_str())),
        _ => bail!("{KEEPER} is started by xtask itself"),
    };
    let (folder, runtime) = (Path::new(folder), Path::new(runtime));
    setsid().context("leave the terminal")?;
    // The engine's processes become children of the keeper when their parents end, so that it finds all of them.
    prctl::set_child_subreaper(true).context("become a subreaper")?;
    let lock = fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join(LOCK))?;
    let _lock = needs::lock(lock, Duration::ZERO).context("another keeper runs")?;
    let first = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let listener = UnixListener::bind(runtime.join(SOCKET)).context("listen")?;

    let (sender, events) = mpsc::channel();
    let accepting = sender.clone();
    thread::spawn(move || {
        for stream in each(|| listener.accept().map(|(stream, _)| stream)) {
            if accepting.send(Event::Joined(stream)).is_err() {
                break;
            }
        }
    });
    let interrupted = sender.clone();
    thread::spawn(move || {
        process::wait_for_interrupt();
        let _ = interrupted.send(Event::Interrupted);
    });
    sender
        .send(Event::Joined(first))
        .context("queue the first connection")?;
    let mut keeper = Keeper {
        engine: start(folder, runtime, group)?,
        runtime,
        clients: BTreeMap::new(),
        next: 0,
        sender,
    };
    reap(keeper.sender.clone());
    let result = keeper.serve(&events);
    if let Err(error) = &result {
        keeper.tell(&format!("failed {}", explain(error, folder)));
    }
    keeper.stop(&events);
    remains::kill_descendants()?;
    remains::remove_files(folder, runtime)?;
    result.map(|()| ExitCode::SUCCESS)
    // The connections that are still open end here, with the process: the last user waits for that.
}

/// The pause after a failed accept(2).
const PAUSE: Duration = Duration::from_millis(100);

/// All connections, without end. After a failed accept(2) it tries again: a process that is out of file descriptors may have some later, and the
/// kernel does not announce it.
fn each<T>(mut accept: impl FnMut() -> io::Result<T>) -> impl Iterator<Item = T> {
    iter::from_fn(move || {
        loop {
            match accept() {
                Ok(stream) => return Some(stream),
                Err(_) => thread::park_timeout(PAUSE),
            }
        }
    })
}

struct Keeper<'a> {
    /// Process id of the engine; `None` once it has ended.
    engine: Option<Pid>,
    runtime: &'a Path,
    clients: BTreeMap<u64, UnixStream>,
    next: u64,
    sender: Sender<Event>,
}

impl Keeper<'_> {
    /// Returns when the last client has left.
    fn serve(&mut self, events: &Receiver<Event>) -> Result<()> {
        let socket = self.socket();
        let deadline = Instant::now() + START;
        let mut ready = false;
        loop {
            if !ready && alpy_engine_address::get(&socket, "/_ping").is_ok() {
                ready = true;
                self.tell(&self.greeting());
            }
            let wait = if ready {
                Duration::MAX
            } else {
                Duration::from_millis(50)
            };
            match events.recv_timeout(wait) {
                Ok(Event::Joined(stream)) => {
                    self.join(stream)?;
                    if ready {
                        let greeting = self.greeting();
                        self.clients
                            .last_entry()
                            .map(|client| writeln!(client.get(), "{greeting}"));
                    }
                }
                Ok(Event::Left(client)) => {
                    if self.clients.len() == 1 {
                        return Ok(());
                    }
                    if let Some(stream) = self.clients.remove(&client) {
                        // Not only closed: the first client's is the standard input of this process too.
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                }
                Ok(Event::Exited(pid)) => {
                    if self.engine == Some(pid) {
                        self.engine = None;
                        bail!("it has ended");
                    }
                }
                Ok(Event::Interrupted) => return Ok(()),
                Err(RecvTimeoutError::Timeout) if Instant::now() > deadline && !ready => {
                    bail!("no answer within {} s", START.as_secs());
                }
                Err(_) => {}
            }
        }
    }

    fn join(&mut self, stream: UnixStream) -> Result<()> {
        let client = self.next;
        self.next += 1;
        let (reader, sender) = (stream.try_clone()?, self.sender.clone());
        self.clients.insert(client, stream);
        thread::spawn(move || {
            // A client says one line, that it leaves, or it dies, which ends the stream.
            let _ = BufReader::new(reader).read_line(&mut String::new());
            let _ = sender.send(Event::Left(client));
        });
        Ok(())
    }

    /// Asks the engine to end, and waits for it.
    fn stop(&mut self, events: &Receiver<Event>) {
        let Some(pid) = self.engine else { return };
        let deadline = Instant::now() + STOP;
        let _ = kill(pid, Signal::SIGTERM);
        while let Ok(event) = events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if matches!(event, Event::Exited(exited) if exited == pid) {
                return;
            }
        }
    }

    fn tell(&self, line: &str) {
        for mut client in self.clients.values() {
            // One that is gone is noticed by its reader.
            let _ = writeln!(client, "{line}");
        }
    }

    fn greeting(&self) -> String {
        format!("ready unix://{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.runtime.join("docker.sock")
    }
}

/// Reaps every child, adopted ones too, and tells which ended.
fn reap(sender: Sender<Event>) {
    thread::spawn(move || {
        loop {
            match waitpid(None, None) {
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => {
                    if sender.send(Event::Exited(pid)).is_err() {
                        break;
                    }
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
    });
}

fn start(folder: &Path, runtime: &Path, group: Option<&str>) -> Result<Option<Pid>> {
    // Settings of the machine's own engine do not apply to this one.
    let settings = runtime.join("daemon.json");
    fs::write(&settings, "{}").context("write the engine's settings")?;
    let mut command = if geteuid().is_root() {
        process::command("dockerd")
    } else {
        rootless(runtime)
    };
    let path = |flag: &str, path: &Path| format!("{flag}={}", path.display());
    command
        .args([
            path("--data-root", &folder.join("data")),
            path("--exec-root", &runtime.join("exec")),
            path("--pidfile", &runtime.join("pid")),
            path(
                "--host",
                Path::new(&format!("unix://{}", runtime.join("docker.sock").display())),
            ),
            path("--config-file", &settings),
        ])
        .args(group.map(|group| format!("--group={group}")))
        // What alpy runs has no network but the links of its test.
        .args([
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--shutdown-timeout=5",
        ])
        // A rootless dockerd makes itself at home in these.
        .envs(["XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME"].map(|name| (name, runtime)))
        .env_remove("DOCKER_HOST")
        .stdout(std::io::stderr().as_fd().try_clone_to_owned()?);
    // Asked to end, not killed, dockerd ends its containers first. containerd dies with it.
    process::die_with_parent(&mut command, Signal::SIGTERM);
    let child = command.spawn().context("start dockerd")?;
    Ok(Some(process::pid(&child)))
}

/// dockerd in a user namespace, with folders of its own in place of those that it insists on.
fn rootless(runtime: &Path) -> Command {
    let mut command = process::command("rootlesskit");
    command
        .arg(format!("--state-dir={}", runtime.join("rootlesskit").display()))
        .args([
            "--net=host",
            "--copy-up=/etc",
            "--copy-up=/run",
            "--propagation=rslave",
        ])
        .args([
            "sh",
            "-c",
            r#"rm -f /run/docker /run/containerd /run/xtables.lock; exec "$@""#,
            "sh",
        ])
        // Without `cgroupfs`, systemd would be asked to make control groups, which needs a login session.
        .args(["dockerd", "--rootless", "--exec-opt=native.cgroupdriver=cgroupfs"]);
    command
}

/// The error and the last lines of the log, in one line.
fn explain(error: &anyhow::Error, folder: &Path) -> String {
    let path = folder.join(LOG);
    let log = fs::read(&path)
        .map(|log| String::from_utf8_lossy(&log).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let tail = lines[lines.len().saturating_sub(12)..].join("\t");
    format!("{error:#}; the end of {}:\t{tail}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_failure_to_accept_is_waited_out_with_pauses() {
        let (mut calls, began) = (0, Instant::now());
        let mut accept = || {
            calls += 1;
            match calls {
                1..=3 => Err(Errno::EMFILE.into()),
                _ => Ok(calls),
            }
        };
        assert_eq!(each(&mut accept).take(2).collect::<Vec<_>>(), [4, 5]);
        assert!(began.elapsed() >= 3 * PAUSE, "{:?}", began.elapsed());
    }
}
