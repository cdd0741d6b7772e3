// SPDX-License-Identifier: GPL-3.0-or-later
//! The time that a process may take.

use std::fs;
use std::time::Duration;

use nix::unistd::Pid;

use crate::engine::remains;

/// A limit that may leave out the time in which the host kept a process from running.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    counted: Duration,
    most: Duration,
}

impl From<Duration> for Limit {
    /// All time counts.
    fn from(limit: Duration) -> Self {
        Self {
            counted: limit,
            most: limit,
        }
    }
}

impl Limit {
    /// A limit that does not count the time for which the process or a descendant was ready to run but did not run. In all it is `most` at most.
    pub const fn of_running(counted: Duration, most: Duration) -> Self {
        Self { counted, most }
    }

    /// The time until the next look at the clock.
    pub fn first(self) -> Duration {
        self.counted.min(self.most)
    }

    /// The time left for a process that has run for `passed`; `None` if there is none.
    pub fn left(self, passed: Duration, pid: Pid) -> Option<Duration> {
        if passed >= self.most {
            return None;
        }
        self.left_of(passed, waited(pid).min(passed))
    }

    fn left_of(self, passed: Duration, starved: Duration) -> Option<Duration> {
        let left = (self.counted + starved).min(self.most);
        Some(left.saturating_sub(passed)).filter(|left| !left.is_zero())
    }
}

/// The longest time for which a thread of the process or of a descendant has waited for a processor. The kernel adds a wait when it ends: proc(5),
/// Documentation/scheduler/sched-stats.rst. Zero if the kernel has no schedstat.
fn waited(pid: Pid) -> Duration {
    let mut pids = remains::descendants_of(pid);
    pids.push(pid);
    let tasks = pids
        .iter()
        .flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten());
    let waited = tasks.flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().nth(1)?.parse().ok()
    });
    Duration::from_nanos(waited.max().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use nix::sys::signal::{Signal, kill};

    use super::*;
    use crate::process::{self, Kind};

    const fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn the_time_for_which_a_process_waited_does_not_count_up_to_a_limit() {
        let limit = Limit::of_running(ms(100), ms(550));
        assert_eq!(limit.first(), ms(100));
        assert_eq!(limit.left_of(ms(100), ms(0)), None);
        assert_eq!(limit.left_of(ms(100), ms(80)), Some(ms(80)));
        assert_eq!(limit.left_of(ms(540), ms(500)), Some(ms(10)));
        assert_eq!(limit.left_of(ms(550), ms(540)), None);
        assert_eq!(Limit::from(ms(100)).left_of(ms(100), ms(90)), None);
    }

    /// How long the process takes until it is ended.
    fn took(script: &str) -> Duration {
        let mut command = process::command("sh");
        command.args(["-c", script]);
        let limit = Limit::of_running(ms(500), ms(3000));
        let began = Instant::now();
        let ended = process::follow(command, Kind::Group, Some(limit), |_, _| {}).unwrap();
        assert!(ended.timed_out);
        began.elapsed()
    }

    #[test]
    fn a_process_that_is_kept_from_running_has_more_time_than_one_that_hangs() {
        // Beside one busy process, which is no descendant of it, a process of this niceness has a quarter of the processor.
        let mut busy = process::command("sh");
        busy.args(["-c", "cpu=$(taskset -cp $$ | grep -o '[0-9]*$'); echo $$ $cpu; exec taskset -c $cpu sh -c 'while :; do :; done'"]);
        let (sender, cpu) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let limit = Duration::from_secs(60);
            process::follow(busy, Kind::Group, Some(limit.into()), |_, line| {
                let _ = sender.send(line.trim().to_owned());
            })
        });
        let line: String = cpu.recv().unwrap();
        let (busy, cpu) = line.split_once(' ').unwrap();
        assert!(took("exec sleep 60") >= ms(500));
        let starved = took(&format!(
            "exec nice -n 5 taskset -c {cpu} sh -c 'while :; do :; done'"
        ));
        assert!(starved > ms(1200), "{starved:?}");
        // A descendant of it counts too.
        let child = took(&format!(
            "nice -n 5 taskset -c {cpu} sh -c 'while :; do :; done' & wait"
        ));
        kill(Pid::from_raw(busy.parse().unwrap()), Signal::SIGKILL).unwrap();
        assert!(child > ms(1200), "{child:?}");
    }
}
