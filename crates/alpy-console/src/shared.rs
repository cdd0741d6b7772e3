// SPDX-License-Identifier: GPL-3.0-or-later
//! What the background reader and the handles of a console share.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{Notify, watch};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::transcript::Transcript;
use crate::window::Window;

/// How much is read at once.
const CHUNK: usize = 64 * 1024;
/// The reader yields to other tasks after so many chunks. During a flood of output, an expectation may miss its deadline by twice as many.
const TURN: usize = 16;
/// How many chunks a console still reads that is closed while bytes keep coming.
const LAST_CHUNKS: usize = 64;

/// What the background reader and the handles of a console share.
pub(crate) struct Shared {
    transcript: Mutex<Transcript>,
    state: Mutex<State>,
    /// Wakes tasks when something came or the stream ended.
    pub(crate) arrived: Notify,
    /// Wakes threads then.
    pub(crate) arrived_for_threads: Condvar,
}

pub(crate) struct State {
    pub(crate) window: Window,
    /// How the stream ended, once it has.
    pub(crate) end: Option<String>,
}

impl Shared {
    pub(crate) fn new(transcript: Transcript, window: usize) -> Self {
        Self {
            transcript: Mutex::new(transcript),
            state: Mutex::new(State {
                window: Window::new(window),
                end: None,
            }),
            arrived: Notify::new(),
            arrived_for_threads: Condvar::new(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn transcript(&self) -> MutexGuard<'_, Transcript> {
        self.transcript.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To the transcript first: what a test has seen is recorded, whatever happens next.
    fn take_in(&self, bytes: &[u8]) {
        self.transcript().received(bytes);
        self.state().window.push(bytes);
        self.wake();
    }

    fn end(&self, reason: String) {
        self.transcript().finish();
        self.state().end.get_or_insert(reason);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        self.arrived.notify_waiters();
        self.arrived_for_threads.notify_all();
    }
}

/// Reads whatever comes until the stream ends or the last handle is gone, so that the far end never blocks.
pub(crate) async fn drain(
    mut stream: impl AsyncRead + Unpin,
    shared: Arc<Shared>,
    mut closing: watch::Receiver<bool>,
) {
    let mut ended = EndsWhenDropped {
        shared: &shared,
        reason: "the reader was stopped".to_owned(),
    };
    let mut chunk = vec![0; CHUNK];
    let mut turn = 0;
    ended.reason = loop {
        if turn == TURN {
            turn = 0;
            yield_now().await;
        }
        turn += 1;
        let read = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => break "closed".to_owned(),
            read = stream.read(&mut chunk) => read,
        };
        match taken_in(&shared, &chunk, read) {
            Ok(()) => {}
            Err(reason) => break reason,
        }
    };
    for _ in 0..LAST_CHUNKS {
        let Ok(read) = timeout(Duration::ZERO, stream.read(&mut chunk)).await else {
            break;
        };
        if taken_in(&shared, &chunk, read).is_err() {
            break;
        }
    }
}

fn taken_in(shared: &Shared, chunk: &[u8], read: io::Result<usize>) -> Result<(), String> {
    match read {
        Ok(0) => Err("end of file".to_owned()),
        Ok(length) => {
            shared.take_in(&chunk[..length]);
            Ok(())
        }
        Err(error) => Err(format!("read: {error}")),
    }
}

/// Nobody waits for a reader that is gone, even if the runtime dropped it.
struct EndsWhenDropped<'a> {
    shared: &'a Shared,
    reason: String,
}

impl Drop for EndsWhenDropped<'_> {
    fn drop(&mut self) {
        self.shared.end(std::mem::take(&mut self.reason));
    }
}
