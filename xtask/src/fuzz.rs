// SPDX-License-Identifier: GPL-3.0-or-later
//! `cargo xtask fuzz`.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::args::Args;
use crate::process::{self, Kind};
use crate::workspace::Workspace;
use crate::{needs, stop, table};

const HELP: &str = "\
Fuzz what alpy parses: QMP, captures, the requests to the helper, what comes over a console.

Usage: cargo xtask fuzz [--list] [--minutes N] [TARGET...]

  TARGET     Run only these targets, one after another
  --list     List the targets
  --minutes  How long each runs, 10 if not given; 0.5 is half a minute

Needs cargo-fuzz and a nightly toolchain of rustup's. What is found is in fuzz/artifacts/ of the target folder, and the corpus,
from which the next run goes on, in fuzz/corpus/.

Exit status: 0 if nothing was found, 2 if something must be done first, 130 after Ctrl-C, else 1.";

/// Where the targets are, as a package of its own.
const FOLDER: &str = "crates/alpy-fuzz";

/// libFuzzer looks at its own limit only between two inputs, one of which may take long, and not before it has been through the
/// corpus.
const GRACE: Duration = Duration::from_secs(600);

struct Request {
    targets: Vec<String>,
    list: bool,
    time: Duration,
}

/// Fuzzes one target after another.
pub fn main(arguments: Vec<String>) -> Result<ExitCode> {
    let mut args = Args::new(arguments, HELP);
    let mut request = Request {
        targets: Vec::new(),
        list: false,
        time: Duration::from_secs(600),
    };
    while let Some(argument) = args.next()? {
        match argument.as_str() {
            "--list" => request.list = true,
            "--minutes" => request.time = minutes(&mut args)?,
            "-h" | "--help" => return Ok(args.help()),
            name if !name.starts_with('-') => request.targets.push(name.to_owned()),
            other => return Err(args.unknown(other)),
        }
    }
    let workspace = Workspace::read()?;
    let manifest = workspace.root.join(FOLDER).join("Cargo.toml");
    let manifest = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
    let all = targets(&manifest)?;
    if request.list {
        all.iter().for_each(|name| println!("{name}"));
        return Ok(ExitCode::SUCCESS);
    }
    let targets = chosen(&request.targets, &all)?;
    let fuzzer = Fuzzer::new(&workspace)?;
    let outcomes = run(&fuzzer, &targets, request.time)?;

    print!("\n{}", render(&outcomes));
    let findings: Vec<_> = outcomes.iter().filter(|outcome| outcome.is_finding()).collect();
    for outcome in &findings {
        println!("\n{}", fuzzer.report(outcome));
    }
    Ok(if findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Which tools are missing, if any are, and how to install them.
pub fn is_missing(workspace: &Workspace) -> Result<Option<String>> {
    match Fuzzer::new(workspace) {
        Ok(_) => Ok(None),
        Err(error)
            if error
                .downcast_ref::<stop::Stop>()
                .is_some_and(|stop| stop.status == 2) =>
        {
            Ok(Some(error.to_string()))
        }
        Err(error) => Err(error),
    }
}

fn run(fuzzer: &Fuzzer, targets: &[String], time: Duration) -> Result<Vec<Outcome>> {
    eprintln!("xtask: build the fuzz targets...");
    fuzzer.build(targets)?;
    eprintln!("xtask: build the fuzz targets... done");
    let mut outcomes = Vec::new();
    for target in targets {
        eprintln!("xtask: fuzz {target} for {} s...", time.as_secs());
        let outcome = fuzzer.run(target, time)?;
        let verdict = if outcome.is_finding() { "failed" } else { "done" };
        eprintln!("xtask: fuzz {target} for {} s... {verdict}", time.as_secs());
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// The value of `--minutes`.
fn minutes(args: &mut Args) -> Result<Duration> {
    let text = args.value("--minutes")?;
    // libFuzzer counts whole seconds, and takes none for no limit.
    let time = text.parse().ok().and_then(|minutes: f64| {
        let seconds = (minutes * 60.0).round();
        (1.0..=1e6)
            .contains(&seconds)
            .then(|| Duration::from_secs_f64(seconds))
    });
    time.ok_or_else(|| args.error(&format!("--minutes is a number from 0.02 to 16666, not {text}")))
}

/// The names of the targets, as the manifest of their package has them.
fn targets(manifest: &str) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Manifest {
        bin: Vec<Target>,
    }
    #[derive(Deserialize)]
    struct Target {
        name: String,
    }
    let manifest: Manifest = toml::from_str(manifest).context("read the manifest of the fuzz targets")?;
    Ok(manifest.bin.into_iter().map(|target| target.name).collect())
}

/// The targets that were asked for; all, if none was.
fn chosen(asked: &[String], all: &[String]) -> Result<Vec<String>> {
    if asked.is_empty() {
        return Ok(all.to_vec());
    }
    match asked.iter().find(|&name| !all.contains(name)) {
        Some(name) => Err(stop::before_start(format!(
            "no such fuzz target: {name}; there are: {}",
            all.join(", ")
        ))),
        None => Ok(asked.to_vec()),
    }
}

/// cargo-fuzz, the toolchain that it needs, and the folders.
struct Fuzzer {
    root: PathBuf,
    /// All that is built or found.
    folder: PathBuf,
    /// What the toolchain builds for.
    platform: String,
}

impl Fuzzer {
    /// Looks whether all is there, or ends with the commands that make it be.
    fn new(workspace: &Workspace) -> Result<Self> {
        if process::find("rustup").is_none() {
            return Err(stop::before_start(
                "rustup is missing, by which a nightly toolchain lives beside another: https://rustup.rs",
            ));
        }
        let root = workspace.root.clone();
        let ask = |program: &str, arguments: &[&str]| {
            let output = process::output(nightly(&root, program, arguments), Kind::Group)?;
            Ok::<_, anyhow::Error>(output.status.success().then_some(output.stdout))
        };
        let version = ask("rustc", &["-vV"])?;
        let mut missing = Vec::new();
        if version.is_none() {
            missing.push("rustup toolchain install nightly --profile minimal");
        }
        // Without the toolchain, no cargo can tell.
        let is_there = match version {
            Some(_) => ask("cargo", &["fuzz", "--version"])?.is_some(),
            None => process::find("cargo-fuzz").is_some(),
        };
        if !is_there {
            missing.push("cargo install --locked cargo-fuzz");
        }
        let Some(version) = version.filter(|_| missing.is_empty()) else {
            return Err(stop::before_start(format!(
                "tools to fuzz with are missing; to install them:\n    {}",
                missing.join("\n    ")
            )));
        };
        needs::ensure(&[("c++", "g++", "the build of the fuzzers")])?;
        let platform = version.lines().find_map(|line| line.strip_prefix("host: "));
        Ok(Self {
            root,
            folder: workspace.target.join("fuzz"),
            platform: platform.context("rustc names its host")?.to_owned(),
        })
    }

    fn build(&self, targets: &[String]) -> Result<()> {
        let mut command = self.cargo_fuzz("build");
        // One, or all.
        if let [target] = targets {
            command.arg(target);
        }
        let status = process::run(command, Kind::Group)?;
        if !status.success() {
            bail!("the fuzz targets do not build");
        }
        Ok(())
    }

    /// Runs a target for so long, or until it has found something.
    fn run(&self, target: &str, time: Duration) -> Result<Outcome> {
        let (corpus, artifacts) = (self.corpus(target), self.folder.join("artifacts").join(target));
        for folder in [&corpus, &artifacts] {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let log = self.folder.join(format!("{target}.log"));
        let mut written = File::create(&log).with_context(|| log.display().to_string())?;
        let executable = self
            .build_folder()
            .join(&self.platform)
            .join("release")
            .join(target);
        let mut command = process::command(executable);
        command
            .current_dir(&self.root)
            .arg(format!("-max_total_time={}", time.as_secs()))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            // Short inputs first, but not for long: a target takes its choices from the front of the input.
            .args(["-len_control=20", "-print_final_stats=1"])
            .arg(&corpus);
        let mut seen = Seen::default();
        let mut failure = Ok(());
        let started = Instant::now();
        let ended = process::follow(command, Kind::Group, Some((time + GRACE).into()), |_, line| {
            seen.line(line);
            if failure.is_ok() {
                failure = written.write_all(line.as_bytes());
            }
        })?;
        failure.with_context(|| log.display().to_string())?;
        let finding = if ended.timed_out {
            Some(format!("did not end within {} s", (time + GRACE).as_secs()))
        } else if ended.status.success() {
            None
        } else {
            Some(seen.panic.clone().unwrap_or_else(|| ended.status.to_string()))
        };
        Ok(Outcome {
            target: target.to_owned(),
            seen,
            time: started.elapsed(),
            finding,
            log,
        })
    }

    /// What was found, and how to see it again.
    fn report(&self, outcome: &Outcome) -> String {
        let Outcome {
            target,
            seen,
            finding,
            log,
            ..
        } = outcome;
        let finding = finding.as_deref().unwrap_or("nothing found");
        let mut text = format!("{target}: {finding}\n  log:       {}", log.display());
        if let Some(artifact) = &seen.artifact {
            text.push_str(&format!("\n  artifact:  {artifact}\n  reproduce: "));
            let mut command = self.cargo_fuzz("run");
            command.args([target, artifact]);
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
            text.push_str(&words.join(" "));
        }
        text
    }

    fn corpus(&self, target: &str) -> PathBuf {
        self.folder.join("corpus").join(target)
    }

    fn build_folder(&self) -> PathBuf {
        self.folder.join("build")
    }

    fn cargo_fuzz(&self, verb: &str) -> Command {
        let mut command = nightly(&self.root, "cargo", &["fuzz", verb, "--fuzz-dir", FOLDER]);
        command.arg("--target").arg(&self.platform);
        command.arg("--target-dir").arg(self.build_folder());
        command
    }
}

/// A program of the nightly toolchain.
fn nightly(root: &Path, program: &str, arguments: &[&str]) -> Command {
    let mut command = process::command("rustup");
    command
        .args(["run", "nightly", program])
        .args(arguments)
        .current_dir(root);
    // `cargo run` sets these for xtask, and they are about another toolchain.
    for name in [
        "CARGO",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "LD_LIBRARY_PATH",
        "RUSTUP_TOOLCHAIN",
    ] {
        command.env_remove(name);
    }
    command
}

/// How a target went.
struct Outcome {
    target: String,
    seen: Seen,
    time: Duration,
    /// What was found.
    finding: Option<String>,
    log: PathBuf,
}

impl Outcome {
    fn is_finding(&self) -> bool {
        self.finding.is_some()
    }
}

/// What libFuzzer says of a run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    executions: u64,
    /// How many places of the code were reached.
    coverage: u64,
    /// The file that holds the input that failed.
    artifact: Option<String>,
    /// What the code said, and where.
    panic: Option<String>,
    /// The next line is what a panic says.
    panicking: bool,
}

impl Seen {
    /// Takes a line of libFuzzer's, such as `#31 NEW cov: 1 ft: 1 corp: 1/1b`, or of the code.
    fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if std::mem::take(&mut self.panicking) {
            let text = self.panic.get_or_insert_default();
            text.push_str(&format!(": {line}"));
        }
        if let Some(state) = line.strip_prefix('#') {
            let mut words = state.split_whitespace();
            if let Some(executions) = words.next().and_then(|word| word.parse().ok()) {
                self.executions = executions;
            }
            if let Some(coverage) = words.skip_while(|word| *word != "cov:").nth(1) {
                self.coverage = coverage.parse().unwrap_or(self.coverage);
            }
        } else if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            self.executions = count.trim().parse().unwrap_or(self.executions);
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            // One that was only slow is written too.
            if !path.contains("/slow-unit-") {
                self.artifact = Some(path.to_owned());
            }
        } else if let Some((_, place)) = line.split_once("panicked at ").filter(|_| self.panic.is_none()) {
            self.panic = Some(format!("panicked at {}", place.trim_end_matches(':')));
            self.panicking = true;
        } else if let Some(summary) = line.strip_prefix("SUMMARY: ").filter(|_| self.panic.is_none()) {
            self.panic = Some(summary.to_owned());
        }
    }
}

fn render(outcomes: &[Outcome]) -> String {
    let row = |outcome: &Outcome| {
        [
            outcome.target.clone(),
            outcome.seen.executions.to_string(),
            outcome.seen.coverage.to_string(),
            format!("{:.1}", outcome.time.as_secs_f64()),
            u8::from(outcome.is_finding()).to_string(),
        ]
    };
    let rows: Vec<[String; 5]> = outcomes.iter().map(row).collect();
    let head = ["target", "executions", "coverage", "seconds", "findings"];
    table::render(head, &rows, &head[1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(log: &str) -> Seen {
        let mut seen = Seen::default();
        log.lines().for_each(|line| seen.line(line));
        seen
    }

    #[test]
    fn reads_what_a_run_without_a_finding_says() {
        let seen = seen(
            "\
INFO: Seed: 3
#2\tINITED cov: 5 ft: 6 corp: 1/1b exec/s: 0 rss: 40Mb
#65680\tDONE   cov: 5034 ft: 13692 corp: 1216/13139b lim: 25 exec/s: 3127 rss: 418Mb
artifact_prefix='/t/'; Test unit written to /t/slow-unit-1
stat::number_of_executed_units: 65681
stat::peak_rss_mb:              418",
        );
        let expected = Seen {
            executions: 65681,
            coverage: 5034,
            ..Seen::default()
        };
        assert_eq!(seen, expected);
    }

    #[test]
    fn reads_what_a_finding_says() {
        let panic = seen(
            "\
#3\tNEW    cov: 7 ft: 8 corp: 2/2b lim: 4 exec/s: 0 rss: 40Mb L: 1/1 MS: 1 ChangeBit-

thread '<unnamed>' (7) panicked at crates/a/src/fuzzing.rs:9:5:
3 bytes of memory for a window of 0
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace
==7== ERROR: libFuzzer: deadly signal
SUMMARY: libFuzzer: deadly signal
artifact_prefix='/t/'; Test unit written to /t/crash-da39",
        );
        assert_eq!(panic.artifact.as_deref(), Some("/t/crash-da39"));
        let text = "panicked at crates/a/src/fuzzing.rs:9:5: 3 bytes of memory for a window of 0";
        assert_eq!(panic.panic.as_deref(), Some(text));
        assert_eq!((panic.executions, panic.coverage), (3, 7));

        let memory = seen("SUMMARY: libFuzzer: out-of-memory");
        assert_eq!(memory.panic.as_deref(), Some("libFuzzer: out-of-memory"));
    }

    #[test]
    fn takes_a_time_that_the_fuzzer_can_count() {
        let given = |text: &str| minutes(&mut Args::new(vec![text.to_owned()], HELP));
        assert_eq!(given("10").unwrap(), Duration::from_secs(600));
        assert_eq!(given("0.5").unwrap(), Duration::from_secs(30));
        for bad in ["0", "-1", "ten", "NaN", "inf", "0.001"] {
            let error = given(bad).unwrap_err();
            assert!(error.to_string().contains(&format!("not {bad}\n")), "{error}");
        }
    }

    #[test]
    fn finds_the_targets_in_their_manifest() {
        let manifest =
            "[package]\nname = \"x\"\n[[bin]]\nname = \"a\"\n[[bin]]\nname = \"b\"\npath = \"b.rs\"\n";
        let all = targets(manifest).unwrap();
        assert_eq!(all, ["a", "b"]);
        assert_eq!(chosen(&[], &all).unwrap(), all);
        assert_eq!(chosen(&["b".to_owned()], &all).unwrap(), ["b"]);
        let error = chosen(&["c".to_owned()], &all).unwrap_err().to_string();
        assert_eq!(error, "no such fuzz target: c; there are: a, b");
    }
}
