// SPDX-License-Identifier: GPL-3.0-or-later
//! The processor time that a machine had, and the time for which it was ready to run and did not.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alpy_qmp::Timer;
use tokio::time::sleep;

/// A wait takes at most so many times its limit.
const MOST: u32 = 10;

/// The shortest pause between two looks of a timer.
const LOOK: Duration = Duration::from_millis(10);

/// Stands for a limit that the clock cannot hold.
const FOREVER: Duration = Duration::from_secs(1 << 30);

/// A machine that is starved for more than this part of a stretch of time is [starved](ProcessorTime::is_starved) in it.
const TOLERATED: f64 = 0.05;

/// The scheduling of a QEMU process, from `/proc/PID/task/TID/schedstat` (Linux, Documentation/scheduler/sched-stats.rst). Clones share what
/// was read.
#[derive(Debug, Clone)]
pub struct Schedule {
    task: Arc<PathBuf>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Of each thread: time on a processor, and time in a run queue.
    threads: HashMap<u32, [Duration; 2]>,
    /// None if the kernel does not tell.
    total: Option<ProcessorTime>,
    began: Instant,
}

/// Processor time of a machine, counted from its start, or from an [earlier](Self::since) moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProcessorTime {
    passed: Duration,
    ran: Duration,
    waited: Duration,
    starved: Duration,
}

impl ProcessorTime {
    /// The wall time.
    pub fn passed(&self) -> Duration {
        self.passed
    }

    /// The time for which QEMU's threads ran on a processor, all threads together.
    pub fn ran(&self) -> Duration {
        self.ran
    }

    /// The time for which QEMU's threads were ready to run and waited for a processor, all threads together.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// The wall time for which the machine was ready to run and did not run: at least one thread waited for a processor. It is a lower
    /// bound: if two threads wait in turn, the longer wait counts. It is never more than the wall time.
    pub fn starved(&self) -> Duration {
        self.starved
    }

    /// The share that the machine got of the processor time that it was ready to use, from 0 to 1. It is 1 for a machine that was never ready.
    pub fn share(&self) -> f64 {
        let (ran, waited) = (self.ran.as_secs_f64(), self.waited.as_secs_f64());
        if ran + waited > 0.0 {
            ran / (ran + waited)
        } else {
            1.0
        }
    }

    /// Whether the host kept the machine from running for more than 5 % of the wall time. A rate or a delay that was measured meanwhile
    /// says nothing about the machine.
    pub fn is_starved(&self) -> bool {
        self.starved.as_secs_f64() > TOLERATED * self.passed.as_secs_f64()
    }

    /// What came after an earlier reading of the same machine.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            passed: self.passed.saturating_sub(earlier.passed),
            ran: self.ran.saturating_sub(earlier.ran),
            waited: self.waited.saturating_sub(earlier.waited),
            starved: self.starved.saturating_sub(earlier.starved),
        }
    }
}

/// The times of one machine that several processes were, one after another.
impl std::ops::Add for ProcessorTime {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            ran: self.ran + other.ran,
            waited: self.waited + other.waited,
            starved: self.starved + other.starved,
        }
    }
}

impl Schedule {
    /// Of the process with this id, which has just been started.
    pub(crate) fn of(pid: u32) -> Self {
        let now = Instant::now();
        Self {
            task: Arc::new(format!("/proc/{pid}/task").into()),
            state: Arc::new(Mutex::new(State {
                threads: HashMap::new(),
                total: read(Path::new(&format!("/proc/{pid}/task"))).map(|_| ProcessorTime::default()),
                began: now,
            })),
        }
    }

    /// A timer that does not count the time in which this machine was kept from running; see [`timer()`].
    pub fn timer(&self) -> Timer {
        let schedule = self.clone();
        timer(move || schedule.now().into_iter().collect())
    }

    /// The processor time up to now; once QEMU has ended, up to the last reading before. `None` where the kernel has no schedstat, or hides
    /// it. A reading takes some ten microseconds.
    pub fn now(&self) -> Option<ProcessorTime> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let total = state.total?;
        if let Some(threads) = read(&self.task) {
            let now = state.began.elapsed();
            let next = total + state.growth(&threads, now.saturating_sub(total.passed));
            state.threads = threads;
            state.total = Some(next);
        }
        state.total
    }
}

impl State {
    /// What the threads have done since the last reading, which was so long ago.
    fn growth(&self, threads: &HashMap<u32, [Duration; 2]>, passed: Duration) -> ProcessorTime {
        let mut growth = ProcessorTime {
            passed,
            ..ProcessorTime::default()
        };
        for (id, [ran, waited]) in threads {
            // A thread that has done less than before is another one with the same number.
            let before = self.threads.get(id).filter(|[before, _]| before <= ran);
            let [ran_before, waited_before] = before.copied().unwrap_or_default();
            let waited = waited.saturating_sub(waited_before);
            growth.ran += *ran - ran_before;
            growth.waited += waited;
            growth.starved = growth.starved.max(waited);
        }
        growth.starved = growth.starved.min(passed);
        growth
    }
}

/// A timer that does not count the time for which the most starved of these machines was kept from running. A wait takes at most ten times
/// its limit. Where the kernel has no schedstat, all time counts.
pub fn timer(machines: impl Fn() -> Vec<ProcessorTime> + Send + Sync + 'static) -> Timer {
    let machines = Arc::new(machines);
    Arc::new(move |limit| {
        let machines = Arc::clone(&machines);
        let (began, before) = (Instant::now(), machines());
        let starved = move || {
            let now = machines();
            let starved = now.iter().enumerate().map(|(index, now)| {
                // A machine that was not there yet has been starved since it started.
                now.since(before.get(index).unwrap_or(&ProcessorTime::default()))
                    .starved()
            });
            starved.max().unwrap_or_default()
        };
        Box::pin(measure(limit.min(FOREVER), began, starved))
    })
}

#[expect(clippy::disallowed_methods, reason = "the time is what is asked for")]
async fn measure(limit: Duration, began: Instant, starved: impl Fn() -> Duration) {
    let mut counted = Duration::ZERO;
    while counted < limit {
        sleep((limit - counted).max(LOOK.min(limit))).await;
        let passed = began.elapsed();
        if passed >= limit.saturating_mul(MOST) {
            return;
        }
        counted = passed.saturating_sub(starved());
    }
}

/// Time on a processor and in a run queue of each thread; `None` where that is not to be had.
fn read(task: &Path) -> Option<HashMap<u32, [Duration; 2]>> {
    let mut threads = HashMap::new();
    for entry in fs::read_dir(task).ok()?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A thread may end meanwhile.
        let text = fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
        threads.extend(parse(&text).map(|times| (id, times)));
    }
    (!threads.is_empty()).then_some(threads)
}

fn parse(text: &str) -> Option<[Duration; 2]> {
    let mut fields = text.split_ascii_whitespace().map(str::parse);
    let mut next = || Some(Duration::from_nanos(fields.next()?.ok()?));
    Some([next()?, next()?])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    fn state(threads: &[(u32, u64, u64)]) -> HashMap<u32, [Duration; 2]> {
        let times = |(id, ran, waited): &(u32, u64, u64)| (*id, [seconds(*ran), seconds(*waited)]);
        threads.iter().map(times).collect()
    }

    #[test]
    fn reads_what_the_kernel_writes() {
        assert_eq!(
            parse("12 34 5\n"),
            Some([Duration::from_nanos(12), Duration::from_nanos(34)])
        );
        assert_eq!(parse(""), None);
        assert_eq!(parse("12\n"), None);
        let own = Schedule::of(std::process::id()).now().unwrap();
        assert!(
            own.ran() > Duration::ZERO && own.starved() <= own.passed(),
            "{own:?}"
        );
    }

    #[test]
    fn a_machine_is_starved_for_as_long_as_its_longest_wait_and_not_longer_than_time_passed() {
        let before = State {
            threads: state(&[(1, 1, 1), (2, 5, 0), (3, 9, 9)]),
            total: None,
            began: Instant::now(),
        };
        // Thread 3 has ended, and another one has its number.
        let after = state(&[(1, 1, 3), (2, 6, 3), (3, 1, 0), (4, 0, 1)]);
        let growth = before.growth(&after, seconds(10));
        assert_eq!((growth.ran(), growth.waited()), (seconds(2), seconds(6)));
        assert_eq!(growth.starved(), seconds(3));
        assert!(
            (growth.share() - 0.25).abs() < 1e-9 && growth.is_starved(),
            "{growth:?}"
        );
        assert_eq!(before.growth(&after, seconds(2)).starved(), seconds(2));
        assert_eq!(growth.since(&growth), ProcessorTime::default());
        assert!(!ProcessorTime::default().is_starved());
    }

    #[test]
    fn a_process_whose_schedule_nobody_tells_is_not_starved() {
        // No process has this number: proc(5), /proc/sys/kernel/pid_max.
        assert_eq!(Schedule::of(u32::MAX).now(), None);
    }

    /// A timer beside a machine that is starved for this many milliseconds more with each look.
    fn beside(starved_ms: u64) -> (Timer, Arc<AtomicU64>) {
        let looks = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&looks);
        let machines = move || {
            let look = counter.fetch_add(1, Ordering::Relaxed);
            vec![ProcessorTime {
                starved: Duration::from_millis(look * starved_ms),
                ..ProcessorTime::default()
            }]
        };
        (timer(machines), looks)
    }

    #[tokio::test]
    async fn a_limit_does_not_count_starved_time_up_to_ten_times_itself() {
        let limit = Duration::from_millis(40);
        for (starved_ms, least, looks_least) in [(0, 1, 2), (20, 2, 3), (1_000_000, 10, 4)] {
            let (timer, looks) = beside(starved_ms);
            let began = Instant::now();
            timer(limit).await;
            assert!(
                began.elapsed() >= limit * least - Duration::from_millis(21),
                "{starved_ms}"
            );
            assert!(looks.load(Ordering::Relaxed) >= looks_least, "{starved_ms}");
        }
    }

    #[tokio::test]
    async fn a_limit_of_nothing_is_over_at_once_and_a_huge_one_never() {
        let (timer, looks) = beside(1_000);
        timer(Duration::ZERO).await;
        assert_eq!(looks.load(Ordering::Relaxed), 1);
        let mut huge = timer(Duration::MAX);
        let polled =
            std::future::poll_fn(|context| std::task::Poll::Ready(huge.as_mut().poll(context).is_pending()));
        assert!(polled.await);
    }
}
