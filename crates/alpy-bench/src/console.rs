// SPDX-License-Identifier: GPL-3.0-or-later
//! A console that floods, and one that answers.
//!
//! Each reader is a process of its own, because its memory is measured. The console is its standard input, a socket.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use alpy::console::Console;
use anyhow::{Context, Result, bail, ensure};
use rexpect::reader::Options;
use rexpect::session::StreamSession;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::figure::{note, print};
use crate::measure::{peak_kib, processor, quantile};
use crate::{Extent, order, peer};

const MARKER: &str = "marker 17: ";
const PROMPT: &str = "rabbit# ";
const LIMIT: Duration = Duration::from_secs(120);

/// What each reader of a flood is called, and how its process is started.
const FLOODED: [(&str, &str); 6] = [
    ("bare loop that keeps log and transcript", "keeping"),
    ("bare reads", "bare"),
    ("alpy-console", "alpy"),
    ("rexpect", "rexpect"),
    ("pexpect, tuned", "tuned"),
    ("pexpect, default", "default"),
];

/// The same of those who take turns with a prompt, and how many turns: rexpect's last a tenth of a second.
const TURNING: [(&str, &str, usize); 5] = [
    ("bare tokio loop", "tokio", 5000),
    ("bare blocking loop", "bare", 5000),
    ("alpy-console", "alpy", 5000),
    ("rexpect", "rexpect", 10),
    ("pexpect", "pexpect", 2000),
];

/// Measures it.
pub(crate) fn measure(extent: &Extent) -> Result<()> {
    if peer::python("pexpect_console.py").is_none() {
        note("console: pexpect is not installed, its rows are missing");
    }
    for run in 0..extent.runs {
        note(&format!("console: run {} of {}", run + 1, extent.runs));
        for index in order(FLOODED.len(), run) {
            let (subject, kind) = FLOODED[index];
            let folder = tempfile::tempdir()?;
            let place = folder.path().display().to_string();
            let command = match kind {
                "tuned" | "default" => python(&["flood", MARKER, &place, kind]),
                _ => Some(own("flood", kind, &place)?),
            };
            if let Some(command) = command {
                let megabytes = extent.size.flood_mb;
                let result = with_far_end(command, move |far| flood(far, megabytes * 1_000_000))?;
                let case = &format!("marker after {megabytes} MB");
                print(case, "time, s", subject, peer::number(&result, "seconds")?);
                print(
                    case,
                    "peak memory, MiB",
                    subject,
                    peer::number(&result, "peak_kib")? / 1024.0,
                );
                print(case, "processor, s", subject, peer::number(&result, "cpu")?);
            }
        }
        for index in order(TURNING.len(), run) {
            let (subject, kind, most) = TURNING[index];
            let count = most.min(extent.size.turns);
            let command = match kind {
                "pexpect" => python(&["turns", &count.to_string()]),
                _ => Some(own("turns", kind, &count.to_string())?),
            };
            if let Some(command) = command {
                let result = with_far_end(command, answer)?;
                let turn = peer::number(&result, "turn")? * 1e6;
                print("prompt turn", "median, us", subject, turn);
            }
        }
    }
    Ok(())
}

fn python(arguments: &[&str]) -> Option<Command> {
    let mut command = peer::python("pexpect_console.py")?;
    command.args(arguments);
    Some(command)
}

fn own(what: &str, kind: &str, argument: &str) -> Result<Command> {
    let mut command = peer::own()?;
    command.args(["console-reader", what, kind, argument]);
    Ok(command)
}

/// Runs a reader whose console's other end does something.
fn with_far_end(
    mut command: Command,
    far_end: impl FnOnce(UnixStream) -> Result<()> + Send + 'static,
) -> Result<Value> {
    let (near, far) = UnixStream::pair()?;
    command.stdin(OwnedFd::from(near));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let far = thread::spawn(move || far_end(far));
    let child = command.spawn().context("start a reader of a console")?;
    // Holds the reader's end open otherwise.
    drop(command);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "a reader of a console ended with {}: {said}",
        output.status
    );
    if let Err(error) = far.join().expect("the far end does not panic") {
        return Err(error.context("the console's far end"));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Waits for a byte, then prints a flood and the marker.
fn flood(mut far: UnixStream, length: usize) -> Result<()> {
    far.read_exact(&mut [0])?;
    let line = b"[   12.345678] a line of a machine that has much to say about nothing\r\n";
    let block = line.repeat(900);
    let mut left = length;
    while left > 0 {
        let length = left.min(block.len());
        far.write_all(&block[..length])?;
        left -= length;
    }
    far.write_all(MARKER.as_bytes())?;
    // Until the reader has ended.
    let _ = far.read(&mut [0]);
    Ok(())
}

/// Answers each line with a prompt.
fn answer(far: UnixStream) -> Result<()> {
    let mut writer = far.try_clone()?;
    let mut reader = BufReader::new(far);
    let mut line = Vec::new();
    // The reader's end closes with its process, which may be before it has read the last prompt.
    while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
        if writer.write_all(PROMPT.as_bytes()).is_err() {
            break;
        }
        line.clear();
    }
    Ok(())
}

/// A process that reads a console and says on standard output how it went.
pub(crate) fn reader(what: &str, rest: &[&str]) -> Result<()> {
    let [kind, argument] = *rest else {
        bail!("a reader of a console is told its kind and one more word, not {rest:?}");
    };
    let console = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    console.set_read_timeout(Some(LIMIT))?;
    let result = match what {
        "flood" => {
            let time = find_marker(kind, console, Path::new(argument))?;
            json!({
                "seconds": time.as_secs_f64(),
                "peak_kib": peak_kib()?,
                "cpu": processor()?.as_secs_f64(),
            })
        }
        "turns" => {
            let mut turns = take_turns(kind, console, argument.parse()?)?;
            json!({ "turn": quantile(&mut turns, 0.5) })
        }
        other => bail!("a reader of a console is there for flood or turns, not {other:?}"),
    };
    println!("{result}");
    Ok(())
}

fn find_marker(kind: &str, console: UnixStream, folder: &Path) -> Result<Duration> {
    match kind {
        "alpy" => on_tokio(async {
            let console = asynchronous(console)?;
            let console = Console::builder().transcript(folder).start(console)?;
            console.send("g").await?;
            let start = Instant::now();
            console.expect(MARKER, LIMIT).await?;
            Ok(start.elapsed())
        }),
        "rexpect" => {
            let mut session = session(console)?;
            session.send("g")?;
            session.flush()?;
            let start = Instant::now();
            session.exp_string(MARKER)?;
            Ok(start.elapsed())
        }
        "bare" => bare(console, |_| Ok(())),
        "keeping" => {
            let mut log = File::create(folder.join("log"))?;
            let mut transcript = File::create(folder.join("transcript"))?;
            bare(console, |bytes| {
                log.write_all(bytes)?;
                transcript.write_all(bytes)
            })
        }
        other => bail!("there is no reader of floods {other:?}"),
    }
}

/// The limit: blocking reads, and a search that carries over what a marker may begin in.
fn bare(mut console: UnixStream, mut keep: impl FnMut(&[u8]) -> std::io::Result<()>) -> Result<Duration> {
    let finder = memchr::memmem::Finder::new(MARKER);
    let carry = MARKER.len() - 1;
    let mut buffer = vec![0; carry + 65536];
    console.write_all(b"g")?;
    let start = Instant::now();
    let mut carried = 0;
    loop {
        let length = console.read(&mut buffer[carried..])?;
        ensure!(length > 0, "the console ended before its marker");
        let end = carried + length;
        keep(&buffer[carried..end])?;
        if finder.find(&buffer[..end]).is_some() {
            return Ok(start.elapsed());
        }
        let from = end.saturating_sub(carry);
        buffer.copy_within(from..end, 0);
        carried = end - from;
    }
}

fn take_turns(kind: &str, mut console: UnixStream, count: usize) -> Result<Vec<f64>> {
    let mut turns = Vec::with_capacity(count);
    let mut buffer = [0; 4096];
    match kind {
        "alpy" => on_tokio(async {
            let console = Console::builder().start(asynchronous(console)?)?;
            for _ in 0..count {
                let start = Instant::now();
                console.send_line("x").await?;
                console.expect(PROMPT, LIMIT).await?;
                turns.push(start.elapsed().as_secs_f64());
            }
            Ok(())
        })?,
        "tokio" => on_tokio(async {
            let mut console = asynchronous(console)?;
            for _ in 0..count {
                let start = Instant::now();
                console.write_all(b"x\n").await?;
                let mut seen = 0;
                while seen < PROMPT.len() {
                    seen += console.read(&mut buffer).await?;
                }
                turns.push(start.elapsed().as_secs_f64());
            }
            Ok(())
        })?,
        "bare" => {
            for _ in 0..count {
                let start = Instant::now();
                console.write_all(b"x\n")?;
                let mut seen = 0;
                while seen < PROMPT.len() {
                    seen += console.read(&mut buffer)?;
                }
                turns.push(start.elapsed().as_secs_f64());
            }
        }
        "rexpect" => {
            let mut session = session(console)?;
            for _ in 0..count {
                let start = Instant::now();
                session.send_line("x")?;
                session.exp_string(PROMPT)?;
                turns.push(start.elapsed().as_secs_f64());
            }
        }
        other => bail!("there is no reader of prompts {other:?}"),
    }
    Ok(turns)
}

fn session(console: UnixStream) -> Result<StreamSession<UnixStream>> {
    let limit = u64::try_from(LIMIT.as_millis())?;
    let options = Options::new().timeout_ms(Some(limit));
    Ok(StreamSession::new(console.try_clone()?, console, options))
}

fn on_tokio<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

fn asynchronous(console: UnixStream) -> Result<tokio::net::UnixStream> {
    console.set_nonblocking(true)?;
    Ok(tokio::net::UnixStream::from_std(console)?)
}
