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
use anyhow::{Context, Result, anyhow, bail};
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
use crate::topology::{Topology, in_words};

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
    if !args.background {
        return in_background(runs, args, name, output).await;
    }
    setsid().context("begin a session")?;
    follow_front_end();
    let folder = args.topology.parent().unwrap_or(Path::new("")).to_owned();
    let body = async |bed: &Testbed| -> TestResult {
        bed.start_cpu().await?;
        let _running = topology.start_applications(bed, &folder).await?;
        bed.hold_until(
            &format!("{name} is up"),
            &format!("alpy down {name}"),
            "takes it down",
        )
        .await?;
        Ok(())
    };
    let builder = builder.evidence_base(runs.base()).deadline(FOREVER);
    let done = builder.run(body).await;
    done.map_err(|failure| anyhow!(in_words(&failure.to_string())))?;
    Ok(ExitCode::SUCCESS)
}

/// Has another process hold the testbed, and waits until it is up; in the foreground, until it is down. What that process says is shown
/// meanwhile.
async fn in_background(runs: &Runs, args: &Up, name: &str, output: &Output) -> Result<ExitCode> {
    let mut log = Log::new()?;
    let mut command = Command::new(env::current_exe().context("find the program of alpy")?);
    command.arg("up").arg(&args.topology).arg("--background");
    command.args(args.foreground.then_some("--foreground"));
    command.arg("--evidence").arg(runs.base());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log.writer()?);
    let mut stop = Stop::begin()?;
    let mut child = command.spawn().context("start alpy in the background")?;
    let mut word = child.stdin.take();
    let mut looks = interval(LOOK);
    let run = loop {
        tokio::select! {
            _ = looks.tick() => {}
            signal = stop.next() => {
                // In the foreground it may have come up since the last look, and this is how it is taken down.
                if let Some(run) = held(runs, name).await.filter(|_| args.foreground) {
                    let down = take_down(&run, child.id()).await;
                    log.show()?;
                    return is_down(&down?, output);
                }
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
    // In the foreground, the testbed is not to outlive this process.
    if let Some(mut word) = word.take_if(|_| !args.foreground) {
        word.write_all(STAY).await.context("alpy in the background")?;
    }
    let up =
        json!({"test": run.name(), "evidence": run.dir, "pid": run.pid, "run": run.id, "engine": run.engine});
    output.show(&up, || match args.foreground {
        true => format!("{name} is up; Ctrl-C takes it down\n"),
        false => format!("{name} is up; alpy down {name} takes it down\n"),
    })?;
    if !args.foreground {
        return Ok(ExitCode::SUCCESS);
    }
    let mut ended = std::pin::pin!(run.ended());
    loop {
        tokio::select! {
            _ = looks.tick() => log.show()?,
            // Another one took it down, or it failed.
            ended = &mut ended => {
                log.show()?;
                return is_down(&ended?, output);
            }
            _ = stop.next() => {
                let down = take_down(&run, child.id()).await;
                log.show()?;
                return is_down(&down?, output);
            }
        }
    }
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
    if !is_up(&run) {
        return Err(usage(format!(
            "{name} is a test, not made by `alpy up`; remedy: alpy resume {name}, if it is held, or Ctrl-C where it runs",
            name = run.name()
        )));
    }
    is_down(&take_down(&run, run.pid).await?, output)
}

/// Takes a testbed of `alpy up` down, and waits until it is.
async fn take_down(run: &RunInfo, pid: Option<u32>) -> Result<RunInfo> {
    if Control::of(run).resume().await.is_err() {
        // It is still being made, and ends by this in the same order.
        let pid = i32::try_from(pid.context("it has no process")?)?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("end alpy in the background")?;
    }
    let ended = progress("take it down", timeout(TEARDOWN, run.ended())).await;
    Ok(ended.with_context(|| format!("{} is not down after {TEARDOWN:?}", run.name()))??)
}

/// Says that it is down, and how.
fn is_down(ended: &RunInfo, output: &Output) -> Result<ExitCode> {
    let done =
        json!({"test": ended.name(), "evidence": ended.dir, "state": ended.state, "failure": ended.failure});
    output.show(&done, || {
        let failure = ended.failure.as_ref().map(|failure| format!(": {failure}"));
        format!(
            "{} is down{}; its evidence: {}\n",
            ended.name(),
            failure.unwrap_or_default(),
            ended.dir.display()
        )
    })?;
    Ok(match ended.state {
        RunState::Passed => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Whether a run is one of `alpy up`.
fn is_up(run: &RunInfo) -> bool {
    run.pid.is_some_and(is_alpy)
}

/// Whether a process is that of an `alpy up`, whatever its program is called: it is told where to be.
fn is_alpy(pid: u32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let has = |word: &str| words.contains(&word.as_bytes());
    has("up") && has("--background")
}

pub async fn resume(runs: &Runs, args: &Resume, output: &Output) -> Result<ExitCode> {
    let run = runs.get_under_way(&args.test)?;
    if is_up(&run) {
        return Err(usage(format!(
            "{name} was made by `alpy up`, and there is no test to go on; remedy: alpy down {name} takes it down",
            name = run.name()
        )));
    }
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
