// SPDX-License-Identifier: GPL-3.0-or-later
//! What the log, the consoles, QMP and the containers have said, on one clock.

use std::fmt::Write;

use super::FILE_LINES;
use crate::report::html::{line, text};
use crate::report::record::Record;
use crate::report::source::{Lane, Said};

/// What one has said within this time is shown together, in seconds.
const TOGETHER: f64 = 0.03;

/// Of twice as many lines in a column and a moment, all but the first so many are folded.
const FOLDED_FROM: usize = 8;

/// What all have said, side by side.
pub(super) fn clock(page: &mut String, record: &Record, said: &[Said]) {
    page.push_str(
        "<section id=\"clock\"><h2>Output on one clock</h2>\n<p class=\"small\">Seconds since the run began. What a guest prints of itself, such as \
         “[ 12.345]” of a Linux kernel, counts from the guest's boot.</p>\n",
    );
    let lanes = [
        (Lane::Log, "log", "Log"),
        (Lane::Console, "console", "Console"),
        (Lane::Qmp, "qmp", "QMP"),
        (Lane::Container, "containers", "Containers"),
    ];
    // Nothing is in a column of what has not said anything.
    let lanes: Vec<_> = lanes
        .into_iter()
        .filter(|(lane, ..)| said.iter().any(|said| said.lane == *lane && said.at.is_some()))
        .collect();
    for (_, class, name) in &lanes {
        let _ = write!(
            page,
            "<label class=\"lane\"><input type=\"checkbox\" id=\"show-{class}\" checked> {name}</label> "
        );
    }
    page.push_str("\n<div class=\"clock\"><div class=\"moment heads\"><time></time>");
    for (_, class, name) in &lanes {
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
        for (lane, class, name) in &lanes {
            // What one of several has said stays together, which is easier to read.
            let mut here: Vec<_> = moment.iter().filter(|said| said.lane == *lane).collect();
            here.sort_by(|one, other| one.by.cmp(&other.by));
            let Some(one) = here.first() else {
                let _ = write!(page, "<div class=\"{class} none\"></div>");
                continue;
            };
            let mut by = one.by.clone();
            let _ = write!(page, "<div class=\"{class}\"><i>{name}</i>{}<pre>", by_whom(&by));
            let count = here.len();
            for (number, said) in here.into_iter().enumerate() {
                if number == FOLDED_FROM && count > 2 * FOLDED_FROM {
                    let more = count - FOLDED_FROM;
                    let _ = write!(page, "</pre><details><summary>{more} lines more</summary><pre>");
                }
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
            page.push_str("</pre>");
            if count > 2 * FOLDED_FROM {
                page.push_str("</details>");
            }
            page.push_str("</div>");
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

#[cfg(test)]
mod tests {
    use super::*;

    fn said(at: f64, lane: Lane, text: &str) -> Said {
        Said {
            at: Some(at),
            lane,
            by: String::new(),
            text: text.to_owned(),
            bad: false,
        }
    }

    fn page(said: &[Said]) -> String {
        let mut page = String::new();
        clock(&mut page, &Record::default(), said);
        page
    }

    #[test]
    fn what_has_said_nothing_has_no_column() {
        let mut all = vec![said(0.1, Lane::Log, "Boot..."), said(0.2, Lane::Qmp, "-> cont")];
        // Output without a time has no place in a column.
        all.push(Said {
            at: None,
            ..said(0.0, Lane::Console, "< login: ")
        });
        let page = page(&all);
        for (class, is_shown) in [
            ("log", true),
            ("qmp", true),
            ("console", false),
            ("containers", false),
        ] {
            assert_eq!(
                page.contains(&format!("id=\"show-{class}\"")),
                is_shown,
                "{class} in {page}"
            );
            assert_eq!(
                page.contains(&format!("<div class=\"{class}")),
                is_shown,
                "{class} in {page}"
            );
        }
        assert!(page.contains("login: "), "what has no time is not lost: {page}");
    }

    #[test]
    fn a_flood_of_a_container_is_folded_behind_its_first_lines() {
        let lines = |count: usize| {
            let line = |number| said(0.5, Lane::Container, &format!("line {number}"));
            page(&(0..count).map(line).collect::<Vec<_>>())
        };
        let short = lines(2 * FOLDED_FROM);
        assert!(!short.contains("<details"), "{short}");
        let long = lines(50);
        let (before, after) = long
            .split_once("<details><summary>42 lines more</summary>")
            .unwrap();
        assert!(
            before.contains("line 7\n") && !before.contains("line 8\n"),
            "{before}"
        );
        let (folded, _) = after.split_once("</details>").unwrap();
        assert!(
            folded.contains("line 8\n") && folded.contains("line 49\n"),
            "{folded}"
        );
    }
}
