// SPDX-License-Identifier: GPL-3.0-or-later
//! Events, one after another.

use std::sync::Arc;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::event::{Event, Position};

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

    /// The next event. Waits as long as the connection stands; put a `tokio::time::timeout` around it for less.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::Lagged`] once when the history has lost events before they were read here; the next call goes on with the
    /// oldest that is left. [`Error::Disconnected`] when all events were read and no more can come.
    pub async fn next(&mut self) -> Result<Arc<Event>> {
        let shared = self.client.shared();
        loop {
            let change = shared.changed.notified();
            let mut change = std::pin::pin!(change);
            change.as_mut().enable();
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
                        wanted: "the next event".to_owned(),
                        source: reason.clone(),
                    });
                }
            }
            change.await;
        }
    }
}
