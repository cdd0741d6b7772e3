// SPDX-License-Identifier: GPL-3.0-or-later
//! Which end a testbed takes, and when.

use std::env;
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::libc::{SIGABRT, SIGINT, SIGKILL, SIGTERM};

/// How a test comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Nobody ends it.
    Passes,
    Sigkill,
    Sigterm,
    Sigint,
    /// A panic in the body.
    Panic,
    /// A panic while another one unwinds, for which Rust aborts.
    DoublePanic,
    Abort,
    /// A test runner that loses its patience: SIGTERM for the process group, SIGKILL a little later.
    RunnerTimeout,
}

impl End {
    /// All that a storm has.
    const ALL: [Self; 7] = [
        Self::Sigkill,
        Self::Sigterm,
        Self::Sigint,
        Self::Panic,
        Self::DoublePanic,
        Self::Abort,
        Self::RunnerTimeout,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Passes => "passes",
            Self::Sigkill => "sigkill",
            Self::Sigterm => "sigterm",
            Self::Sigint => "sigint",
            Self::Panic => "panic",
            Self::DoublePanic => "double-panic",
            Self::Abort => "abort",
            Self::RunnerTimeout => "runner-timeout",
        }
    }

    /// Whether the process goes on after its testbed until this ends it. So the moment always comes before its end.
    pub(crate) fn is_awaited(self) -> bool {
        !matches!(self, Self::Passes | Self::Panic | Self::DoublePanic)
    }

    pub(crate) fn of_name(name: &str) -> Self {
        let all = Self::ALL.into_iter().chain([Self::Passes]);
        let names: Vec<_> = Self::ALL.iter().map(|end| end.name()).collect();
        all.into_iter()
            .find(|end| end.name() == name)
            .unwrap_or_else(|| panic!("no such end: {name}; there are: {}", names.join(", ")))
    }
}

/// One round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) round: u32,
    pub(crate) end: End,
    /// From the start of the process; for a panic, from the start of the body.
    pub(crate) after: Duration,
}

impl Plan {
    pub(crate) fn new(round: u32, end: End, after: Duration) -> Self {
        Self { round, end, after }
    }

    /// Whether a process that this happens to may end so. One that is waiting for its end does not pass: see [`End::is_awaited`].
    pub(crate) fn explains(&self, status: ExitStatus) -> bool {
        let by = |signal: i32| status.signal() == Some(signal);
        match self.end {
            End::Passes => status.success(),
            End::Sigkill => by(SIGKILL),
            End::Sigterm => by(SIGTERM),
            End::Sigint => by(SIGINT),
            // libtest's status of a test that failed.
            End::Panic => status.code() == Some(101),
            End::DoublePanic | End::Abort => by(SIGABRT),
            End::RunnerTimeout => by(SIGTERM) || by(SIGKILL),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {} ms", self.end.name(), self.after.as_millis())
    }
}

/// What the environment asks for; the short form of a storm if nothing.
pub(crate) struct Settings {
    pub(crate) rounds: u32,
    pub(crate) seed: u64,
    end: Option<End>,
    after: Option<Duration>,
}

impl Settings {
    pub(crate) fn from_env() -> Self {
        let number = |name: &str| {
            let text = env::var(name).ok()?;
            let number: Result<u64, _> = text.parse();
            Some(number.unwrap_or_else(|error| panic!("{name}={text:?}: {error}")))
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Self {
            rounds: number("ALPY_STORM_ROUNDS").map_or(8, |rounds| rounds.try_into().unwrap()),
            seed: number("ALPY_STORM_SEED").unwrap_or(u64::from(now.subsec_nanos())),
            end: env::var("ALPY_STORM_END").ok().map(|name| End::of_name(&name)),
            after: number("ALPY_STORM_AFTER_MS").map(Duration::from_millis),
        }
    }

    /// Each end as often as the others, at a moment between the start of a process and its end.
    pub(crate) fn plan(&self, round: u32, whole: Duration, random: &mut Random) -> Plan {
        let end = End::ALL[round as usize % End::ALL.len()];
        let end = self.end.unwrap_or(end);
        // The body of the child is there for half a second.
        let range = match end {
            End::Panic | End::DoublePanic => Duration::from_millis(500),
            _ => whole,
        };
        // Drawn in any case, so that the later rounds do not depend on the settings.
        let after = range.mul_f64(random.fraction());
        Plan::new(round, end, self.after.unwrap_or(after))
    }
}

/// The same numbers for the same seed: splitmix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From 0 up to 1.
    fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let number = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap();
        f64::from(number) / (f64::from(u32::MAX) + 1.0)
    }
}
