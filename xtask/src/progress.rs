// SPDX-License-Identifier: GPL-3.0-or-later
//! What a person sees while tests run: a line for each that ended, and what runs now.
//!
//! On a terminal, the last line says what runs and changes each half second. In a pipe, such a line is printed after each half minute in
//! which nothing else was.

use std::io::{self, IsTerminal, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::Stream;

/// How often the line on a terminal changes.
const REDRAW: Duration = Duration::from_millis(500);

/// After this time without a line, a pipe gets one.
const QUIET: Duration = Duration::from_secs(30);

/// Erases the line that the cursor is in.
const ERASE: &str = "\r\x1b[K";

/// The first words of what a testbed prints when it waits for a person. An empty line ends it.
const HELD: &str = "Held: ";

/// What is shown of the tests that run.
pub struct Progress {
    verbose: bool,
    terminal: bool,
    sink: Sink,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    total: usize,
    done: usize,
    failed: usize,
    running: Vec<Running>,
    next: usize,
    last: Option<Instant>,
    /// The last line of the terminal is this module's.
    drawn: bool,
    ended: bool,
}

struct Running {
    ticket: usize,
    name: String,
    since: Instant,
    /// The step that it is at.
    step: String,
    /// A test at which a person is told what to type.
    held: bool,
}

/// Prints on a stream.
type Sink = Box<dyn Fn(Stream, &str) + Send + Sync>;

/// A test that runs.
#[derive(Clone, Copy)]
pub struct Ticket(usize);

impl Progress {
    /// Shows every line that tests print, or only that they run.
    pub fn new(verbose: bool) -> Self {
        Self {
            verbose,
            terminal: io::stderr().is_terminal(),
            sink: Box::new(print),
            state: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    /// Does work that has `total` tests, and shows how far it is meanwhile.
    pub fn during<T>(&self, total: usize, work: impl FnOnce() -> T) -> T {
        *self.state() = State {
            total,
            last: Some(Instant::now()),
            ..State::default()
        };
        thread::scope(|scope| {
            scope.spawn(|| self.tick());
            let _end = End(self);
            work()
        })
    }

    /// A test begins.
    pub fn begin(&self, name: &str) -> Ticket {
        let mut state = self.state();
        let ticket = state.next;
        state.next += 1;
        state.running.push(Running {
            ticket,
            name: name.to_owned(),
            since: Instant::now(),
            step: String::new(),
            held: false,
        });
        if self.verbose {
            self.print(&mut state, Stream::Err, &format!("\nxtask: {name}\n"));
        }
        Ticket(ticket)
    }

    /// A test printed a line.
    pub fn line(&self, ticket: Ticket, stream: Stream, line: &str) {
        let mut state = self.state();
        let alone = state.running.len() == 1;
        let Some(running) = state
            .running
            .iter_mut()
            .find(|running| running.ticket == ticket.0)
        else {
            return;
        };
        if let Some(step) = step_in(line) {
            running.step = step.to_owned();
        }
        running.held = line.starts_with(HELD) || (running.held && !line.trim().is_empty());
        if self.verbose || running.held {
            let text = match alone {
                true => line.to_owned(),
                false => format!("{}  {line}", running.name),
            };
            self.print(&mut state, stream, &text);
        }
    }

    /// A test ended. `text` is what is said about it, and may be nothing.
    pub fn end(&self, ticket: Ticket, failed: bool, text: &str) {
        let mut state = self.state();
        state.running.retain(|running| running.ticket != ticket.0);
        state.done += 1;
        state.failed += usize::from(failed);
        if !text.is_empty() {
            self.print(&mut state, Stream::Out, text);
        }
    }

    fn tick(&self) {
        let every = if self.terminal { REDRAW } else { QUIET / 10 };
        let mut state = self.state();
        while !state.ended {
            let waited = self.ended.wait_timeout(state, every);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.running.is_empty() || state.ended {
                continue;
            }
            if self.terminal {
                // Without the wrap, the terminal itself cuts off what is too long.
                let line = format!("{ERASE}\x1b[?7l{}\x1b[?7h", state.line());
                state.drawn = true;
                (self.sink)(Stream::Err, &line);
            } else if state.last.is_none_or(|last| last.elapsed() >= QUIET) {
                let line = format!("xtask: {}\n", state.line());
                self.print(&mut state, Stream::Err, &line);
            }
        }
        if state.drawn {
            (self.sink)(Stream::Err, ERASE);
            state.drawn = false;
        }
    }

    fn print(&self, state: &mut State, to: Stream, text: &str) {
        if state.drawn {
            (self.sink)(Stream::Err, ERASE);
            state.drawn = false;
        }
        (self.sink)(to, text);
        state.last = Some(Instant::now());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn line(&self) -> String {
        let mut line = format!("{} of {} done", self.done, self.total);
        if self.failed > 0 {
            line.push_str(&format!(", {} failed", self.failed));
        }
        for (index, running) in self.running.iter().enumerate() {
            let before = if index == 0 { "; " } else { ", " };
            let seconds = running.since.elapsed().as_secs();
            line.push_str(&format!("{before}{} {seconds} s", running.name));
            if !running.step.is_empty() {
                line.push_str(&format!(" ({})", running.step));
            }
        }
        line
    }
}

/// Ends the thread that shows what runs, even if the work panics.
struct End<'a>(&'a Progress);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.ended.notify_all();
    }
}

/// The step in a log line such as `INFO  alpy::node           Create nodes...`.
fn step_in(line: &str) -> Option<&str> {
    let (target, step) = line.strip_prefix("INFO ")?.trim_start().split_once(' ')?;
    let is_target = target.contains("::") || !target.contains(['.', ':', ',']);
    let step = step.trim();
    (is_target && step.ends_with("...")).then(|| step.trim_end_matches('.'))
}

fn print(stream: Stream, text: &str) {
    let write = |to: &mut dyn Write| to.write_all(text.as_bytes()).and_then(|()| to.flush());
    // The reader may have seen enough.
    let _ = match stream {
        Stream::Out => write(&mut io::stdout().lock()),
        Stream::Err => write(&mut io::stderr().lock()),
    };
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::process;

    /// Progress that prints into a string.
    pub(crate) fn quiet(verbose: bool, terminal: bool) -> (Progress, Arc<Mutex<String>>) {
        let said = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&said);
        let progress = Progress {
            terminal,
            sink: Box::new(move |_, text| sink.lock().unwrap().push_str(text)),
            ..Progress::new(verbose)
        };
        (progress, said)
    }

    const STEP: &str = "INFO  alpy::node           Create nodes...\n";

    #[test]
    fn a_terminal_says_what_runs_until_the_next_line() {
        let (progress, said) = quiet(false, true);
        progress.during(3, || {
            let (nat, mtu) = (progress.begin("nat"), progress.begin("mtu"));
            progress.line(nat, Stream::Err, STEP);
            progress.line(
                nat,
                Stream::Err,
                "INFO  alpy::node           Create nodes... done\n",
            );
            progress.line(mtu, Stream::Out, "it prints what it wants...\n");
            let reboot = progress.begin("reboot");
            progress.end(reboot, true, "");
            let drawn = || {
                let said = said.lock().unwrap();
                said.contains("1 of 3 done, 1 failed; nat ").then(|| said.clone())
            };
            let line = process::poll_to_the_end(Duration::from_secs(60), drawn).expect("it draws a line");
            assert!(
                line.contains(" s (Create nodes), mtu ") && !line.contains("wants"),
                "{line}"
            );
            progress.end(nat, false, "passed  nat\n");
            progress.end(mtu, false, "");
        });
        let said = said.lock().unwrap();
        assert!(said.contains(&format!("{ERASE}passed  nat\n")), "{said:?}");
    }

    #[test]
    fn a_pipe_gets_whole_lines_only_and_what_tests_print_if_all_is_wanted() {
        for (verbose, expected) in [
            (false, "passed  nat\n".to_owned()),
            (true, format!("\nxtask: nat\n{STEP}passed  nat\n")),
        ] {
            let (progress, said) = quiet(verbose, false);
            progress.during(1, || {
                let nat = progress.begin("nat");
                progress.line(nat, Stream::Err, STEP);
                progress.end(nat, false, "passed  nat\n");
            });
            assert_eq!(*said.lock().unwrap(), expected);
        }
    }

    #[test]
    fn a_testbed_that_waits_for_a_person_is_heard() {
        let (progress, said) = quiet(false, false);
        progress.during(1, || {
            let nat = progress.begin("nat");
            for line in [STEP, "\n", "Held: it failed.\n", "  alpy exec nat\n", "\n", STEP] {
                progress.line(nat, Stream::Err, line);
            }
        });
        assert_eq!(*said.lock().unwrap(), "Held: it failed.\n  alpy exec nat\n");
    }
}
