// SPDX-License-Identifier: GPL-3.0-or-later
//! The task of a connection: all reading, and the writing that the callers could not do themselves.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::{Disconnect, shorten};
use crate::event;
use crate::options::Direction;
use crate::session::{Failure, Shared};
use crate::wire::{Greeting, LineBuffer, Message};

/// How long to listen to a server that can no longer be written to.
const GRACE: Duration = Duration::from_millis(500);

/// The task itself. It ends with the connection.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    lines: LineBuffer,
    /// Takes the greeting, until it has come.
    greeted: Option<oneshot::Sender<Greeting>>,
    /// Runs from a failure to write on.
    grace: Option<Pin<Box<Sleep>>>,
}

impl Future for Reader {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            let read = this
                .shared
                .state()
                .drive(cx, &this.shared.options, this.lines.spare());
            let Some(read) = read else {
                return Poll::Ready(());
            };
            let reason = match read {
                Poll::Ready(Ok(0)) => {
                    if !this.lines.rest().is_empty() {
                        let bytes = this.lines.rest().len();
                        tracing::debug!(bytes, "QMP connection ended within a line");
                    }
                    Disconnect::Eof
                }
                Poll::Ready(Ok(bytes)) => {
                    this.lines.filled(bytes);
                    match this.take_lines() {
                        Ok(()) => continue,
                        Err(reason) => reason,
                    }
                }
                Poll::Pending => match this.poll_write_error(cx) {
                    Poll::Ready(error) => disconnect(error),
                    Poll::Pending => return Poll::Pending,
                },
                Poll::Ready(Err(error)) => disconnect(error),
            };
            this.shared.close(reason);
            return Poll::Ready(());
        }
    }
}

impl Drop for Reader {
    /// When the runtime ends, nobody may be left waiting.
    fn drop(&mut self) {
        self.shared.close(Disconnect::Closed);
    }
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, greeted: oneshot::Sender<Greeting>) -> Self {
        let lines = LineBuffer::new(shared.options.max_line_bytes);
        Self {
            shared,
            lines,
            greeted: Some(greeted),
            grace: None,
        }
    }

    /// Gives a failure to write, but a while after it: a server that is gone may have left a last word, and what ends the
    /// connection then is the end of that.
    fn poll_write_error(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut state = self.shared.state();
        if state.write_error.is_none() {
            return Poll::Pending;
        }
        let grace = self
            .grace
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + GRACE)));
        ready!(grace.as_mut().poll(cx));
        state.write_error.take().map_or(Poll::Pending, Poll::Ready)
    }

    fn take_lines(&mut self) -> Result<(), Disconnect> {
        while let Some(line) = self.lines.next_line()? {
            self.shared.options.log(Direction::FromServer, line);
            let message = Message::parse(line)?;
            if self.greeted.is_some() && !matches!(message, Message::Greeting(_)) {
                return Err(Disconnect::Malformed {
                    reason: "the first line is no greeting".to_owned(),
                    line: shorten(&String::from_utf8_lossy(line)),
                });
            }
            match message {
                Message::Greeting(greeting) => match self.greeted.take() {
                    Some(greeted) => _ = greeted.send(greeting),
                    None => tracing::warn!("second QMP greeting ignored"),
                },
                Message::Event {
                    name,
                    data,
                    time: (seconds, microseconds),
                } => {
                    tracing::trace!(name, %data, "QMP event");
                    let time = event::time(seconds, microseconds);
                    self.shared.state().history.push(name, data, time);
                    self.shared.changed.notify_waiters();
                }
                Message::Reply { id, result } => {
                    let outcome = match result {
                        Ok(value) => Ok(value.to_owned()),
                        Err((class, desc)) => Err(Failure::Server(class, desc)),
                    };
                    self.shared.state().reply(id, outcome);
                }
            }
        }
        Ok(())
    }
}

fn disconnect(error: io::Error) -> Disconnect {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Disconnect::Eof,
        _ => Disconnect::Io(Arc::new(error)),
    }
}
