// SPDX-License-Identifier: GPL-3.0-or-later
//! A real rexpect session over a console.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rexpect::reader::Options;
use rexpect::session::StreamSession;
use tokio::sync::mpsc;
use tracing::Instrument;

use crate::Console;
use crate::shared::Shared;

impl Console {
    /// Turns the console into a session of the `rexpect` crate, for those who want to work with that object.
    ///
    /// The background reader goes on: the far end never blocks, and the transcript continues, in both directions. The session
    /// takes over the reading position until it is dropped; other handles of this console are good for [`tail`](Console::tail) and
    /// [`close`](Console::close) only. What the session has read ahead is gone when it is dropped.
    ///
    /// The limits of a session are rexpect's own (0.7.1):
    /// - It blocks its thread: in async code use it within [`tokio::task::spawn_blocking`].
    /// - It looks every 100 ms, so ten exchanges a second are the most.
    /// - While output floods its timeout, which is one for all calls, does not fire, and its memory is not bounded.
    /// - It takes each byte for a Latin-1 character, and `ReadUntil::NBytes` panics on others than ASCII.
    /// - `send` is complete only after `flush`.
    pub fn into_rexpect(self, timeout: Duration) -> StreamSession<SessionWriter> {
        let dropped = Arc::new(AtomicBool::new(false));
        let reader = SessionReader {
            shared: Arc::clone(self.shared()),
            dropped: Arc::clone(&dropped),
        };
        let (queue, mut queued) = mpsc::unbounded_channel::<Vec<u8>>();
        let shared = Arc::clone(self.shared());
        let runtime = self.runtime().clone();
        let sending = async move {
            while let Some(bytes) = queued.recv().await {
                if let Err(error) = self.send(bytes).await {
                    tracing::debug!(target: "alpy::console", "a rexpect session cannot send: {error}");
                    break;
                }
            }
        };
        runtime.spawn(sending.in_current_span());
        let timeout = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let options = Options::new().timeout_ms(Some(timeout));
        StreamSession::new(
            reader,
            SessionWriter {
                queue,
                shared,
                dropped,
            },
            options,
        )
    }
}

/// The writing side of a [`Console::into_rexpect`] session. It never blocks: a task of the console's runtime does the sending,
/// and a failure shows in the next write.
pub struct SessionWriter {
    queue: mpsc::UnboundedSender<Vec<u8>>,
    shared: Arc<Shared>,
    dropped: Arc<AtomicBool>,
}

impl Write for SessionWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.queue
            .send(bytes.to_vec())
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for SessionWriter {
    /// The session goes, so its reading thread has to go too.
    fn drop(&mut self) {
        let state = self.shared.state();
        self.dropped.store(true, Ordering::Relaxed);
        drop(state);
        self.shared.wake();
    }
}

struct SessionReader {
    shared: Arc<Shared>,
    dropped: Arc<AtomicBool>,
}

impl Read for SessionReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.shared.state();
        loop {
            let length = state.window.unread().len().min(buffer.len());
            if self.dropped.load(Ordering::Relaxed) {
                return Ok(0);
            }
            if length > 0 || state.end.is_some() {
                buffer[..length].copy_from_slice(&state.window.take(length).0);
                return Ok(length);
            }
            let arrived = &self.shared.arrived_for_threads;
            state = arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
