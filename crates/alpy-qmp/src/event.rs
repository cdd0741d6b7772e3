// SPDX-License-Identifier: GPL-3.0-or-later
//! Events: what they are, their sequence, and the history they are kept in.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::client::Client;
use crate::error::{Error, Result};

/// A place in a connection's sequence of events: between two of them, or at either end.
///
/// Take one with [`Client::position`](crate::Client::position) before sending a command, and no event that the command
/// causes is missed, although QEMU sends most of them before the command's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub(crate) u64);

impl Position {
    /// Before the connection's first event.
    pub const START: Self = Self(0);
}

/// Something that happened in the server (QEMU, docs/interop/qmp-spec, "Asynchronous events").
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// The name, such as `SHUTDOWN`.
    pub name: String,
    /// What belongs to it; `Null` if nothing does.
    pub data: Value,
    /// The server's host's time; `None` if the server could not tell.
    pub time: Option<SystemTime>,
    /// Where it is in the sequence: right before this event.
    pub position: Position,
}

impl Event {
    /// The place right behind this event, to wait for the next one from.
    pub fn next_position(&self) -> Position {
        Position(self.position.0 + 1)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if !self.data.is_null() {
            write!(f, " {}", self.data)?;
        }
        Ok(())
    }
}

/// Events in their sequence, from [`Client::events`]. It is a handle of the connection, as a [`Client`] is.
#[derive(Debug, Clone)]
pub struct Events {
    client: Client,
    next: Position,
}

impl Events {
    pub(crate) fn new(client: Client, since: Position) -> Self {
        Self { client, next: since }
    }

    /// Waits for the next event.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::EventTimeout`]. [`Error::Lagged`] once when the history has lost events before they were read here; the next call
    /// goes on with the oldest that is left. [`Error::Disconnected`] when all events were read and no more can come.
    pub async fn next(&mut self, within: Duration) -> Result<Arc<Event>> {
        let (begin, client) = (Instant::now(), self.client.clone());
        match client.within(within, self.any()).await {
            Some(result) => result,
            None => Err(Error::EventTimeout {
                wanted: NEXT.to_owned(),
                after: within,
                waited: begin.elapsed(),
                last_events: self.client.last_events_text(),
            }),
        }
    }

    async fn any(&mut self) -> Result<Arc<Event>> {
        let shared = self.client.shared();
        loop {
            let change = shared.changed.notified();
            {
                let state = shared.state();
                let (missed, mut events) = state.history.since(self.next);
                if missed > 0 {
                    self.next.0 += missed;
                    return Err(Error::Lagged { missed });
                }
                if let Some(event) = events.next() {
                    self.next = event.next_position();
                    return Ok(Arc::clone(event));
                }
                if let Some(reason) = &state.closed {
                    return Err(Error::Disconnected {
                        wanted: NEXT.to_owned(),
                        source: reason.clone(),
                    });
                }
            }
            change.await;
        }
    }
}

/// What errors say was waited for.
const NEXT: &str = "the next event";

/// The server's timestamp as a time. QEMU gives -1 where it does not know.
pub(crate) fn time(seconds: i64, microseconds: i64) -> Option<SystemTime> {
    let seconds = Duration::from_secs(u64::try_from(seconds).ok()?);
    let microseconds = Duration::from_micros(u64::try_from(microseconds).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(seconds.checked_add(microseconds)?)
}

/// The last events, each with its number.
pub(crate) struct History {
    events: VecDeque<Arc<Event>>,
    end: u64,
    limit: usize,
}

impl History {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            events: VecDeque::new(),
            end: 0,
            limit,
        }
    }

    /// Where the next event will be.
    pub(crate) fn end(&self) -> Position {
        Position(self.end)
    }

    pub(crate) fn push(&mut self, name: String, data: Value, time: Option<SystemTime>) {
        let position = self.end();
        self.end += 1;
        self.events.push_back(Arc::new(Event {
            name,
            data,
            time,
            position,
        }));
        while self.events.len() > self.limit {
            self.events.pop_front();
        }
    }

    /// The events kept from `position` on, and how many of those from there are no longer kept.
    pub(crate) fn since(&self, position: Position) -> (u64, impl Iterator<Item = &Arc<Event>>) {
        let oldest = self.end - self.events.len() as u64;
        let missed = oldest.saturating_sub(position.0);
        let skipped = usize::try_from(position.0.saturating_sub(oldest)).unwrap_or(usize::MAX);
        (missed, self.events.iter().skip(skipped))
    }

    pub(crate) fn last(&self, count: usize) -> Vec<Arc<Event>> {
        let skipped = self.events.len().saturating_sub(count);
        self.events.iter().skip(skipped).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(limit: usize, pushed: usize) -> History {
        let mut history = History::new(limit);
        for number in 0..pushed {
            history.push(format!("E{number}"), Value::Null, None);
        }
        history
    }

    fn names(history: &History, position: u64) -> (u64, Vec<&str>) {
        let (missed, events) = history.since(Position(position));
        (missed, events.map(|event| event.name.as_str()).collect())
    }

    #[test]
    fn gives_the_events_since_a_position() {
        let history = history(10, 3);
        assert_eq!(names(&history, 1), (0, vec!["E1", "E2"]));
        assert_eq!(names(&history, 3), (0, vec![]));
        assert_eq!(names(&history, u64::MAX), (0, vec![]));
    }

    #[test]
    fn counts_what_it_no_longer_has() {
        let history = history(2, 5);
        assert_eq!(names(&history, 1), (2, vec!["E3", "E4"]));
        assert_eq!(history.end(), Position(5));
    }

    #[test]
    fn gives_the_last_events() {
        let last: Vec<_> = history(4, 9)
            .last(2)
            .iter()
            .map(|event| event.name.clone())
            .collect();
        assert_eq!(last, ["E7", "E8"]);
        assert_eq!(history(4, 1).last(5).len(), 1);
        assert!(history(0, 3).last(5).is_empty());
    }

    #[test]
    fn takes_a_time_the_server_does_not_know() {
        assert_eq!(time(-1, -1), None);
        assert_eq!(time(i64::MAX, i64::MAX), None);
        assert_eq!(
            time(1, 500_000),
            Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1500))
        );
    }

    #[test]
    fn reads_well() {
        let mut history = History::new(1);
        history.push("SHUTDOWN".into(), serde_json::json!({"guest": true}), None);
        assert_eq!(history.last(1)[0].to_string(), r#"SHUTDOWN {"guest":true}"#);
    }
}
