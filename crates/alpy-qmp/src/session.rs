// SPDX-License-Identifier: GPL-3.0-or-later
//! The living connection's state, which the clients and one task, the [`Reader`], share.
//!
//! A command goes out on the caller's own thread when nothing else is under way, which spares a change of tasks, and through
//! the reader otherwise, which then writes several at once.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use serde_json::value::RawValue;
use tokio::sync::{Notify, oneshot};

use crate::command::Line;
use crate::error::Disconnect;
use crate::event::History;
use crate::options::{Direction, Options};
use crate::reader::Reader;
use crate::transport::Transport;
use crate::wire::Greeting;

/// How many in-band commands may be without a reply. QEMU queues 8 (`QMP_REQ_QUEUE_LEN_MAX` in monitor/qmp.c) and then
/// stops reading, and so does not see an out-of-band command either.
const WINDOW: usize = 8;

/// Ids are reused as late as one digit allows, so that a reply too many does not meet the next command. QEMU reads its monitor byte
/// by byte, and another digit costs a round trip 2 % of its time.
const IDS: usize = 10;

/// A buffer larger than this, in bytes, is not kept for the next write.
const LARGE_WRITE: usize = 1 << 20;

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
    /// Told when there is a new event, and when the connection ends. Who looks for either takes a `notified()` before looking:
    /// it hears of everything from then on.
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
        let shared = Arc::new(Self {
            options,
            changed: Notify::new(),
            state: Mutex::new(state),
        });
        let reader = Reader::new(Arc::clone(&shared), greeted);
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
    pub(crate) write_error: Option<io::Error>,
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

    /// The task's turn: writes what may be written, then reads. `None` if the connection has ended.
    pub(crate) fn drive(
        &mut self,
        cx: &mut Context<'_>,
        options: &Options,
        room: &mut [u8],
    ) -> Option<Poll<io::Result<usize>>> {
        if !self.task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            self.task = Some(cx.waker().clone());
        }
        self.pump(cx, options);
        Some(self.transport.as_mut()?.poll_read(cx, room))
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
        if self.out.capacity() > LARGE_WRITE {
            self.out = Vec::new();
        }
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

    /// Gives a reply to its command.
    pub(crate) fn reply(&mut self, id: Option<&RawValue>, outcome: Outcome) {
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
