// SPDX-License-Identifier: GPL-3.0-or-later
//! A whole job, by alpy and by the original in turn.

use std::fmt::Write;
use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use alpy::docker::Engine;
use alpy::qemu::{Accelerator, Machine};
use alpy::{Link, Skeleton, Testbed};
use anyhow::{Result, ensure};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::figure::{note, print};
use crate::{Extent, peer};

const PHASES: [&str; 7] = [
    "set-up",
    "boot",
    "login",
    "configure",
    "ping",
    "power-off",
    "teardown",
];

/// Phases that the guest's own doing is nearly all of.
const GUEST: [&str; 2] = ["boot", "power-off"];

const LIMIT: Duration = Duration::from_secs(60);

/// Measures it.
pub(crate) fn measure(extent: &Extent) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let prepared = runtime.block_on(prepare())?;
    if peer::python("original.py").is_none() {
        note("testbed: the original is not installed, its columns are missing");
    }
    for &links in &extent.links {
        ensure!(
            (2..=24).contains(&links),
            "a job has 2 to 24 links, not {links}: a ping goes from one to another, and QEMU's machine has no more slots"
        );
        let case = format!("{links} links");
        // Saves the state, if there is none yet.
        ours(&runtime, links, rabbit::machine()?)?;
        for run in 0..extent.runs {
            note(&format!("testbed: {case}, run {} of {}", run + 1, extent.runs));
            report(
                &case,
                "alpy",
                &ours(&runtime, links, rabbit::machine()?.without_saved_state())?,
            );
            // Its guest does not boot, and the test ends without powering it off.
            report(
                &case,
                "alpy, restored",
                &ours(&runtime, links, rabbit::machine()?)?,
            );
            if let Some(phases) = original(&prepared, links)? {
                report(&case, "alpy 3.0.0 (Python)", &phases);
            }
        }
    }
    Ok(())
}

fn report(case: &str, subject: &str, phases: &[f64; PHASES.len()]) {
    let (mut wall, mut own) = (0.0, 0.0);
    for (phase, seconds) in PHASES.iter().zip(phases) {
        print(case, &format!("{phase}, s"), subject, *seconds);
        wall += seconds;
        if !GUEST.contains(phase) {
            own += seconds;
        }
    }
    print(case, "wall, s", subject, wall);
    print(case, "own time, s", subject, own);
}

/// What both need, and what neither is measured by: images in the engine, the choice of an accelerator.
struct Prepared {
    busybox: String,
    iproute2: String,
    accelerator: Accelerator,
}

async fn prepare() -> Result<Prepared> {
    let engine = Engine::connect().await?;
    let busybox = rabbit::image(&engine, "busybox").await?;
    let iproute2 = rabbit::image(&engine, "iproute2").await?;
    // Imports alpy's own image.
    let (skeleton, _) = Skeleton::builder("bench-prepare").engine(engine).start().await?;
    skeleton.close().await?;
    let accelerator = Accelerator::detect(Machine::new().program_path()).await?;
    note(&format!("testbed: accelerator {accelerator}"));
    Ok(Prepared {
        busybox,
        iproute2,
        accelerator,
    })
}

/// What is typed into the guest: the addresses of all its links, and to forward between them. One program sets them all, for how
/// long a guest takes to start programs is nobody's own time.
pub(crate) fn script(links: usize) -> String {
    let mut script = String::from("#!/bin/sh -e\nip -batch - <<END\n");
    for link in 0..links {
        // A String takes all that is written to it.
        let _ = writeln!(script, "address add 10.0.{link}.2/24 dev eth{link}");
        let _ = writeln!(script, "link set eth{link} up");
    }
    script.push_str("END\nsysctl -w net.ipv4.ip_forward=1\n");
    script
}

/// A machine without a saved state boots, and is powered off.
fn ours(runtime: &Runtime, links: usize, machine: Machine) -> Result<[f64; PHASES.len()]> {
    let script = script(links);
    let mut marks = vec![Instant::now()];
    let mut builder = Testbed::builder("bench").machine(machine);
    for link in 0..links {
        let link = Link::new()
            .address(format!("10.0.{link}.1/24"))
            .gateway(format!("10.0.{link}.2"));
        builder = builder.link(link);
    }
    let body = async |bed: &Testbed| -> Result<Vec<Instant>> {
        let mut marks = vec![Instant::now()];
        ensure!(
            bed.recipe().is_none() || bed.is_restored(),
            "the machine boots: no saved state is used, see the variables ALPY_SAVED_STATES and ALPY_STATES_DIR"
        );
        bed.start_cpu().await?;
        if !bed.is_restored() {
            bed.console().expect("rabbit login: ", LIMIT).await?;
        }
        marks.push(Instant::now());
        if !bed.is_restored() {
            // The login waits for the prompt that has just been read. An empty line makes getty print it again.
            bed.console().send_line("").await?;
        }
        let mut shell = carrot::login(bed).await?;
        marks.push(Instant::now());
        carrot::configure(&mut shell, "configure", &script).await?;
        marks.push(Instant::now());
        let image = rabbit::image(bed.engine(), "busybox").await?;
        let ping = bed.node(0).application("ping", &image)?;
        ping.command(["ping", "-c", "1", "-W", "5", "10.0.1.1"])
            .capability("NET_RAW")
            .run(bed.engine())
            .await?
            .success()?;
        marks.push(Instant::now());
        if !bed.is_restored() {
            carrot::poweroff(bed, shell).await?;
        }
        marks.push(Instant::now());
        Ok(marks)
    };
    marks.extend(runtime.block_on(builder.run(body))?);
    marks.push(Instant::now());
    let mut phases = [0.0; PHASES.len()];
    for (phase, pair) in phases.iter_mut().zip(marks.windows(2)) {
        *phase = (pair[1] - pair[0]).as_secs_f64();
    }
    Ok(phases)
}

/// None if it is not installed.
fn original(prepared: &Prepared, links: usize) -> Result<Option<[f64; PHASES.len()]>> {
    let Some(mut command) = peer::python("original.py") else {
        return Ok(None);
    };
    // It leaves its captures and logs in the current folder.
    let folder = tempfile::tempdir()?;
    // Free a moment ago, which has to do: QEMU takes a number alone.
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let job = json!({
        "links": links,
        "busybox": prepared.busybox,
        "iproute2": prepared.iproute2,
        "qemu": machine(&prepared.accelerator)?,
        "script": script(links),
        "port": port,
        "prefix": format!("ab{}n", std::process::id()),
    });
    command.arg(job.to_string()).current_dir(folder.path());
    // It tidies up when it is told to end, and this process has to be there for as long.
    let patience = Patience::begin()?;
    let result = peer::json(command);
    drop(patience);
    if result.is_err() {
        if let Ok(log) = fs::read_to_string(folder.path().join("console.log")) {
            note(&format!("testbed: the original's console: {log}"));
        }
    }
    let seconds = result?;
    let mut phases = [0.0; PHASES.len()];
    for (phase, name) in phases.iter_mut().zip(PHASES) {
        *phase = peer::number(&seconds, name)?;
    }
    Ok(Some(phases))
}

/// The same machine, as the original takes it: all but monitor, console and NICs.
fn machine(accelerator: &Accelerator) -> Result<Vec<String>> {
    let machine = rabbit::machine()?.without_saved_state();
    let program = machine.program_path().display().to_string();
    let arguments = machine.arguments(accelerator, &[]);
    let arguments = arguments
        .iter()
        .map(|argument| argument.to_string_lossy().into_owned());
    Ok([program].into_iter().chain(arguments).collect())
}

/// While this lives, SIGTERM does not end the process.
struct Patience(SigAction);

impl Patience {
    fn begin() -> Result<Self> {
        let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
        // SAFETY: no handler is installed that could do anything.
        Ok(Self(unsafe { sigaction(Signal::SIGTERM, &ignore) }?))
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        // SAFETY: the action was in place before.
        let _ = unsafe { sigaction(Signal::SIGTERM, &self.0) };
    }
}
