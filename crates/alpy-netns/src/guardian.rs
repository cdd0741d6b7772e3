// SPDX-License-Identifier: GPL-3.0-or-later
use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{AccessFlags, access, setsid};
use tokio::net::unix::pipe;
use tokio::time::timeout;

use crate::ward::{Ward, Word};
use crate::{Error, HELPER, InterfaceName, Result};

/// A process that outlives this one, for as long as it takes to remove what is entrusted to it.
///
/// When this process ends, in whatever way, the kernel ends its children and closes its descriptors; a folder, a container that
/// was created and not started yet, and a persistent tap stay. The guardian reads a pipe from this process, and at its end it
/// removes them. It is the helper executable out of memory: no file of it is needed. It runs in a session of its own, so that
/// neither Ctrl-C nor whoever kills a process group reaches it, and holds nothing open but the pipe.
///
/// What is entrusted here should not exist yet: the guard comes before the effect.
///
/// [`Guardian::dismiss`] when all is removed in order. One that is dropped removes what is left, in the background.
#[derive(Debug)]
pub struct Guardian {
    /// `None` once it is dismissed.
    words: Option<ChildStdin>,
    /// Its standard output, which it does not use: that it ends is seen here.
    end: pipe::Receiver,
    /// `None` once it is reaped.
    child: Option<Child>,
    pid: u32,
}

impl Guardian {
    /// Starts a guardian. `of` is shown by ps(1) behind its name.
    ///
    /// It has to be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Guardian`].
    pub fn start(of: &str) -> Result<Self> {
        let fault = |source| Error::Guardian {
            action: "start",
            source,
        };
        let mut child = spawn(of).map_err(fault)?;
        let (Some(words), Some(end)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both were asked to be pipes");
        };
        let end = pipe::Receiver::from_owned_fd(OwnedFd::from(end)).map_err(fault)?;
        Ok(Self {
            words: Some(words),
            end,
            pid: child.id(),
            child: Some(child),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Entrusts the containers of the engine behind this socket that have, or will have, this label: `name=value`. They are
    /// given a moment to end by themselves, then removed by force.
    ///
    /// # Errors
    /// [`Error::Guardian`].
    pub fn containers(&self, socket: &Path, label: &str) -> Result<()> {
        self.entrust(Ward::Containers {
            socket: socket.to_owned(),
            label: label.to_owned(),
        })
    }

    /// Entrusts a folder with all that will be in it. Links are removed, never followed.
    ///
    /// # Errors
    /// [`Error::Guardian`].
    pub fn folder(&self, path: &Path) -> Result<()> {
        self.entrust(Ward::Folder(path.to_owned()))
    }

    /// Entrusts a tap that will be made by [`Request::persistent_tap`](crate::Request::persistent_tap) for this user, in the
    /// network namespace of this process.
    ///
    /// # Errors
    /// [`Error::Guardian`].
    pub fn tap(&self, name: &InterfaceName) -> Result<()> {
        self.entrust(Ward::Tap(name.clone()))
    }

    /// Ends it: nothing is left for it to do.
    ///
    /// Cancel safe: it ends by itself then.
    ///
    /// # Errors
    /// [`Error::Guardian`] if it is no longer there, [`Error::GuardianStays`] if it has not ended in time.
    pub async fn dismiss(mut self, within: Duration) -> Result<()> {
        self.tell(&Word::Done)?;
        self.words = None;
        let ended = async {
            // It writes nothing, so this is its end.
            while self.end.readable().await.is_ok() && !matches!(self.end.try_read(&mut [0; 64]), Ok(0)) {}
        };
        timeout(within, ended)
            .await
            .map_err(|_| Error::GuardianStays { waited: within })?;
        if let Some(mut child) = self.child.take() {
            // The kernel is about to make it a zombie, if it has not yet.
            let _ = child.wait();
        }
        Ok(())
    }

    fn entrust(&self, ward: Ward) -> Result<()> {
        self.tell(&Word::Ward(ward))
    }

    fn tell(&self, word: &Word) -> Result<()> {
        let tell = || {
            let mut line = serde_json::to_vec(word)?;
            line.push(b'\n');
            let mut words = self.words.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
            // In one write, which pipe(7) does not tear as long as it is short: a process that is killed has said all or nothing.
            words.write_all(&line)
        };
        tell().map_err(|source| Error::Guardian {
            action: "speak to",
            source,
        })
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.words.take());
        if let Some(mut child) = self.child.take() {
            // Reaped when it has ended; without a thread it is a zombie until this process ends.
            let _ = thread::Builder::new()
                .name("alpy-guardian".to_owned())
                .stack_size(64 << 10)
                .spawn(move || child.wait());
        }
    }
}

/// The executable, in a file that has no name.
fn program() -> io::Result<File> {
    let mut file = match executable_memory() {
        // The sysctl `vm.memfd_noexec` is 2: no memory can be executed.
        Err(Errno::EACCES) => {
            return program_on_disk(&[env::temp_dir(), "/var/tmp".into(), "/dev/shm".into()]);
        }
        made => made?,
    };
    file.write_all(HELPER)?;
    Ok(file)
}

/// An empty file in memory that can be executed, which has to be said where the sysctl `vm.memfd_noexec` is 1. Kernels before 6.3 do not
/// know the flag.
fn executable_memory() -> nix::Result<File> {
    const NAME: &str = "alpy-guardian";
    let executable = MFdFlags::MFD_CLOEXEC | MFdFlags::from_bits_retain(libc::MFD_EXEC);
    match memfd_create(NAME, executable) {
        Err(Errno::EINVAL) => Ok(memfd_create(NAME, MFdFlags::MFD_CLOEXEC)?.into()),
        made => Ok(made?.into()),
    }
}

/// The same on the first file system that executes it.
fn program_on_disk(folders: &[PathBuf]) -> io::Result<File> {
    let mut tried = Vec::new();
    for folder in folders {
        match unnamed_in(folder) {
            Ok(file) => return Ok(file),
            Err(error) => tried.push(format!("{}: {error}", folder.display())),
        }
    }
    Err(io::Error::other(format!(
        "vm.memfd_noexec is 2, and no folder takes an executable file; remedy: set TMPDIR to one that does; tried {}",
        tried.join("; ")
    )))
}

fn unnamed_in(folder: &Path) -> io::Result<File> {
    let mut file = File::options()
        .write(true)
        .mode(0o700)
        .custom_flags(libc::O_TMPFILE)
        .open(folder)?;
    file.write_all(HELPER)?;
    // What is open for writing cannot be executed.
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let program = File::open(&path)?;
    drop(file);
    access(
        format!("/proc/self/fd/{}", program.as_raw_fd()).as_str(),
        AccessFlags::X_OK,
    )?;
    Ok(program)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one process that is made to outlive this one"
)]
fn spawn(of: &str) -> io::Result<Child> {
    let program = program()?;
    let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
    command
        .arg0("alpy-guardian")
        .args(["guard", of])
        .env_clear()
        // It must not hold a mount.
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Whoever reads this process's output waits for its end, not for the guardian's.
        .stderr(Stdio::null());
    let prepare = || {
        setsid()?;
        for asks_to_end in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            // SAFETY: to ignore a signal runs no code.
            unsafe { signal(asks_to_end, SigHandler::SigIgn) }?;
        }
        // SAFETY: plain numbers; the call touches nothing but the flags of descriptors. Before Linux 5.11 there is no such
        // call, and what is open without close-on-exec is inherited.
        let _ = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                3,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        Ok(())
    };
    // SAFETY: `prepare` runs between fork and exec: system calls only, no allocation, no lock.
    unsafe { command.pre_exec(prepare) };
    command.spawn()
}
