// SPDX-License-Identifier: GPL-3.0-or-later
//! How a wait measures its time.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Starts to measure a limit: the future is ready when the limit is over.
///
/// By default a limit is wall time. A caller that knows the machine gives a timer that stops while the host keeps the machine from running.
///
/// The caller may drop the future at any time.
pub type Timer = Arc<dyn Fn(Duration) -> Running + Send + Sync>;

/// A limit that is being measured.
pub type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Measures wall time.
#[expect(clippy::disallowed_methods, reason = "a limit is a time")]
pub(crate) fn wall() -> Timer {
    Arc::new(|limit| Box::pin(tokio::time::sleep(limit)))
}
