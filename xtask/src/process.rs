// SPDX-License-Identifier: GPL-3.0-or-later
//! Starts processes and sees to it that they end when xtask does: by itself, by Ctrl-C, or by SIGKILL.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{self, SigSet, Signal};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpid, getppid};

use crate::limit::Limit;
use crate::stop;

/// How long a process may take to end once it was asked to.
const GRACE: Duration = Duration::from_secs(15);
/// How often a condition is looked at that nothing announces.
const TICK: Duration = Duration::from_millis(50);

static STATE: Mutex<State> = Mutex::new(State {
    interrupted: false,
    running: Vec::new(),
});
static INTERRUPTED: Condvar = Condvar::new();

struct State {
    interrupted: bool,
    running: Vec<Entry>,
}

struct Entry {
    pid: Pid,
    kind: Kind,
    events: Sender<Event>,
}

enum Event {
    Line(Stream, String),
    Closed,
    Exited,
    Interrupted,
}

/// How a process relates to the terminal and to signals that xtask receives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Leads a process group of its own; all of the group ends with it.
    Group,
    /// Shares the terminal with the user, who interrupts it directly.
    Foreground,
    /// Tidies up, and so runs even after a signal.
    Cleanup,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What the process, or the signal that ended it, says.
    pub status: ExitStatus,
    /// It was ended because its time was over.
    pub timed_out: bool,
    /// The id that it had.
    pub pid: u32,
}

/// Which of its streams a process wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Turns SIGINT, SIGTERM and SIGHUP into an orderly end of all that runs. To be called before any thread is started.
pub fn handle_signals() -> Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    // Blocked here, and so in every thread to come; not in children, see `command`.
    signals.thread_block().context("block signals")?;
    thread::spawn(move || {
        while signals.wait().is_ok() {
            interrupt();
        }
    });
    Ok(())
}

/// Fails once a signal has asked xtask to end.
pub fn check_interrupted() -> Result<()> {
    if state().interrupted {
        Err(stop::interrupted())
    } else {
        Ok(())
    }
}

/// Looks at a condition until it holds, the limit is over (`None`) or a signal comes (an error).
pub fn poll<T>(limit: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let checked = || check_interrupted().and_then(|()| condition()).transpose();
    poll_to_the_end(limit, checked).transpose()
}

/// Looks at a condition until it holds or the limit is over (`None`), whatever signals come.
pub fn poll_to_the_end<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::park_timeout(TICK);
    }
}

/// Returns once a signal has asked xtask to end.
pub fn wait_for_interrupt() {
    let mut state = state();
    while !state.interrupted {
        state = INTERRUPTED.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

/// A command that finds programs in PATH and in the folders of system programs, which the PATH of an ordinary user of
/// Debian lacks. It reads nothing from the terminal.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where xtask makes commands"
)]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let program = program.as_ref();
    let mut command = Command::new(find(program).unwrap_or_else(|| program.into()));
    command.env("PATH", search_path()).stdin(Stdio::null());
    // What xtask blocks is for its own threads to wait for.
    let unblock = || SigSet::empty().thread_set_mask().map_err(Into::into);
    // SAFETY: between fork and exec, `unblock` makes one system call and allocates nothing.
    unsafe { command.pre_exec(unblock) };
    command
}

/// Where a program is, if it is installed.
pub fn find(program: impl AsRef<OsStr>) -> Option<PathBuf> {
    let program = Path::new(program.as_ref());
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    std::env::split_paths(&search_path())
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// PATH, and the folders of system programs.
pub fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for folder in ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    std::env::join_paths(folders).unwrap_or(path)
}

/// Makes the kernel send `signal` to the process when the thread that starts it ends.
pub fn die_with_parent(command: &mut Command, signal: Signal) {
    let parent = getpid();
    let arm = move || {
        prctl::set_pdeathsig(signal)?;
        // The parent may have died before the line above.
        if getppid() != parent {
            Err(Errno::ESRCH.into())
        } else {
            Ok(())
        }
    };
    // SAFETY: between fork and exec, `arm` makes two system calls and allocates nothing.
    unsafe { command.pre_exec(arm) };
}

/// Runs a command to its end, its output going where that of xtask goes.
pub fn run(command: Command, kind: Kind) -> Result<ExitStatus> {
    let ended = Running::start(command, kind)?.wait(None, |_, _| {})?;
    Ok(ended.status)
}

/// Runs a command to its end and hands over each line of its output as it comes, with its line feed.
pub fn follow(
    mut command: Command,
    kind: Kind,
    limit: Option<Limit>,
    line: impl FnMut(Stream, &str),
) -> Result<Ended> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Running::start(command, kind)?.wait(limit, line)
}

/// Runs a command to its end and returns what it printed: standard output and standard error.
pub fn output(command: Command, kind: Kind) -> Result<Output> {
    let (mut stdout, mut stderr) = (String::new(), String::new());
    let ended = follow(command, kind, None, |stream, line| match stream {
        Stream::Out => stdout.push_str(line),
        Stream::Err => stderr.push_str(line),
    })?;
    Ok(Output {
        status: ended.status,
        stdout,
        stderr,
    })
}

/// What [`output`] returns.
pub struct Output {
    /// How the process ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output, if the process succeeded.
    pub fn success(self, what: &str) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("{what}: {}\n{}{}", self.status, self.stdout, self.stderr)
    }
}

/// A process that runs. Dropping it kills it.
struct Running {
    child: Child,
    kind: Kind,
    events: Receiver<Event>,
    /// Streams of its output that are read and have not ended.
    open: usize,
}

impl Running {
    fn start(mut command: Command, kind: Kind) -> Result<Self> {
        if kind != Kind::Foreground {
            command.process_group(0);
        }
        die_with_parent(&mut command, Signal::SIGKILL);
        let (sender, events) = mpsc::channel();
        // Under the lock, so that a signal finds either no process or one that it can reach.
        let mut state = state();
        if state.interrupted && kind != Kind::Cleanup {
            return Err(stop::interrupted());
        }
        let child = command
            .spawn()
            .with_context(|| format!("start {}", Path::new(command.get_program()).display()))?;
        let mut running = Self {
            child,
            kind,
            events,
            open: 0,
        };
        let pid = running.pid();
        state.running.push(Entry {
            pid,
            kind,
            events: sender.clone(),
        });
        drop(state);
        if let Some(stdout) = running.child.stdout.take() {
            running.open += 1;
            pump(stdout, Stream::Out, sender.clone());
        }
        if let Some(stderr) = running.child.stderr.take() {
            running.open += 1;
            pump(stderr, Stream::Err, sender.clone());
        }
        thread::spawn(move || {
            // Left to be reaped, so that the pid stays this process's own for as long as someone may signal it.
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            while waitid(Id::Pid(pid), flags) == Err(Errno::EINTR) {}
            let _ = sender.send(Event::Exited);
        });
        Ok(running)
    }

    /// Waits for the end, and for the end of the output.
    fn wait(mut self, limit: Option<Limit>, mut line: impl FnMut(Stream, &str)) -> Result<Ended> {
        let began = Instant::now();
        let mut deadline = limit.map(|limit| began + limit.first());
        let mut stage = Stage::Running;
        let mut timed_out = false;
        while stage != Stage::Exited || self.open > 0 {
            let event = match deadline {
                Some(deadline) => self
                    .events
                    .recv_timeout(deadline.saturating_duration_since(Instant::now())),
                None => self.events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match (event, stage) {
                (Ok(Event::Line(stream, text)), _) => line(stream, &text),
                (Ok(Event::Closed), _) => self.open -= 1,
                (Ok(Event::Exited), _) => {
                    stage = Stage::Exited;
                    self.signal(Signal::SIGKILL);
                    // Whoever has left the group may hold the pipes open; what was written is read in no time.
                    deadline = Some(Instant::now() + Duration::from_secs(2));
                }
                (Ok(Event::Interrupted), Stage::Running) => {
                    stage = Stage::Asked;
                    deadline = Some(Instant::now() + GRACE);
                }
                (Ok(Event::Interrupted), _) => {}
                (Err(_), Stage::Running) => {
                    let left = limit.and_then(|limit| limit.left(began.elapsed(), self.pid()));
                    if left.is_none() {
                        timed_out = true;
                        stage = Stage::Asked;
                        self.signal(Signal::SIGTERM);
                    }
                    deadline = Some(Instant::now() + left.unwrap_or(GRACE));
                }
                (Err(_), Stage::Asked) => {
                    stage = Stage::Killed;
                    self.signal(Signal::SIGKILL);
                    deadline = Some(Instant::now() + GRACE);
                }
                (Err(_), Stage::Killed) => bail!("process {} does not end, not even by SIGKILL", self.pid()),
                (Err(_), Stage::Exited) => break,
            }
        }
        let status = self.child.wait().context("wait for a process")?;
        if self.kind != Kind::Cleanup {
            check_interrupted()?;
        }
        Ok(Ended {
            status,
            timed_out,
            pid: self.child.id(),
        })
    }

    fn pid(&self) -> Pid {
        pid(&self.child)
    }

    fn signal(&self, signal: Signal) {
        send(self.pid(), self.kind, signal);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = self.pid();
        state().running.retain(|entry| entry.pid != pid);
        // After a wait that has succeeded, `try_wait` knows and nobody is signalled.
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::SIGKILL);
        }
    }
}

/// How far the end of a process has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Asked,
    Killed,
    Exited,
}

/// The pid of a child.
pub fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("the kernel's pids are i32"))
}

fn send(pid: Pid, kind: Kind, signal: Signal) {
    // It may be gone by now; then there is nothing to do.
    let _ = if kind == Kind::Foreground {
        signal::kill(pid, signal)
    } else {
        signal::killpg(pid, signal)
    };
}

fn pump(stream: impl Read + Send + 'static, which: Stream, events: Sender<Event>) {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            if events
                .send(Event::Line(which, String::from_utf8_lossy(&line).into_owned()))
                .is_err()
            {
                return;
            }
            line.clear();
        }
        let _ = events.send(Event::Closed);
    });
}

fn interrupt() {
    let mut state = state();
    let again = std::mem::replace(&mut state.interrupted, true);
    for entry in state.running.iter().filter(|entry| entry.kind != Kind::Cleanup) {
        send(
            entry.pid,
            entry.kind,
            if again { Signal::SIGKILL } else { Signal::SIGTERM },
        );
        let _ = entry.events.send(Event::Interrupted);
    }
    INTERRUPTED.notify_all();
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = command("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn hands_over_every_line_of_both_streams() {
        let output = output(shell("echo one; echo two >&2; printf three"), Kind::Group).unwrap();
        assert_eq!(
            (output.stdout.as_str(), output.stderr.as_str()),
            ("one\nthree", "two\n")
        );
        assert!(output.status.success());
    }

    #[test]
    fn ends_a_process_whose_time_is_over_and_all_of_its_group() {
        let started = Instant::now();
        let mut child = String::new();
        // The shell gives no child its exit, so without the group the pipe would stay open for a minute.
        let ended = follow(
            shell("sleep 60 & echo $!; wait"),
            Kind::Group,
            Some(Duration::from_millis(300).into()),
            |_, line| {
                child.push_str(line);
            },
        );
        assert!(ended.unwrap().timed_out);
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "{:?}",
            started.elapsed()
        );
        let gone = poll(Duration::from_secs(10), || {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
            // An orphan is a zombie until whoever adopts it looks.
            Ok((state.is_empty() || state.contains(") Z ")).then_some(()))
        });
        assert!(gone.unwrap().is_some(), "process {child} is alive");
    }

    #[test]
    fn does_not_wait_for_a_pipe_that_a_stranger_holds_open() {
        let started = Instant::now();
        let script = "fifo=$(mktemp -u) && mkfifo $fifo && export fifo
            setsid sh -c 'echo $$ > $fifo; exec sleep 60' & read stranger < $fifo; rm $fifo; echo $stranger";
        let output = output(shell(script), Kind::Group).unwrap();
        let stranger = Pid::from_raw(output.stdout.trim().parse().unwrap());
        signal::kill(stranger, Signal::SIGKILL).expect("the stranger is alive");
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "{:?}",
            started.elapsed()
        );
    }

    #[test]
    fn a_child_starts_with_no_signal_blocked() {
        SigSet::from(Signal::SIGUSR1).thread_block().unwrap();
        let output = output(shell("grep SigBlk /proc/self/status"), Kind::Group).unwrap();
        assert_eq!(output.stdout, "SigBlk:\t0000000000000000\n");
    }

    #[test]
    fn names_the_program_that_is_missing() {
        let error = run(command("no-such-program"), Kind::Group).unwrap_err();
        assert!(error.to_string().contains("no-such-program"), "{error}");
    }
}
