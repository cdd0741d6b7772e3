// SPDX-License-Identifier: GPL-3.0-or-later
//! The page, part by part.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};

use super::html::{bytes, line, text};
use super::packets::{Owners, Rates, Rung, Summary, summary};
use super::record::{End, FailureRecord, Link, Outcome, Record, Step, Verdict};
use super::source::{self, Lane, Said, Started};
use super::topology;

/// The captures that are in the page itself are no longer than this.
const EMBEDDED: u64 = 512 << 10;

/// How long all captures may take to be read.
const READING: Duration = Duration::from_millis(1500);

/// What one has said within this time is shown together, in seconds.
const TOGETHER: f64 = 0.03;

/// How many of the last packets of each link are shown beside a failure.
const LAST_PACKETS: usize = 4;

/// How many lines of a file that is shown as it is.
const FILE_LINES: usize = 400;

const STYLE: &str = include_str!("report.css");

/// Everything comes from the page, and nothing in it runs: console output that looks like a script is none, even if the escaping fails.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/// The report of a run.
pub(super) fn page(dir: &Path, record: &Record) -> String {
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
    if let Some(failure) = &record.failure {
        why(&mut page, record, failure, &summaries);
    }
    if record.verdict == Verdict::UnderWay {
        page.push_str(
            "<section class=\"why\"><p>This run has no end: it goes on, or its process was killed.</p></section>\n",
        );
    }
    page.push_str("<section id=\"topology\"><h2>Topology</h2>\n");
    page.push_str(&topology::picture(record, &summaries));
    page.push_str("</section>\n");
    timeline(&mut page, record, &started, end, dir);
    clock(&mut page, record, &said);
    for (index, link) in record.links.iter().enumerate() {
        link_part(&mut page, dir, record, index, link, &summaries[index], end);
    }
    files(&mut page, dir, record);
    page.push_str("</main></body></html>\n");
    page
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
    page.push_str("</p>\n<nav>");
    if record.failure.is_some() {
        page.push_str("<a href=\"#why\">Why</a> ");
    }
    page.push_str(
        "<a href=\"#topology\">Topology</a> <a href=\"#timeline\">Steps</a> <a href=\"#clock\">Output</a> ",
    );
    for index in 0..record.links.len() {
        let _ = write!(page, "<a href=\"#link{index}\">Link {index}</a> ");
    }
    page.push_str("<a href=\"#files\">Files</a></nav></header>\n");
}

/// The failure, with all that may tell why.
fn why(page: &mut String, record: &Record, failure: &FailureRecord, summaries: &[Summary]) {
    let kind = match failure.kind.as_str() {
        "set-up" => "The set-up failed",
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
    let last = record.steps.iter().rev().find(|step| step.began <= at);
    let place = match (&failure.step, last) {
        (Some(step), _) => Some((String::new(), step)),
        (None, Some(step)) if failure.kind != "teardown" => Some(("after ".to_owned(), &step.text)),
        _ => None,
    };
    if let Some((relation, step)) = place {
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
    let any = summaries.iter().any(|summary| summary.frames > 0);
    if any {
        page.push_str("<h3>Last on the wire</h3>\n");
    }
    for (index, summary) in summaries.iter().enumerate().filter(|_| any) {
        let packets = summary.ladder.iter().rev().filter_map(|rung| match rung {
            Rung::Packet { at, from, text } => {
                let ends = record.links.get(index).map(|link| &link.ends);
                let end = ends.zip(*from).and_then(|(ends, from)| ends.get(from));
                let from =
                    end.map_or_else(String::new, |end| format!("from {}", end_name(record, Some(end))));
                Some(format!("{at:8.3}  {from:<14}  {text}"))
            }
            _ => None,
        });
        let mut packets: Vec<_> = packets.take(LAST_PACKETS).collect();
        packets.reverse();
        let none = match packets.is_empty() {
            true => "nothing",
            false => "",
        };
        let _ = writeln!(
            page,
            "<p><a href=\"#link{index}\">link {index}</a> ({} frames) {none}</p>",
            summary.frames
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

/// Steps, and containers, as bars.
fn timeline(page: &mut String, record: &Record, started: &[Started], end: f64, dir: &Path) {
    page.push_str("<section id=\"timeline\"><h2>Steps</h2>\n<div class=\"bars\">\n");
    axis(page, end);
    for step in &record.steps {
        bar_of_step(page, step, record.began, end);
    }
    page.push_str("</div>\n");
    if !record.containers.is_empty() {
        page.push_str("<h3>Containers</h3>\n<div class=\"bars\">\n");
        axis(page, end);
    }
    let mut started = started.to_vec();
    for container in &record.containers {
        let begin = started.iter().position(|start| start.name == container.name);
        let begin = begin.map(|place| started.remove(place));
        let from = begin
            .as_ref()
            .map_or(container.asked - record.began, |begin| begin.at);
        let to = container.ended.map_or(end, |ended| ended - record.began);
        let file = |ending: &str| source::whole(&dir.join(format!("containers/{}.{ending}", container.name)));
        let status = file("status");
        let status = match status.trim() {
            "" => "no status",
            status => status,
        };
        // One that was ended with its node has done nothing wrong.
        let class = match status {
            "exit code 0" | "no status" => "container",
            _ if status.contains("SIGKILL") => "container",
            _ => "container bad",
        };
        let label = format!("{} — {status}", container.name);
        bar(page, class, 0, &label, from, to, end);
        let outputs = ["stdout", "stderr"].map(|stream| (stream, file(stream)));
        let argv = begin.map_or_else(String::new, |begin| begin.argv);
        if outputs.iter().all(|(_, output)| output.is_empty()) && argv.is_empty() {
            continue;
        }
        let _ = write!(
            page,
            "<details><summary>{}</summary>",
            line(if argv.is_empty() { "Output" } else { &argv })
        );
        if !container.image.is_empty() {
            let _ = write!(page, "<p class=\"small\">Image {}</p>", text(&container.image));
        }
        for (stream, output) in outputs.iter().filter(|(_, output)| !output.is_empty()) {
            let _ = write!(page, "<p class=\"small\">{stream}</p>");
            lines(page, output);
        }
        page.push_str("</details>\n");
    }
    if !record.containers.is_empty() {
        page.push_str("</div>\n");
    }
    page.push_str("</section>\n");
}

fn axis(page: &mut String, end: f64) {
    page.push_str("<div class=\"axis\"><i></i><div>");
    for part in 0..=4 {
        let _ = write!(page, "<span>{:.2} s</span>", end * f64::from(part) / 4.0);
    }
    page.push_str("</div></div>\n");
}

fn bar_of_step(page: &mut String, step: &Step, began: f64, end: f64) {
    let (class, mark) = match step.outcome {
        Outcome::Done => ("done", ""),
        Outcome::Failed => ("bad", "✗ "),
        Outcome::UnderWay => ("open", "… "),
    };
    let from = step.began - began;
    let to = step.seconds.map_or(end, |seconds| from + seconds);
    let label = format!("{mark}{}", step.text);
    bar(page, class, step.depth, &label, from, to, end);
}

fn bar(page: &mut String, class: &str, depth: usize, label: &str, from: f64, to: f64, end: f64) {
    let left = (from / end * 100.0).clamp(0.0, 99.5);
    let width = ((to - from) / end * 100.0).min(100.0 - left).max(0.3);
    let _ = writeln!(
        page,
        "<div class=\"bar {class}\"><span class=\"label d{}\">{}</span><span class=\"took\">{}</span>\
         <div class=\"track\" title=\"{from:.3} s to {to:.3} s\"><b style=\"left:{left:.2}%;width:{width:.2}%\"></b></div></div>",
        depth.min(4),
        line(label),
        seconds((to - from).max(0.0))
    );
}

/// What all have said, side by side.
fn clock(page: &mut String, record: &Record, said: &[Said]) {
    page.push_str(
        "<section id=\"clock\"><h2>Output on one clock</h2>\n<p class=\"small\">Seconds since the run began.</p>\n",
    );
    let lanes = [
        (Lane::Log, "log", "Log"),
        (Lane::Console, "console", "Console"),
        (Lane::Qmp, "qmp", "QMP"),
        (Lane::Container, "containers", "Containers"),
    ];
    for (_, class, name) in lanes {
        let _ = write!(
            page,
            "<label class=\"lane\"><input type=\"checkbox\" id=\"show-{class}\" checked> {name}</label> "
        );
    }
    page.push_str("\n<div class=\"clock\"><div class=\"moment heads\"><time></time>");
    for (_, class, name) in lanes {
        let _ = write!(page, "<div class=\"{class}\">{name}</div>");
    }
    page.push_str("</div>\n");
    let mut shown_end = record.left.is_none();
    let timed: Vec<_> = said.iter().filter(|said| said.at.is_some()).collect();
    let mut rest = &timed[..];
    while let Some(first) = rest.first() {
        let at = first.at.unwrap_or_default();
        // All that was said within a moment, each by whom it was said.
        let count = rest
            .iter()
            .take(60)
            .take_while(|said| said.at.unwrap_or_default() - at < TOGETHER)
            .count();
        let (moment, after) = rest.split_at(count);
        rest = after;
        if let Some(left) = record
            .left
            .map(|left| left - record.began)
            .filter(|left| !shown_end && *left <= at)
        {
            shown_end = true;
            let word = match record.failure {
                Some(_) => "The test failed here",
                None => "The test's body ended here",
            };
            let _ = writeln!(page, "<div class=\"end\" id=\"end\">{left:.3} {word}</div>");
        }
        let _ = write!(page, "<div class=\"moment\"><time>{at:.3}</time>");
        for (lane, class, name) in lanes {
            // What one of several has said stays together, which is easier to read.
            let mut here: Vec<_> = moment.iter().filter(|said| said.lane == lane).collect();
            here.sort_by(|one, other| one.by.cmp(&other.by));
            let Some(one) = here.first() else {
                let _ = write!(page, "<div class=\"{class} none\"></div>");
                continue;
            };
            let mut by = one.by.clone();
            let _ = write!(page, "<div class=\"{class}\"><i>{name}</i>{}<pre>", by_whom(&by));
            for said in here {
                if said.by != by {
                    by.clone_from(&said.by);
                    let _ = write!(page, "</pre>{}<pre>", by_whom(&by));
                }
                let shown = line(&said.text);
                let _ = match said.bad {
                    true => writeln!(page, "<b class=\"bad\">{shown}</b>"),
                    false => writeln!(page, "{shown}"),
                };
            }
            page.push_str("</pre></div>");
        }
        page.push_str("</div>\n");
    }
    page.push_str("</div>\n");
    let before: Vec<_> = said.iter().filter(|said| said.at.is_none()).collect();
    if !before.is_empty() {
        page.push_str(
            "<details><summary>Console before: what a saved state was made with, or what has no time</summary><pre>",
        );
        for said in before.iter().take(FILE_LINES) {
            let _ = writeln!(page, "{}", line(&said.text));
        }
        page.push_str("</pre></details>\n");
    }
    page.push_str("</section>\n");
}

fn by_whom(by: &str) -> String {
    match by {
        "" => String::new(),
        by => format!("<em>{}</em>", text(by)),
    }
}

fn link_part(
    page: &mut String,
    dir: &Path,
    record: &Record,
    index: usize,
    link: &Link,
    summary: &Summary,
    end: f64,
) {
    let name = |end| end_name(record, end);
    let ends = [0, 1].map(|end| name(link.ends.get(end)));
    let [first, second] = &ends;
    let _ = writeln!(
        page,
        "<section id=\"link{index}\"><h2>Link {index}: {first} – {second}</h2>\n\
         <p>{} frames, {}: {} from {first}, {} from {second}{}{}</p>",
        summary.frames,
        bytes(summary.bytes),
        summary.from[0],
        summary.from[1],
        match summary.frames - summary.from[0] - summary.from[1] {
            0 => String::new(),
            others => format!(", {others} of which that is not known"),
        },
        if link.hot {
            ". Plugged in while the test ran"
        } else {
            ""
        }
    );
    for end in &link.ends {
        let mut words = vec![name(Some(end))];
        words.extend(end.addresses.iter().cloned());
        words.extend(end.gateways.iter().map(|gateway| format!("gateway {gateway}")));
        words.extend(end.mac.clone());
        let _ = writeln!(page, "<p class=\"small\">{}</p>", text(&words.join(" · ")));
    }
    for note in &summary.notes {
        let _ = writeln!(page, "<p class=\"note\">{}</p>", text(note));
    }
    download(page, dir, &link.capture);
    if let Some(rates) = &summary.rates {
        plot(page, rates, link, record.began, end);
    }
    if !summary.conversations.is_empty() {
        conversations(page, summary, record, link);
    }
    if !summary.ladder.is_empty() {
        ladder(page, summary, &ends, index);
    }
    page.push_str("</section>\n");
}

/// A node or a machine in words.
fn end_name(record: &Record, end: Option<&End>) -> String {
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

fn download(page: &mut String, dir: &Path, capture: &str) {
    let path = dir.join(capture);
    let length = source::open(&path)
        .and_then(|file| file.metadata())
        .map(|file| file.len());
    let content = match length {
        Ok(0..=EMBEDDED) => std::fs::read(&path).ok(),
        _ => None,
    };
    let (Ok(length), name) = (length, text(capture)) else {
        return;
    };
    let _ = match content {
        Some(content) => writeln!(
            page,
            "<p><a class=\"download\" download=\"{name}\" href=\"data:application/vnd.tcpdump.pcap;base64,{}\">{name}</a> {}</p>",
            BASE64_STANDARD.encode(&content),
            bytes(length)
        ),
        None => writeln!(
            page,
            "<p><a class=\"download\" href=\"{name}\">{name}</a> {}, beside this page</p>",
            bytes(length)
        ),
    };
}

/// Bits per second over the time of the whole run.
fn plot(page: &mut String, rates: &Rates, link: &Link, began: f64, end: f64) {
    const WIDTH: f64 = 640.0;
    const HEIGHT: f64 = 90.0;
    let most = rates.rates.iter().copied().fold(0.0, f64::max).max(1.0);
    let x = |at: f64| (at / end * WIDTH).clamp(0.0, WIDTH);
    let y = |rate: f64| HEIGHT - rate / most * (HEIGHT - 4.0);
    let mut points = format!("{:.1},{HEIGHT:.0}", x(rates.begin));
    for (index, rate) in rates.rates.iter().enumerate() {
        let from = rates.begin + index as f64 * rates.interval;
        // A step for each interval, so that a single packet is a visible peak.
        let _ = write!(
            points,
            " {:.1},{:.1} {:.1},{:.1}",
            x(from),
            y(*rate),
            x(from + rates.interval),
            y(*rate)
        );
    }
    let last = rates.begin + rates.rates.len() as f64 * rates.interval;
    let _ = write!(points, " {:.1},{HEIGHT:.0}", x(last));
    let _ = write!(
        page,
        "<figure><svg class=\"rates\" viewBox=\"0 0 {WIDTH:.0} {HEIGHT:.0}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"Bits per second\"><polyline points=\"{points}\"/>"
    );
    for mark in &link.marks {
        let at = x(mark.made - began);
        let _ = write!(
            page,
            "<line x1=\"{at:.1}\" y1=\"0\" x2=\"{at:.1}\" y2=\"{HEIGHT:.0}\"><title>{}</title></line>",
            text(&mark.name)
        );
    }
    let _ = writeln!(
        page,
        "</svg><figcaption><span>0 s</span><span>up to {}, in intervals of {:.0} ms</span><span>{end:.2} s</span></figcaption></figure>",
        bits(most),
        rates.interval * 1000.0
    );
}

fn conversations(page: &mut String, summary: &Summary, record: &Record, link: &Link) {
    page.push_str(
        "<div class=\"wide\"><table><thead><tr><th>Who</th><th>with whom</th><th></th><th>sent</th><th>received</th><th>from</th>\
         <th>to</th></tr></thead><tbody>\n",
    );
    let at = |moment: Duration| {
        let seconds = moment.as_secs_f64() + link.clock_ahead.unwrap_or(0.0) - record.began;
        format!("{seconds:.3}")
    };
    for conversation in &summary.conversations {
        let protocol = match conversation.protocol {
            1 => "ICMP".to_owned(),
            2 => "IGMP".to_owned(),
            6 => "TCP".to_owned(),
            17 => "UDP".to_owned(),
            58 => "ICMPv6".to_owned(),
            112 => "VRRP".to_owned(),
            number => format!("protocol {number}"),
        };
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{protocol}</td><td>{} / {}</td><td>{} / {}</td><td>{}</td><td>{}</td></tr>",
            conversation.client,
            conversation.server,
            conversation.sent.frames,
            bytes(conversation.sent.bytes),
            conversation.received.frames,
            bytes(conversation.received.bytes),
            at(conversation.first),
            at(conversation.last)
        );
    }
    page.push_str("</tbody></table></div>\n");
    if summary.more_conversations > 0 {
        let _ = writeln!(
            page,
            "<p class=\"note\">and {} more conversations</p>",
            summary.more_conversations
        );
    }
}

fn ladder(page: &mut String, summary: &Summary, ends: &[String; 2], index: usize) {
    let open = if summary.frames <= 100 { " open" } else { "" };
    let _ = writeln!(
        page,
        "<details class=\"packets\"{open}><summary>Packets of link {index}</summary>\n<ol class=\"ladder\"><li class=\"ends\"><time></time><div><b>{}</b><b>{}</b></div></li>",
        ends[0], ends[1]
    );
    for rung in &summary.ladder {
        let _ = match rung {
            Rung::Packet { at, from, text } => {
                let class = match from {
                    Some(0) => "right",
                    Some(_) => "left",
                    None => "either",
                };
                writeln!(
                    page,
                    "<li class=\"{class}\"><time>{at:.4}</time><div>{}</div></li>",
                    line(text)
                )
            }
            Rung::Mark { at, name } => {
                writeln!(
                    page,
                    "<li class=\"mark\"><time>{at:.4}</time><div>{}</div></li>",
                    line(name)
                )
            }
            Rung::More(count) => {
                writeln!(
                    page,
                    "<li class=\"more\"><time></time><div>{count} more</div></li>"
                )
            }
        };
    }
    page.push_str("</ol></details>\n");
}

/// All files, with those that are short and tell much shown here.
fn files(page: &mut String, dir: &Path, record: &Record) {
    page.push_str("<section id=\"files\"><h2>Files</h2>\n");
    for machine in &record.machines {
        let prefix = match machine.folder.as_str() {
            "" => String::new(),
            folder => format!("{folder}/"),
        };
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

fn bits(rate: f64) -> String {
    match rate {
        ..1e4 => format!("{rate:.0} bit/s"),
        ..1e7 => format!("{:.1} kbit/s", rate / 1e3),
        ..1e10 => format!("{:.1} Mbit/s", rate / 1e6),
        _ => format!("{:.1} Gbit/s", rate / 1e9),
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
