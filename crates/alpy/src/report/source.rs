// SPDX-License-Identifier: GPL-3.0-or-later
//! What the files of an evidence directory say, on the clock of the run: seconds since it began.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use alpy_pcap::Reader;
use nix::fcntl::OFlag;
use serde_json::Value;

use super::record::{self, Container, Outcome, Record, Step, is_file_name};
use crate::step::command;

/// How much of a file is read at its beginning and at its end.
const HEAD_BYTES: usize = 256 << 10;
const TAIL_BYTES: usize = 1 << 20;

/// How many lines of a file are shown, at its beginning and at its end.
const HEAD_LINES: usize = 300;
const TAIL_LINES: usize = 700;

/// Those of a container, of which there may be many.
const CONTAINER_HEAD: usize = 100;
const CONTAINER_TAIL: usize = 200;

/// What was said.
#[derive(Debug, Clone)]
pub(super) struct Said {
    /// When, if that is known.
    pub(super) at: Option<f64>,
    pub(super) lane: Lane,
    /// Which machine or container, if there are several.
    pub(super) by: String,
    pub(super) text: String,
    pub(super) bad: bool,
}

/// Who said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    Log,
    Console,
    Qmp,
    Container,
}

/// The lines of a file, and where each begins. Of a long one, those in the middle are missing.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Lines {
    pub(super) lines: Vec<(u64, String)>,
    /// Before which line some are missing.
    pub(super) gap: Option<usize>,
}

/// A container's start as the log tells it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Started {
    pub(super) name: String,
    pub(super) at: f64,
    pub(super) argv: String,
}

/// A regular file; neither a link nor a pipe that nobody writes to.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// The frames of a capture, which is a regular file as all that is read here.
pub(super) fn frames(path: &Path) -> io::Result<Reader<File>> {
    let file = open(path)?;
    Reader::new(file, path.display().to_string()).map_err(io::Error::other)
}

/// A folder of the evidence; `None` for a symbolic link, which leads elsewhere.
pub(super) fn folder(dir: &Path, name: &str) -> Option<PathBuf> {
    let folder = dir.join(name);
    let is_own = name.is_empty() || fs::symlink_metadata(&folder).is_ok_and(|found| found.is_dir());
    is_own.then_some(folder)
}

/// A file of a container, such as its `stdout`.
pub(super) fn of_container(dir: &Path, container: &str, ending: &str) -> Option<PathBuf> {
    Some(folder(dir, "containers")?.join(format!("{container}.{ending}")))
}

/// The beginning and the end of a file, with the place where the end begins. Empty where there is none.
fn read(path: &Path) -> (Vec<u8>, Option<(u64, Vec<u8>)>) {
    let read = || {
        let mut file = open(path)?;
        let length = file.metadata()?.len();
        let mut head = Vec::new();
        if length <= (HEAD_BYTES + TAIL_BYTES) as u64 {
            file.take((HEAD_BYTES + TAIL_BYTES) as u64)
                .read_to_end(&mut head)?;
            return Ok((head, None));
        }
        (&mut file).take(HEAD_BYTES as u64).read_to_end(&mut head)?;
        let from = file.seek(SeekFrom::Start(length - TAIL_BYTES as u64))?;
        let mut tail = Vec::new();
        file.take(TAIL_BYTES as u64).read_to_end(&mut tail)?;
        Ok::<_, io::Error>((head, Some((from, tail))))
    };
    read().unwrap_or_default()
}

/// Some lines of a file.
pub(super) fn lines(path: &Path, at_beginning: usize, at_end: usize) -> Lines {
    let (head, tail) = read(path);
    let mut lines = split(&head, 0);
    let mut missing = None;
    if let Some((from, tail)) = tail {
        // Neither the last line of the beginning nor the first of the end is whole.
        let whole = lines.len().saturating_sub(1).max(1);
        lines.truncate(whole);
        missing = Some(lines.len());
        let mut end = split(&tail, from);
        if end.len() > 1 {
            end.remove(0);
        }
        lines.extend(end);
    }
    let most = at_beginning + at_end;
    if lines.len() > most || missing.is_some() {
        let first = missing.unwrap_or(at_beginning).min(at_beginning);
        let last = lines
            .len()
            .saturating_sub(at_end)
            .max(missing.unwrap_or(0))
            .max(first);
        lines.drain(first..last);
        return Lines {
            lines,
            gap: Some(first),
        };
    }
    Lines { lines, gap: None }
}

fn split(bytes: &[u8], from: u64) -> Vec<(u64, String)> {
    let mut lines = Vec::new();
    let mut at = 0;
    for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
        let line = piece.strip_suffix(b"\n").unwrap_or(piece);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        lines.push((from + at as u64, String::from_utf8_lossy(line).into_owned()));
        at += piece.len();
    }
    lines
}

/// All of a file that is small, or its beginning.
pub(super) fn whole(path: &Path) -> String {
    String::from_utf8_lossy(&read(path).0).into_owned()
}

/// What was said by all, in order of time; and the starts of containers.
pub(super) fn all(dir: &Path, record: &Record) -> (Vec<Said>, Vec<Started>) {
    let mut said = Vec::new();
    let (log, started) = log(dir, record);
    said.extend(log);
    let many = record.machines.len() > 1;
    for (index, machine) in record.machines.iter().enumerate() {
        let Some(folder) = folder(dir, &machine.folder) else {
            continue;
        };
        let by = match many {
            true => format!("machine {index}"),
            false => String::new(),
        };
        said.extend(console(&folder, record.began, &by));
        said.extend(qmp(&folder, &by));
    }
    for container in &record.containers {
        for (stream, times) in [("stdout", &container.stdout), ("stderr", &container.stderr)] {
            let Some(path) = of_container(dir, &container.name, stream) else {
                continue;
            };
            let lines = lines(&path, CONTAINER_HEAD, CONTAINER_TAIL);
            said.extend(timed(
                &lines,
                times,
                record.began,
                Lane::Container,
                &container.name,
            ));
        }
    }
    // In the order in which they were collected where the time is the same.
    said.sort_by(|one, other| one.at.unwrap_or(0.0).total_cmp(&other.at.unwrap_or(0.0)));
    (said, started)
}

/// Adds what the log and the directory tell to the record of a run that could not write it.
pub(super) fn complete(dir: &Path, record: &mut Record) {
    let mut open: Vec<usize> = Vec::new();
    let mut commands = 0;
    for (_, line) in lines(&dir.join("debug.log"), usize::MAX / 2, usize::MAX / 2).lines {
        let Some((at, level, target, said)) = log_line(&line) else {
            continue;
        };
        let is_command = target == command::TARGET;
        if !is_command && level != "INFO" {
            continue;
        }
        if let Some(begun) = said.strip_suffix("...") {
            commands += usize::from(is_command);
            if is_command && commands > command::RECORDED {
                record.commands_left_out += 1;
                continue;
            }
            open.push(record.steps.len());
            record.steps.push(Step {
                text: begun.to_owned(),
                began: record.began + at,
                command: is_command,
                ..Step::default()
            });
        } else if let Some((text, end)) = said.rsplit_once("... ") {
            let (end, exit_code) = match end.split_once(command::CODE) {
                Some((end, code)) if is_command => (end, code.parse().ok()),
                _ => (end, None),
            };
            let outcome = match end {
                "done" => Outcome::Done,
                "failed" => Outcome::Failed,
                "cancelled" => Outcome::Cancelled,
                // It says that it goes on.
                _ => continue,
            };
            let is_it = |step: &usize| {
                let step = &record.steps[*step];
                step.text == text && step.command == is_command
            };
            let Some(place) = open.iter().rposition(is_it) else {
                continue;
            };
            let step = &mut record.steps[open.remove(place)];
            step.seconds = Some(record.began + at - step.began);
            (step.outcome, step.exit_code) = (outcome, exit_code);
        }
    }
    record.containers = log(dir, record)
        .1
        .into_iter()
        // Whoever wrote the log chose the name.
        .filter(|started| is_file_name(&started.name))
        .map(|started| Container {
            name: started.name,
            asked: record.began + started.at,
            ..Container::default()
        })
        .collect();
    record.files = files(dir);
}

/// What the log says for everybody, and when containers started.
fn log(dir: &Path, record: &Record) -> (Vec<Said>, Vec<Started>) {
    let (mut said, mut started) = (Vec::new(), Vec::new());
    let path = dir.join("debug.log");
    for (_, line) in lines(&path, usize::MAX / 2, usize::MAX / 2).lines {
        let Some((at, level, _, text)) = log_line(&line) else {
            continue;
        };
        if let Some(rest) = text.strip_prefix("started a container name=\"") {
            let name = rest.split('"').next().unwrap_or_default();
            let argv = rest.split_once(" argv=").map_or("", |(_, argv)| argv);
            // alpy-<test>-<process>-<count>-<random>-<name>
            let own = name
                .strip_prefix(&format!("alpy-{}-", record.test))
                .and_then(|rest| rest.splitn(4, '-').nth(3));
            started.push(Started {
                name: own.unwrap_or(name).to_owned(),
                at,
                argv: argv.to_owned(),
            });
        }
        if !matches!(level, "INFO" | "WARN" | "ERROR") || text.ends_with("... done") {
            continue;
        }
        said.push(Said {
            at: Some(at),
            lane: Lane::Log,
            by: String::new(),
            bad: level != "INFO" || text.ends_with("... failed"),
            text: text.to_owned(),
        });
    }
    if said.len() > HEAD_LINES + TAIL_LINES {
        said.drain(HEAD_LINES..said.len() - TAIL_LINES);
    }
    (said, started)
}

/// The parts of a line of `debug.log`: time, level, target, text.
fn log_line(line: &str) -> Option<(f64, &str, &str, &str)> {
    let (at, rest) = line.trim_start().split_once(' ')?;
    let (level, rest) = rest.trim_start().split_once(' ')?;
    let (target, text) = rest.split_once(' ')?;
    Some((at.parse().ok()?, level, target, text.trim_start()))
}

fn console(folder: &Path, began: f64, by: &str) -> Vec<Said> {
    let times = whole(&folder.join("console.times"));
    let entry = |line: &str| {
        let (place, seconds) = line.split_once(' ')?;
        Some((place.parse().ok()?, seconds.parse().ok()?))
    };
    let times: Vec<_> = times.lines().filter_map(entry).collect();
    let mut lines = lines(&folder.join("console.log"), HEAD_LINES, TAIL_LINES);
    for (_, line) in &mut lines.lines {
        *line = without_returns(line);
    }
    timed(&lines, &times, began, Lane::Console, by)
}

/// Removes escaped returns at the beginning and the end of a line of `console.log`, where they move no text: `< \\rSent SIGTERM\\r`.
fn without_returns(line: &str) -> String {
    let (arrow, text) = match line.get(..2) {
        Some(arrow @ ("< " | "> ")) => (arrow, &line[2..]),
        _ => ("", line),
    };
    let text = text.trim_start_matches("\\r");
    // The log doubles a backslash that the guest printed.
    let end = text.trim_end_matches("\\r");
    let text = if end.ends_with('\\') { text } else { end };
    format!("{arrow}{text}")
}

/// Gives each line the last time that was noted at or before its beginning.
fn timed(lines: &Lines, times: &[(u64, f64)], began: f64, lane: Lane, by: &str) -> Vec<Said> {
    let mut said = Vec::new();
    for (index, (place, line)) in lines.lines.iter().enumerate() {
        let next = times.partition_point(|(at, _)| at <= place);
        let at = next.checked_sub(1).map(|entry| (times[entry].1 - began).max(0.0));
        let of = |text: String| Said {
            at,
            lane,
            by: by.to_owned(),
            text,
            bad: false,
        };
        if lines.gap == Some(index) {
            said.push(of("(lines that are not shown here)".to_owned()));
        }
        said.push(of(line.clone()));
    }
    said
}

fn qmp(folder: &Path, by: &str) -> Vec<Said> {
    let lines = lines(&folder.join("qmp.log"), HEAD_LINES, TAIL_LINES);
    let parsed = lines.lines.iter().filter_map(|(_, line)| {
        let (at, text) = line.trim_start().split_once(' ')?;
        let at: f64 = at.parse().ok()?;
        Some((at.is_finite().then(|| at.max(0.0)), text))
    });
    let of = |(at, text): (Option<f64>, &str)| Said {
        at,
        lane: Lane::Qmp,
        by: by.to_owned(),
        bad: text.starts_with("<- {\"error\"") || text.contains("GUEST_PANICKED"),
        text: qmp_in_short(text),
    };
    parsed.map(of).collect()
}

/// A message without what is in each of them. The file has it as it was.
fn qmp_in_short(text: &str) -> String {
    let short = || {
        let (arrow, message) = text.split_once(' ')?;
        let message: Value = serde_json::from_str(message).ok()?;
        let and = |value: &Value| match value {
            Value::Null => String::new(),
            value => format!(" {value}"),
        };
        let words = if let Some(command) = message["execute"].as_str() {
            format!("{command}{}", and(&message["arguments"]))
        } else if let Some(event) = message["event"].as_str() {
            format!("{event}{}", and(&message["data"]))
        } else if let Some(reason) = message["error"]["desc"].as_str() {
            format!("error: {reason}")
        } else {
            match message.get("return")? {
                Value::Object(nothing) if nothing.is_empty() => "ok".to_owned(),
                value => beginning_of(&value.to_string()),
            }
        };
        Some(format!("{arrow} {words}"))
    };
    short().unwrap_or_else(|| text.to_owned())
}

/// A long value without its end.
fn beginning_of(value: &str) -> String {
    const LONGEST: usize = 120;
    match value.char_indices().nth(LONGEST) {
        None => value.to_owned(),
        Some((at, _)) => format!("{}... ({} characters)", &value[..at], value.chars().count()),
    }
}

/// The files of the evidence, folders' with their paths, and how long they are.
pub(super) fn files(dir: &Path) -> Vec<record::File> {
    let mut files = Vec::new();
    collect(dir, "", 3, &mut files);
    files.sort_by(|one, other| one.name.cmp(&other.name));
    files
}

fn collect(dir: &Path, prefix: &str, depth: usize, files: &mut Vec<record::File>) {
    const MOST: usize = 5000;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (Ok(name), Ok(metadata)) = (entry.file_name().into_string(), entry.metadata()) else {
            continue;
        };
        let path = format!("{prefix}{name}");
        let is_evidence = ![
            ".lock",
            "run.json",
            "run.unfinished",
            "report.html",
            "report.unfinished",
        ]
        .contains(&name.as_str());
        if metadata.is_dir() && depth > 0 {
            collect(&entry.path(), &format!("{path}/"), depth - 1, files);
        } else if metadata.is_file() && is_evidence && files.len() < MOST {
            let bytes = metadata.len();
            files.push(record::File { name: path, bytes });
        }
    }
}

#[cfg(test)]
mod tests;
