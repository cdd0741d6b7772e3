// SPDX-License-Identifier: GPL-3.0-or-later
//! The report of a run in a real browser, and made of evidence by somebody who means harm. No engine is needed, and no machine.

#![expect(clippy::unwrap_used, reason = "what a test relies on")]

mod browser;
mod crafted;
mod made;

use std::fs;
use std::time::Duration;

use made::{busy, hostile, router};
use nix::time::ClockId;

#[test]
fn a_packet_comes_in_at_one_link_and_leaves_at_the_next() {
    let dir = tempfile::tempdir().unwrap();
    router(dir.path());
    let page = fs::read_to_string(alpy::report::render(dir.path()).unwrap()).unwrap();
    let (_, sequence) = page.split_once("<ol class=\"sequence\"").unwrap();
    let (sequence, _) = sequence.split_once("</ol>").unwrap();
    let rows = sequence.lines().skip(1).filter(|row| row.starts_with("<li"));
    let rows: Vec<_> = rows
        .map(|row| {
            let between =
                |before: &str, after: &str| row.split_once(before).unwrap().1.split_once(after).unwrap().0;
            let place = between("left:", "%").parse::<f64>().unwrap().round();
            (
                between("<li class=\"", " "),
                between("<time>", "</time>"),
                between("<i>", "</i>"),
                place,
            )
        })
        .collect();
    // From the node to the first machine, from there to the second one, and, by itself, from that one to its node.
    let expected = [
        ("right", "0.1000", "link 0", 13.0),
        ("right", "0.1002", "link 1", 38.0),
        ("right", "0.1500", "link 2", 63.0),
        ("right", "0.2000", "link 0", 13.0),
        ("right", "0.2002", "link 1", 38.0),
        ("right", "0.2500", "link 2", 63.0),
    ];
    assert_eq!(rows, expected, "{sequence}");
    let names: Vec<_> = sequence
        .split("</li>")
        .next()
        .unwrap()
        .split("<b>")
        .skip(1)
        .collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(
        sequence.contains("<b>node 0</b><b>machine 0</b><b>machine 1</b><b>node 2</b>"),
        "{names:?}"
    );
}

#[test]
fn nothing_that_a_machine_prints_becomes_a_part_of_the_page() {
    let dir = tempfile::tempdir().unwrap();
    hostile(dir.path());
    let page = fs::read_to_string(alpy::report::render(dir.path()).unwrap()).unwrap();
    // All tags that there are, each one of alpy's own.
    let own = [
        "!DOCTYPE",
        "a",
        "b",
        "body",
        "details",
        "div",
        "em",
        "figcaption",
        "figure",
        "h1",
        "h2",
        "h3",
        "head",
        "header",
        "html",
        "i",
        "input",
        "label",
        "li",
        "line",
        "main",
        "meta",
        "nav",
        "ol",
        "p",
        "path",
        "polyline",
        "pre",
        "rect",
        "section",
        "span",
        "style",
        "summary",
        "svg",
        "table",
        "tbody",
        "td",
        "text",
        "th",
        "thead",
        "time",
        "title",
        "tr",
        "ul",
    ];
    for tag in page.split('<').skip(1) {
        let name = tag.trim_start_matches('/').split([' ', '>']).next().unwrap();
        assert!(own.contains(&name), "<{}", &tag[..tag.len().min(80)]);
        // Outside of quotes.
        let attributes = tag.split('>').next().unwrap();
        let attributes: String = attributes.split('"').step_by(2).collect();
        assert!(!attributes.contains(" on"), "<{attributes}>");
    }
    assert!(page.contains("&lt;img src=x onerror=&quot;"), "it is shown");
    for unseen in ['\u{202e}', '\u{2066}', '\0', '\u{1b}', '\u{200b}', '\u{feff}'] {
        assert!(!page.contains(unseen), "{unseen:?}");
    }
    assert!(page.contains("\\u{202e}txt.exe"), "it is shown");
    // The line of a megabyte is there several times, and each time a part of it.
    assert!(page.len() < 400_000, "{}", page.len());
}

#[test]
fn a_report_of_many_packets_is_short_and_soon_there() {
    let dir = tempfile::tempdir().unwrap();
    busy(dir.path(), 100_000);
    // Of this thread, for others may want the processors too. It reads for 1.5 s at most.
    let processor_time = || Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap());
    let before = processor_time();
    let page = alpy::report::render(dir.path()).unwrap();
    let took = processor_time() - before;
    let page = fs::read_to_string(page).unwrap();
    assert!(page.len() < 400_000, "{}", page.len());
    assert!(took < Duration::from_secs(5), "{took:?}");
    println!(
        "200000 packets: {took:.1?} of processor time, {} kB",
        page.len() / 1000
    );
    assert!(
        page.contains(" more</div>") && page.contains("failover"),
        "{page}"
    );
}

#[test]
fn a_directory_without_a_run_has_no_report() {
    let dir = tempfile::tempdir().unwrap();
    let error = alpy::report::render(dir.path()).unwrap_err();
    assert!(error.to_string().starts_with("make the report of "), "{error}");
    fs::write(dir.path().join("run.json"), r#"{"format": 2}"#).unwrap();
    let error = std::error::Error::source(&alpy::report::render(dir.path()).unwrap_err())
        .unwrap()
        .to_string();
    assert_eq!(error, "run.json is of format 2");
}
