// SPDX-License-Identifier: GPL-3.0-or-later
//! A container in the background.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use bollard::query_parameters::{
    AttachContainerOptions, KillContainerOptions, StartContainerOptions, UploadToContainerOptions,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryFutureExt};
use nix::sys::signal::Signal;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use crate::create::{Guard, create, hidden};
use crate::exec::exec;
use crate::output::{tail, title};
use crate::watch::{EVENTS, Life, Watch};
use crate::{Archive, Container, Engine, Error, ExitStatus, Failure, Output, Result};

/// How long the last of the output may take to come after the end of a container. A process that the container's first one
/// left behind, in a shared process namespace, can hold the output open for ever.
const OUTPUT_LIMIT: Duration = Duration::from_secs(10);

/// A container in the background.
///
/// Dropping it removes the container without waiting for that: the safety net. The proper end is [`remove`](Self::remove).
pub struct Running {
    engine: Engine,
    name: Option<String>,
    image: String,
    argv: Vec<String>,
    auto_remove: bool,
    stdin: Mutex<Option<Stdin>>,
    watch: Watch,
    guard: Guard,
}

type Stdin = Pin<Box<dyn AsyncWrite + Send>>;

/// Starts a container, waits for its end and its removal.
pub(crate) async fn run(spec: Container, engine: &Engine) -> Result<Output> {
    let limit = spec.time_limit;
    let deadline = Instant::now() + limit;
    let step = format!("start {:?} in {}", spec.argv(), spec.title());
    let running = match timeout_at(deadline, Running::start(spec, engine)).await {
        Ok(running) => running?,
        Err(_) => return Err(Error::Timeout { step, after: limit }),
    };
    let output = running.ended(deadline, limit).await;
    let removed = running.remove().await;
    let output = output?;
    removed?;
    Ok(output)
}

impl Running {
    /// In a task of its own, which goes to its end: when the caller goes away in the middle, the container is removed after its
    /// start. Docker 20.10 keeps a shim for a minute when a container is removed while it starts.
    pub(crate) async fn start(spec: Container, engine: &Engine) -> Result<Self> {
        let engine = engine.clone();
        let counted = engine.under_way.count();
        // The count comes last: whoever waits for it finds a container that nobody takes already on its way out.
        let task = async move { (Self::start_now(spec, &engine).await, counted) };
        match tokio::spawn(task.in_current_span()).await {
            Ok((started, _counted)) => started,
            Err(error) => Err(Error::Lost {
                step: "start a container".to_owned(),
                reason: error.to_string(),
            }),
        }
    }

    async fn start_now(spec: Container, engine: &Engine) -> Result<Self> {
        let files = archive(&spec)?;
        let guard = create(engine, &spec).await?;
        match Self::start_created(&spec, files, engine, guard.id()).await {
            Ok((watch, stdin)) => Ok(Self {
                engine: engine.clone(),
                argv: spec.argv(),
                name: spec.name,
                image: spec.image,
                auto_remove: spec.auto_remove,
                stdin: Mutex::new(stdin),
                watch,
                guard,
            }),
            Err(error) => {
                undo(engine, guard).await;
                Err(error)
            }
        }
    }

    /// Watches and attaches, then starts. Nothing can then be missed, however short the container's life: the stream of events
    /// is known to be open, because it has told of the creation.
    async fn start_created(
        spec: &Container,
        files: Option<Vec<u8>>,
        engine: &Engine,
        id: &str,
    ) -> Result<(Watch, Option<Stdin>)> {
        let step = |what: &str| format!("{what} {}", spec.title());
        if let Some(files) = files {
            upload(engine, id, "/", files, &step("copy files into")).await?;
        }
        let mut events = engine.events(id, &EVENTS);
        let first = async { events.next().await.unwrap_or_else(|| Err(closed())) };
        let options = AttachContainerOptions {
            stream: true,
            stdin: spec.stdin,
            stdout: true,
            stderr: true,
            ..Default::default()
        };
        let attached = engine.docker.attach_container(id, Some(options));
        let (watch, attach) = (step("watch"), step("attach to"));
        let failed = |error| match error {
            Error::Refused { reason, .. } => hidden(
                spec,
                Error::StartFailed {
                    name: spec.name.clone(),
                    image: spec.image.clone(),
                    argv: spec.argv(),
                    reason,
                },
            ),
            error => error,
        };
        // Podman prepares the command when it is attached to.
        let attached = engine.ask(&attach, attached).map_err(failed);
        let (_, attached) = tokio::try_join!(engine.ask(&watch, first), attached)?;
        let watch = Watch::new(engine, id, events, attached.output, spec.listeners.clone());
        let started = engine.docker.start_container(id, None::<StartContainerOptions>);
        engine.ask(&step("start"), started).await.map_err(failed)?;
        log_started(spec.name.as_deref(), id, &spec.image, &spec.argv());
        Ok((watch, spec.stdin.then_some(attached.input)))
    }

    /// The engine's id of it, to share its namespaces with: [`Container::network_of`], [`Container::pid_of`].
    pub fn id(&self) -> &str {
        self.guard.id()
    }

    /// The process id of its first process as the engine's host sees it, for `nsenter --target`. Cancel safe.
    ///
    /// # Errors
    /// [`Error::NotRunning`], or those of the engine.
    pub async fn pid(&self) -> Result<u32> {
        let state = self.engine.state("inspect a container", self.id()).await;
        let state = state.map_err(|error| self.or_not_running(error))?;
        let pid = state["Pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.filter(|&pid| pid != 0).ok_or_else(|| self.not_running())
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> Bytes {
        self.watch.log().stdout.bytes()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> Bytes {
        self.watch.log().stderr.bytes()
    }

    /// How it ended, if it has.
    pub fn status(&self) -> Option<ExitStatus> {
        self.watch.life.borrow().ended
    }

    /// Waits for its end and for the last of its output, which may take 10 s more. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the tail of the output (the container runs on), [`Error::Lost`] if the engine goes away.
    pub async fn wait(&self, within: Duration) -> Result<Output> {
        self.ended(Instant::now() + within, within).await
    }

    /// Waits until it has written a text, to standard output or standard error. What it wrote before the call counts. Cancel
    /// safe.
    ///
    /// # Errors
    /// [`Error::EndedEarly`] if it ends without, [`Error::Timeout`] with the tail of the output, [`Error::Lost`] if the engine's
    /// stream of the output breaks before.
    pub async fn wait_output(&self, text: &str, within: Duration) -> Result<()> {
        let (mut stdout_from, mut stderr_from) = (0, 0);
        let mut found = false;
        let step = format!("wait for {text:?} in the output of {:?}", self.argv);
        self.until(Instant::now() + within, within, &step, |life| {
            let log = self.watch.log();
            let needle = text.as_bytes();
            found = log.stdout.find(needle, &mut stdout_from) || log.stderr.find(needle, &mut stderr_from);
            found || (life.ended.is_some() && life.silent) || log.broken().is_some()
        })
        .await?;
        let broken = self.watch.log().broken().map(str::to_owned);
        match self.status() {
            None if !found => Err(Error::Lost {
                step,
                reason: broken.unwrap_or_default(),
            }),
            Some(status) if !found => {
                let failure = Box::new(Failure::new(self.output(status)));
                Err(Error::EndedEarly {
                    waited_for: text.to_owned(),
                    failure,
                })
            }
            _ => Ok(()),
        }
    }

    /// Sends a signal by name, such as `SIGHUP`. If it has already ended, nothing happens. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that is no signal's, or those of the engine.
    pub async fn kill(&self, signal: &str) -> Result<()> {
        signal.parse::<Signal>().map_err(|_| Error::Invalid {
            what: "signal",
            value: signal.to_owned(),
            why: "a name as in signal(7) is wanted, such as SIGTERM",
        })?;
        let options = KillContainerOptions {
            signal: signal.to_owned(),
        };
        let step = format!("send {signal} to {:?}", self.argv);
        match self
            .engine
            .ask(&step, self.engine.docker.kill_container(self.id(), Some(options)))
            .await
        {
            Ok(())
            | Err(Error::Refused {
                status: 404 | 409, ..
            }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sends a signal by name, such as `SIGTERM`, waits for the end, and kills it when `grace` is over. Returns what it wrote
    /// and how it ended: as a rule 143 if SIGTERM ended it, 137 if it had to be killed. One that has ended is fine.
    ///
    /// Note that the kernel drops signals to the first process of a process namespace that has no handler for them: such a
    /// command ends by SIGKILL only, or needs [`Container::init`] or [`Container::pid_of`].
    ///
    /// Cancel safe in that it can be called again.
    ///
    /// # Errors
    /// [`Error::Timeout`] if even SIGKILL does not end it, or those of the engine.
    pub async fn stop(&self, signal: &str, grace: Duration) -> Result<Output> {
        self.kill(signal).await?;
        match self.wait(grace).await {
            Err(Error::Timeout { .. }) => {
                tracing::debug!(id = self.id(), signal, ?grace, "still there: kill it");
                self.kill("SIGKILL").await?;
                self.wait(self.engine.request_limit).await
            }
            other => other,
        }
    }

    /// Kills it if it runs, and removes it. When this returns the engine no longer knows it. One that is gone is fine.
    ///
    /// Not cancel safe: dropping the future leaves the removal to the background.
    ///
    /// # Errors
    /// Those of the engine. The removal is then tried once more in the background.
    pub async fn remove(mut self) -> Result<()> {
        let limit = self.engine.request_limit;
        let life = self.watch.life.borrow().clone();
        let by_engine = self.auto_remove && life.ended.is_some();
        // After its end the engine removes it by itself; asking as well would only be in its way.
        let gone = by_engine
            && self
                .until(Instant::now() + limit, limit, "see a container removed", |life| {
                    life.removed
                })
                .await
                .is_ok();
        if !gone {
            self.engine.remove(self.id()).await?;
        }
        self.guard.disarm();
        Ok(())
    }

    /// Writes a file into it, owned by root, at an absolute path whose folder exists. Not below a tmpfs: the engine writes to
    /// the layer underneath. Not cancel safe.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a path that is not absolute or too long, or those of the engine.
    pub async fn copy_in(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let (folder, name) = split(path)?;
        let archive = Archive::new().file(name, mode, content)?.finish();
        let step = format!("copy {path} into a container");
        let uploaded = upload(&self.engine, self.id(), &format!("{folder}/"), archive, &step).await;
        uploaded.map_err(|error| match error {
            Error::Refused {
                status: 404, reason, ..
            } if reason.contains("No such container") => self.not_running(),
            other => other,
        })
    }

    /// Runs a further command in it, to its end, with the same rights as the first. Not cancel safe: the command runs on.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Timeout`] with the tail of the output (the command runs on), or those of the engine.
    pub async fn exec<I: IntoIterator<Item: Into<String>>>(
        &self,
        argv: I,
        within: Duration,
    ) -> Result<Output> {
        let argv: Vec<String> = argv.into_iter().map(Into::into).collect();
        let result = exec(&self.engine, self.id(), &self.image, argv, within).await;
        result.map_err(|error| self.or_not_running(error))
    }

    /// Writes to its standard input, which [`Container::stdin`] gave it. Not cancel safe: a part may be written.
    ///
    /// # Errors
    /// [`Error::NoStdin`] if it has none or it was closed, [`Error::Timeout`] if it does not read, [`Error::Lost`].
    pub async fn write_stdin(&self, bytes: &[u8]) -> Result<()> {
        let mut stdin = self.stdin.lock().await;
        let stdin = stdin.as_mut().ok_or_else(|| self.no_stdin())?;
        let written = async {
            stdin.write_all(bytes).await?;
            stdin.flush().await
        };
        self.on_stdin("write to", written).await
    }

    /// Closes its standard input: it reads end of file. Not cancel safe.
    ///
    /// # Errors
    /// [`Error::NoStdin`] if it has none or it was closed before, [`Error::Lost`].
    pub async fn close_stdin(&self) -> Result<()> {
        let mut stdin = self.stdin.lock().await.take().ok_or_else(|| self.no_stdin())?;
        self.on_stdin("close", stdin.shutdown()).await
    }

    async fn on_stdin(&self, verb: &str, io: impl Future<Output = io::Result<()>>) -> Result<()> {
        let step = format!("{verb} the standard input of {:?}", self.argv);
        self.engine.ask(&step, io.map_err(Into::into)).await
    }

    async fn ended(&self, deadline: Instant, limit: Duration) -> Result<Output> {
        let step = format!(
            "wait for the end of {:?} in {}",
            self.argv,
            title(self.name.as_deref(), &self.image)
        );
        self.until(deadline, limit, &step, |life| life.ended.is_some())
            .await?;
        let silent = Instant::now() + OUTPUT_LIMIT;
        if let Err(error) = self
            .until(silent, OUTPUT_LIMIT, "read the last of the output", |life| {
                life.silent
            })
            .await
        {
            tracing::warn!(id = self.id(), %error, "a container's output is incomplete");
            self.watch.log().breaks(format!(
                "it was still open {OUTPUT_LIMIT:?} after the end, as it stays while a process that was left behind has it"
            ));
        }
        let status = self.status().ok_or_else(|| self.not_running())?;
        Ok(self.output(status))
    }

    /// Waits for something in the container's life.
    async fn until(
        &self,
        deadline: Instant,
        limit: Duration,
        step: &str,
        mut done: impl FnMut(&Life) -> bool,
    ) -> Result<()> {
        let mut life = self.watch.life.clone();
        let lost = |reason: String| Error::Lost {
            step: step.to_owned(),
            reason,
        };
        let mut reached = false;
        let known = life.wait_for(|life| {
            reached = done(life);
            reached || life.lost.is_some()
        });
        match timeout_at(deadline, known)
            .await
            .map(|known| known.map(|life| life.lost.clone()))
        {
            Ok(Ok(_)) if reached => Ok(()),
            Ok(Ok(reason)) => Err(lost(reason.unwrap_or_default())),
            Ok(Err(_)) => Err(lost(
                "its watcher ended; did a function given to on_output or on_end panic?".to_owned(),
            )),
            Err(_) => {
                let log = self.watch.log();
                let tails = tail("stdout", &log.stdout.bytes()) + &tail("stderr", &log.stderr.bytes());
                Err(Error::Timeout {
                    step: format!("{step}{tails}"),
                    after: limit,
                })
            }
        }
    }

    fn output(&self, status: ExitStatus) -> Output {
        let log = self.watch.log();
        Output {
            name: self.name.clone(),
            image: self.image.clone(),
            argv: self.argv.clone(),
            status,
            stdout: log.stdout.bytes(),
            stderr: log.stderr.bytes(),
            incomplete: log.incomplete(),
        }
    }

    fn no_stdin(&self) -> Error {
        Error::NoStdin {
            container: self.id().to_owned(),
        }
    }

    fn not_running(&self) -> Error {
        Error::NotRunning {
            container: self.id().to_owned(),
        }
    }

    /// The engine's answer to what only a running container can do.
    fn or_not_running(&self, error: Error) -> Error {
        match error {
            Error::Refused {
                status: 404 | 409, ..
            } => self.not_running(),
            other => other,
        }
    }
}

/// Logs that a container has started. The report of a run reads this line in `debug.log` if the run could not write its record;
/// a test there calls this function.
#[doc(hidden)]
pub fn log_started(name: Option<&str>, id: &str, image: &str, argv: &[String]) {
    tracing::debug!(name, id, image, ?argv, "started a container");
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("id", &self.id())
            .field("image", &self.image)
            .field("argv", &self.argv)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// The files that a container shall have before it starts.
fn archive(spec: &Container) -> Result<Option<Vec<u8>>> {
    let mut archive = Archive::new();
    for (path, mode, content) in &spec.files {
        let (folder, name) = split(path)?;
        archive = archive.file(
            &format!("{}/{name}", folder.trim_start_matches('/')),
            *mode,
            content,
        )?;
    }
    Ok((!spec.files.is_empty()).then(|| archive.finish()))
}

/// The folder of a file in a container, and its name there.
fn split(path: &str) -> Result<(&str, &str)> {
    let parts = path.rsplit_once('/').filter(|_| path.starts_with('/'));
    parts
        .filter(|(_, name)| !name.is_empty() && *name != "..")
        .ok_or_else(|| Error::Invalid {
            what: "path in the container",
            value: path.to_owned(),
            why: "it must be absolute and name a file",
        })
}

async fn upload(engine: &Engine, id: &str, folder: &str, archive: Vec<u8>, step: &str) -> Result<()> {
    let options = UploadToContainerOptions {
        path: folder.to_owned(),
        ..Default::default()
    };
    let body = bollard::body_full(archive.into());
    engine
        .ask(step, engine.docker.upload_to_container(id, Some(options), body))
        .await
}

/// Removes what was created and could not start.
async fn undo(engine: &Engine, mut guard: Guard) {
    match engine.remove(guard.id()).await {
        Ok(()) => guard.disarm(),
        Err(error) => {
            tracing::debug!(%error, "cannot remove a container that did not start: once more in the background");
        }
    }
}

/// The stream of events closed before it said anything.
fn closed() -> bollard::errors::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the engine ended the stream of events",
    )
    .into()
}
