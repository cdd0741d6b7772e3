// SPDX-License-Identifier: GPL-3.0-or-later
//! How much is measured.

use anyhow::{Result, bail};

/// The number of runs, the numbers of links, and the size of a run.
pub(crate) struct Extent {
    pub(crate) runs: usize,
    pub(crate) links: Vec<usize>,
    pub(crate) size: Size,
}

/// How much one run measures.
pub(crate) struct Size {
    /// The length of a console flood in MB.
    pub(crate) flood_mb: usize,
    /// The most prompt turns of a console.
    pub(crate) turns: usize,
    /// A QMP client is measured in so many pieces.
    pub(crate) qmp_pieces: u32,
    /// The length of the capture that is read, in MB.
    pub(crate) capture_mb: usize,
    /// The frames that a follower of a capture waits for.
    pub(crate) frames: usize,
    /// The one-off containers of each subject.
    pub(crate) containers: usize,
    /// The numbers of testbeds to run at once. The measurement stops early when more testbeds bring nothing.
    pub(crate) at_once: &'static [usize],
    /// The most tests to run with each of these numbers.
    pub(crate) tests: usize,
}

impl Size {
    /// Figures of this size can be compared.
    const FULL: Self = Self {
        flood_mb: 50,
        turns: 5000,
        qmp_pieces: 20,
        capture_mb: 1000,
        frames: 2000,
        containers: 5,
        at_once: &[1, 2, 3, 4, 6, 8, 12, 16],
        tests: usize::MAX,
    };

    /// Shows that everything can be measured. The figures mean nothing.
    const SMOKE: Self = Self {
        flood_mb: 1,
        turns: 3,
        qmp_pieces: 1,
        capture_mb: 1,
        frames: 20,
        containers: 1,
        at_once: &[1],
        tests: 1,
    };

    /// The size of this name: `full` or `smoke`.
    pub(crate) fn named(name: &str) -> Result<Self> {
        match name {
            "full" => Ok(Self::FULL),
            "smoke" => Ok(Self::SMOKE),
            other => bail!("the size is full or smoke, not {other}"),
        }
    }
}
