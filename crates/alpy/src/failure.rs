// SPDX-License-Identifier: GPL-3.0-or-later
//! A test that did not pass, with all that is needed to see why.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Overload};
use crate::panics;
use crate::processor::Times;
use crate::report::{FailureRecord, LastOnLink, Wire, Words};
use crate::signals::Interrupt;

/// Any error of a test's body.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// What a test's body returns when it has no error type of its own.
pub type TestResult<T = ()> = Result<T, BoxError>;

/// Why a test did not pass.
///
/// Its text names the first failure, the step it happened in, what the console showed last, what QEMU's monitor said last and what was last
/// on each link, then what went wrong in the teardown, and where the evidence is.
pub struct Failure(Box<Report>);

#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) test: String,
    pub(crate) cause: Cause,
    pub(crate) step: Option<String>,
    /// The last step that had ended, if none was under way.
    pub(crate) after: Option<String>,
    /// What was found out about the testbed when the test failed.
    pub(crate) findings: Vec<String>,
    /// Where the time of a test went that ran out of it.
    pub(crate) times: Vec<String>,
    /// What each machine said last.
    pub(crate) machines: Vec<Words>,
    wire: Wire,
    pub(crate) teardown: Vec<String>,
    /// What the host gave each machine during the step that failed, and as sentences for the whole run too.
    pub(crate) in_failing_step: Times,
    pub(crate) processor: Vec<String>,
    pub(crate) evidence: Option<PathBuf>,
}

#[derive(Debug)]
pub(crate) enum Cause {
    SetUp(Error),
    Body(BoxError),
    /// The body says that its measurement cannot be judged, for the host was overloaded.
    Unjudged(BoxError),
    /// The machine or a node ended under the body.
    Lost(Error),
    /// The message, and where.
    Panic(String, Option<String>),
    Deadline(Duration),
    Interrupt(Interrupt),
    TearDown,
}

impl Failure {
    /// The error that the test's body returned, if that is why.
    pub fn body_error(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        match &self.0.cause {
            Cause::Body(error) | Cause::Unjudged(error) => Some(error.as_ref()),
            _ => None,
        }
    }

    /// Whether the test has neither passed nor failed: what it measured cannot be judged, for the host was overloaded. See
    /// [`Testbed::cannot_be_judged`](crate::Testbed::cannot_be_judged).
    pub fn is_unjudged(&self) -> bool {
        matches!(self.0.cause, Cause::Unjudged(_))
    }

    /// Where it happened: the steps under way, outermost first, joined by ` > `.
    pub fn step(&self) -> Option<&str> {
        self.0.step.as_deref()
    }

    /// The directory with the evidence, unless it could not even be made.
    pub fn evidence(&self) -> Option<&Path> {
        self.0.evidence.as_deref()
    }

    /// Adds what the report has found out about the wire.
    pub(crate) fn say_of_the_wire(&mut self, wire: Wire) {
        self.0.wire = wire;
    }

    /// Its parts, for the report.
    pub(crate) fn record(&self) -> FailureRecord {
        let report = &self.0;
        FailureRecord {
            kind: report.cause.kind().to_owned(),
            cause: report.cause.to_string(),
            step: report.step.clone(),
            after: report.after.clone(),
            findings: report.findings.clone(),
            times: report.times.clone(),
            machines: report.machines.clone(),
            teardown: report.teardown.clone(),
        }
    }
}

impl Report {
    pub(crate) fn new(cause: Cause) -> Box<Self> {
        Box::new(Self {
            test: String::new(),
            cause,
            step: None,
            after: None,
            findings: Vec::new(),
            times: Vec::new(),
            machines: Vec::new(),
            wire: Wire::default(),
            teardown: Vec::new(),
            in_failing_step: Times::new(),
            processor: Vec::new(),
            evidence: None,
        })
    }

    /// What each machine said last, but for what the cause shows of its console already.
    pub(crate) fn say_last_words(&mut self, mut machines: Vec<Words>) {
        const ENOUGH: usize = 3;
        let cause = self.cause.to_string();
        for words in &mut machines {
            let last = &words.console[words.console.len().saturating_sub(ENOUGH)..];
            if !last.is_empty() && cause.contains(&last.join("\n")) {
                words.console.clear();
            }
        }
        self.machines = machines;
    }

    pub(crate) fn into_failure(mut self: Box<Self>, test: &str) -> Failure {
        test.clone_into(&mut self.test);
        Failure(self)
    }
}

impl Cause {
    /// One word for it, in `run.json`.
    fn kind(&self) -> &'static str {
        match self {
            Self::SetUp(_) => "set-up",
            Self::Body(_) => "body",
            Self::Unjudged(_) => "unjudged",
            Self::Lost(_) => "lost",
            Self::Panic(..) => "panic",
            Self::Deadline(_) => "deadline",
            Self::Interrupt(_) => "signal",
            Self::TearDown => "teardown",
        }
    }

    /// The cause for an error of the body: [`Unjudged`](Self::Unjudged) if an [`Overload`] is among its sources.
    pub(crate) fn of_body(error: BoxError) -> Self {
        let mut next: Option<&(dyn StdError + 'static)> = Some(error.as_ref());
        while let Some(one) = next {
            if one.is::<Overload>() {
                return Self::Unjudged(error);
            }
            next = one.source();
        }
        Self::Body(error)
    }

    /// A panic that was caught on this thread.
    pub(crate) fn panic(payload: &(dyn Any + Send)) -> Self {
        let text = payload.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        Self::Panic(text.unwrap_or_else(|| "no message".to_owned()), panics::place())
    }
}

/// The same as its text: what the test harness shows of a test that returns it.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StdError for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of a test that cannot be judged, the cause says so.
        let failed = if self.is_unjudged() { "" } else { " failed" };
        write!(f, "test {}{failed}: {}", self.0.test, self.0.cause)?;
        if let Some(step) = &self.0.step {
            write!(f, "\n  step: {step}")?;
        } else if let Some(step) = &self.0.after {
            write!(f, "\n  after the step: {step}")?;
        }
        lines(f, "processor time", &self.0.processor)?;
        lines(f, "found out", &self.0.findings)?;
        lines(f, "the time went to", &self.0.times)?;
        for (index, words) in self.0.machines.iter().enumerate() {
            let of = match self.0.machines.len() {
                1 => String::new(),
                _ => format!(" of machine {index}"),
            };
            lines(f, &format!("last lines of the console{of}"), &words.console)?;
            lines(f, &format!("last events of QEMU{of}"), &words.events)?;
        }
        lines(f, "on the wire", &self.0.wire.sentences)?;
        for (index, LastOnLink { frames, packets }) in self.0.wire.links.iter().enumerate() {
            let title = format!("last on link {index}, of {frames} frames, with seconds since the run began");
            lines(f, &title, packets)?;
            if packets.is_empty() {
                write!(f, "\n  nothing on link {index}")?;
            }
        }
        lines(f, "in the teardown", &self.0.teardown)?;
        if let Some(evidence) = &self.0.evidence {
            write!(f, "\n  evidence: {}", evidence.display())?;
        }
        Ok(())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetUp(error) | Self::Lost(error) => f.write_str(&chain(error)),
            Self::Body(error) | Self::Unjudged(error) => f.write_str(&chain(error.as_ref())),
            Self::Panic(message, Some(place)) => write!(f, "it panicked at {place}: {message}"),
            Self::Panic(message, None) => write!(f, "it panicked: {message}"),
            Self::Deadline(limit) => write!(f, "it did not end within its deadline of {limit:?}"),
            Self::Interrupt(signal) => write!(f, "{signal} came"),
            Self::TearDown => f.write_str("its body passed, its teardown did not"),
        }
    }
}

/// The error and what it came from, on one line.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let source = error.to_string();
        // Some errors repeat their source in their own text.
        if !text.ends_with(&source) {
            text.push_str(": ");
            text.push_str(&source);
        }
        next = error.source();
    }
    text
}

fn lines(f: &mut fmt::Formatter<'_>, title: &str, lines: &[String]) -> fmt::Result {
    if !lines.is_empty() {
        write!(f, "\n  {title}:")?;
    }
    lines.iter().try_for_each(|line| write!(f, "\n    {line}"))
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_test_is_unjudged_by_the_type_of_its_error_however_it_is_wrapped() {
        let overloaded = || {
            let why = "the machine ran for half of the time".to_owned();
            Error::HostOverloaded {
                source: Overload { why },
            }
        };
        let in_anyhow = || anyhow::Error::from(overloaded());
        let in_context = || Err::<(), _>(in_anyhow()).context("measure").unwrap_err();
        for error in [
            BoxError::from(overloaded()),
            in_anyhow().into(),
            in_context().into(),
        ] {
            let cause = Cause::of_body(error);
            assert_eq!(cause.kind(), "unjudged");
            let text = cause.to_string();
            let end = "cannot be judged: the host was overloaded: the machine ran for half of the time; \
                       remedy: run the test again on a host with less load";
            assert!(text.ends_with(end), "{text}");
        }
        // The same text without the type.
        let text = chain(&overloaded());
        assert_eq!(Cause::of_body(text.into()).kind(), "body");
    }
}
