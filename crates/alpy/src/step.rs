// SPDX-License-Identifier: GPL-3.0-or-later
//! Steps: what a test is doing, in words.
//!
//! [`step!`](crate::step!) logs `text...`, runs a future, and logs how it ended: `done`, `failed` or `cancelled`. The testbed that runs
//! the test remembers which step is under way, so that a failure or a time-out names it, and how long each one took. A command of a guest's
//! shell is a step too, at the level DEBUG.

pub(crate) mod command;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use alpy_qemu::ProcessorTime;
use alpy_qmp::Timer;
use tokio::time::{interval_at, timeout};

use crate::processor::{self, Schedules, Times};

tokio::task_local! {
    static STEPS: Arc<Steps>;
    /// The number of the step that the code at hand is in.
    static WITHIN: u64;
}

/// Logs `text...`, awaits the future, and logs `text... done` or `text... failed`; evaluates to the future's result. The innermost step under
/// way also says every 10 s that it is: `text... for 20 s now`.
///
/// The lines carry the target of the calling module, or the one given first. With `within:` the step has a part of the test's
/// deadline for its own: past it the future is dropped and the step fails with [`StepTimeout`], which the future's error has to
/// be made from (`From`), as alpy's own, `anyhow`'s and boxed ones are.
///
/// Cancel safe as the future is. A step that is dropped in the middle logs `text... cancelled`: another step beside it failed, or a time limit
/// around it expired. One in which something panics logs `text... failed`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> alpy::TestResult {
/// # use std::time::Duration;
/// let sum = alpy::step!("Add two numbers", async { Ok::<_, std::io::Error>(1 + 1) }).await?;
/// assert_eq!(sum, 2);
/// let godot = std::future::pending::<alpy::TestResult>();
/// let late = alpy::step!(within: Duration::from_millis(10), "Wait for Godot", godot).await;
/// assert_eq!(late.unwrap_err().to_string(), "it did not end within 10ms");
/// # Ok(()) }
/// ```
#[macro_export]
macro_rules! step {
    (target: $target:expr, within: $limit:expr, $text:expr, $future:expr $(,)?) => {
        $crate::step!(target: $target, $text, $crate::__private::within($limit, $future))
    };
    (target: $target:expr, $text:expr, $future:expr $(,)?) => {
        $crate::__private::run_step(
            ::std::string::String::from($text),
            |line: &str| $crate::__private::tracing::info!(target: $target, "{line}"),
            $future,
        )
    };
    (within: $limit:expr, $text:expr, $future:expr $(,)?) => {
        $crate::step!(target: module_path!(), within: $limit, $text, $future)
    };
    ($text:expr, $future:expr $(,)?) => {
        $crate::step!(target: module_path!(), $text, $future)
    };
}

/// A step that was not at its end when its time was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it did not end within {after:?}")]
#[non_exhaustive]
pub struct StepTimeout {
    /// The time it had.
    pub after: Duration,
}

/// The steps of one test: those under way, and where the first failure happened.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    state: Mutex<State>,
    schedules: Schedules,
}

#[derive(Debug, Default)]
struct State {
    /// In the order in which they began. Several may be under way beside each other, each within another one.
    under_way: Vec<UnderWay>,
    count: u64,
    failed: Option<Failed>,
    /// The last of the outermost steps that ended.
    spent: VecDeque<Spent>,
    /// The first steps that began, in the order of their numbers.
    records: Vec<StepRecord>,
    /// How many commands began.
    commands: usize,
}

/// What a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A step of the test, or of alpy.
    Step,
    /// A command of a guest's shell.
    Command,
}

/// A line of "where the time went".
#[derive(Debug)]
struct Spent {
    text: String,
    took: Duration,
    /// The number of short commands, one after another, that the line stands for; 0 for a step.
    commands: usize,
    /// The longest commands within it, in their order.
    within: Vec<(String, Duration)>,
}

/// A step, for the run's report.
#[derive(Debug, Clone)]
pub(crate) struct StepRecord {
    /// Its place in the list, from 1.
    pub(crate) number: u64,
    /// The number of the step that it was a part of.
    pub(crate) within: Option<u64>,
    pub(crate) text: String,
    pub(crate) began: SystemTime,
    /// How long it took, and how it ended; `None` while it is under way.
    pub(crate) ended: Option<(Duration, StepEnd)>,
    /// Whether it is a command of a guest's shell, and its exit code if it has one.
    pub(crate) is_command: bool,
    pub(crate) exit_code: Option<i32>,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepEnd {
    Done,
    Failed,
    /// Its future was dropped before it was ready.
    Cancelled,
}

impl fmt::Display for StepEnd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        })
    }
}

#[derive(Debug)]
struct UnderWay {
    number: u64,
    within: Option<u64>,
    kind: Kind,
    text: String,
    /// The machines' processor time when it began.
    before: Times,
    /// The longest commands within it that ended, if it is an outermost one.
    commands: Vec<(String, Duration)>,
}

#[derive(Debug)]
struct Failed {
    path: String,
    /// The steps that it is within.
    outer: Vec<u64>,
    /// Whether only commands have failed.
    is_command: bool,
    /// The machines' processor time during the step.
    processor: Times,
}

/// After each of these, a step that is under way says so.
const SLOW: Duration = Duration::from_secs(10);

/// How many steps that ended are remembered.
const REMEMBERED: usize = 30;

/// The most steps that are recorded. [`command::RECORDED`] limits the commands among them.
const RECORDED: usize = 10_000;

/// A command that takes at least this long has a line of its own in "where the time went".
const LONG_COMMAND: Duration = Duration::from_secs(1);
/// For a step, so many of its longest commands are shown.
const LONG_COMMANDS: usize = 3;

impl Steps {
    /// The step that failed, else the one under way, as a path from the outermost to the innermost.
    pub(crate) fn where_it_is(&self) -> Option<String> {
        let state = self.lock();
        let failed = state.failed.as_ref().map(|failed| failed.path.clone());
        failed.or_else(|| state.innermost())
    }

    /// The processor time that the machines had during the step that failed, else during the one under way; empty if there is none.
    pub(crate) fn processor_where_it_is(&self) -> Times {
        let now = self.schedules.now();
        let state = self.lock();
        let under_way = || {
            let mut inner = state.under_way.iter().filter(|step| !state.is_outer(step.number));
            inner.next().map(|step| processor::since(&now, &step.before))
        };
        let failed = state.failed.as_ref().map(|failed| failed.processor.clone());
        failed.or_else(under_way).unwrap_or_default()
    }

    /// Steps beside machines that start and end meanwhile.
    pub(crate) fn beside(schedules: Schedules) -> Self {
        Self {
            state: Mutex::default(),
            schedules,
        }
    }

    /// The schedules of the machines.
    pub(crate) fn schedules(&self) -> &Schedules {
        &self.schedules
    }

    /// The last of the outermost steps that ended.
    pub(crate) fn last_ended(&self) -> Option<String> {
        self.lock().spent.back().map(|spent| spent.text.clone())
    }

    /// Where the time went: a line for each of the last steps that ended.
    pub(crate) fn times(&self) -> Vec<String> {
        self.lock().spent.iter().flat_map(Spent::lines).collect()
    }

    /// When each of the steps began.
    pub(crate) fn begun(&self) -> Vec<(SystemTime, String)> {
        let state = self.lock();
        let begun = state.records.iter().map(|step| (step.began, step.text.clone()));
        begun.collect()
    }

    /// The first steps, with their ends where they have any.
    pub(crate) fn records(&self) -> Vec<StepRecord> {
        self.lock().records.clone()
    }

    /// How many commands are not among the [records](Self::records).
    pub(crate) fn commands_left_out(&self) -> usize {
        self.lock().commands.saturating_sub(command::RECORDED)
    }

    /// Runs a future in which every step is one of these.
    pub(crate) async fn scope<F: Future>(self: &Arc<Self>, future: F) -> F::Output {
        STEPS.scope(Arc::clone(self), future).await
    }

    fn begin(&self, text: &str, kind: Kind) -> u64 {
        let before = self.schedules.now();
        self.lock().begin(text, kind, before)
    }

    fn end(&self, number: u64, end: StepEnd, exit_code: Option<i32>, took: Duration) {
        let now = self.schedules.now();
        self.lock().end(number, end, exit_code, took, &now);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`step!`](crate::step!) expands to.
pub fn run_step<T, E>(
    text: String,
    log: impl Fn(&str),
    future: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<T, E>> {
    // An async function holds its arguments twice, so that steps within steps would double in size with each level.
    let future = Box::pin(future);
    async move {
        let mut step = Step::begin(text, log);
        let result = match step.number {
            Some(number) => step.watch(WITHIN.scope(number, future)).await,
            None => step.watch(future).await,
        };
        step.end = match result {
            Ok(_) => StepEnd::Done,
            Err(_) => StepEnd::Failed,
        };
        result
    }
}

/// What `within:` of [`step!`](crate::step!) expands to.
pub async fn within<T, E: From<StepTimeout>>(
    limit: Duration,
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match timeout(limit, future).await {
        Ok(result) => result,
        Err(_) => Err(StepTimeout { after: limit }.into()),
    }
}

/// The same where the limit is measured by a timer.
pub(crate) async fn within_timed<T, E: From<StepTimeout>>(
    timer: &Timer,
    limit: Duration,
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::select! {
        biased;
        result = future => result,
        () = timer(limit) => Err(StepTimeout { after: limit }.into()),
    }
}

struct Step<L: Fn(&str)> {
    text: String,
    began: Instant,
    log: L,
    steps: Option<Arc<Steps>>,
    number: Option<u64>,
    /// How it ends if it is dropped now.
    end: StepEnd,
}

impl<L: Fn(&str)> Step<L> {
    fn begin(text: String, log: L) -> Self {
        log(&format!("{text}..."));
        let steps = STEPS.try_with(Arc::clone).ok();
        let number = steps.as_ref().map(|steps| steps.begin(&text, Kind::Step));
        Self {
            text,
            began: Instant::now(),
            log,
            steps,
            number,
            end: StepEnd::Cancelled,
        }
    }

    /// Awaits what the step is about, and says now and then that it is not there yet.
    async fn watch<F: Future>(&self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        let begin = tokio::time::Instant::now();
        let mut looks = interval_at(begin + SLOW, SLOW);
        loop {
            tokio::select! {
                biased;
                result = &mut future => return result,
                now = looks.tick() => if self.is_innermost() {
                    (self.log)(&format!("{}... for {} s now", self.text, (now - begin).as_secs()));
                },
            }
        }
    }

    fn is_innermost(&self) -> bool {
        match (&self.steps, self.number) {
            // A command within the step does not log progress, so the step must.
            (Some(steps), Some(number)) => !steps.lock().is_around(number, Kind::Step),
            _ => true,
        }
    }
}

impl<L: Fn(&str)> Drop for Step<L> {
    fn drop(&mut self) {
        let end = match self.end {
            StepEnd::Cancelled if std::thread::panicking() => StepEnd::Failed,
            end => end,
        };
        if let (Some(steps), Some(number)) = (&self.steps, self.number) {
            steps.end(number, end, None, self.began.elapsed());
        }
        (self.log)(&format!("{}... {end}", self.text));
    }
}

impl State {
    fn begin(&mut self, text: &str, kind: Kind, before: Times) -> u64 {
        self.count += 1;
        let within = WITHIN.try_with(|number| *number).ok();
        self.under_way.push(UnderWay {
            number: self.count,
            within,
            kind,
            text: text.to_owned(),
            before,
            commands: Vec::new(),
        });
        let is_command = kind == Kind::Command;
        self.commands += usize::from(is_command);
        if self.records.len() < RECORDED && (!is_command || self.commands <= command::RECORDED) {
            self.records.push(StepRecord {
                number: self.count,
                within,
                text: text.to_owned(),
                began: SystemTime::now(),
                ended: None,
                is_command,
                exit_code: None,
            });
        }
        // The test goes on, so it has dealt with the failure of an earlier step. A command may be about to find out why a step failed.
        if !is_command || self.failed.as_ref().is_some_and(|failed| failed.is_command) {
            self.failed = None;
        }
        self.count
    }

    fn end(
        &mut self,
        number: u64,
        end: StepEnd,
        exit_code: Option<i32>,
        took: Duration,
        now: &[Option<ProcessorTime>],
    ) {
        let ending = self.under_way.iter().find(|step| step.number == number);
        let is_command = ending.is_some_and(|step| step.kind == Kind::Command);
        // At a deadline all steps are cancelled, and the innermost, which ends first, tells where the test was.
        match &mut self.failed {
            // The outer step succeeded, so it has dealt with the failure within it.
            Some(failed) if end == StepEnd::Done && failed.outer.contains(&number) => self.failed = None,
            Some(failed) if end != StepEnd::Done => failed.is_command &= is_command,
            None if end != StepEnd::Done => {
                let processor = ending.map(|step| processor::since(now, &step.before));
                let outer = self.outwards(number).skip(1).map(|step| step.number);
                self.failed = Some(Failed {
                    path: self.path(number),
                    outer: outer.collect(),
                    is_command,
                    processor: processor.unwrap_or_default(),
                });
            }
            _ => {}
        }
        if let Ok(place) = self.records.binary_search_by_key(&number, |step| step.number) {
            let record = &mut self.records[place];
            (record.ended, record.exit_code) = (Some((took, end)), exit_code);
        }
        let Some(at) = self.under_way.iter().position(|step| step.number == number) else {
            return;
        };
        let outermost = self.outwards(number).last().map_or(number, |step| step.number);
        let step = self.under_way.remove(at);
        if step.within.is_none() {
            self.spend(step, took);
        } else if is_command && took >= LONG_COMMAND {
            let mut outermost = self.under_way.iter_mut().filter(|step| step.number == outermost);
            if let Some(outermost) = outermost.next() {
                outermost.commands.push((step.text, took));
                keep_longest(&mut outermost.commands);
            }
        }
    }

    /// Notes where the time of an outermost step went.
    fn spend(&mut self, step: UnderWay, took: Duration) {
        let commands = usize::from(step.kind == Kind::Command && took < LONG_COMMAND);
        match self.spent.back_mut() {
            Some(last) if commands > 0 && last.commands > 0 => {
                last.text = step.text;
                last.took += took;
                last.commands += 1;
                return;
            }
            _ => {}
        }
        if self.spent.len() == REMEMBERED {
            self.spent.pop_front();
        }
        self.spent.push_back(Spent {
            text: step.text,
            took,
            commands,
            within: step.commands,
        });
    }

    /// A step and what it is within, innermost first.
    fn outwards(&self, number: u64) -> impl Iterator<Item = &UnderWay> {
        let find = |number: u64| self.under_way.iter().find(move |step| step.number == number);
        std::iter::successors(find(number), move |step| find(step.within?))
    }

    /// A step and what it is within, outermost first.
    fn path(&self, number: u64) -> String {
        let mut texts: Vec<_> = self.outwards(number).map(|step| step.text.as_str()).collect();
        texts.reverse();
        texts.join(" > ")
    }

    /// Whether another step is within this one.
    fn is_outer(&self, number: u64) -> bool {
        self.under_way.iter().any(|step| step.within == Some(number))
    }

    /// Whether one of this kind is within it.
    fn is_around(&self, number: u64, kind: Kind) -> bool {
        let mut within = self.under_way.iter().filter(|step| step.within == Some(number));
        within.any(|step| step.kind == kind)
    }

    /// All steps under way that no other one is within.
    fn innermost(&self) -> Option<String> {
        let inner = self.under_way.iter().filter(|step| !self.is_outer(step.number));
        let paths: Vec<_> = inner.map(|step| self.path(step.number)).collect();
        (!paths.is_empty()).then(|| paths.join("; "))
    }
}

impl Spent {
    fn lines(&self) -> Vec<String> {
        let line = |text: &str, took: Duration| format!("{:6.1} s  {text}", took.as_secs_f64());
        let text = match self.commands {
            0 | 1 => self.text.clone(),
            count => format!("{count} commands, the last of them: {}", self.text),
        };
        let within = self.within.iter();
        let within = within.map(|(text, took)| line(&format!("  of which {text}"), *took));
        std::iter::once(line(&text, self.took)).chain(within).collect()
    }
}

fn keep_longest(commands: &mut Vec<(String, Duration)>) {
    if commands.len() > LONG_COMMANDS {
        let shortest = commands.iter().enumerate().min_by_key(|(_, (_, took))| *took);
        let place = shortest.map_or(0, |(place, _)| place);
        commands.remove(place);
    }
}

#[cfg(test)]
mod tests;
