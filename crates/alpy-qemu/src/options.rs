// SPDX-License-Identifier: GPL-3.0-or-later
//! How a machine is run.

use std::path::PathBuf;
use std::time::Duration;

use crate::accelerator::Accelerator;

/// How a machine is run.
#[derive(Debug, Clone)]
#[must_use]
pub struct Options {
    pub(crate) evidence: Option<PathBuf>,
    pub(crate) accelerator: Option<Accelerator>,
    pub(crate) start_timeout: Duration,
}

impl Options {
    /// No evidence, the accelerator by proof, 30 s for the start.
    pub fn new() -> Self {
        Self {
            evidence: None,
            accelerator: None,
            start_timeout: Duration::from_secs(30),
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
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}
