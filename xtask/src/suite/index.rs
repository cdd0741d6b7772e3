// SPDX-License-Identifier: GPL-3.0-or-later
//! The page that leads to the reports of all runs.

use std::fmt::Write;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use super::{Entry, REPORT, Suite, Text, entries};
use crate::libtest::{CaseVerdict, Counts};
use crate::runner::Outcome;

/// The record of a run in its evidence.
const RECORD: &str = "run.json";

/// How much of a reason is shown.
const REASON: usize = 300;

const STYLE: &str = "
:root { color-scheme: light dark; --line: #d5d9e0; --weak: #59636e; --good: #1a7f37; --bad: #c4202b; --link: #0550ae; }
@media (prefers-color-scheme: dark) {
  :root { --line: #3a424d; --weak: #9aa5b1; --good: #4ac26b; --bad: #ff7b72; --link: #79b8ff; }
  body { background: #14171c; color: #e3e7ec; }
}
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1200px; margin: 0 auto; padding: 12px 20px 40px; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 1.6em; }
a { color: var(--link); } .weak { color: var(--weak); font-size: .9em; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3em .8em .3em 0; border-bottom: 1px solid var(--line); }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.passed { color: var(--good); } .failed, .flaky { color: var(--bad); font-weight: 600; } .unjudged { font-weight: 600; }
pre { margin: 0; white-space: pre-wrap; font: 12.5px/1.4 ui-monospace, monospace; }
@media (max-width: 700px) {
  body { padding: 8px 12px; } thead { display: none; }
  tr { display: grid; grid-template-columns: 1fr auto auto; gap: 0 10px; border-bottom: 1px solid var(--line); padding: .3em 0; }
  td { border: 0; padding: 0; } td.why { grid-column: 1 / 4; }
}
";

/// The page, to be in this folder. Tests of crates are in it where they did not pass, or left a run with a report.
pub(super) fn page(folder: &Path, suites: &[Suite<'_>]) -> String {
    let all: Vec<Entry<'_>> = suites
        .iter()
        .flat_map(|(_, outcomes)| entries(outcomes))
        .collect();
    let Counts {
        passed,
        failed,
        unjudged,
        skipped,
    } = Counts::of_cases(all.iter().map(|entry| entry.case));
    let flaky = match all.iter().filter(|entry| entry.is_flaky()).count() {
        0 => String::new(),
        flaky => format!(" (<span class=\"flaky\">{flaky} flaky</span>)"),
    };
    let mark = if failed == 0 { "✓" } else { "✗" };
    let class = if failed == 0 { "weak" } else { "failed" };
    let failed = failed - unjudged;
    let overloaded = match unjudged {
        0 => String::new(),
        count => format!(", {count} cannot be judged"),
    };
    let seconds: f64 = all.iter().map(|entry| entry.case.seconds).sum();
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{mark} {passed} passed, {failed} failed</title>\n\
         <style>{STYLE}</style></head><body>\n<h1><span class=\"passed\">{passed} passed</span>, <span class=\"{class}\">{failed} failed</span>{overloaded}{flaky}, {skipped} skipped</h1>\n\
         <p>{} · {} · {seconds:.0} s of tests</p>\n<p class=\"weak\">For programs: <a href=\"junit.xml\">junit.xml</a></p>\n",
        utc(SystemTime::now()),
        Text(&host())
    );
    for (name, outcomes) in suites {
        let _ = write!(
            page,
            "<h2>{}</h2>\n<table><thead><tr><th>Test</th><th>Verdict</th><th class=\"number\">Seconds</th><th>Why</th></tr></thead><tbody>\n",
            Text(name)
        );
        let mut shown: Vec<_> = entries(outcomes).filter(is_shown).collect();
        // What failed first, then what is flaky, else in the order in which they ran.
        shown.sort_by_key(|entry| (!entry.case.verdict.is_failure(), !entry.is_flaky()));
        for entry in &shown {
            row(&mut page, folder, entry);
        }
        page.push_str("</tbody></table>\n");
        let passed = |entry: &Entry<'_>| entry.case.verdict == CaseVerdict::Passed;
        let others =
            entries(outcomes).filter(passed).count() - shown.iter().filter(|entry| passed(entry)).count();
        if others > 0 {
            let _ = writeln!(
                page,
                "<p class=\"weak\">and {others} tests of crates that passed without a machine</p>"
            );
        }
    }
    page.push_str("</body></html>\n");
    page
}

fn is_shown(entry: &Entry<'_>) -> bool {
    let has_report = |folder: &PathBuf| folder.join(REPORT).is_file();
    match entry.case.verdict {
        CaseVerdict::Ignored => false,
        CaseVerdict::Passed if entry.is_flaky() => true,
        CaseVerdict::Passed => entry.outcome.test.rabbit || entry.case.evidence.iter().any(has_report),
        _ => true,
    }
}

fn row(page: &mut String, folder: &Path, entry: &Entry<'_>) {
    let Outcome { test, cases } = entry.outcome;
    let of = format!("<span class=\"weak\">{}</span> ", Text(&test.name));
    let (of, name) = match test.rabbit && cases.len() == 1 {
        true => (String::new(), &test.name),
        false => (of, &entry.case.name),
    };
    let class = match entry.case.verdict {
        CaseVerdict::Passed if entry.is_flaky() => "flaky",
        CaseVerdict::Passed => "passed",
        CaseVerdict::Failed | CaseVerdict::TimedOut => "failed",
        CaseVerdict::Unjudged => "unjudged",
        CaseVerdict::Skipped | CaseVerdict::Ignored => "weak",
    };
    let description = entry.case.evidence.iter().find_map(|folder| description(folder));
    let description = description.map_or_else(String::new, |text| {
        format!("<br><span class=\"weak\">{}</span>", Text(&text))
    });
    let _ = write!(
        page,
        "<tr><td>{of}{}{}</td><td class=\"{class}\">{}</td><td class=\"number\">{:.1}</td><td class=\"why\">",
        Text(name),
        description,
        entry.word(),
        entry.case.seconds
    );
    let why = entry.why();
    if !why.is_empty() {
        let shown: String = why.chars().take(REASON).collect();
        let more = if shown.len() < why.len() { " ..." } else { "" };
        let _ = write!(page, "<pre>{}{more}</pre>", Text(&shown));
    }
    for evidence in entry.evidence() {
        let (name, target) = match evidence.join(REPORT).is_file() {
            true => ("report", evidence.join(REPORT)),
            false => ("evidence", evidence.clone()),
        };
        let _ = write!(page, "<a href=\"{}\">{name}</a> ", address(folder, &target));
    }
    page.push_str("</td></tr>\n");
}

/// What a test says of itself, as its run has recorded it.
fn description(folder: &Path) -> Option<String> {
    /// A record that is longer is not looked into.
    const LONGEST: u64 = 64 << 20;
    let path = folder.join(RECORD);
    let file = fs::symlink_metadata(&path).ok()?;
    if !file.is_file() || file.len() > LONGEST {
        return None;
    }
    let record: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    Some(record["description"].as_str()?.to_owned())
}

/// The machine that the tests ran on.
fn host() -> String {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{}, Linux {}, {processors} processors",
        read("hostname").trim(),
        read("osrelease").trim()
    )
}

/// A moment as a date and a time of day.
fn utc(moment: SystemTime) -> String {
    let since_epoch = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (mut days, second) = (since_epoch.as_secs() / 86_400, since_epoch.as_secs() % 86_400);
    let is_leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [
        31,
        28 + u64::from(is_leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
    ] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year}-{month:02}-{:02} {hour:02}:{minute:02} UTC", days + 1)
}

/// The relative address of a path as seen from a folder.
fn address(folder: &Path, path: &Path) -> String {
    let (mut from, mut to) = (folder.components().peekable(), path.components().peekable());
    while from.peek().is_some() && from.peek() == to.peek() {
        from.next();
        to.next();
    }
    let mut parts: Vec<String> = from.map(|_| "..".to_owned()).collect();
    parts.extend(to.map(|part| match part {
        Component::Normal(name) => encoded(name.as_encoded_bytes()),
        _ => "..".to_owned(),
    }));
    format!("./{}", parts.join("/"))
}

fn encoded(name: &[u8]) -> String {
    let mut text = String::new();
    for byte in name {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => text.push(char::from(*byte)),
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leads_to_each_report_and_shows_what_failed_first() {
        let folder = tempfile::tempdir().unwrap();
        let outcomes = super::super::tests::outcomes(folder.path());
        let record = r#"{"description": "Hides <one> network"}"#;
        fs::write(folder.path().join("nat").join(RECORD), record).unwrap();
        let page = page(folder.path(), &[("tests as <root>".to_owned(), &outcomes)]);
        for part in [
            "<span class=\"passed\">1 passed</span>, <span class=\"failed\">2 failed</span>, 1 skipped",
            "<span class=\"weak\">Hides &lt;one&gt; network</span>",
            " UTC · ",
            " · 8 s of tests",
            "<h2>tests as &lt;root&gt;</h2>",
            "<a href=\"./nat/report.html\">report</a>",
            "<pre>saw &lt;b&gt; \\u{7}\nand more (Send requests)</pre>",
            "<pre>left is &quot;right&quot;</pre>",
            "<pre>this test needs qemu</pre>",
            "and 1 tests of crates that passed",
        ] {
            assert!(page.contains(part), "{part} is missing: {page}");
        }
    }

    #[test]
    fn says_flaky_and_leads_to_each_attempt() {
        let folder = tempfile::tempdir().unwrap();
        let outcomes = super::super::tests::flaky(folder.path());
        let page = page(folder.path(), &[("tests".to_owned(), &outcomes)]);
        for part in [
            "1 passed</span>, <span class=\"weak\">0 failed</span> (<span class=\"flaky\">1 flaky</span>)",
            "<td class=\"flaky\">flaky</td>",
            "<pre>attempt2: no &lt;answer&gt;</pre>",
            "<a href=\"./wavering/attempt2\">evidence</a>",
        ] {
            assert!(page.contains(part), "{part} is missing: {page}");
        }
    }

    #[test]
    fn no_failure_is_not_red() {
        let page = page(Path::new("/"), &[]);
        assert!(page.contains("<span class=\"weak\">0 failed</span>"), "{page}");
    }

    #[test]
    fn tells_the_date() {
        use std::time::Duration;

        for (seconds, date) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59 UTC"),
            (1_795_633_603, "2026-11-25 19:06 UTC"),
        ] {
            assert_eq!(utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), date);
        }
    }

    #[test]
    fn addresses_are_relative_and_lead_nowhere_else() {
        let folder = Path::new("/w/target/alpy");
        for (path, relative) in [
            ("/w/target/alpy/nat/report.html", "./nat/report.html"),
            ("/w/target/alpy-users/none/nat", "./../alpy-users/none/nat"),
            ("/w/target/alpy/a:b \"c", "./a%3Ab%20%22c"),
        ] {
            assert_eq!(address(folder, Path::new(path)), relative);
        }
    }
}
