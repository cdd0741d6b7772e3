// SPDX-License-Identifier: GPL-3.0-or-later
//! A hand at a testbed that another process runs: the `alpy` command, or a program of yours.
//!
//! Each testbed listens on a socket in its evidence directory, which only its user and root can reach, from the end of its set-up to its
//! teardown.
//!
//! ```no_run
//! # async fn example() -> alpy::Result<()> {
//! let run = alpy::runs::read("target/alpy/forward-ipv4".as_ref())?;
//! let control = alpy::control::Control::of(&run);
//! control.unplug(1).await?;
//! control.plug(1).await?;
//! control.resume().await?; // if the testbed is held
//! # Ok(()) }
//! ```

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::error::{Error, Result};
use crate::runs::RunInfo;

/// The name of the socket in the folder of a run.
const SOCKET: &str = "control";

/// How long a testbed may take to answer. The longest of what it may be asked for is a cable, whose node has 5 s to notice.
pub(crate) const ANSWER: Duration = Duration::from_secs(15);

/// Between two tries to accept a visitor.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The longest line of the protocol.
const LONGEST: usize = 64 << 10;

/// What is asked: one line of JSON, which one line of JSON answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Request {
    Status,
    /// Pull the cable of a link, or plug it.
    Unplug(usize),
    Plug(usize),
    /// Ends the hold.
    Resume,
    /// What follows the line is typed into the console of a machine.
    Console(usize),
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Reply {
    Done,
    Status(Status),
    Refused(String),
}

/// What a testbed is at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Status {
    /// The steps under way, outermost first.
    pub step: Option<String>,
    /// Why it is held, if it is: from when it has said on stderr how to get at it, until somebody resumes it.
    pub held: Option<String>,
}

/// The way to a testbed.
#[derive(Debug, Clone)]
pub struct Control {
    /// The evidence directory.
    dir: PathBuf,
    /// The folder of the socket.
    folder: PathBuf,
}

impl Control {
    /// That of a run, which need not be under way.
    pub fn of(run: &RunInfo) -> Self {
        // Before it has an id, nothing is there, and nobody listens.
        let id = run.id.as_deref().unwrap_or_default();
        Self {
            dir: run.dir.clone(),
            folder: run.dir.join(folder_name(id)),
        }
    }

    /// What the testbed is at.
    ///
    /// # Errors
    /// As [`unplug`](Self::unplug).
    pub async fn status(&self) -> Result<Status> {
        match self.ask(&Request::Status).await?.1 {
            Reply::Status(status) => Ok(status),
            other => Err(self.error(unexpected(&other))),
        }
    }

    /// Pulls the cable of a link, as [`Cable::unplug`](crate::Cable::unplug) does.
    ///
    /// # Errors
    /// No testbed listens: it has ended, or is still being made. It refuses, or does not answer within 15 s.
    ///
    /// Not cancel safe: whether it was done is then not known.
    pub async fn unplug(&self, link: usize) -> Result<()> {
        self.done(&Request::Unplug(link)).await.map(drop)
    }

    /// Plugs it again, as [`Cable::plug`](crate::Cable::plug) does.
    ///
    /// # Errors
    /// As [`unplug`](Self::unplug).
    ///
    /// Not cancel safe, as [`unplug`](Self::unplug).
    pub async fn plug(&self, link: usize) -> Result<()> {
        self.done(&Request::Plug(link)).await.map(drop)
    }

    /// Lets a testbed go on that is held.
    ///
    /// # Errors
    /// As [`unplug`](Self::unplug), and if it is not held.
    ///
    /// Not cancel safe, as [`unplug`](Self::unplug).
    pub async fn resume(&self) -> Result<()> {
        self.done(&Request::Resume).await.map(drop)
    }

    /// A stream whose bytes are typed into the console of a machine. What the console says is in `console.raw` of the machine's evidence.
    ///
    /// # Errors
    /// As [`unplug`](Self::unplug).
    ///
    /// Cancel safe.
    pub async fn console(&self, machine: usize) -> Result<UnixStream> {
        self.done(&Request::Console(machine)).await
    }

    async fn done(&self, request: &Request) -> Result<UnixStream> {
        match self.ask(request).await? {
            (stream, Reply::Done) => Ok(stream),
            (_, other) => Err(self.error(unexpected(&other))),
        }
    }

    async fn ask(&self, request: &Request) -> Result<(UnixStream, Reply)> {
        let asked = async {
            let folder = open_folder(&self.folder)?;
            let mut stream = UnixStream::connect(short(&folder)).await?;
            write_line(&mut stream, request).await?;
            let reply = read_line(&mut stream).await?;
            Ok::<_, io::Error>((stream, reply))
        };
        match timeout(ANSWER, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) if is_absent(&source) => Err(self.error(io::Error::new(
                source.kind(),
                "no testbed listens: it has ended, or is still being made",
            ))),
            Ok(Err(source)) => Err(self.error(source)),
            Err(_) => Err(self.error(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {ANSWER:?}"),
            ))),
        }
    }

    fn error(&self, source: io::Error) -> Error {
        Error::Control {
            dir: self.dir.clone(),
            source,
        }
    }
}

/// The name of a run's own folder, in its evidence directory.
pub(crate) fn folder_name(id: &str) -> String {
    format!("alpy-{id}")
}

/// Listens in the folder of a run.
pub(crate) fn listen(folder: &Path) -> io::Result<UnixListener> {
    let folder = open_folder(folder)?;
    UnixListener::bind(short(&folder))
}

/// A pipe or a link in its place is an error.
fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    File::options().read(true).custom_flags(flags.bits()).open(path)
}

/// Waits for the next visitor. A failed accept(2) does not end the socket: the visitor may have gone, and a process that is out of descriptors has
/// some again later. Cancel safe.
#[expect(
    clippy::disallowed_methods,
    reason = "the kernel does not tell when descriptors are free again"
)]
pub(crate) async fn next_visitor<T, F: Future<Output = io::Result<T>>>(accept: impl Fn() -> F) -> T {
    let mut pause = SHORTEST_PAUSE;
    loop {
        match accept().await {
            Ok(visitor) => return visitor,
            Err(error) => {
                warn!(target: "alpy::control", "Cannot accept a visitor of this testbed: {error}; next try in {pause:?}");
            }
        }
        sleep(pause).await;
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

/// Writes one line.
pub(crate) async fn write_line(stream: &mut UnixStream, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

/// Reads one line and nothing behind it.
pub(crate) async fn read_line<T: for<'a> Deserialize<'a>>(stream: &mut UnixStream) -> io::Result<T> {
    let mut line = Vec::new();
    // Byte by byte: what follows the line is for somebody else.
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok(serde_json::from_slice(&line)?),
            _ if line.len() == LONGEST => return Err(io::Error::other("the line is too long")),
            byte => line.push(byte),
        }
    }
}

/// Through the descriptor of its folder, a socket's path is short: 108 bytes is all that bind(2) and connect(2) take.
fn short(folder: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))
}

fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
    matches!(
        error.kind(),
        NotFound | ConnectionRefused | ConnectionReset | UnexpectedEof
    )
}

fn unexpected(reply: &Reply) -> io::Error {
    match reply {
        Reply::Refused(reason) => io::Error::other(reason.clone()),
        other => io::Error::other(format!("it answered {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use nix::errno::Errno;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_error_of_accept_does_not_end_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let listener = listen(folder.path()).unwrap();
        let opened = File::open(folder.path()).unwrap();
        let _visitor = UnixStream::connect(short(&opened)).await.unwrap();
        let errors = RefCell::new(vec![
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ENOMEM,
            Errno::ECONNABORTED,
        ]);
        let accept = || async {
            let error = errors.borrow_mut().pop();
            match error {
                Some(error) => Err(error.into()),
                None => listener.accept().await,
            }
        };
        next_visitor(accept).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_that_stays_does_not_take_the_processor() {
        let tries = Cell::new(0);
        let begin = Instant::now();
        let accept = || {
            tries.set(tries.get() + 1);
            std::future::ready(Err::<(), _>(Errno::EMFILE.into()))
        };
        let minute = Duration::from_secs(60);
        timeout(minute, next_visitor(accept)).await.unwrap_err();
        assert_eq!(begin.elapsed(), minute);
        assert!((5..=20).contains(&tries.get()), "{} tries", tries.get());
    }
}
