// SPDX-License-Identifier: GPL-3.0-or-later
//! The living connection: its state, which the clients and one task share, and that task.
//!
//! A command goes out on the caller's own thread when nothing else is under way, which spares a change of tasks, and through
//! the task otherwise, which then writes several at once. All reading is the task's.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::command::Line;
use crate::error::Disconnect;
use crate::event::{self, History};
use crate::options::{Direction, Options};
use crate::transport::Transport;
use crate::wire::{Greeting, LineBuffer, Message};

/// How many in-band commands may be without a reply. QEMU queues 8 (`QMP_REQ_QUEUE_LEN_MAX` in monitor/qmp.c) and then
/// stops reading, and so does not see an out-of-band command either.
const WINDOW: usize = 8;

/// Ids are reused as late as two digits allow, so that a reply too many does not meet a later command.
const IDS: usize = 100;

/// How long to listen to a server that can no longer be written to.
const GRACE: Duration = Duration::from_millis(500);

/// What becomes of a command.
pub(crate) type Outcome = Result<Box<RawValue>, Failure>;

#[derive(Debug)]
pub(crate) enum Failure {
    /// The server's class and description.
    Server(String, String),
    /// The connection ended before it was sent.
    Unsent(Disconnect),
    /// The connection ended after it was sent.
    Unknown(Disconnect),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    InBand,
    OutOfBand,
}

pub(crate) struct Outgoing {
    pub(crate) line: Line,
    pub(crate) lane: Lane,
    pub(crate) descriptor: Option<OwnedFd>,
}

pub(crate) struct Shared {
    pub(crate) options: Options,
    /// Told when there is a new event, and when the connection ends.
    pub(crate) changed: Notify,
    state: Mutex<State>,
}

impl Shared {
    /// Takes over a connection. The greeting comes through the receiver.
    pub(crate) fn new(
        transport: Transport,
        options: Options,
    ) -> (Arc<Self>, Reader, oneshot::Receiver<Greeting>) {
        let (greeted, greeting) = oneshot::channel();
        let state = State {
            closed: None,
            history: History::new(options.history_events),
            transport: Some(transport),
            task: None,
            waiting: VecDeque::new(),
            urgent: VecDeque::new(),
            under_way: Vec::new(),
            out: Vec::new(),
            out_sent: 0,
            out_descriptor: None,
            unflushed: false,
            write_error: None,
            next_ticket: 0,
            next_id: 0,
        };
        let lines = LineBuffer::new(options.max_line_bytes);
        let shared = Arc::new(Self {
            options,
            changed: Notify::new(),
            state: Mutex::new(state),
        });
        let reader = Reader {
            shared: Arc::clone(&shared),
            lines,
            greeted: Some(greeted),
            grace: None,
        };
        (shared, reader, greeting)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // A panic can only come out of the wire log; what it left is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a command over. The ticket is to [`withdraw`](Self::withdraw) it.
    pub(crate) fn submit(&self, command: Outgoing) -> Result<(u64, oneshot::Receiver<Outcome>), Disconnect> {
        let (done, outcome) = oneshot::channel();
        let mut guard = self.state();
        let state = &mut *guard;
        if let Some(reason) = &state.closed {
            return Err(reason.clone());
        }
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        let idle = state.under_way.is_empty();
        let queue = match command.lane {
            Lane::InBand => &mut state.waiting,
            Lane::OutOfBand => &mut state.urgent,
        };
        queue.push_back(Waiting {
            command,
            ticket,
            done,
        });
        match state.task.take() {
            // With the task's waker, so that the task goes on where this write has to stop.
            Some(task) if idle => {
                state.pump(&mut Context::from_waker(&task), &self.options);
                let broken = state.write_error.is_some();
                state.task = Some(task);
                if broken {
                    state.wake();
                }
            }
            Some(task) => task.wake(),
            None => {}
        }
        Ok((ticket, outcome))
    }

    /// Takes a command back, if it is not on its way yet.
    pub(crate) fn withdraw(&self, ticket: u64) -> bool {
        let mut state = self.state();
        let State { waiting, urgent, .. } = &mut *state;
        for queue in [waiting, urgent] {
            if let Ok(at) = queue.binary_search_by_key(&ticket, |waiting| waiting.ticket) {
                queue.remove(at);
                return true;
            }
        }
        false
    }

    /// Ends the connection; only the first reason counts.
    pub(crate) fn close(&self, reason: Disconnect) {
        let mut state = self.state();
        if state.closed.is_some() {
            return;
        }
        tracing::debug!(%reason, "QMP connection ended");
        state.transport = None;
        state.out_descriptor = None;
        for Waiting { done, .. } in std::mem::take(&mut state.waiting) {
            _ = done.send(Err(Failure::Unsent(reason.clone())));
        }
        for Waiting { done, .. } in std::mem::take(&mut state.urgent) {
            _ = done.send(Err(Failure::Unsent(reason.clone())));
        }
        for UnderWay { done, .. } in std::mem::take(&mut state.under_way) {
            _ = done.send(Err(Failure::Unknown(reason.clone())));
        }
        state.closed = Some(reason);
        state.wake();
        drop(state);
        self.changed.notify_waiters();
    }
}

pub(crate) struct State {
    pub(crate) closed: Option<Disconnect>,
    pub(crate) history: History,
    /// Gone when the connection is.
    transport: Option<Transport>,
    /// Wakes the task; there from its first look on.
    task: Option<Waker>,
    /// In-band commands that are not sent yet, the oldest first.
    waiting: VecDeque<Waiting>,
    /// Out-of-band commands that are not sent yet, the oldest first.
    urgent: VecDeque<Waiting>,
    /// Commands without a reply, the oldest first. Those that nobody waits for any more stay, with their id and place in the
    /// window, until their reply comes.
    under_way: Vec<UnderWay>,
    /// What is being written, and how much of it is; the descriptor goes with its first byte.
    out: Vec<u8>,
    out_sent: usize,
    out_descriptor: Option<OwnedFd>,
    unflushed: bool,
    write_error: Option<io::Error>,
    next_ticket: u64,
    next_id: u32,
}

struct Waiting {
    command: Outgoing,
    ticket: u64,
    done: oneshot::Sender<Outcome>,
}

struct UnderWay {
    id: u32,
    lane: Lane,
    descriptor: bool,
    done: oneshot::Sender<Outcome>,
}

impl State {
    pub(crate) fn carries_descriptors(&self) -> bool {
        self.transport.as_ref().is_none_or(Transport::carries_descriptors)
    }

    fn wake(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Writes what may be written, as far as that goes without waiting.
    fn pump(&mut self, cx: &mut Context<'_>, options: &Options) {
        while self.write_error.is_none() {
            if self.out_sent == self.out.len() {
                self.refill(options);
            }
            let Some(transport) = &mut self.transport else {
                return;
            };
            let progress = if self.out.is_empty() {
                if !self.unflushed {
                    return;
                }
                transport.poll_flush(cx).map_ok(|()| self.unflushed = false)
            } else {
                let bytes = &self.out[self.out_sent..];
                transport
                    .poll_write(cx, bytes, self.out_descriptor.as_ref())
                    .map_ok(|written| {
                        self.out_sent += written;
                        self.out_descriptor = None;
                        self.unflushed = true;
                    })
            };
            match progress {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => self.write_error = Some(error),
                Poll::Pending => return,
            }
        }
    }

    /// Decides what is written next: everything that has its turn.
    fn refill(&mut self, options: &Options) {
        self.out.clear();
        self.out_sent = 0;
        while let Some(next) = self.urgent.pop_front() {
            if !self.descriptor_has_its_turn(&next.command) {
                self.urgent.push_front(next);
                break;
            }
            self.put(next, options);
        }
        let mut in_band = self
            .under_way
            .iter()
            .filter(|command| command.lane == Lane::InBand)
            .count();
        while in_band < WINDOW {
            let Some(next) = self.waiting.pop_front() else {
                break;
            };
            if !self.descriptor_has_its_turn(&next.command) {
                self.waiting.push_front(next);
                break;
            }
            self.put(next, options);
            in_band += 1;
        }
    }

    /// A descriptor goes with the first byte of a write. And it goes alone: QEMU keeps only the last one it received
    /// (`tcp_chr_recv` in chardev/char-socket.c), and a command takes what is there when it is executed.
    fn descriptor_has_its_turn(&self, command: &Outgoing) -> bool {
        command.descriptor.is_none()
            || (self.out.is_empty() && !self.under_way.iter().any(|command| command.descriptor))
    }

    fn put(&mut self, waiting: Waiting, options: &Options) {
        let Waiting {
            command:
                Outgoing {
                    line,
                    lane,
                    descriptor,
                },
            done,
            ..
        } = waiting;
        let id = self.free_id();
        let start = self.out.len();
        line.write(id, &mut self.out);
        options.log(Direction::ToServer, &self.out[start..]);
        self.under_way.push(UnderWay {
            id,
            lane,
            descriptor: descriptor.is_some(),
            done,
        });
        if descriptor.is_some() {
            self.out_descriptor = descriptor;
        }
    }

    fn free_id(&mut self) -> u32 {
        let ids = u32::try_from(IDS.max(2 * self.under_way.len())).unwrap_or(u32::MAX);
        loop {
            let id = self.next_id;
            self.next_id = (id + 1) % ids;
            if !self.under_way.iter().any(|command| command.id == id) {
                return id;
            }
        }
    }

    fn reply(&mut self, id: Option<&RawValue>, outcome: Outcome) {
        let at = match id {
            Some(id) => {
                let id = id.get().parse().ok();
                self.under_way.iter().position(|command| Some(command.id) == id)
            }
            // An error without id is about something that QEMU could not parse. It is queued like an in-band command, and
            // those are answered in order, so it is the answer to the oldest (`handle_qmp_command` in monitor/qmp.c).
            None if outcome.is_err() => {
                let in_band = self
                    .under_way
                    .iter()
                    .position(|command| command.lane == Lane::InBand);
                in_band.or(if self.under_way.is_empty() { None } else { Some(0) })
            }
            None => None,
        };
        match at {
            Some(at) => {
                if self.under_way.remove(at).done.send(outcome).is_err() {
                    tracing::debug!("late QMP reply dropped");
                }
            }
            None => {
                let id = id.map(RawValue::get);
                tracing::warn!(id, ?outcome, "QMP reply to no command dropped");
            }
        }
    }
}

fn disconnect(error: io::Error) -> Disconnect {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Disconnect::Eof,
        _ => Disconnect::Io(Arc::new(error)),
    }
}

/// The task of a connection: reads, and writes what the callers could not write themselves. It ends with the connection.
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
            let Some(read) = this.read(cx) else {
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
    /// Writes and reads once; nothing if the connection has ended.
    fn read(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<usize>>> {
        let mut state = self.shared.state();
        if !state.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            state.task = Some(cx.waker().clone());
        }
        state.pump(cx, &self.shared.options);
        let transport = state.transport.as_mut()?;
        Some(transport.poll_read(cx, self.lines.spare()))
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
                    line: crate::error::shorten(&String::from_utf8_lossy(line)),
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
                    tracing::debug!(name, %data, "QMP event");
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
