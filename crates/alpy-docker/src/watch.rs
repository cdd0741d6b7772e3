// SPDX-License-Identifier: GPL-3.0-or-later
//! The task that watches one container: what it writes and what becomes of it.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error as EngineError;
use bollard::models::EventMessage;
use futures_util::{Stream as Lazy, StreamExt};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tracing::Instrument;

use crate::container::Listeners;
use crate::engine::{Events, chain};
use crate::log::Log;
use crate::{Engine, ExitStatus};

/// The events that tell a container's life. All of a container's events that are not here, such as those of commands run in
/// it, are none of ours. The last two are Podman's: asked for what has "died", it tells of a "die"; its "remove" is a "destroy".
pub(crate) const EVENTS: [&str; 7] = ["create", "attach", "start", "die", "destroy", "died", "remove"];

pub(crate) type Attached = Pin<Box<dyn Lazy<Item = Result<LogOutput, EngineError>> + Send>>;

/// What is known of a container's life.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    /// How it ended.
    pub(crate) ended: Option<ExitStatus>,
    /// The stream of its output has ended: no more will be read.
    pub(crate) silent: bool,
    /// The engine has removed it.
    pub(crate) removed: bool,
    /// The engine is gone: nothing more will be known. Why.
    pub(crate) lost: Option<String>,
}

/// Watches until dropped. What it learns is in `life`, what the container wrote in `log`.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) life: watch::Receiver<Life>,
    pub(crate) log: Arc<Mutex<Log>>,
    task: AbortHandle,
}

impl Watch {
    /// Starts watching, in a task of the runtime.
    pub(crate) fn new(
        engine: &Engine,
        id: &str,
        events: Events,
        attached: Attached,
        listeners: Listeners,
    ) -> Self {
        let log = Arc::new(Mutex::new(Log::default()));
        let (sender, life) = watch::channel(Life::default());
        let watcher = Watcher {
            life: sender,
            log: Arc::clone(&log),
            listeners,
        };
        let runs = runs_on(engine.clone(), id.to_owned());
        let task = watcher.run(events, attached, runs).in_current_span();
        let task = tokio::spawn(task).abort_handle();
        Self { life, log, task }
    }

    /// What was read so far.
    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Watcher {
    life: watch::Sender<Life>,
    log: Arc<Mutex<Log>>,
    listeners: Listeners,
}

/// How long Podman may take to report the end of a container after the end of its output.
const PODMAN_NEWS: Duration = Duration::from_secs(3);

/// Whether a container runs although its output has ended, and the engine's stream therefore broke: an engine keeps the stream open
/// until the container ends, even if the container closes its output.
///
/// Docker holds the container's lock from before it closes the stream until it has reported the end, so its answer is never one
/// of before the end. Podman has no such lock.
#[expect(
    clippy::disallowed_methods,
    reason = "Podman reports the end by no other means"
)]
async fn runs_on(engine: Engine, id: String) -> bool {
    if engine.info().podman {
        sleep(PODMAN_NEWS).await;
    }
    match engine.state("inspect a container", &id).await {
        Ok(state) => state["Running"] == true,
        Err(error) => {
            tracing::debug!(id, %error, "cannot ask whether the container outlives its output");
            false
        }
    }
}

impl Watcher {
    async fn run(self, mut events: Events, mut attached: Attached, runs_on: impl Future<Output = bool>) {
        let mut runs_on = pin!(runs_on);
        let mut asked = false;
        while !self.life.borrow().removed {
            let (silent, ended) = {
                let life = self.life.borrow();
                (life.silent, life.ended.is_some())
            };
            tokio::select! {
                chunk = attached.next(), if !silent => self.heard(chunk),
                runs = &mut runs_on, if silent && !ended && !asked => {
                    asked = true;
                    if runs {
                        self.breaks("the engine's stream ended while the container ran");
                    }
                }
                event = events.next() => {
                    if let Err(reason) = self.happened(event) {
                        self.life.send_modify(|life| life.lost = Some(reason));
                        return;
                    }
                }
            }
        }
        // Removed: no more events, and the last of the output at most.
        while !self.life.borrow().silent {
            self.heard(attached.next().await);
        }
    }

    fn heard(&self, chunk: Option<Result<LogOutput, EngineError>>) {
        let chunk = match chunk {
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => {
                self.breaks(&format!("the engine's stream broke: {}", chain(&error)));
                return self.life.send_modify(|life| life.silent = true);
            }
            None => return self.life.send_modify(|life| life.silent = true),
        };
        let (stream, bytes) = lock(&self.log).take(chunk);
        if let Some(listener) = &self.listeners.output {
            listener(stream, &bytes);
        }
        // The value is the same; this wakes those who wait for output.
        self.life.send_modify(|_| ());
    }

    fn breaks(&self, reason: &str) {
        tracing::warn!(reason, "a container's output is incomplete");
        lock(&self.log).breaks(reason);
        self.life.send_modify(|_| ());
    }

    fn happened(&self, event: Option<Result<EventMessage, EngineError>>) -> Result<(), String> {
        let event = match event {
            Some(Ok(event)) => event,
            Some(Err(error)) => return Err(chain(&error)),
            None => return Err("the engine ended the stream of events".to_owned()),
        };
        match event.action.as_deref() {
            // Told again.
            Some("die" | "died") if self.life.borrow().ended.is_some() => {}
            Some("die" | "died") => {
                let attributes = event.actor.and_then(|actor| actor.attributes).unwrap_or_default();
                // Podman's own name for it comes second.
                let code = attributes
                    .get("exitCode")
                    .or_else(|| attributes.get("containerExitCode"));
                let code = code
                    .and_then(|code| code.parse().ok())
                    .ok_or("an end without an exit code")?;
                tracing::debug!(code, "a container ended");
                let status = ExitStatus::new(code);
                if let Some(listener) = &self.listeners.end {
                    listener(status);
                }
                self.life.send_modify(|life| life.ended = Some(status));
            }
            Some("destroy" | "remove") => self.life.send_modify(|life| life.removed = true),
            _ => {}
        }
        Ok(())
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}
