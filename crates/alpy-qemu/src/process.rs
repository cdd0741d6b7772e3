// SPDX-License-Identifier: GPL-3.0-or-later
//! The QEMU process: started with exactly what it shall inherit, watched, reaped, and ended with whoever started it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tracing::{Instrument, debug};

use crate::error::{Error, Result};
use crate::evidence::Copies;
use crate::output::Output;

/// How long the system may take to run the program's file, which may lie on a disk that is far away.
const START: Duration = Duration::from_secs(30);

/// What to start.
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// What the process inherits, under the numbers that they have here. They are closed here as soon as it runs.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// The folder for command line and output.
    pub(crate) evidence: Option<PathBuf>,
}

/// A process. It is killed when this is dropped, and when this program ends in any way.
#[derive(Debug)]
pub(crate) struct Process {
    child: KillOnDrop,
    pid: u32,
    command_line: String,
    output: Arc<Output>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    /// Starts a process.
    ///
    /// Cancel safe: the process is killed.
    pub(crate) async fn start(launch: Launch) -> Result<Self> {
        let command_line = command_line(&launch.program, &launch.arguments);
        debug!(command_line, "start QEMU");
        let copies = Copies::create(launch.evidence.as_deref(), &command_line)?;

        let program = launch.program.clone();
        let (started, starting) = oneshot::channel();
        let (ended, ending) = oneshot::channel();
        thread::Builder::new()
            .name("alpy-qemu".to_owned())
            .stack_size(256 << 10)
            .spawn(move || supervise(launch, started, ended))
            .map_err(|source| Error::System {
                what: "start a thread for QEMU",
                source,
            })?;
        let starting = timeout(START, starting).await.map_err(|_| Error::Timeout {
            what: "start",
            after: START,
        })?;
        let started = match starting {
            Ok(Ok(started)) => started,
            // The system's error does not tell: it is EACCES where PATH has a folder that this user may not enter.
            Ok(Err(_)) if find(&program).is_none() => return Err(Error::ProgramMissing { program }),
            Ok(Err(source)) => return Err(Error::Spawn { program, source }),
            Err(_) => {
                let source = io::Error::other("the thread for it has panicked");
                return Err(Error::Spawn { program, source });
            }
        };

        let output = Arc::new(Output::default());
        let [stdout, stderr] =
            [started.stdout.into(), started.stderr.into()].map(pipe::Receiver::from_owned_fd);
        let pipe_error = |source| Error::System {
            what: "read the output of QEMU",
            source,
        };
        let (stdout, stderr) = (stdout.map_err(pipe_error)?, stderr.map_err(pipe_error)?);
        let (exited, exit) = watch::channel(None);
        let reader = Arc::clone(&output);
        let watching = async move {
            let reading = async {
                tokio::join!(
                    reader.read_stdout(stdout, copies.stdout),
                    reader.read_stderr(stderr, copies.stderr)
                )
            };
            let mut reading = std::pin::pin!(reading);
            let mut ending = ending;
            // The exit is told only when all output is here, unless a child of QEMU's holds the pipes open.
            let status = tokio::select! {
                _ = &mut reading => ending.await,
                status = &mut ending => {
                    let _ = timeout(Duration::from_secs(1), reading).await;
                    status
                }
            };
            if let Ok(status) = status {
                debug!(%status, "QEMU has ended");
                exited.send_replace(Some(status));
            }
        };
        tokio::spawn(watching.in_current_span());
        Ok(Self {
            child: started.child,
            pid: started.pid,
            command_line,
            output,
            exit,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn command_line(&self) -> &str {
        &self.command_line
    }

    pub(crate) fn stderr_tail(&self) -> String {
        self.output.stderr_tail()
    }

    pub(crate) fn dump_errors(&self) -> usize {
        self.output.dump_errors()
    }

    /// Sends SIGKILL, unless the process has ended.
    pub(crate) fn kill(&self) {
        self.child.kill();
    }

    /// The exit status, if the process has ended and all its output is here.
    pub(crate) fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits until the process has ended and all its output is here. It has no time limit of its own.
    ///
    /// Cancel safe.
    pub(crate) async fn wait(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        let status = exit
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|status| *status);
        match status {
            Some(status) => status,
            // The runtime that watched the process has ended, and nobody will ever tell.
            None => std::future::pending().await,
        }
    }

    /// The error for an end that was not asked for.
    pub(crate) fn exited(&self, when: &'static str, status: ExitStatus) -> Error {
        Error::Exited {
            when,
            status,
            stderr: self.stderr_tail(),
            command_line: self.command_line.clone(),
        }
    }
}

/// The file that a program's name means: itself, or the first of that name in `PATH`.
pub(crate) fn find(program: &Path) -> Option<PathBuf> {
    let is_file = |path: &PathBuf| path.is_file();
    if program.components().count() > 1 {
        return Some(program.to_owned()).filter(is_file);
    }
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(is_file)
}

/// What the thread hands out when the process runs.
struct Started {
    child: KillOnDrop,
    pid: u32,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

/// The child, which is killed when nobody is interested any more.
///
/// It is reaped only with the lock held, so that a signal cannot hit another process that got its number.
#[derive(Debug)]
struct KillOnDrop(Arc<Mutex<Child>>);

impl KillOnDrop {
    fn kill(&self) {
        let mut child = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // An error here says that it has ended.
        let _ = child.kill();
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The life of a thread: as long as the process, because the parent-death signal is sent at the end of the *thread* that made
/// the process (prctl(2), `PR_SET_PDEATHSIG`).
fn supervise(
    launch: Launch,
    started: oneshot::Sender<io::Result<Started>>,
    ended: oneshot::Sender<ExitStatus>,
) {
    let mut child = match spawn(&launch) {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    // From here on the process alone has them: that it ends is seen at their other ends.
    drop(launch);
    let pid = child.id();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let child = Arc::new(Mutex::new(child));
    let guard = KillOnDrop(Arc::clone(&child));
    let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
        unreachable!("both were asked to be pipes");
    };
    // If nobody listens any more the guard comes back, and kills.
    drop(started.send(Ok(Started {
        child: guard,
        pid,
        stdout,
        stderr,
    })));
    // Waits without reaping, and without the lock.
    let raw = i32::try_from(pid).expect("a process id is a pid_t");
    let end = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while waitid(Id::Pid(Pid::from_raw(raw)), end) == Err(Errno::EINTR) {}
    let status = child.lock().unwrap_or_else(PoisonError::into_inner).wait();
    if let Ok(status) = status {
        let _ = ended.send(status);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this is the module that supervises processes"
)]
fn spawn(launch: &Launch) -> io::Result<Child> {
    let inherited: Vec<RawFd> = launch.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let parent = nix::unistd::getpid();
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.arguments)
        // It must be something: a failed `object-add filter-dump` closes descriptor 0, and would close a socket that came
        // to be there.
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C is for the test, which then ends QEMU in its order.
        .process_group(0);
    let prepare = move || {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
        if nix::unistd::getppid() != parent {
            // The parent has died before the line above.
            return Err(Errno::ESRCH.into());
        }
        // Nothing is inherited, whatever else this program has open without close-on-exec ..
        // SAFETY: plain numbers; the call touches nothing but the flags of descriptors.
        let done = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                3,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        // .. before Linux 5.11, on the other hand, there is no such call.
        let _ = done;
        for &descriptor in &inherited {
            // SAFETY: the descriptor is open, `launch` owns it; the call sets a flag in the child's table alone.
            Errno::result(unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) })?;
        }
        Ok(())
    };
    // SAFETY: `prepare` runs between fork and exec: system calls only, no allocation, no lock.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}

/// Program and arguments as one line that a shell would take.
fn command_line(program: &Path, arguments: &[OsString]) -> String {
    let quote = |word: &OsStr| {
        let word = word.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-+=/.,:@%".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    let mut words = vec![quote(program.as_os_str())];
    words.extend(arguments.iter().map(|argument| quote(argument)));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_the_command_line_for_a_shell() {
        let arguments = ["-append", "console=ttyS0 it's", "", "a,,b"].map(OsString::from);
        assert_eq!(
            command_line(Path::new("/usr/bin/qemu"), &arguments),
            r"/usr/bin/qemu -append 'console=ttyS0 it'\''s' '' a,,b"
        );
    }
}
