// SPDX-License-Identifier: GPL-3.0-or-later
//! A testbed and the people at it: it is held for them, and does what they ask through its socket.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fs::{self, File};
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{interval, timeout};
use tracing::{debug, info, warn};

use super::Testbed;
use crate::control::{self, Reply, Request, Status};
use crate::error::{Error, Result};
use crate::failure::chain;
use crate::logging;

/// The file that is there while the testbed is held. Whoever removes it resumes the test.
const HELD: &str = "held";

/// Between two looks whether somebody has resumed the test.
const LOOK: Duration = Duration::from_millis(100);

/// What the people at a testbed have to do with.
#[derive(Debug)]
pub(super) struct Attended {
    listener: Option<UnixListener>,
    /// Why it is held. To resume it is to take that away.
    held: Mutex<Option<Why>>,
}

#[derive(Debug)]
struct Why {
    text: String,
    /// Whether the people know how to get at it: to those who ask it is held from then on, so that nobody who waits for it misses that.
    said: bool,
}

/// When a testbed is held before its teardown: what `ALPY_PAUSE` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    Never,
    Failure,
    Always,
}

impl Pause {
    const VARIABLE: &str = "ALPY_PAUSE";

    pub(super) fn from_env() -> Result<Self> {
        let value = std::env::var_os(Self::VARIABLE).unwrap_or_default();
        match value.to_str() {
            Some("" | "never") => Ok(Self::Never),
            Some("failure") => Ok(Self::Failure),
            Some("always") => Ok(Self::Always),
            _ => Err(Error::Environment {
                name: Self::VARIABLE,
                value: value.to_string_lossy().into_owned(),
                remedy: "`failure`, `always` or `never`",
            }),
        }
    }

    pub(super) fn holds(self, failed: bool) -> bool {
        match self {
            Self::Never => false,
            Self::Failure => failed,
            Self::Always => true,
        }
    }
}

impl Attended {
    /// Listens in the folder of a run. A test does not fail where that cannot be.
    pub(super) fn begin(folder: &Path) -> Self {
        let listener = control::listen(folder)
            .inspect_err(|error| warn!(target: "alpy::control", "Nobody can reach this testbed: {error}"));
        Self {
            listener: listener.ok(),
            held: Mutex::default(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Why>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Why {
    fn to_show(&self) -> Option<String> {
        self.said.then(|| self.text.clone())
    }
}

impl Testbed {
    /// Holds the test here, says on stderr how to get at the testbed, and waits until somebody resumes it: `alpy resume`, or the removal
    /// of the file `held` in the evidence directory. Everything goes on meanwhile: guests, containers, captures, and the
    /// [deadline](crate::TestbedBuilder::deadline) of the test.
    ///
    /// `ALPY_PAUSE=failure` and `ALPY_PAUSE=always` in the environment do the same before the teardown, without a deadline.
    ///
    /// ```no_run
    /// # async fn example(bed: &alpy::Testbed) -> alpy::TestResult {
    /// bed.hold("look at the routes").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The file cannot be written.
    ///
    /// Cancel safe.
    pub async fn hold(&self, why: &str) -> Result<()> {
        let name = self.name();
        self.hold_until(why, &format!("alpy resume {name}"), "ends the hold")
            .await
    }

    /// [`hold`](Self::hold), which advises another command to end it than `alpy resume`.
    ///
    /// # Errors
    /// As [`hold`](Self::hold).
    ///
    /// Cancel safe.
    #[doc(hidden)]
    pub async fn hold_until(&self, why: &str, command: &str, what_it_does: &str) -> Result<()> {
        let file = self.evidence.file(HELD);
        let held = Held::begin(self, why, file).map_err(|source| Error::Evidence {
            dir: self.evidence.dir().to_owned(),
            source,
        })?;
        logging::say(&self.what_to_type(why, command, what_it_does)).await;
        held.said();
        let mut looks = interval(LOOK);
        while held.holds() {
            looks.tick().await;
        }
        info!(target: "alpy::control", "Resumed");
        Ok(())
    }

    /// Does what the people at the testbed ask for, for ever. Cancel safe, but for a cable that somebody works at.
    pub(super) async fn attend(&self) -> Infallible {
        let Some(listener) = &self.attended.listener else {
            return pending().await;
        };
        let mut visits = FuturesUnordered::new();
        loop {
            tokio::select! {
                (stream, _) = control::next_visitor(|| listener.accept()) => visits.push(self.visit(stream)),
                Some(visited) = visits.next() => if let Err(error) = visited {
                    debug!(target: "alpy::control", "a visitor went early: {error}");
                },
            }
        }
    }

    async fn visit(&self, mut stream: UnixStream) -> io::Result<()> {
        // One that says nothing does not keep its descriptor for ever.
        let request: Request = timeout(control::ANSWER, control::read_line(&mut stream)).await??;
        debug!(target: "alpy::control", ?request, "asked for");
        let reply = match &request {
            Request::Status => Reply::Status(Status {
                step: self.steps.where_it_is(),
                held: self.attended.held().as_ref().and_then(Why::to_show),
            }),
            Request::Resume => match self.attended.held().take() {
                Some(_) => Reply::Done,
                None => Reply::Refused("it is not held".to_owned()),
            },
            Request::Unplug(link) => self.work_at_cable(*link, false).await,
            Request::Plug(link) => self.work_at_cable(*link, true).await,
            Request::Console(machine) if *machine < self.duts.len() => Reply::Done,
            Request::Console(machine) => Reply::Refused(format!(
                "there is no machine {machine}: the testbed has {}, counted from 0",
                self.duts.len()
            )),
        };
        control::write_line(&mut stream, &reply).await?;
        match (request, reply) {
            (Request::Console(machine), Reply::Done) => self.type_into(machine, stream).await,
            _ => Ok(()),
        }
    }

    async fn work_at_cable(&self, link: usize, plug: bool) -> Reply {
        let count = self.links.iter().count();
        if link >= count {
            return Reply::Refused(format!(
                "there is no link {link}: the testbed has {count}, counted from 0"
            ));
        }
        let cable = self.cable(link);
        let done = match plug {
            true => cable.plug().await,
            false => cable.unplug().await,
        };
        done.map_or_else(|error| Reply::Refused(chain(&error)), |()| Reply::Done)
    }

    async fn type_into(&self, machine: usize, mut stream: UnixStream) -> io::Result<()> {
        let console = self.duts[machine].console();
        let mut bytes = [0; 4096];
        loop {
            match stream.read(&mut bytes).await? {
                0 => return Ok(()),
                count => console.send(&bytes[..count]).await.map_err(io::Error::other)?,
            }
        }
    }

    /// What `alpy ps` calls it.
    fn name(&self) -> Cow<'_, str> {
        self.evidence
            .dir()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
    }

    fn what_to_type(&self, why: &str, command: &str, what_it_does: &str) -> String {
        let dir = self.evidence.dir();
        let name = self.name();
        let host = &self.engine().info().address;
        let mut lines = vec![
            format!("Held: {why}. Everything runs on. To get at it, from another terminal:"),
            format!("  alpy console {name}    (Ctrl-] leaves it)"),
        ];
        if let Some(node) = self.nodes().next() {
            lines.push(format!("  alpy exec {name} node{} -- ip address", node.index()));
        }
        if let Some(link) = self.links.iter().find(|link| link.capture.is_some()) {
            lines.push(format!(
                "  alpy capture {name} link{} | wireshark -ki-",
                link.index
            ));
        }
        lines.push(format!("  {command}    ({what_it_does})"));
        lines.push(format!(
            "Without the `alpy` command: files in {}; DOCKER_HOST={host} docker ps --filter label={}={}; rm {} {what_it_does}",
            dir.display(),
            crate::RUN_LABEL,
            self.run_id(),
            self.evidence.file(HELD).display()
        ));
        lines.join("\n")
    }
}

/// As long as it lives, the testbed is held.
struct Held<'a> {
    bed: &'a Testbed,
    file: PathBuf,
}

impl<'a> Held<'a> {
    fn begin(bed: &'a Testbed, why: &str, file: PathBuf) -> io::Result<Self> {
        // Whatever somebody has put there.
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => drop(File::create_new(&file)?),
        }
        *bed.attended.held() = Some(Why {
            text: why.to_owned(),
            said: false,
        });
        Ok(Self { bed, file })
    }

    fn said(&self) {
        if let Some(why) = &mut *self.bed.attended.held() {
            why.said = true;
        }
    }

    /// Whether nobody has resumed the test yet.
    fn holds(&self) -> bool {
        self.bed.attended.held().is_some() && fs::exists(&self.file).unwrap_or(true)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.bed.attended.held().take();
        // Where somebody has removed it already, all is well.
        let _ = fs::remove_file(&self.file);
    }
}
