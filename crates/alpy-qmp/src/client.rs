// SPDX-License-Identifier: GPL-3.0-or-later
//! The handle: commands, events, the end.

use std::fmt;
use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::timeout;

use crate::command::{self, Command};
use crate::error::{Disconnect, Error, Result, shorten};
use crate::event::{Event, Events, Position};
use crate::options::Options;
use crate::request::Request;
use crate::session::Shared;
use crate::wire::Greeting;

/// A connection to a QMP server. Clones are handles of the same connection, and it ends with the last of them.
///
/// [`Options`] says how to get one. Any number of tasks may use it at once; each command's reply finds its way by its id.
#[derive(Clone)]
pub struct Client {
    connection: Arc<Connection>,
}

pub(crate) struct Connection {
    pub(crate) shared: CloseOnDrop,
    pub(crate) greeting: Greeting,
    pub(crate) out_of_band: bool,
}

/// Ends a connection that nobody uses any more, or that did not come about.
pub(crate) struct CloseOnDrop(pub(crate) Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(Disconnect::Closed);
    }
}

impl Client {
    pub(crate) fn new(shared: CloseOnDrop, greeting: Greeting, out_of_band: bool) -> Self {
        Self {
            connection: Arc::new(Connection {
                shared,
                greeting,
                out_of_band,
            }),
        }
    }

    /// Connects to a server that listens on `path`, with default [`Options`] but for the time it may take: see
    /// [`Options::connect`].
    ///
    /// # Errors
    /// As [`Options::connect`].
    pub async fn connect(path: impl AsRef<Path>, timeout: Duration) -> Result<Self> {
        Options::new().greeting_timeout(timeout).connect(path).await
    }

    /// What the server said of itself when the connection was made.
    pub fn greeting(&self) -> &Greeting {
        &self.connection.greeting
    }

    /// Whether [`Request::out_of_band`] is possible here. It is whenever the server offers it.
    pub fn has_out_of_band(&self) -> bool {
        self.connection.out_of_band
    }

    /// A command with a type, to be awaited: `client.execute(Cont).await?`.
    #[expect(clippy::needless_pass_by_value, reason = "a command is made for one call")]
    pub fn execute<C: Command>(&self, command: C) -> Request<C::Reply> {
        let arguments = command::arguments(C::NAME, &command);
        Request::new(Arc::clone(&self.connection), C::NAME.into(), arguments)
    }

    /// Any command, to be awaited: `client.execute_raw("query-block", Value::Null).await?`. Arguments that are `Null` or an
    /// empty object are left out.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "so that `json!` can stand where the arguments go"
    )]
    pub fn execute_raw(&self, name: impl Into<String>, arguments: Value) -> Request<Value> {
        let name = name.into();
        let arguments = command::arguments(&name, &arguments);
        Request::new(Arc::clone(&self.connection), name.into(), arguments)
    }

    /// Where the sequence of events is now: behind all that have come so far.
    pub fn position(&self) -> Position {
        self.shared().state().history.end()
    }

    /// Waits for an event of this name at or behind a position, and gives the first one.
    ///
    /// ```no_run
    /// # async fn example(client: alpy_qmp::Client) -> Result<(), alpy_qmp::Error> {
    /// # use alpy_qmp::commands::SystemPowerdown;
    /// # use std::time::Duration;
    /// let before = client.position();
    /// client.execute(SystemPowerdown).await?;
    /// client.wait_for("SHUTDOWN", before, Duration::from_secs(60)).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// Cancel safe: the event stays in the history.
    ///
    /// # Errors
    /// [`Error::EventTimeout`], [`Error::Disconnected`] when no event can come any more, [`Error::Lagged`] when it may have
    /// been among events that the history no longer has.
    pub async fn wait_for(&self, name: &str, since: Position, timeout: Duration) -> Result<Arc<Event>> {
        self.wait_until(name, since, timeout, |event| event.name == name)
            .await
    }

    /// Waits for an event that `accept` takes, at or behind a position. `wanted` says in errors what was waited for.
    ///
    /// Cancel safe: the event stays in the history.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub async fn wait_until(
        &self,
        wanted: &str,
        since: Position,
        timeout: Duration,
        mut accept: impl FnMut(&Event) -> bool,
    ) -> Result<Arc<Event>> {
        let shared = self.shared();
        let wait = async {
            let mut since = since;
            loop {
                let change = shared.changed.notified();
                {
                    let state = shared.state();
                    let (missed, mut events) = state.history.since(since);
                    if let Some(event) = events.find(|event| accept(event)) {
                        return Ok(Arc::clone(event));
                    }
                    if missed > 0 {
                        return Err(Error::Lagged { missed });
                    }
                    if let Some(reason) = &state.closed {
                        return Err(Error::Disconnected {
                            wanted: format!("event {wanted}"),
                            source: reason.clone(),
                        });
                    }
                    since = state.history.end();
                }
                change.await;
            }
        };
        let begin = Instant::now();
        match self.within(timeout, wait).await {
            Some(result) => result,
            None => Err(Error::EventTimeout {
                wanted: wanted.to_owned(),
                after: timeout,
                waited: begin.elapsed(),
                last_events: self.last_events_text(),
            }),
        }
    }

    /// Awaits a future, but only until the connection's timer says that the limit is over.
    pub(crate) async fn within<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        let (mut future, mut timer) = (pin!(future), None);
        poll_fn(|context| {
            if let Poll::Ready(found) = future.as_mut().poll(context) {
                return Poll::Ready(Some(found));
            }
            // Started only if the event is not there yet.
            let timer = timer.get_or_insert_with(|| (self.shared().options.timer)(limit));
            timer.as_mut().poll(context).map(|()| None)
        })
        .await
    }

    /// The events from a position on, one after another: from [`position`](Self::position) for those to come, from
    /// [`Position::START`] for all that the history has.
    pub fn events(&self, since: Position) -> Events {
        Events::new(self.clone(), since)
    }

    /// The last events, at most `count`, the oldest first. For error messages, and for people.
    pub fn recent_events(&self, count: usize) -> Vec<Arc<Event>> {
        self.shared().state().history.last(count)
    }

    /// Why the connection ended; `None` while it stands.
    pub fn disconnected(&self) -> Option<Disconnect> {
        self.shared().state().closed.clone()
    }

    /// Waits until the connection has ended, for at most `limit`; `None` if it still stands then.
    ///
    /// Cancel safe.
    pub async fn wait_disconnected(&self, limit: Duration) -> Option<Disconnect> {
        let wait = async {
            loop {
                let change = self.shared().changed.notified();
                if let Some(reason) = self.disconnected() {
                    return reason;
                }
                change.await;
            }
        };
        timeout(limit, wait).await.ok()
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.connection.shared.0
    }

    pub(crate) fn last_events_text(&self) -> String {
        let events: Vec<_> = self
            .recent_events(5)
            .iter()
            .map(|event| shorten(&event.to_string()))
            .collect();
        if events.is_empty() {
            "none".to_owned()
        } else {
            events.join(", ")
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("greeting", self.greeting())
            .field("disconnected", &self.disconnected())
            .finish_non_exhaustive()
    }
}
