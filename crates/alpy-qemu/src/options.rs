// SPDX-License-Identifier: GPL-3.0-or-later
//! How a machine is run.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use alpy_qmp::Timer;

use crate::accelerator::Accelerator;
use crate::state::Place;

/// How a machine is run.
#[derive(Clone)]
#[must_use]
pub struct Options {
    pub(crate) evidence: Option<PathBuf>,
    pub(crate) accelerator: Option<Accelerator>,
    pub(crate) start_timeout: Duration,
    pub(crate) place: Option<Place>,
    pub(crate) timer: Option<Timer>,
    pub(crate) clock_start: Option<Instant>,
}

impl Options {
    /// No evidence, the accelerator by proof, 30 s for the start.
    pub fn new() -> Self {
        Self {
            evidence: None,
            accelerator: None,
            start_timeout: Duration::from_secs(30),
            place: None,
            timer: None,
            clock_start: None,
        }
    }

    /// The folder, which must exist, for `qemu-command.txt`, `qemu-stdout.log`, `qemu-stderr.log` and `qmp.log`. Files of
    /// these names are overwritten.
    pub fn evidence(mut self, folder: impl Into<PathBuf>) -> Self {
        self.evidence = Some(folder.into());
        self
    }

    /// The accelerator, instead of [`Accelerator::detect`]'s.
    pub fn accelerator(mut self, accelerator: Accelerator) -> Self {
        self.accelerator = Some(accelerator);
        self
    }

    /// How long QEMU may take from its start until it greets.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// Measures the limits of waits for the guest with this timer, instead of with one of the machine's own.
    pub fn timer(mut self, timer: Timer) -> Self {
        self.timer = Some(timer);
        self
    }

    /// Sets the moment from which the times in `qmp.log` count, in seconds. Default: the start of QEMU.
    pub fn clock_start(mut self, moment: Instant) -> Self {
        self.clock_start = Some(moment);
        self
    }

    /// Keeps the machine's memory in a file of this folder, which must exist, so that [`Qemu::save`](crate::Qemu::save) can save it.
    pub fn save_to(mut self, folder: impl Into<PathBuf>) -> Self {
        self.place = Some(Place::Save(folder.into()));
        self
    }

    /// Begins with what [`Qemu::save`](crate::Qemu::save) has put into this folder, once [`Qemu::restore`](crate::Qemu::restore) has
    /// loaded it. Nothing is written there, and it may be removed after that.
    pub fn restore_from(mut self, folder: impl Into<PathBuf>) -> Self {
        self.place = Some(Place::Restore(folder.into()));
        self
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("evidence", &self.evidence)
            .field("accelerator", &self.accelerator)
            .field("start_timeout", &self.start_timeout)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}
