// SPDX-License-Identifier: GPL-3.0-or-later
//! How a wait measures its time.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Starts to measure a limit: the future is ready when the limit is over.
///
/// By default a limit is wall time. A caller that knows them gives a timer that stops while the host keeps the senders from running.
///
/// The caller may drop the future at any time.
pub type Timer = Arc<dyn Fn(Duration) -> Running + Send + Sync>;

/// A limit that is being measured.
pub type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The timer of a capture.
#[derive(Clone)]
pub(crate) struct Clock(pub(crate) Timer);

impl Default for Clock {
    /// Wall time.
    #[expect(clippy::disallowed_methods, reason = "a limit is a time")]
    fn default() -> Self {
        Self(Arc::new(|limit| Box::pin(tokio::time::sleep(limit))))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
