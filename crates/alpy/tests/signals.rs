// SPDX-License-Identifier: GPL-3.0-or-later
//! A signal ends the process whenever it comes, by the signal, and never before the teardown. Each test runs this executable again as a child.
#![expect(clippy::unwrap_used, reason = "what a test relies on")]

mod support;

use std::env;
use std::fmt::Debug;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use alpy::docker::Engine;
use alpy::logging::EvidenceLayer;
use alpy::qemu::Machine;
use alpy::{Link, TestResult, Testbed, TestbedBuilder};
use alpy_need::need;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, raise, sigaction};
use nix::unistd::Pid;
use support::{containers_of, eventually};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child as Process, ChildStderr, Command};
use tokio::time::timeout;
use tracing::field::Field;
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Longer than a testbed takes from its start to its end on a busy machine, with a QEMU that does not end.
const LIMIT: Duration = Duration::from_secs(120);

/// The variable that tells the child what to do.
const MODE: &str = "ALPY_SIGNALS_MODE";

/// The variable with the log message at which the child raises SIGTERM, and the text that it prints then.
const RAISE_AT: &str = "ALPY_SIGNALS_RAISE_AT";
const RAISED: &str = "RAISED";

#[tokio::test]
async fn after_the_last_testbed_a_signal_ends_the_process() {
    need!(docker, qemu);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut child = Child::start("passes");
        child.until("DONE").await;
        child.ends_by(signal).await;
    }
}

#[tokio::test]
async fn after_a_failed_testbed_a_signal_ends_the_process() {
    need!(docker, qemu);
    let mut child = Child::start("fails");
    child.until("DONE").await;
    child.ends_by(Signal::SIGTERM).await;
}

#[tokio::test]
async fn between_two_testbeds_a_signal_ends_the_process_and_in_the_second_one_it_is_torn_down_first() {
    need!(docker, qemu);
    let mut child = Child::start("two");
    child.until("BETWEEN").await;
    child.until("BODY").await;
    let log = child.ends_by(Signal::SIGTERM).await;
    assert!(
        log.contains("Remove nodes... done") && log.contains("SIGTERM came"),
        "{log}"
    );
}

#[tokio::test]
async fn a_signal_in_the_teardown_ends_the_process_when_all_is_gone() {
    need!(docker, qemu);
    // The teardown waits for the QEMU that is stopped.
    let mut child = Child::start("stops");
    child.until("Exit test environment").await;
    let log = child.ends_by(Signal::SIGTERM).await;
    assert!(
        log.contains("Remove nodes... done") && log.contains("Test failed"),
        "{log}"
    );
    // No harness prints it: the process has ended.
    assert!(log.contains("test signals-stops failed"), "{log}");
}

/// The child raises the signal itself, so that it comes at these moments and at no other.
#[tokio::test]
async fn a_signal_in_the_look_around_or_in_the_report_ends_the_process_when_all_is_said() {
    need!(docker, qemu);
    for (moment, text) in [
        ("before the look-around", "Exit test environment with failure"),
        ("before the report is handed over", "report /"),
    ] {
        let child = Child::start_with("fails", Some(text));
        let evidence = child.evidence.path().join("signals-fails");
        let (log, _evidence) = child.ended_by(Signal::SIGTERM).await;
        let (_, after) = log
            .split_once(RAISED)
            .unwrap_or_else(|| panic!("{moment}: {log}"));
        // No harness prints it: the process has ended.
        for part in ["Test failed", "test signals-fails failed: no"] {
            assert!(after.contains(part), "{moment}: no {part:?} in {log}");
        }
        assert!(log.contains("Remove nodes... done"), "{moment}: {log}");
        assert!(!log.contains("DONE"), "{moment}: {log}");
        let page = std::fs::read_to_string(evidence.join("report.html")).unwrap();
        assert!(page.contains("failed"), "{moment}: {page}");
    }
}

#[tokio::test]
async fn a_signal_in_the_set_up_ends_the_process_when_all_is_gone() {
    need!(docker, qemu);
    for step in [
        "Find the engine",
        "Create nodes...",
        "Create tap",
        "Start QEMU...",
    ] {
        let mut child = Child::start("passes");
        child.until(step).await;
        child.ends_by(Signal::SIGTERM).await;
    }
}

#[tokio::test]
async fn a_signal_ends_all_testbeds_of_a_process() {
    need!(docker, qemu);
    let mut child = Child::start("beside");
    child.until("BODY").await;
    child.until("BODY").await;
    let log = child.ends_by(Signal::SIGTERM).await;
    for test in ["signals-beside-0", "signals-beside-1"] {
        assert!(
            log.contains(&format!("test {test} failed: SIGTERM came")),
            "{log}"
        );
    }
}

#[tokio::test]
#[ignore = "the child that the others start"]
async fn a_child() {
    let mode = env::var(MODE).expect("another test starts this one");
    // Whoever runs the tests in the background may have it ignored.
    for signal in [Signal::SIGINT, Signal::SIGHUP] {
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: the default action runs no code.
        unsafe { sigaction(signal, &default) }.unwrap();
    }
    if let Ok(text) = env::var(RAISE_AT) {
        let steps = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(std::io::stderr);
        tracing_subscriber::registry()
            .with(steps)
            .with(EvidenceLayer::new())
            .with(RaiseAt(text))
            .init();
    }
    let name = format!("signals-{mode}");
    match mode.as_str() {
        "passes" => bed(&name).run(async |_| TestResult::Ok(())).await.unwrap(),
        "fails" => drop(
            bed(&name)
                .run(async |_| TestResult::<()>::Err("no".into()))
                .await
                .unwrap_err(),
        ),
        "stops" => {
            let stop = async |bed: &Testbed| -> TestResult {
                kill(Pid::from_raw(bed.qemu().pid().try_into()?), Signal::SIGSTOP)?;
                Ok(())
            };
            drop(bed(&name).run(stop).await.unwrap_err());
        }
        "two" => {
            bed(&name).run(async |_| TestResult::Ok(())).await.unwrap();
            eprintln!("BETWEEN");
            drop(bed(&name).run(wait).await.unwrap_err());
        }
        "beside" => {
            let names = [0, 1].map(|number| format!("{name}-{number}"));
            let [one, other] = &names;
            let (one, other) = tokio::join!(bed(one).run(wait), bed(other).run(wait));
            drop((one.unwrap_err(), other.unwrap_err()));
        }
        _ => unreachable!("no mode {mode}"),
    }
    eprintln!("DONE");
    std::future::pending::<()>().await;
}

/// Raises SIGTERM within each event that has this text.
struct RaiseAt(String);

impl<S: Subscriber> Layer<S> for RaiseAt {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = String::new();
        event.record(&mut |field: &Field, value: &dyn Debug| {
            if field.name() == "message" {
                message = format!("{value:?}");
            }
        });
        if message.contains(&self.0) {
            eprintln!("{RAISED}");
            raise(Signal::SIGTERM).unwrap();
        }
    }
}

async fn wait(_: &Testbed) -> TestResult {
    eprintln!("BODY");
    std::future::pending().await
}

fn bed(test: &str) -> TestbedBuilder {
    Testbed::builder(test)
        .machine(Machine::new().memory_mib(32))
        .link(Link::new().address("192.0.2.1/24"))
}

/// This executable again, with a base of evidence of its own.
struct Child {
    process: Process,
    lines: Lines<BufReader<ChildStderr>>,
    log: String,
    evidence: TempDir,
}

impl Child {
    fn start(mode: &str) -> Self {
        Self::start_with(mode, None)
    }

    /// It raises SIGTERM itself when it logs this text.
    fn start_with(mode: &str, raise_at: Option<&str>) -> Self {
        let evidence = tempfile::tempdir().unwrap();
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["a_child", "--exact", "--ignored", "--nocapture"])
            .env(MODE, mode)
            .env("ALPY_EVIDENCE", evidence.path())
            .envs(raise_at.map(|text| (RAISE_AT, text)))
            .env_remove("ALPY_PAUSE")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        Self {
            process,
            lines,
            log: String::new(),
            evidence,
        }
    }

    /// Reads its log up to a line with this text.
    async fn until(&mut self, text: &str) {
        let found = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                self.log += &format!("{line}\n");
                if line.contains(text) {
                    return true;
                }
            }
            false
        };
        let found = timeout(LIMIT, found).await;
        assert!(
            matches!(found, Ok(true)),
            "no {text:?} but {found:?}: {}",
            self.log
        );
    }

    /// Sends it the signal: it ends by it, and nothing of it stays. Returns its log.
    async fn ends_by(self, signal: Signal) -> String {
        let pid = i32::try_from(self.process.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
        self.ended_by(signal).await.0
    }

    /// Expects that the child ends by the signal and leaves nothing behind. Returns its log and its evidence.
    async fn ended_by(mut self, signal: Signal) -> (String, TempDir) {
        let rest = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                self.log += &format!("{line}\n");
            }
            self.process.wait().await.unwrap()
        };
        let ended = timeout(LIMIT, rest).await;
        let status = ended.unwrap_or_else(|_| panic!("{signal} does not end it: {}", self.log));
        assert_eq!(status.signal(), Some(signal as i32), "{status}: {}", self.log);
        let engine = Engine::connect().await.unwrap();
        for run in alpy::runs::below(self.evidence.path()) {
            let Some(id) = &run.id else { continue };
            eventually("its containers are gone", async || {
                containers_of(&engine, id).await.is_empty()
            })
            .await;
            let folder = run.dir.join(format!("alpy-{id}"));
            eventually("its folder is gone", async || !folder.exists()).await;
        }
        (self.log, self.evidence)
    }
}
