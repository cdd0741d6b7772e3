// SPDX-License-Identifier: GPL-3.0-or-later
//! Log lines: steps on stderr, everything in the `debug.log` of the test that it belongs to.
//!
//! alpy's code only emits [`tracing`] events. [`init`] installs a subscriber that prints INFO and above on stderr (`RUST_LOG`
//! chooses otherwise, as `debug` or `alpy=debug,alpy::docker=warn`, see [`Targets`]) and sends every event to the evidence of the testbed in whose span it happened. A testbed calls it
//! when it starts; a subscriber that is already there stays, and whoever installs their own adds [`EvidenceLayer`] to it:
//!
//! ```
//! use tracing_subscriber::prelude::*;
//!
//! tracing_subscriber::registry()
//!     .with(tracing_subscriber::fmt::layer().with_filter(tracing_subscriber::filter::LevelFilter::INFO))
//!     .with(alpy::logging::EvidenceLayer::new())
//!     .init();
//! ```

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Metadata, Span, Subscriber};
use tracing_subscriber::filter::{FilterExt, Targets, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

static RUNS: Mutex<Option<HashMap<u64, Arc<DebugLog>>>> = Mutex::new(None);
static NEXT_RUN: AtomicU64 = AtomicU64::new(0);
static ROUTED: AtomicBool = AtomicBool::new(false);

/// Installs alpy's subscriber, unless the process has one already.
pub fn init() {
    let steps = tracing_subscriber::fmt::layer()
        .event_format(StepFormat)
        // A log is read in files as often as on a terminal.
        .with_ansi(false)
        .with_writer(Stderr)
        .with_filter(chosen(&std::env::var("RUST_LOG").unwrap_or_default()));
    // A second call finds the subscriber of the first, or the user's own: either way it stays.
    let _ = tracing_subscriber::registry()
        .with(steps)
        .with(EvidenceLayer::new())
        .try_init();
}

/// Says something at once, on stderr itself: what is printed in other ways, the harness keeps until the test is over.
pub(crate) async fn say(text: &str) {
    let text = format!("\n{text}\n\n");
    let write = move || io::stderr().write_all(text.as_bytes());
    // Nobody may be reading.
    let _ = tokio::task::spawn_blocking(write).await;
}

/// What `RUST_LOG` chooses; INFO if it chooses nothing. A part of it that cannot be read is named and left out.
fn chosen(text: &str) -> Targets {
    let mut targets = Targets::new();
    let mut nothing = true;
    for directive in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match directive.parse::<Targets>() {
            Ok(parsed) => {
                nothing = false;
                targets = match parsed.default_level() {
                    Some(level) => targets.with_default(level),
                    None => targets.with_targets(parsed),
                };
            }
            Err(error) => eprintln!("alpy: RUST_LOG: ignored {directive:?}: {error}"),
        }
    }
    if nothing {
        targets = targets.with_default(LevelFilter::INFO);
    }
    targets
}

/// Sends each event to the `debug.log` of the testbed in whose span it happened.
#[derive(Debug)]
pub struct EvidenceLayer(());

impl EvidenceLayer {
    /// A layer for any subscriber that keeps spans, such as [`tracing_subscriber::registry()`].
    #[expect(
        clippy::new_ret_no_self,
        reason = "the filter that belongs to the layer comes with it"
    )]
    pub fn new<S>() -> impl Layer<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        ROUTED.store(true, Ordering::Relaxed);
        // The plumbing below bollard and tokio has little to say about a test, and says it thousands of times.
        let plumbing = |metadata: &Metadata<'_>| {
            ["hyper", "hyper_util", "h2", "mio", "tokio", "tower", "bollard"]
                .iter()
                .any(|name| metadata.target().split("::").next() == Some(name))
        };
        let wanted = filter_fn(move |metadata| !plumbing(metadata) || *metadata.level() <= Level::INFO);
        Self(()).with_filter(wanted.and(LevelFilter::TRACE))
    }
}

impl<S> Layer<S> for EvidenceLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut run = RunNumber(None);
        attributes.record(&mut run);
        let log = run.0.and_then(|run| with_runs(|runs| runs.get(&run).cloned()));
        if let (Some(log), Some(span)) = (log, context.span(id)) {
            span.extensions_mut().insert(log);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let spans = context.event_scope(event).into_iter().flatten();
        for span in spans {
            if let Some(log) = span.extensions().get::<Arc<DebugLog>>() {
                return log.write(event);
            }
        }
    }
}

/// The log of one test: events in its [`span`](Self::span) go to its file, for as long as this value lives.
#[derive(Debug)]
pub(crate) struct RunLog {
    run: u64,
    span: Span,
}

impl RunLog {
    /// Creates the log. The times of its lines are seconds since `since`.
    pub(crate) fn create(test: &str, file: &Path, since: Instant) -> io::Result<Self> {
        let log = DebugLog {
            test: test.to_owned(),
            since,
            file: Mutex::new(File::create_new(file)?),
        };
        if !ROUTED.load(Ordering::Relaxed) {
            log.line("this process has a tracing subscriber without alpy::logging::EvidenceLayer: no log lines here");
        }
        let run = NEXT_RUN.fetch_add(1, Ordering::Relaxed);
        with_runs(|runs| runs.insert(run, Arc::new(log)));
        Ok(Self {
            run,
            span: tracing::error_span!(target: "alpy", "testbed", test, alpy.run = run),
        })
    }

    pub(crate) fn span(&self) -> Span {
        self.span.clone()
    }
}

impl Drop for RunLog {
    fn drop(&mut self) {
        with_runs(|runs| runs.remove(&self.run));
    }
}

fn with_runs<T>(act: impl FnOnce(&mut HashMap<u64, Arc<DebugLog>>) -> T) -> T {
    act(RUNS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_or_insert_default())
}

#[derive(Debug)]
struct DebugLog {
    test: String,
    since: Instant,
    file: Mutex<File>,
}

impl DebugLog {
    fn write(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut text = Text::default();
        event.record(&mut text);
        self.line(&format!(
            "{:>5} {:<22} {}",
            metadata.level(),
            metadata.target(),
            text.0
        ));
    }

    fn line(&self, text: &str) {
        let line = format!("{:9.3} {text}\n", self.since.elapsed().as_secs_f64());
        // A log that cannot be written, on a full disk for example, must not break the test that it describes.
        let _ = self
            .file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(line.as_bytes());
    }
}

/// `message key=value ...`
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write as _;
        // Writing to a String cannot fail.
        let _ = match (field.name(), self.0.is_empty()) {
            ("message", true) => write!(self.0, "{value:?}"),
            ("message", false) => {
                self.0.insert_str(0, &format!("{value:?} "));
                Ok(())
            }
            (name, true) => write!(self.0, "{name}={value:?}"),
            (name, false) => write!(self.0, " {name}={value:?}"),
        };
    }
}

struct RunNumber(Option<u64>);

impl Visit for RunNumber {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "alpy.run" {
            self.0 = Some(value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// `INFO alpy::node         Create nodes... done`, and where several tests run at once in this process,
/// `INFO alpy::node         [forward-ipv4] Create nodes... done`.
struct StepFormat;

impl<S, N> FormatEvent<S, N> for StepFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        write!(writer, "{:<5} {:<20} ", metadata.level(), metadata.target())?;
        if with_runs(|runs| runs.len() > 1) {
            let spans = context.event_scope().into_iter().flatten();
            let log = spans.filter_map(|span| span.extensions().get::<Arc<DebugLog>>().cloned());
            if let Some(log) = log.last() {
                write!(writer, "[{}] ", log.test)?;
            }
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Standard error by way of `eprint!`, so that the test harness shows the log of a failed test only.
struct Stderr;

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        eprint!("{}", String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_log_chooses_and_what_it_cannot_say_is_left_out() {
        let debug = |text: &str, target: &str| chosen(text).would_enable(target, &Level::DEBUG);
        let info = |text: &str, target: &str| chosen(text).would_enable(target, &Level::INFO);
        for nothing in ["", " , ", "alpy=loud"] {
            assert!(
                info(nothing, "alpy::node") && !debug(nothing, "alpy::node"),
                "{nothing:?}"
            );
        }
        assert!(debug("debug", "hyper") && !info("error", "alpy::node"));
        let some = "alpy=debug, alpy::docker=warn,alpy=loud";
        assert!(debug(some, "alpy::node"));
        assert!(!info(some, "alpy::docker") && !info(some, "bollard"));
    }

    #[test]
    fn a_line_names_its_test_while_there_are_others() {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let written = lines.clone();
        let steps = tracing_subscriber::fmt::layer()
            .event_format(StepFormat)
            .with_ansi(false)
            .with_writer(move || written.clone());
        let subscriber = tracing_subscriber::registry()
            .with(steps)
            .with(EvidenceLayer::new());
        let dir = tempfile::tempdir().unwrap();
        tracing::subscriber::with_default(subscriber, || {
            let create = |name: &str| RunLog::create(name, &dir.path().join(name), Instant::now()).unwrap();
            let (one, two) = (create("one"), create("two"));
            one.span().in_scope(|| tracing::info!("Create nodes..."));
            two.span().in_scope(|| tracing::info!("Create nodes..."));
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let said: Vec<_> = text.lines().map(|line| line.split_once('[').unwrap().1).collect();
        assert_eq!(said, ["one] Create nodes...", "two] Create nodes..."]);
    }

    #[test]
    fn each_debug_log_holds_its_own_lines_only() {
        init();
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        let create = |name: &str| RunLog::create(name, &file(name), Instant::now()).unwrap();
        let (one, two) = (create("one"), create("two"));
        one.span().in_scope(|| tracing::debug!(packets = 3, "in one"));
        two.span()
            .in_scope(|| tracing::trace_span!("inner").in_scope(|| tracing::trace!("in two")));
        tracing::info!("in none");
        let read = |name| std::fs::read_to_string(file(name)).unwrap();
        assert!(
            read("one").contains("DEBUG alpy::logging::tests   in one packets=3\n"),
            "{}",
            read("one")
        );
        assert!(read("two").ends_with("in two\n"), "{}", read("two"));
        assert_eq!((read("one").lines().count(), read("two").lines().count()), (1, 1));
    }
}
