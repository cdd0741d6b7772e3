// SPDX-License-Identifier: GPL-3.0-or-later
//! How many things go on that nobody may be waiting for: starts, and removals in the background.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// The number of them. All clones count together.
#[derive(Debug, Clone)]
pub(crate) struct UnderWay(Arc<watch::Sender<usize>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(UnderWay);

impl UnderWay {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    pub(crate) fn count(&self) -> Counted {
        self.0.send_modify(|count| *count += 1);
        Counted(self.clone())
    }

    /// Waits until there is none; false if that does not happen within the time.
    pub(crate) async fn none(&self, within: Duration) -> bool {
        let mut count = self.0.subscribe();
        timeout(within, count.wait_for(|count| *count == 0)).await.is_ok()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}
