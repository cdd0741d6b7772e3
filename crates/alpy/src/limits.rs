// SPDX-License-Identifier: GPL-3.0-or-later
//! What a test runs against: its deadline, and a signal.

use std::pin::Pin;
use std::time::Duration;

use alpy_qmp::{Running, Timer};
use tokio::time::Instant;

use crate::failure::Cause;
use crate::signals::{Interrupt, Interrupts};

/// Stands for a deadline that the clock cannot hold.
const FOREVER: Duration = Duration::from_secs(1 << 30);

/// Both of them.
pub(crate) struct Limits {
    interrupts: Interrupts,
    deadline: Deadline,
    timer: Running,
}

/// The time of a test, the teardown apart.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    limit: Duration,
    until: Instant,
}

impl Limits {
    /// From now on. The timer measures the deadline.
    pub(crate) fn new(interrupts: Interrupts, limit: Duration, timer: &Timer) -> Self {
        let now = Instant::now();
        let until = now.checked_add(limit).unwrap_or(now + FOREVER);
        Self {
            interrupts,
            deadline: Deadline { limit, until },
            timer: timer(limit),
        }
    }

    pub(crate) fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Waits for a signal alone. Cancel safe.
    pub(crate) async fn interrupted(&mut self) {
        self.interrupts.next().await;
    }

    /// The signal that has come.
    pub(crate) fn interrupt(&self) -> Option<Interrupt> {
        self.interrupts.came()
    }

    /// Drops the future when one of them is reached. Boxed, because what a test does is large.
    pub(crate) async fn hold<F: Future>(&mut self, future: Pin<Box<F>>) -> Result<F::Output, Cause> {
        tokio::select! {
            // A run that begins after the signal begins nothing.
            biased;
            signal = self.interrupts.next() => Err(Cause::Interrupt(signal)),
            result = future => Ok(result),
            () = &mut self.timer => Err(Cause::Deadline(self.deadline.limit)),
        }
    }
}

impl Deadline {
    pub(crate) fn until(self) -> Instant {
        self.until
    }

    /// What a step of the set-up may take.
    pub(crate) fn share(self) -> Duration {
        self.limit / 2
    }
}
