// SPDX-License-Identifier: GPL-3.0-or-later
//! How many testbeds of two links run at once, and what each costs.
//!
//! Each test is a process of its own, as under nextest, and as many of them as the case says run all the time: where one ends, the
//! next begins.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use alpy::{Link, SavedStates, Testbed};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::figure::{note, print};
use crate::measure::{peak_kib, quantile};
use crate::{Extent, peer, testbed};

/// How much more a step has to bring, where a test takes twice as long as alone already.
const WORTH: f64 = 1.05;

/// What a test begins with, how many of them a step has for each that runs at once, and how many at least.
const SUBJECTS: [(&str, usize, usize); 2] = [("restored", 4, 8), ("booted", 2, 4)];

/// What is measured of one test.
struct Sample {
    wall: f64,
    ended: Instant,
    memory: Value,
}

/// What a number of tests at once comes to.
struct Step {
    wall: f64,
    per_minute: f64,
}

/// Measures it.
pub(crate) fn measure(extent: &Extent) -> Result<()> {
    // Imports images, and saves the state, if there is none yet.
    run_one("restored")?;
    for run in 0..extent.runs {
        for (subject, factor, least) in SUBJECTS {
            let mut alone = f64::NAN;
            let (mut best, mut within) = (0.0_f64, 1);
            for &at_once in extent.size.at_once {
                note(&format!(
                    "capacity: {subject}, {at_once} at once, run {} of {}",
                    run + 1,
                    extent.runs
                ));
                let step = step(
                    subject,
                    at_once,
                    least.max(factor * at_once).min(extent.size.tests),
                )?;
                if at_once == 1 {
                    alone = step.wall;
                }
                let doubled = step.wall >= 2.0 * alone;
                if !doubled {
                    within = at_once;
                }
                let grows = step.per_minute > best * WORTH;
                best = best.max(step.per_minute);
                if doubled && !grows {
                    break;
                }
            }
            print("all", "at once before wall time doubles", subject, within as f64);
            print("all", "most tests per minute", subject, best);
        }
    }
    Ok(())
}

/// Runs so many tests, so many at once.
fn step(subject: &str, at_once: usize, tests: usize) -> Result<Step> {
    let left = Mutex::new(tests);
    let none_left = Mutex::new(None);
    let work = || -> Result<Vec<Sample>> {
        let mut samples = Vec::new();
        loop {
            {
                let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
                if *left == 0 {
                    let mut none_left = none_left.lock().unwrap_or_else(PoisonError::into_inner);
                    none_left.get_or_insert_with(Instant::now);
                    return Ok(samples);
                }
                *left -= 1;
            }
            samples.push(run_one(subject)?);
        }
    };
    let samples = thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        let mut samples = Vec::new();
        for worker in workers {
            let Ok(result) = worker.join() else {
                bail!("a thread that runs tests panicked");
            };
            samples.extend(result?);
        }
        Ok(samples)
    })?;
    // Those that ended later had fewer beside them.
    let until = none_left.into_inner().unwrap_or_else(PoisonError::into_inner);
    let full: Vec<&Sample> = samples
        .iter()
        .filter(|sample| until.is_none_or(|until| sample.ended <= until))
        .collect();
    let case = format!("{at_once} at once");
    let mut walls: Vec<f64> = full.iter().map(|sample| sample.wall).collect();
    let mean = walls.iter().sum::<f64>() / walls.len() as f64;
    let step = Step {
        wall: quantile(&mut walls, 0.5),
        per_minute: 60.0 * at_once as f64 / mean,
    };
    print(&case, "wall of a test, s", subject, step.wall);
    print(&case, "tests per minute", subject, step.per_minute);
    for (metric, key) in [
        ("alpy's own memory, peak, MB", "own"),
        ("QEMU's memory, RSS, MB", "qemu_rss"),
        ("QEMU's memory, PSS, MB", "qemu_pss"),
        ("nodes and their shims, PSS, MB", "nodes_pss"),
    ] {
        let of = |sample: &&Sample| sample.memory[key].as_f64();
        // Where somebody else's engine runs the nodes, their memory is not for this user to see.
        if let Some(mut values) = full.iter().map(of).collect::<Option<Vec<f64>>>() {
            print(&case, metric, subject, quantile(&mut values, 0.5));
        }
    }
    Ok(step)
}

/// Runs a test in a process of its own.
fn run_one(kind: &str) -> Result<Sample> {
    let mut command = peer::own()?;
    command.args(["capacity-test", kind]);
    let began = Instant::now();
    let memory = peer::json(command)?;
    let ended = Instant::now();
    Ok(Sample {
        wall: (ended - began).as_secs_f64(),
        ended,
        memory,
    })
}

/// The test. It prints the memory that was used, in MB.
pub(crate) fn test(kind: &str) -> Result<()> {
    let states = match kind {
        "restored" => SavedStates::from_env()?,
        "booted" => SavedStates::off(),
        other => bail!("a test is restored or booted, not {other}"),
    };
    let script = testbed::script(2);
    let builder = Testbed::builder("capacity")
        .machine(rabbit::machine()?)
        .saved_states(states)
        .link(Link::new().address("10.0.0.1/24").gateway("10.0.0.2"))
        .link(Link::new().address("10.0.1.1/24").gateway("10.0.1.2"));
    let body = async |bed: &Testbed| -> Result<Value> {
        ensure!(
            bed.is_restored() == (kind == "restored"),
            "the test is not {kind}: see the variables ALPY_SAVED_STATES and ALPY_STATES_DIR"
        );
        bed.start_cpu().await?;
        let mut shell = carrot::login(bed).await?;
        carrot::configure(&mut shell, "configure", &script).await?;
        let image = rabbit::image(bed.engine(), "busybox").await?;
        bed.node(0)
            .application("ping", &image)?
            .command(["ping", "-c", "1", "-W", "5", "10.0.1.1"])
            .capability("NET_RAW")
            .run(bed.engine())
            .await?
            .success()?;
        memory(bed).await
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut memory = runtime.block_on(builder.run(body))?;
    memory["own"] = json!(megabytes(peak_kib()?));
    println!("{memory}");
    Ok(())
}

/// That of what the testbed started, while it runs.
async fn memory(bed: &Testbed) -> Result<Value> {
    let qemu = bed.qemu().pid();
    let mut nodes = Some(0.0);
    for node in bed.nodes() {
        let pid = node.pid().await?;
        let both = parent(pid).and_then(|shim| Ok(rollup(pid, "Pss:")? + rollup(shim, "Pss:")?));
        nodes = nodes.and_then(|sum| Some(sum + both.ok()?));
    }
    Ok(json!({
        "qemu_rss": rollup(qemu, "Rss:")?,
        "qemu_pss": rollup(qemu, "Pss:")?,
        "nodes_pss": nodes,
    }))
}

/// A line of a process's `smaps_rollup`, see proc_pid_smaps(5): memory that several processes have is in `Pss` for a part each.
fn rollup(pid: u32, name: &str) -> Result<f64> {
    let file = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&file).context(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.with_context(|| format!("process {pid} has no {name}"))?;
    Ok(megabytes(kib.trim().trim_end_matches(" kB").parse()?))
}

/// The process that started this one.
fn parent(pid: u32) -> Result<u32> {
    let file = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&file).context(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix("PPid:"));
    Ok(line.context("a process has a parent")?.trim().parse()?)
}

fn megabytes(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e6
}
