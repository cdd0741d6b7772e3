// SPDX-License-Identifier: GPL-3.0-or-later
//! A link: its ends, its rates, who spoke with whom, and its packets.

use std::fmt::Write;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};

use super::end_name;
use crate::report::html::{bytes, line, text};
use crate::report::packets::{Line, Rung, Summary};
use crate::report::rates::Rates;
use crate::report::record::{Link, Record};
use crate::report::source;

/// The captures that are in the page itself are no longer than this.
const EMBEDDED: u64 = 512 << 10;

pub(super) fn link_part(
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
    if link.dropped > 0 {
        let _ = writeln!(
            page,
            "<p class=\"note\">The tap dropped {} more frames: the machine did not take them, and the tap's queue was full.</p>",
            link.dropped
        );
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

fn download(page: &mut String, dir: &Path, capture: &str) {
    let read = || {
        let file = source::open(&dir.join(capture))?;
        let length = file.metadata()?.len();
        let mut content = Vec::new();
        if length <= EMBEDDED {
            file.take(EMBEDDED).read_to_end(&mut content)?;
        }
        Ok::<_, io::Error>((length, (length <= EMBEDDED).then_some(content)))
    };
    let (Ok((length, content)), name) = (read(), text(capture)) else {
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
            Rung::Packet(Line { at, from, text, .. }) => {
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

fn bits(rate: f64) -> String {
    match rate {
        ..1e4 => format!("{rate:.0} bit/s"),
        ..1e7 => format!("{:.1} kbit/s", rate / 1e3),
        ..1e10 => format!("{:.1} Mbit/s", rate / 1e6),
        _ => format!("{:.1} Gbit/s", rate / 1e9),
    }
}
