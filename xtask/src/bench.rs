// SPDX-License-Identifier: GPL-3.0-or-later
//! `cargo xtask bench`.

mod expected;
mod figures;
mod goals;
mod plot;
mod python;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::args::Args;
use crate::images::{self, Base};
use crate::process::{self, Kind, Stream};
use crate::workspace::{self, Workspace};
use crate::{build, engine, needs, rabbit_tests, runner, stop};
use figures::Figures;

const HELP: &str = "\
Measure alpy beside its peers, all in the same run on the same machine, one after the other and then again.

Usage: cargo xtask bench [AREA...] [--runs N] [--links N,N...]
       cargo xtask bench [AREA...] --smoke

  AREA     Only these; all if none is given:
             testbed  a whole job on rabbit, by alpy and by the original (Python): seconds of each phase
             capacity testbeds at once, each a process of its own: wall time, tests per minute, memory
             qmp      round trips to QEMU: alpy-qmp, a bare socket loop, qapi, qemu.qmp (Python)
             console  a marker after 50 MB, and prompt turns: alpy-console, bare loops, rexpect, pexpect (Python)
             pcap     1 GB of packets: alpy-pcap, a hand-written loop, tcpdump; following a capture
             netns    taps: alpy-netns, bare system calls, ip(8)
             docker   one-off containers: alpy-docker, docker run --rm, docker-py (Python)
  --runs   How often each is measured: 5 if not given
  --links  How many links the job has: 2,8,16 if not given
  --smoke  Measure everything once, in the smallest size and without optimisation, several areas at once, and fail if a figure is
           missing. The values mean nothing and are not kept. Takes a minute or two. `cargo xtask test` runs this

What is printed is the median of the runs, the least and the most, and how much the median is of that of the first subject. Compare only
figures of one run: another machine, or this one in another hour, has others. While it runs, nothing else should.

The peers in Python are installed by pip into a virtual environment under target/; without pip or a network, their rows are missing. The
engine is a private one that nothing else uses, unless DOCKER_HOST names another. All figures go to target/alpy-bench/bench.json, and a plot
of own time against links to target/alpy-bench/own-time.svg.

Exit status: 0 if all was measured, whatever the figures are, 2 if something must be done first, 130 after Ctrl-C, else 1.";

const PACKAGE: &str = "alpy-bench";
const AREAS: [&str; 7] = ["testbed", "capacity", "qmp", "console", "pcap", "netns", "docker"];

/// How long an area may take to start and end, and each run of it; of a testbed, each run with each number of links.
const START: Duration = Duration::from_secs(900);
const RUN: Duration = Duration::from_secs(240);

#[derive(Debug)]
struct Request {
    areas: Vec<String>,
    runs: u32,
    links: Vec<u32>,
    smoke: bool,
}

impl Request {
    /// The name of the size of a run, as the program takes it.
    fn size(&self) -> &'static str {
        if self.smoke { "smoke" } else { "full" }
    }
}

/// Measures.
pub fn main(arguments: Vec<String>) -> Result<ExitCode> {
    let mut args = Args::new(arguments, HELP);
    let Some(request) = request(&mut args)? else {
        return Ok(args.help());
    };
    let workspace = Workspace::read()?;
    let folder = workspace.target.join("alpy-bench");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;

    let needed = [needs::RABBIT_TESTS, needs::CRATE_TESTS, images::PROGRAMS].concat();
    let engine = match engine::is_named() {
        true => rabbit_tests::ensure(needed, &workspace.target)?,
        false => rabbit_tests::ensure_private(needed, &folder)?,
    };
    rabbit_tests::build_images(&workspace, Base::default())?;
    let python = python::ensure(&folder)?;
    let program = match request.smoke {
        true => build::program(PACKAGE, "usage")?,
        false => build_release(&folder)?,
    };

    let mut environment = rabbit_tests::environment(&workspace.target, &engine);
    // For what is large, and for the evidence of testbeds: not among that of tests.
    let scratch = folder.join(request.size());
    renew(&scratch)?;
    environment.push(("ALPY_EVIDENCE", folder.clone().into()));
    environment.push(("ALPY_BENCH_FOLDER", scratch.clone().into()));
    let has_python = python.is_some();
    environment.extend(python.map(|python| ("ALPY_BENCH_PYTHON", python.into())));
    // Figures are comparable if nothing else runs.
    let jobs = if request.smoke { runner::jobs().get() } else { 1 };
    let measured = runner::at_once(&request.areas, jobs, |area| {
        measure(area, &request, &program, &environment)
    });
    // It may hold a gigabyte.
    fs::remove_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let mut figures = Figures::default();
    measured?.into_iter().for_each(|area| figures.append(area));
    engine.release()?;
    if request.smoke {
        let is_root = nix::unistd::geteuid().is_root();
        let count = expected::check(&figures, &request.areas, has_python, is_root)?;
        if !has_python {
            eprintln!("SKIPPED: bench: the figures of the peers in Python");
        }
        println!("{count} figures, each measured once");
        return Ok(ExitCode::SUCCESS);
    }
    report(&request, &figures, &folder)?;
    Ok(ExitCode::SUCCESS)
}

/// None if the help is asked for.
fn request(args: &mut Args) -> Result<Option<Request>> {
    let mut request = Request {
        areas: Vec::new(),
        runs: 5,
        links: vec![2, 8, 16],
        smoke: false,
    };
    let mut sized = false;
    while let Some(argument) = args.next()? {
        match argument.as_str() {
            "--smoke" => request.smoke = true,
            "--runs" => {
                sized = true;
                let text = args.value("--runs")?;
                let runs = text.parse().ok().filter(|runs| (1..=1000).contains(runs));
                request.runs = runs
                    .ok_or_else(|| args.error(&format!("--runs is a number from 1 to 1000, not {text}")))?;
            }
            "--links" => {
                sized = true;
                let text = args.value("--links")?;
                let links: Option<Vec<u32>> = text
                    .split(',')
                    .map(|links| links.parse().ok().filter(|links| (2..=24).contains(links)))
                    .collect();
                request.links = links.ok_or_else(|| {
                    args.error(&format!(
                        "--links are numbers from 2 to 24, as 2,8,16, not {text}"
                    ))
                })?;
            }
            "-h" | "--help" => return Ok(None),
            name if AREAS.contains(&name) => request.areas.push(name.to_owned()),
            name if !name.starts_with('-') => {
                return Err(stop::before_start(format!(
                    "no such area: {name}; there are: {}",
                    AREAS.join(", ")
                )));
            }
            other => return Err(args.unknown(other)),
        }
    }
    if request.smoke {
        if sized {
            return Err(args.error("--smoke has a size of its own, without --runs and --links"));
        }
        (request.runs, request.links) = (1, vec![2]);
    }
    if request.areas.is_empty() {
        request.areas = AREAS.map(str::to_owned).to_vec();
    }
    Ok(Some(request))
}

/// Builds what measures, with all its peers, as users of a release have it.
fn build_release(folder: &Path) -> Result<PathBuf> {
    let target = folder.join("build");
    let mut command = workspace::cargo();
    command
        .args([
            "build",
            "--release",
            "--locked",
            "--package",
            PACKAGE,
            "--target-dir",
        ])
        .arg(&target);
    if !process::run(command, Kind::Group)?.success() {
        bail!("{PACKAGE} does not build");
    }
    Ok(target.join("release/alpy-bench"))
}

fn measure(
    area: &str,
    request: &Request,
    program: &Path,
    environment: &[(&'static str, std::ffi::OsString)],
) -> Result<Figures> {
    let links: Vec<String> = request.links.iter().map(ToString::to_string).collect();
    let mut figures = Figures::default();
    eprintln!("xtask: measure {area}...");
    let mut command = process::command(program);
    command
        .args([area, &request.runs.to_string(), &links.join(","), request.size()])
        .envs(environment.iter().cloned())
        // Only errors: each testbed logs much.
        .env("RUST_LOG", "error")
        .env("RUST_BACKTRACE", "0");
    let factor = if area == "testbed" { request.links.len() } else { 1 };
    let limit = START + RUN * request.runs * u32::try_from(factor)?;
    let mut unreadable = Ok(());
    let ended = process::follow(
        command,
        Kind::Group,
        Some(limit.into()),
        |stream, line| match stream {
            Stream::Out => {
                if let Err(error) = figures.take(area, line) {
                    unreadable = Err(error);
                }
            }
            Stream::Err => eprint!("{line}"),
        },
    )?;
    process::check_interrupted()?;
    unreadable?;
    if ended.timed_out {
        bail!("{area} is not measured within {} s", limit.as_secs());
    }
    if !ended.status.success() {
        bail!("{area} is not measured: {}", ended.status);
    }
    eprintln!("xtask: measure {area}... done");
    Ok(figures)
}

fn report(request: &Request, figures: &Figures, folder: &Path) -> Result<()> {
    for area in &request.areas {
        println!("\n{area}\n{}", figures.table(area));
    }
    let goals = goals::all(figures, &request.areas);
    println!("\n{}", goals::table(&goals));
    let written = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let all = json!({
        "written": written,
        "runs": request.runs,
        "summary": figures.summary(),
        "goals": goals,
        "figures": figures.all(),
    });
    let file = folder.join("bench.json");
    fs::write(&file, serde_json::to_vec_pretty(&all)?).with_context(|| file.display().to_string())?;
    println!("\nall figures: {}", file.display());
    let points = figures.against_links("own time, s");
    if !points.is_empty() {
        let file = folder.join("own-time.svg");
        let title = "Own time of a job, seconds, against its links: median, least and most";
        fs::write(&file, plot::svg(title, &points)).with_context(|| file.display().to_string())?;
        println!("own time against links: {}", file.display());
    }
    Ok(())
}

/// Makes a folder with nothing in it: a run that was killed may have left something large.
fn renew(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &[&str]) -> Result<Option<Request>> {
        request(&mut Args::new(
            words.iter().map(ToString::to_string).collect(),
            HELP,
        ))
    }

    #[test]
    fn measures_everything_unless_told_otherwise() {
        let all = asked(&[]).unwrap().unwrap();
        assert_eq!(
            (all.areas.len(), all.runs, all.links),
            (AREAS.len(), 5, vec![2, 8, 16])
        );
        let some = asked(&["qmp", "--runs", "1", "pcap", "--links=4"])
            .unwrap()
            .unwrap();
        assert_eq!(
            (some.areas, some.runs, some.links),
            (vec!["qmp".to_owned(), "pcap".to_owned()], 1, vec![4])
        );
        let smoke = asked(&["--smoke", "qmp"]).unwrap().unwrap();
        assert_eq!(
            (smoke.size(), smoke.areas, smoke.runs, smoke.links),
            ("smoke", vec!["qmp".to_owned()], 1, vec![2])
        );
    }

    #[test]
    fn refuses_what_cannot_be_measured() {
        for (words, expected) in [
            (&["disk"][..], "no such area: disk; there are: testbed"),
            (&["--runs", "0"], "--runs is a number from 1 to 1000, not 0"),
            (
                &["--links", "2,1"],
                "--links are numbers from 2 to 24, as 2,8,16, not 2,1",
            ),
            (&["--fast"], "unknown argument: --fast"),
            (&["--smoke", "--runs", "2"], "--smoke has a size of its own"),
        ] {
            let error = asked(words).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
