// SPDX-License-Identifier: GPL-3.0-or-later
//! The processor time that the host gave the machines of a run.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alpy_qemu::{ProcessorTime, Schedule};
use alpy_qmp::Timer;

/// What each machine had, by its number; `None` where that is not known.
pub(crate) type Times = Vec<Option<ProcessorTime>>;

/// The schedules of all QEMU processes of a run, with the number of the machine that each one is. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Schedules(Arc<Mutex<Vec<(usize, Schedule)>>>);

impl Schedules {
    pub(crate) fn add(&self, machine: usize, schedule: Schedule) {
        self.lock().push((machine, schedule));
    }

    /// The processor time of each machine up to now. A machine may be several processes, one after another.
    pub(crate) fn now(&self) -> Times {
        let mut times = Times::new();
        for (machine, schedule) in self.lock().iter() {
            times.resize(times.len().max(machine + 1), None);
            if let Some(time) = schedule.now() {
                times[*machine] = Some(times[*machine].unwrap_or_default() + time);
            }
        }
        times
    }

    /// A timer for waits for any of the machines.
    pub(crate) fn timer(&self) -> Timer {
        let schedules = self.clone();
        alpy_qemu::timer(move || {
            schedules
                .now()
                .into_iter()
                .map(Option::unwrap_or_default)
                .collect()
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(usize, Schedule)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What each machine had after an earlier reading.
pub(crate) fn since(now: &[Option<ProcessorTime>], earlier: &[Option<ProcessorTime>]) -> Times {
    let before = |machine: usize| earlier.get(machine).copied().flatten().unwrap_or_default();
    let since = |(machine, time): (usize, &Option<ProcessorTime>)| Some((*time)?.since(&before(machine)));
    now.iter().enumerate().map(since).collect()
}

/// For people: a sentence for each machine, about the whole run and about the step that failed.
pub(crate) fn sentences(
    run: &[Option<ProcessorTime>],
    failing_step: &[Option<ProcessorTime>],
) -> Vec<String> {
    let percent = |time: &ProcessorTime| format!("{:.0} %", 100.0 * time.share());
    let sentence = |(machine, time): (usize, &Option<ProcessorTime>)| {
        let whole = percent(&(*time)?);
        let step = match failing_step.get(machine).copied().flatten() {
            Some(step) => format!(", {} in the failing step", percent(&step)),
            None => String::new(),
        };
        Some(format!(
            "the host gave machine {machine} {whole} of the processor time it was ready to use{step}"
        ))
    };
    run.iter().enumerate().filter_map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_share_each_machine_had() {
        let none = Some(ProcessorTime::default());
        assert_eq!(
            sentences(&[none, None, none], &[none]),
            [
                "the host gave machine 0 100 % of the processor time it was ready to use, 100 % in the failing step",
                "the host gave machine 2 100 % of the processor time it was ready to use"
            ]
        );
        assert_eq!(since(&[none, None], &[]), [none, None]);
    }
}
