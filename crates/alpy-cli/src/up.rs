// SPDX-License-Identifier: GPL-3.0-or-later
//! `alpy up`, `alpy down` and `alpy resume`: testbeds that are there until somebody takes them down.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use alpy::control::Control;
use alpy::runs::{RunInfo, RunState};
use alpy::{TestResult, Testbed};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::{interval, timeout};

use crate::args::{Down, Resume, Up};
use crate::failure::{absent, interrupted, usage};
use crate::find::Runs;
use crate::output::{Output, progress};
use crate::stop::Stop;
use crate::topology::Topology;

/// Longer than anybody works at a testbed.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

/// How long a teardown may take: its own limits are below that.
const TEARDOWN: Duration = Duration::from_secs(90);

/// What the front end tells the background when it has seen the testbed up.
const STAY: &[u8; 1] = b"y";

/// Between two looks how far the background has come.
const LOOK: Duration = Duration::from_millis(50);

pub async fn run(runs: &Runs, args: &Up, output: &Output) -> Result<ExitCode> {
    let (topology, builder) = Topology::read(&args.topology)?;
    if args.check {
        let right = json!({"topology": args.topology, "name": topology.name()});
        output.show(&right, || format!("{}: right\n", args.topology.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = topology.name();
    let last = alpy::runs::read(&runs.base().join(name));
    if last.is_ok_and(|run| run.state == RunState::UnderWay) {
        return Err(usage(format!("{name} is up already; remedy: alpy down {name}")));
    }
    if !args.foreground && !args.background {
        return in_background(runs, args, name, output).await;
    }
    if args.background {
        setsid().context("begin a session")?;
        follow_front_end();
    }
    let folder = args.topology.parent().unwrap_or(Path::new("")).to_owned();
    let body = async |bed: &Testbed| -> TestResult {
        bed.start_cpu().await?;
        let _running = topology.start_applications(bed, &folder).await?;
        bed.hold(&format!("{name} is up")).await?;
        Ok(())
    };
    builder
        .evidence_base(runs.base())
        .deadline(FOREVER)
        .run(body)
        .await?;
    Ok(ExitCode::SUCCESS)
}

/// Has another process hold the testbed, and waits until it is up. What that process says until then is shown.
async fn in_background(runs: &Runs, args: &Up, name: &str, output: &Output) -> Result<ExitCode> {
    let mut log = Log::new()?;
    let mut command = Command::new(env::current_exe().context("find the program of alpy")?);
    command.arg("up").arg(&args.topology).arg("--background");
    command.arg("--evidence").arg(runs.base());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log.writer()?);
    let mut stop = Stop::begin()?;
    let mut child = command.spawn().context("start alpy in the background")?;
    let word = child.stdin.take();
    let mut looks = interval(LOOK);
    let run = loop {
        tokio::select! {
            _ = looks.tick() => {}
            signal = stop.next() => {
                let ended = end(&mut child).await;
                log.show()?;
                ended?;
                return Err(interrupted(signal));
            }
        }
        log.show()?;
        if let Some(status) = child.try_wait()? {
            log.show()?;
            bail!("{name} did not come up: alpy in the background ended with {status}");
        }
        if let Some(run) = held(runs, name).await {
            break run;
        }
    };
    log.show()?;
    if let Some(mut word) = word {
        word.write_all(STAY).await.context("alpy in the background")?;
    }
    let up =
        json!({"test": run.name(), "evidence": run.dir, "pid": run.pid, "run": run.id, "engine": run.engine});
    output.show(&up, || format!("{name} is up; alpy down {name} takes it down\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// The run of this name, if it is held.
async fn held(runs: &Runs, name: &str) -> Option<RunInfo> {
    let run = alpy::runs::read(&runs.base().join(name)).ok()?;
    let status = Control::of(&run).status().await.ok()?;
    status.held.map(|_| run)
}

/// In the background: takes down what there is if the front end ends, however it does, before it has seen the testbed up.
fn follow_front_end() {
    std::thread::spawn(|| {
        if !matches!(std::io::stdin().read(&mut [0]), Ok(1)) {
            // As if this process had been told to end.
            let _ = kill(Pid::this(), Signal::SIGTERM);
        }
    });
}

/// Has the background take down what it has.
async fn end(child: &mut Child) -> Result<()> {
    if let Some(pid) = child.id() {
        // One that has ended just now need not be told.
        let _ = kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM);
    }
    let ended = progress("take down what is there", timeout(TEARDOWN, child.wait())).await;
    if ended.is_err() {
        child.start_kill().context("kill alpy in the background")?;
        bail!("alpy in the background did not end within {TEARDOWN:?} and was killed; remedy: alpy sweep");
    }
    Ok(())
}

pub async fn down(runs: &Runs, args: &Down, output: &Output) -> Result<ExitCode> {
    let run = runs.get_under_way(&args.test)?;
    let pid = run.pid.filter(|pid| is_alpy(*pid));
    let Some(pid) = pid else {
        bail!(
            "{name} is a test, not made by `alpy up`; remedy: alpy resume {name}, if it is held, or Ctrl-C where it runs",
            name = run.name()
        );
    };
    let control = Control::of(&run);
    if control.resume().await.is_err() {
        // It is still being made, and ends by this in the same order.
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM).context("end alpy in the background")?;
    }
    let ended = progress("take it down", timeout(TEARDOWN, run.ended())).await;
    let ended = ended.with_context(|| format!("{} is not down after {TEARDOWN:?}", run.name()))??;
    let done =
        json!({"test": ended.name(), "evidence": ended.dir, "state": ended.state, "failure": ended.failure});
    output.show(&done, || match &ended.failure {
        None => format!(
            "{} is down; its evidence: {}\n",
            ended.name(),
            ended.dir.display()
        ),
        Some(failure) => format!(
            "{} is down: {failure}; its evidence: {}\n",
            ended.name(),
            ended.dir.display()
        ),
    })?;
    Ok(match ended.state {
        RunState::Passed => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Whether a process is that of an `alpy up`, whatever its program is called: it is told where to be.
fn is_alpy(pid: u32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let has = |word: &str| words.contains(&word.as_bytes());
    has("up") && (has("--background") || has("--foreground") || has("-f"))
}

pub async fn resume(runs: &Runs, args: &Resume, output: &Output) -> Result<ExitCode> {
    let run = runs.get_under_way(&args.test)?;
    let control = Control::of(&run);
    if let Err(error) = control.resume().await {
        // Asked afterwards: one that is about to say that it is held can be resumed already.
        return Err(match control.status().await?.held {
            None => absent(format!("{} is not held", run.name())),
            Some(_) => error.into(),
        });
    }
    output.show(&json!({"test": run.name()}), || {
        format!("{} goes on\n", run.name())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What the background says, in a file without a name.
struct Log {
    file: File,
}

impl Log {
    fn new() -> Result<Self> {
        let file = tempfile::tempfile().context("make a temporary file")?;
        Ok(Self { file })
    }

    fn writer(&self) -> Result<Stdio> {
        // Opened anew, for this process has a place of its own in it.
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file));
        let writer = File::options()
            .append(true)
            .open(path)
            .context("open the temporary file")?;
        Ok(writer.into())
    }

    /// Shows on stderr what has come since.
    fn show(&mut self) -> Result<()> {
        let mut news = Vec::new();
        self.file.read_to_end(&mut news)?;
        Ok(std::io::stderr().write_all(&news)?)
    }
}
