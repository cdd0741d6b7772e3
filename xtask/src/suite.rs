// SPDX-License-Identifier: GPL-3.0-or-later
//! What tests have left, for people and for GitLab: a page that leads to the reports, and JUnit XML.

mod index;
mod junit;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::libtest::{Case, CaseVerdict};
use crate::runner::{self, Outcome};

/// The record of a run in its evidence, as alpy writes it.
const RECORD: &str = "run.json";
const REPORT: &str = "report.html";

/// A record that is longer is not looked into.
const LONGEST: u64 = 64 << 20;

/// Tests by whom or what they were run.
pub type Suite<'a> = (String, &'a [Outcome]);

/// Writes `index.html` and `junit.xml` to the folder `alpy` of the target folder.
pub fn write<T: AsRef<[Outcome]>>(target: &Path, suites: &[(String, T)]) -> Result<()> {
    let suites: Vec<Suite<'_>> = suites
        .iter()
        .map(|(name, outcomes)| (name.clone(), outcomes.as_ref()))
        .collect();
    let folder = target.join("alpy");
    let files = [
        ("index.html", index::page(&folder, &suites)),
        ("junit.xml", junit::xml(&suites)),
    ];
    for (name, content) in files {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| path.display().to_string())?;
    }
    eprintln!("xtask: reports: {}", folder.join("index.html").display());
    Ok(())
}

/// Whether the report of a run gives these words as the cause of its failure.
pub fn report_says(folder: &Path, words: &str) -> bool {
    let report = fs::read_to_string(folder.join(REPORT)).unwrap_or_default();
    let cause = report
        .split_once("<pre class=\"cause\">")
        .and_then(|(_, rest)| rest.split_once("</pre>"));
    cause.is_some_and(|(cause, _)| cause.contains(&Text(words).to_string()))
}

/// A test, and what is known about it.
struct Entry<'a> {
    /// The crate and the target.
    outcome: &'a Outcome,
    case: &'a Case,
    /// Where its evidence is.
    evidence: Vec<PathBuf>,
    /// Why it failed or was skipped.
    why: String,
}

/// All tests of a suite.
fn entries<'a>(outcomes: &'a [Outcome]) -> impl Iterator<Item = Entry<'a>> {
    outcomes
        .iter()
        .flat_map(|outcome| outcome.cases.iter().map(move |case| Entry::of(outcome, case)))
}

impl<'a> Entry<'a> {
    fn of(outcome: &'a Outcome, case: &'a Case) -> Self {
        // What another user left may have been copied since the test said where it is.
        let alone = outcome.cases.len() == 1;
        let mut evidence: Vec<_> = match alone {
            true => outcome.evidence.clone(),
            false => {
                let said = case.output.lines().filter_map(runner::evidence_in);
                let kept = |folder: PathBuf| {
                    let name = folder.file_name()?;
                    let kept = outcome
                        .evidence
                        .iter()
                        .find(|kept| kept.file_name() == Some(name));
                    kept.cloned()
                };
                said.filter_map(kept).collect()
            }
        };
        evidence.dedup();
        let why = match case.verdict {
            CaseVerdict::Passed => String::new(),
            CaseVerdict::Failed => {
                let mut causes = evidence.iter().filter_map(|folder| cause(folder));
                let cause = causes.next_back();
                cause.unwrap_or_else(|| reason(&case.output))
            }
            CaseVerdict::Skipped => {
                let said = case
                    .output
                    .lines()
                    .find_map(|line| line.strip_prefix("SKIPPED: "));
                said.unwrap_or("ignored").to_owned()
            }
        };
        Self {
            outcome,
            case,
            evidence,
            why,
        }
    }

    fn word(&self) -> &'static str {
        match self.case.verdict {
            CaseVerdict::Passed => "passed",
            CaseVerdict::Skipped => "skipped",
            // It may have been ended.
            CaseVerdict::Failed if self.outcome.rabbit => self.outcome.verdict.word(),
            CaseVerdict::Failed => "failed",
        }
    }

    /// How long it took, which of those that run together in one executable nobody has measured.
    fn seconds(&self) -> Option<f64> {
        (self.outcome.cases.len() == 1).then_some(self.outcome.seconds)
    }
}

/// Why a run failed, as its own record says.
fn cause(folder: &Path) -> Option<String> {
    let path = folder.join(RECORD);
    if fs::symlink_metadata(&path).ok()?.len() > LONGEST {
        return None;
    }
    let record: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let failure = &record["failure"];
    let cause = failure["cause"].as_str()?;
    Some(match failure["step"].as_str() {
        Some(step) => format!("{cause} ({step})"),
        None => cause.to_owned(),
    })
}

/// What an output says that may be the reason of a failure: what a panic says, else the last line.
fn reason(output: &str) -> String {
    let mut lines = output.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = output.lines().find_map(|line| line.strip_prefix("Error: "));
    let mut all = output.lines();
    let panic = all
        .find(|line| line.starts_with("thread '") && line.contains("panicked at"))
        .and_then(|_| all.next());
    let found = error.or(panic).map(str::to_owned);
    found.unwrap_or_else(|| lines.next_back().unwrap_or("it said nothing").to_owned())
}

/// Text in XML and in HTML, in elements and in attributes. What XML cannot have at all is shown as an escape.
struct Text<'a>(&'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\t' => write!(f, "{character}")?,
                // Char of XML 1.0, 2.2; and what turns others around.
                '\u{fffe}' | '\u{ffff}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    write!(f, "{}", character.escape_unicode())?;
                }
                _ if character.is_control() => write!(f, "{}", character.escape_unicode())?,
                _ => write!(f, "{character}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtest::Counts;
    use crate::runner::Verdict;

    /// A rabbit test with its evidence, and an executable of a crate.
    pub(super) fn outcomes(folder: &Path) -> Vec<Outcome> {
        let evidence = folder.join("nat");
        fs::create_dir_all(&evidence).unwrap();
        let record = r#"{"failure": {"cause": "saw <b> \u0007\nand more", "step": "Send requests"}}"#;
        fs::write(evidence.join(RECORD), record).unwrap();
        fs::write(evidence.join(REPORT), "").unwrap();
        let case = |name: &str, verdict, output: &str| Case {
            name: name.to_owned(),
            verdict,
            output: output.to_owned(),
        };
        let outcome = |name: &str, rabbit, verdict, evidence, cases| Outcome {
            name: name.to_owned(),
            rabbit,
            verdict,
            seconds: 1.5,
            counts: Counts::default(),
            evidence,
            cases,
        };
        let panic = "thread 'bad' panicked at src/lib.rs:1:\nleft is \"right\"\nnote: run with\n";
        vec![
            outcome(
                "nat",
                true,
                Verdict::Failed,
                vec![evidence],
                vec![case("nat", CaseVerdict::Failed, "]]> \x1b[31m")],
            ),
            outcome(
                "alpy",
                false,
                Verdict::Failed,
                Vec::new(),
                vec![
                    case("good", CaseVerdict::Passed, ""),
                    case("module::bad", CaseVerdict::Failed, panic),
                    case("absent", CaseVerdict::Skipped, "SKIPPED: this test needs qemu"),
                ],
            ),
        ]
    }

    #[test]
    fn says_why_as_the_run_itself_does_and_else_as_the_panic() {
        let folder = tempfile::tempdir().unwrap();
        let outcomes = outcomes(folder.path());
        let whys: Vec<_> = entries(&outcomes).map(|entry| entry.why).collect();
        assert_eq!(
            whys,
            [
                "saw <b> \u{7}\nand more (Send requests)",
                "",
                "left is \"right\"",
                "this test needs qemu"
            ]
        );
        assert_eq!(reason("Error: no\nfailures:\n"), "no");
        assert_eq!(reason("one\nlast\n\n"), "last");
        assert_eq!(reason(""), "it said nothing");
    }

    #[test]
    fn text_ends_no_element_and_no_attribute_and_has_what_xml_may_have() {
        let text = Text("</a> \"'& \0\x1b\u{ffff}\u{202e}\nü").to_string();
        assert_eq!(
            text,
            "&lt;/a&gt; &quot;&#39;&amp; \\u{0}\\u{1b}\\u{ffff}\\u{202e}\nü"
        );
    }
}
