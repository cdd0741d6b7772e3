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
mod tests {
    use std::time::Instant;

    use alpy_console::CommandEnd;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::logging::{EvidenceLayer, RunLog};
    use crate::report::record::{Container, Machine};

    fn write(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn puts_what_was_said_on_one_clock() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        write(
            dir,
            "debug.log",
            "    0.001  INFO alpy::node           Create nodes...\n\
             \x20   0.300 DEBUG alpy_docker::running   started a container name=\"alpy-a-t-7-0-ab12-node1-http-server\" id=\"1\" argv=[\"httpd\"]\n\
             \x20   0.400  INFO alpy::node           Create nodes... done\n\
             \x20   0.900  INFO alpy::node           Ping... failed\nand more\n",
        );
        write(dir, "console.log", "< of the state\n< hello\n> id\n");
        write(dir, "console.times", "15 1000.500\n23 1000.700\n");
        // The log has the time at which the event arrived, not the event's own.
        let event = "{\"timestamp\": {\"seconds\": 2000, \"microseconds\": 0}, \"event\": \"RESUME\"}";
        write(
            dir,
            "qmp.log",
            &format!("  0.350000 -> {{}}\n  0.600000 <- {event}\n"),
        );
        write(dir, "containers/server.stdout", "one\ntwo\n");
        let record = Record {
            test: "a-t".to_owned(),
            began: 1000.0,
            machines: vec![Machine::default()],
            containers: vec![Container {
                name: "server".to_owned(),
                stdout: vec![(0, 1000.2), (4, 1000.8)],
                ..Container::default()
            }],
            ..Record::default()
        };
        let (said, started) = all(dir, &record);
        let short: Vec<_> = said
            .iter()
            .map(|said| {
                let at = said.at.map(|at| (at * 1000.0).round() as i64);
                (at, said.lane, said.text.as_str())
            })
            .collect();
        assert_eq!(
            short,
            [
                (None, Lane::Console, "< of the state"),
                (Some(1), Lane::Log, "Create nodes..."),
                (Some(200), Lane::Container, "one"),
                (Some(350), Lane::Qmp, "-> {}"),
                (Some(500), Lane::Console, "< hello"),
                (Some(600), Lane::Qmp, "<- RESUME"),
                (Some(700), Lane::Console, "> id"),
                (Some(800), Lane::Container, "two"),
                (Some(900), Lane::Log, "Ping... failed"),
            ]
        );
        assert_eq!(said.iter().filter(|said| said.bad).count(), 1);
        let server = Started {
            name: "node1-http-server".to_owned(),
            at: 0.3,
            argv: "[\"httpd\"]".to_owned(),
        };
        assert_eq!(started, [server]);
    }

    #[test]
    fn returns_at_the_ends_of_a_line_are_not_shown() {
        for (line, shown) in [
            ("< \\rSent SIGTERM\\r\\r", "< Sent SIGTERM"),
            ("> a\\rb", "> a\\rb"),
            ("< C:\\\\r", "< C:\\\\r"),
            ("$ id\\r", "$ id"),
            ("<", "<"),
            ("ü", "ü"),
        ] {
            assert_eq!(without_returns(line), shown);
        }
    }

    #[test]
    fn the_log_tells_the_steps_of_a_run_that_could_not() {
        let dir = tempfile::tempdir().unwrap();
        let line = |at: f64, text: &str| format!("{at:9.3}  INFO alpy::node           {text}\n");
        let command = |at: f64, text: &str| format!("{at:9.3} DEBUG alpy::command          {text}\n");
        let log = [
            line(0.5, "Boot..."),
            line(10.5, "Boot... for 10 s now"),
            line(12.0, "Boot... done"),
            line(12.0, "Ping..."),
            line(13.0, "Ping... failed"),
            line(13.0, "Pong..."),
            line(14.0, "Pong... cancelled"),
            line(13.0, "Wait..."),
            line(23.0, "Wait... for 10 s now"),
            command(24.0, "$ ping..."),
            line(24.5, "$ ping..."),
            command(25.0, "$ ping... failed, exit code 1"),
            command(26.0, "$ sleep..."),
        ];
        write(dir.path(), "debug.log", &log.concat());
        let mut record = Record::default();
        complete(dir.path(), &mut record);
        let steps: Vec<_> = record
            .steps
            .iter()
            .map(|step| (step.text.as_str(), step.seconds, step.outcome, step.exit_code))
            .collect();
        assert_eq!(
            steps,
            [
                ("Boot", Some(11.5), Outcome::Done, None),
                ("Ping", Some(1.0), Outcome::Failed, None),
                ("Pong", Some(1.0), Outcome::Cancelled, None),
                ("Wait", None, Outcome::UnderWay, None),
                ("$ ping", Some(1.0), Outcome::Failed, Some(1)),
                ("$ ping", None, Outcome::UnderWay, None),
                ("$ sleep", None, Outcome::UnderWay, None),
            ]
        );
        let commands = record.steps.iter().map(|step| step.command);
        let commands: Vec<_> = commands.collect();
        assert_eq!(commands, [false, false, false, false, true, false, true]);
    }

    /// The lines come from the code that logs them in a run, so none of them can change without this test.
    #[test]
    fn reads_the_log_that_a_run_writes() {
        let dir = tempfile::tempdir().unwrap();
        let subscriber = tracing_subscriber::registry().with(EvidenceLayer::new());
        tracing::subscriber::with_default(subscriber, || {
            let run_log = RunLog::create("a-t", &dir.path().join("debug.log"), Instant::now()).unwrap();
            let _span = run_log.span().entered();
            let argv = ["httpd", "-f"].map(str::to_owned);
            alpy_docker::log_started(Some("alpy-a-t-7-0-ab12-node1-http-server"), "1", "busybox", &argv);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            runtime.block_on(async {
                crate::step!("Boot", async { Ok::<_, &str>(()) }).await.unwrap();
                crate::step!("Ping", async { Err::<(), _>("lost") })
                    .await
                    .unwrap_err();
                command::on_command("$ id".to_owned())(CommandEnd::Done(Some(0)));
            });
        });
        let mut record = Record {
            test: "a-t".to_owned(),
            ..Record::default()
        };
        complete(dir.path(), &mut record);
        let steps = record.steps.iter();
        let steps = steps.map(|step| (step.text.as_str(), step.outcome, step.exit_code));
        let steps: Vec<_> = steps.collect();
        assert_eq!(
            steps,
            [
                ("Boot", Outcome::Done, None),
                ("Ping", Outcome::Failed, None),
                ("$ id", Outcome::Done, Some(0)),
            ]
        );
        let names: Vec<_> = record
            .containers
            .iter()
            .map(|container| &*container.name)
            .collect();
        assert_eq!(names, ["node1-http-server"]);
        let (_, started) = log(dir.path(), &record);
        assert_eq!(started[0].argv, r#"["httpd", "-f"]"#);
    }

    #[test]
    fn shortens_what_is_said_on_qmp() {
        for (text, short) in [
            (r#"-> {"execute":"cont","id":5}"#, "-> cont"),
            (
                r#"-> {"execute":"set_link","arguments":{"name":"nic0","up":true},"id":5}"#,
                r#"-> set_link {"name":"nic0","up":true}"#,
            ),
            (r#"<- {"return": {}, "id": 5}"#, "<- ok"),
            (r#"<- {"return": [1], "id": 5}"#, "<- [1]"),
            (
                r#"<- {"error": {"class": "GenericError", "desc": "no"}, "id": 5}"#,
                "<- error: no",
            ),
            (r#"<- {"QMP": {}}"#, r#"<- {"QMP": {}}"#),
            ("<- not JSON", "<- not JSON"),
        ] {
            assert_eq!(qmp_in_short(text), short);
        }
        let long = format!("<- {{\"return\": \"{}\"}}", "ü".repeat(1000));
        let short = format!("<- \"{}... (1002 characters)", "ü".repeat(119));
        assert_eq!(qmp_in_short(&long), short);
    }

    #[test]
    fn of_a_long_file_the_middle_is_left_out_and_its_lines_are_where_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long");
        for count in [10, 11, 300_000] {
            let text: String = (0..count).map(|line| format!("line {line:06}\n")).collect();
            fs::write(&path, &text).unwrap();
            let Lines { lines, gap } = lines(&path, 4, 6);
            assert_eq!(lines.len(), 10);
            assert_eq!(gap, (count > 10).then_some(4));
            for (place, line) in &lines {
                assert!(
                    text[usize::try_from(*place).unwrap()..].starts_with(line),
                    "{line}"
                );
            }
            assert_eq!(lines[3].1, "line 000003");
            assert_eq!(lines[9].1, format!("line {:06}", count - 1));
        }
    }

    #[test]
    fn one_endless_line_and_no_file_at_all_are_no_trouble() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long");
        fs::write(&path, vec![b'x'; 3 << 20]).unwrap();
        let long = lines(&path, 4, 6);
        assert_eq!(long.lines.len(), 2);
        assert!(long.lines[0].1.len() <= HEAD_BYTES, "{}", long.lines[0].1.len());
        assert_eq!(lines(&dir.path().join("absent"), 4, 6), Lines::default());
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        assert_eq!(lines(&dir.path().join("link"), 4, 6), Lines::default());
    }
}
