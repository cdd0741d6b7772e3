// SPDX-License-Identifier: GPL-3.0-or-later
//! A testbed in a process of its own: this executable again.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alpy::docker::{Engine, Running};
use alpy::qemu::Machine;
use alpy::{Link, TestResult, Testbed};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child as Process, Command};
use tokio::time::{Instant, sleep_until, timeout};

use crate::inventory::Scope;
use crate::plan::{End, Plan};
use crate::support;

/// A process that has to end has that long for it.
const LIMIT: Duration = Duration::from_secs(60);

/// How long a runner waits between its two signals.
const RUNNER_GRACE: Duration = Duration::from_millis(700);

/// How long the body of an undisturbed child is there for.
const BODY: Duration = Duration::from_millis(500);

/// Does not end on SIGTERM.
const STUBBORN: &str = "trap '' TERM; while :; do sleep 1; done";

/// Leaves children behind that are in a session of their own.
const FORKING: &str = "setsid sleep 1000 & setsid sh -c 'sleep 1000 & wait' & exec sleep 1000";

pub(crate) struct Child {
    process: tokio::sync::Mutex<Process>,
    pid: Pid,
    started: Instant,
    log: Arc<Mutex<Vec<String>>>,
}

impl Child {
    pub(crate) async fn start(scope: &Scope, plan: &Plan) -> Self {
        let mut command = executable();
        command
            .args(["a_child", "--exact", "--ignored", "--nocapture"])
            .env("ALPY_STORM_CHILD", scope.test_of(plan.round))
            .env("ALPY_STORM_END", plan.end.name())
            .env("ALPY_STORM_AFTER_MS", plan.after.as_millis().to_string())
            .env("ALPY_EVIDENCE", scope.evidence())
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // As a test runner does it.
            .process_group(0);
        let mut process = Command::from(command).kill_on_drop(true).spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let copy = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                copy.lock().unwrap().push(line);
            }
        });
        Self {
            pid: Pid::from_raw(process.id().unwrap().try_into().unwrap()),
            process: tokio::sync::Mutex::new(process),
            started: Instant::now(),
            log,
        }
    }

    /// Has happen to it what is planned, as far as it does not do it to itself.
    pub(crate) async fn end_as(&self, plan: &Plan) {
        let signal = match plan.end {
            End::Sigkill => Signal::SIGKILL,
            End::Sigterm | End::RunnerTimeout => Signal::SIGTERM,
            End::Sigint => Signal::SIGINT,
            End::Passes | End::Panic | End::DoublePanic | End::Abort => return,
        };
        sleep_until(self.started + plan.after).await;
        // It is not reaped before `ended`, so the number is still its own.
        if plan.end == End::RunnerTimeout {
            let _ = killpg(self.pid, signal);
            sleep_until(self.started + plan.after + RUNNER_GRACE).await;
            let _ = killpg(self.pid, Signal::SIGKILL);
        } else {
            let _ = kill(self.pid, signal);
        }
    }

    /// Waits for its end; what it has said, if there is none.
    pub(crate) async fn ended(&self) -> Result<ExitStatus, String> {
        match timeout(LIMIT, self.process.lock().await.wait()).await {
            Ok(status) => Ok(status.unwrap()),
            Err(_) => Err(self.log()),
        }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// The last step that it began.
    pub(crate) fn progress(&self) -> String {
        let log = self.log.lock().unwrap();
        let steps = log
            .iter()
            .rev()
            .filter_map(|line| line.strip_prefix("INFO  alpy::"));
        let step = steps.map(|line| line.split_once(' ').unwrap_or_default().1.trim());
        step.map(str::to_owned)
            .next()
            .unwrap_or_else(|| "no step yet".to_owned())
    }
}

#[expect(clippy::disallowed_methods, reason = "the tests watch over what they start")]
fn executable() -> std::process::Command {
    std::process::Command::new(env::current_exe().unwrap())
}

/// What the child does.
pub(crate) async fn run() {
    let variable = |name: &str| env::var(name).expect("the storm starts this one");
    let end = End::of_name(&variable("ALPY_STORM_END"));
    let after = Duration::from_millis(variable("ALPY_STORM_AFTER_MS").parse().unwrap());
    let moment = Instant::now() + after;
    if end == End::Abort {
        // From any thread, at any moment, as a failed assertion in a C library would.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build();
            runtime.unwrap().block_on(async { sleep_until(moment).await });
            std::process::abort();
        });
    }
    let bed = Testbed::builder(variable("ALPY_STORM_CHILD"))
        .machine(Machine::new().memory_mib(32))
        .link(Link::new().address("192.0.2.1/24"))
        .link(Link::new().address("198.51.100.1/24"));
    let result = bed.run(async |bed| body(bed, end, after).await).await;
    result.unwrap();
    if end.is_awaited() {
        std::future::pending::<()>().await;
    }
}

async fn body(bed: &Testbed, end: End, after: Duration) -> TestResult {
    let began = Instant::now();
    bed.start_cpu().await?;
    let applications = applications(bed, bed.engine());
    match end {
        End::Panic | End::DoublePanic => {
            let _bomb = (end == End::DoublePanic).then_some(Bomb);
            // Dropped in the middle of starts, if they take longer.
            let _running = timeout(after.saturating_sub(began.elapsed()), applications).await;
            sleep_until(began + after).await;
            panic!("as planned");
        }
        _ => {
            let _running = applications.await?;
            sleep_until(Instant::now() + BODY).await;
            Ok(())
        }
    }
}

/// Two in each node.
async fn applications(bed: &Testbed, engine: &Engine) -> TestResult<Vec<Running>> {
    let image = support::busybox(engine).await;
    let mut running = Vec::new();
    for node in bed.nodes() {
        for (name, script) in [("stubborn", STUBBORN), ("forking", FORKING)] {
            let application = node.application(name, &image)?.command(["sh", "-c", script]);
            running.push(application.start(engine).await?);
        }
    }
    Ok(running)
}

/// Panics while another panic unwinds.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a second panic, as planned");
    }
}
