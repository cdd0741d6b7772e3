// SPDX-License-Identifier: GPL-3.0-or-later
//! The task that watches one container: what it writes and what becomes of it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bollard::container::LogOutput;
use bollard::errors::Error as EngineError;
use bollard::models::EventMessage;
use bytes::Bytes;
use futures_util::{Stream as Lazy, StreamExt};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::Instrument;

use crate::container::Listeners;
use crate::engine::{Events, chain};
use crate::{ExitStatus, Stream};

/// The events that tell a container's life. All of a container's events that are not here, such as those of commands run in
/// it, are none of ours. The last two are Podman's: asked for what has "died", it tells of a "die"; its "remove" is a "destroy".
pub(crate) const EVENTS: [&str; 7] = ["create", "attach", "start", "die", "destroy", "died", "remove"];

pub(crate) type Attached = Pin<Box<dyn Lazy<Item = Result<LogOutput, EngineError>> + Send>>;

/// What is known of a container's life.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life {
    /// How it ended.
    pub(crate) ended: Option<ExitStatus>,
    /// All that it wrote has been read.
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
    pub(crate) fn new(events: Events, attached: Attached, listeners: Listeners) -> Self {
        let log = Arc::new(Mutex::new(Log::default()));
        let (sender, life) = watch::channel(Life::default());
        let watcher = Watcher {
            life: sender,
            log: Arc::clone(&log),
            listeners,
        };
        let task = tokio::spawn(watcher.run(events, attached).in_current_span()).abort_handle();
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

impl Watcher {
    async fn run(self, mut events: Events, mut attached: Attached) {
        while !self.life.borrow().removed {
            let silent = self.life.borrow().silent;
            tokio::select! {
                chunk = attached.next(), if !silent => self.heard(chunk),
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
        let (stream, bytes) = match chunk {
            Some(Ok(LogOutput::StdErr { message })) => (Stream::Stderr, message),
            Some(Ok(other)) => (Stream::Stdout, other.into_bytes()),
            // An attached stream that breaks is one that has ended: the events say whether the container has.
            Some(Err(_)) | None => return self.life.send_modify(|life| life.silent = true),
        };
        if let Some(listener) = &self.listeners.output {
            listener(stream, &bytes);
        }
        lock(&self.log).add(stream, &bytes);
        // The value is the same; this wakes those who wait for output.
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

/// What a container wrote, each stream bounded.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) stdout: Kept,
    pub(crate) stderr: Kept,
}

impl Log {
    fn add(&mut self, stream: Stream, bytes: &[u8]) {
        match stream {
            Stream::Stdout => self.stdout.add(bytes),
            Stream::Stderr => self.stderr.add(bytes),
        }
    }
}

/// The latest bytes of a stream: at least [`Kept::LEAST`] of them, at most twice as many.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    bytes: Vec<u8>,
    /// How many older ones are gone.
    gone: usize,
}

impl Kept {
    const LEAST: usize = 16 << 20;

    fn add(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > 2 * Self::LEAST {
            let excess = self.bytes.len().saturating_sub(Self::LEAST);
            self.bytes.drain(..excess);
            self.gone += excess;
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.bytes)
    }

    /// Looks for a needle from a position, counted from the first byte ever, and moves the position to where the next look has
    /// to begin.
    pub(crate) fn find(&self, needle: &[u8], from: &mut usize) -> bool {
        let start = from.saturating_sub(self.gone).min(self.bytes.len());
        let found = needle.is_empty()
            || self.bytes[start..]
                .windows(needle.len())
                .any(|window| window == needle);
        *from = (self.gone + self.bytes.len() + 1).saturating_sub(needle.len().max(1));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_output_goes_first() {
        let mut kept = Kept::default();
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..100 {
            kept.add(&chunk);
            assert!(kept.bytes.len() <= 2 * Kept::LEAST);
        }
        kept.add(b"end");
        assert!(kept.bytes.len() > Kept::LEAST && kept.bytes().ends_with(b"xend"));
        assert_eq!(kept.gone + kept.bytes.len(), (100 << 20) + 3);
    }

    #[test]
    fn a_needle_is_found_across_pieces_and_looked_for_once() {
        let mut kept = Kept::default();
        let mut from = 0;
        for piece in ["", "list", "en", "in"] {
            kept.add(piece.as_bytes());
            assert!(!kept.find(b"listening", &mut from), "{piece:?}");
        }
        kept.add(b"g\n");
        assert!(kept.find(b"listening", &mut from));
        // The next look begins where a needle could begin that has not been seen whole.
        assert_eq!(from, "listening\n".len() - "listening".len() + 1);
        assert!(!kept.find(b"listening", &mut from));
        assert!(kept.find(b"", &mut from));
    }

    #[test]
    fn a_needle_is_found_after_the_oldest_output_is_gone() {
        let mut kept = Kept::default();
        let mut from = 0;
        for _ in 0..40 {
            kept.add(&vec![b'x'; 1 << 20]);
            assert!(!kept.find(b"ready", &mut from));
        }
        kept.add(b"ready");
        assert!(kept.find(b"ready", &mut from));
    }
}
