// SPDX-License-Identifier: GPL-3.0-or-later
//! The page, part by part.

mod bars;
mod clock;
mod sequence;
mod wire;

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use super::compare;
use super::html::{bytes, line, text};
use super::owners::Owners;
use super::packets::{Last, Summary, summary};
use super::record::{End, FailureRecord, Record, Verdict};
use super::source::{self, Said};
use super::topology;

/// How long all captures may take to be read.
const READING: Duration = Duration::from_millis(1500);

/// What was on the wire of a run that has failed.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    /// What compares the links, and what was never answered.
    pub(crate) sentences: Vec<String>,
    /// What was last on each link, if there was anything at all.
    pub(crate) links: Vec<LastOnLink>,
}

/// What was last on a link.
#[derive(Debug)]
pub(crate) struct LastOnLink {
    pub(crate) frames: u64,
    /// A line for each of the last packets, in their order.
    pub(crate) packets: Vec<String>,
}

/// How many lines of a file that is shown as it is.
const FILE_LINES: usize = 400;

const STYLE: &str = include_str!("report.css");

/// Everything comes from the page, and nothing in it runs: console output that looks like a script is none, even if the escaping fails.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/// The report of a run, and, of one that has failed, what was last on the wire.
pub(super) fn page(dir: &Path, record: &Record) -> (String, Wire) {
    let until = Instant::now() + READING;
    let owners = Owners::learn(dir, record);
    let summaries: Vec<_> = record
        .links
        .iter()
        .map(|link| summary(dir, record, link, &owners, until))
        .collect();
    let (said, started) = source::all(dir, record);
    let end = end_of(record, &said);
    let mut page = String::with_capacity(256 << 10);
    head(&mut page, record);
    verdict(&mut page, record, end);
    let mut wire = Wire::default();
    if let Some(failure) = &record.failure {
        wire.sentences = compare::sentences(record, &summaries);
        wire.links = last_on_links(record, &summaries);
        why(&mut page, record, failure, &wire);
    }
    if record.verdict == Verdict::UnderWay {
        page.push_str(
            "<section class=\"why\"><p>This run has no end: it goes on, or its process was killed.</p></section>\n",
        );
    }
    page.push_str("<section id=\"topology\"><h2>Topology</h2>\n");
    page.push_str(&topology::picture(record, &summaries));
    page.push_str("</section>\n");
    bars::timeline(&mut page, record, &started, end, dir);
    clock::clock(&mut page, record, &said);
    sequence::sequence(&mut page, record, &summaries);
    for (index, link) in record.links.iter().enumerate() {
        wire::link_part(&mut page, dir, record, index, link, &summaries[index], end);
    }
    files(&mut page, dir, record);
    page.push_str("</main></body></html>\n");
    (page, wire)
}

/// The last packets of each link, if there was any packet at all.
fn last_on_links(record: &Record, summaries: &[Summary]) -> Vec<LastOnLink> {
    if summaries.iter().all(|summary| summary.frames == 0) {
        return Vec::new();
    }
    let of_link = |(index, summary): (usize, &Summary)| {
        let ends = record.links.get(index).map(|link| &link.ends);
        let line = |last| match last {
            Last::Frame { at, from, text } => {
                let end = ends.zip(from).and_then(|(ends, from)| ends.get(from));
                let from =
                    end.map_or_else(String::new, |end| format!("from {}", end_name(record, Some(end))));
                format!("{at:8.3}  {from:<14}  {text}")
            }
            Last::Note(note) => format!("{:10}{note}", ""),
        };
        LastOnLink {
            frames: summary.frames,
            packets: summary.last().into_iter().map(line).collect(),
        }
    };
    summaries.iter().enumerate().map(of_link).collect()
}

/// How long the run took, in seconds; as far as is known, where it has no end.
fn end_of(record: &Record, said: &[Said]) -> f64 {
    let last = said.iter().filter_map(|said| said.at).fold(0.0, f64::max);
    let end = record.ended.map_or(last, |ended| ended - record.began);
    end.max(0.001)
}

fn head(page: &mut String, record: &Record) {
    let mark = match record.verdict {
        Verdict::Passed => "✓ ",
        Verdict::Failed => "✗ ",
        Verdict::Unjudged => "? ",
        Verdict::UnderWay => "… ",
    };
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"generator\" content=\"alpy {}\">\n\
         <title>{mark}{}</title>\n<style>\n{STYLE}</style></head><body><main>\n",
        text(&record.version),
        text(&record.test)
    );
}

fn verdict(page: &mut String, record: &Record, end: f64) {
    let (class, word) = match record.verdict {
        Verdict::Passed => ("passed", "passed"),
        Verdict::Failed => ("failed", "failed"),
        Verdict::Unjudged => ("open", "cannot be judged"),
        Verdict::UnderWay => ("open", "no verdict"),
    };
    let _ = writeln!(
        page,
        "<header class=\"{class}\"><h1>{} <span class=\"verdict\">{word}</span></h1>",
        text(&record.test)
    );
    if let Some(description) = &record.description {
        let _ = writeln!(page, "<p>{}</p>", text(description));
    }
    let _ = write!(
        page,
        "<p class=\"small\">{} · {}",
        utc(record.began),
        seconds(end)
    );
    if let (Some(entered), Some(left)) = (record.entered, record.left) {
        let (set_up, body) = (entered - record.began, left - entered);
        let _ = write!(
            page,
            " (set-up {}, test {}, teardown {})",
            seconds(set_up),
            seconds(body),
            seconds(end - set_up - body)
        );
    }
    page.push_str("</p>\n");
    for sentence in &record.processor {
        let _ = writeln!(page, "<p class=\"small\">Processor time: {}</p>", text(sentence));
    }
    page.push_str("<nav>");
    if record.failure.is_some() {
        page.push_str("<a href=\"#why\">Why</a> ");
    }
    page.push_str(
        "<a href=\"#topology\">Topology</a> <a href=\"#timeline\">Steps</a> <a href=\"#clock\">Output</a> ",
    );
    if record.links.len() > 1 {
        page.push_str("<a href=\"#links\">All links</a> ");
    }
    for index in 0..record.links.len() {
        let _ = write!(page, "<a href=\"#link{index}\">Link {index}</a> ");
    }
    page.push_str("<a href=\"#files\">Files</a></nav></header>\n");
}

/// The failure, with all that may tell why.
fn why(page: &mut String, record: &Record, failure: &FailureRecord, wire: &Wire) {
    let kind = match failure.kind.as_str() {
        "set-up" => "The set-up failed",
        "unjudged" => "The host was overloaded",
        "lost" => "Something ended under the test",
        "panic" => "The test panicked",
        "deadline" => "The test ran out of time",
        "signal" => "The test was interrupted",
        "teardown" => "The teardown failed",
        _ => "The test failed",
    };
    let _ = writeln!(
        page,
        "<section class=\"why\" id=\"why\"><h2>{kind}</h2>\n<pre class=\"cause\">{}</pre>",
        text(&failure.cause)
    );
    let at = record.left.or(record.ended).unwrap_or(record.began);
    // A body that fails between two steps, as by an assertion, fails behind one.
    let after = || failure.after.as_ref().map(|step| ("after ", step));
    if let Some((relation, step)) = failure.step.as_ref().map(|step| ("", step)).or_else(after) {
        let _ = writeln!(
            page,
            "<p><b>Where:</b> {relation}{}, {} after the begin</p>",
            text(&step.replace(" > ", " › ")),
            seconds(at - record.began)
        );
    }
    list(page, "Found out", &failure.findings);
    list(page, "In the teardown", &failure.teardown);
    if !failure.times.is_empty() {
        let _ = writeln!(
            page,
            "<h3>Where the time went</h3><pre>{}</pre>",
            text(&failure.times.join("\n"))
        );
    }
    for (index, words) in failure.machines.iter().enumerate() {
        let of = match failure.machines.len() {
            1 => String::new(),
            _ => format!(" of machine {index}"),
        };
        last_lines(page, &format!("Last lines of the console{of}"), &words.console);
        last_lines(page, &format!("Last events of QEMU{of}"), &words.events);
    }
    list(page, "On the wire", &wire.sentences);
    if !wire.links.is_empty() {
        page.push_str(
            "<h3>Last on the wire</h3>\n<p class=\"small\">With seconds since the run began.</p>\n",
        );
    }
    for (index, LastOnLink { frames, packets }) in wire.links.iter().enumerate() {
        let none = if packets.is_empty() { "nothing" } else { "" };
        let _ = writeln!(
            page,
            "<p><a href=\"#link{index}\">link {index}</a> ({frames} frames) {none}</p>"
        );
        if !packets.is_empty() {
            let _ = writeln!(page, "<pre>{}</pre>", text(&packets.join("\n")));
        }
    }
    page.push_str("</section>\n");
}

fn list(page: &mut String, title: &str, items: &[String]) {
    if items.is_empty() {
        return;
    }
    let _ = write!(page, "<h3>{title}</h3><ul>");
    for item in items {
        let _ = write!(page, "<li>{}</li>", text(item));
    }
    page.push_str("</ul>\n");
}

fn last_lines(page: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = write!(page, "<h3>{title}</h3><pre>");
    for shown in lines {
        let _ = writeln!(page, "{}", line(shown));
    }
    page.push_str("</pre>\n");
}

/// A node or a machine in words.
pub(super) fn end_name(record: &Record, end: Option<&End>) -> String {
    match end {
        Some(End { node: Some(node), .. }) => format!("node {node}"),
        Some(End { machine: Some(_), .. }) if record.machines.len() == 1 => "machine".to_owned(),
        Some(End {
            machine: Some(machine),
            ..
        }) => format!("machine {machine}"),
        _ => "?".to_owned(),
    }
}

/// All files, with those that are short and tell much shown here.
fn files(page: &mut String, dir: &Path, record: &Record) {
    page.push_str(
        "<section id=\"files\"><h2>Files</h2>\n<p class=\"small\">Times on this page, in debug.log and in qmp.log are seconds since the run began. \
         Captures, console.times and run.json have seconds since 1970: frames in link*.pcap by the clock of the guest, which stands still while \
         the machine is stopped, those in links.pcapng by the clock of the host.</p>\n",
    );
    for machine in &record.machines {
        let prefix = match machine.folder.as_str() {
            "" => String::new(),
            folder => format!("{folder}/"),
        };
        if source::folder(dir, &machine.folder).is_none() {
            continue;
        }
        for name in ["qemu-command.txt", "qemu-stdout.log", "qemu-stderr.log"] {
            let name = format!("{prefix}{name}");
            let content = source::whole(&dir.join(&name));
            if !content.trim().is_empty() {
                let _ = write!(page, "<details><summary>{}</summary>", text(&name));
                lines(page, &content);
                page.push_str("</details>\n");
            }
        }
    }
    let log = source::lines(&dir.join("debug.log"), FILE_LINES, 2 * FILE_LINES);
    if !log.lines.is_empty() {
        page.push_str("<details><summary>debug.log</summary><pre>");
        for (index, (_, shown)) in log.lines.iter().enumerate() {
            if log.gap == Some(index) {
                page.push_str("(lines that are not shown here)\n");
            }
            let _ = writeln!(page, "{}", line(shown));
        }
        page.push_str("</pre></details>\n");
    }
    page.push_str("<ul class=\"files\">\n");
    for file in record.files.iter().filter(|file| file.bytes > 0) {
        let _ = writeln!(
            page,
            "<li><a href=\"{}\">{}</a> {}</li>",
            text(&address(&file.name)),
            text(&file.name),
            bytes(file.bytes)
        );
    }
    page.push_str("</ul>\n");
    let empty = record.files.iter().filter(|file| file.bytes == 0).count();
    if empty > 0 {
        let _ = writeln!(page, "<p class=\"small\">and {empty} that are empty</p>");
    }
    page.push_str("</section>\n");
}

/// A path as a relative address, which no name can make an absolute one.
fn address(path: &str) -> String {
    let mut address = "./".to_owned();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' => {
                address.push(char::from(byte));
            }
            _ => {
                let _ = write!(address, "%{byte:02X}");
            }
        }
    }
    address
}

fn lines(page: &mut String, content: &str) {
    page.push_str("<pre>");
    for shown in content.lines().take(FILE_LINES) {
        let _ = writeln!(page, "{}", line(shown));
    }
    if let Some(more @ 1..) = content.lines().count().checked_sub(FILE_LINES) {
        let _ = writeln!(page, "({more} lines more)");
    }
    page.push_str("</pre>");
}

fn seconds(seconds: f64) -> String {
    match seconds {
        ..0.0995 => format!("{:.0} ms", seconds * 1000.0),
        ..100.0 => format!("{seconds:.2} s"),
        _ => format!("{seconds:.0} s"),
    }
}

/// A moment as a date and a time of day.
fn utc(moment: f64) -> String {
    let seconds = moment.max(0.0) as u64;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hours, minutes) = (second / 3600, second / 60 % 60);
    format!(
        "{year}-{month:02}-{day:02} {hours:02}:{minutes:02}:{:02} UTC",
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_date() {
        for (moment, date) in [
            (0.0, "1970-01-01 00:00:00 UTC"),
            (951_782_400.9, "2000-02-29 00:00:00 UTC"),
            (1_795_633_603.0, "2026-11-25 19:06:43 UTC"),
        ] {
            assert_eq!(utc(moment), date);
        }
    }

    #[test]
    fn no_name_of_a_file_leads_elsewhere() {
        assert_eq!(address("containers/node0.stdout"), "./containers/node0.stdout");
        assert_eq!(address("javascript:alert(1)"), "./javascript%3Aalert%281%29");
        assert_eq!(address("a b#?\"ü"), "./a%20b%23%3F%22%C3%BC");
    }
}
