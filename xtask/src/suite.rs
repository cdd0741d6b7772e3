// SPDX-License-Identifier: GPL-3.0-or-later
//! What tests have left, for people and for GitLab: a page that leads to the reports, and JUnit XML.

mod attempts;
mod index;
mod junit;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use attempts::Attempt;

use crate::libtest::{Case, CaseVerdict};
use crate::runner::Outcome;

/// The page of a run in its evidence, as alpy writes it.
const REPORT: &str = "report.html";

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

/// A test, its executable, and its attempts before that it passed.
struct Entry<'a> {
    outcome: &'a Outcome,
    case: &'a Case,
    attempts: Vec<Attempt>,
}

/// All tests of a suite.
fn entries(outcomes: &[Outcome]) -> impl Iterator<Item = Entry<'_>> {
    outcomes
        .iter()
        .flat_map(|outcome| outcome.cases.iter().map(move |case| Entry::of(outcome, case)))
}

impl<'a> Entry<'a> {
    fn of(outcome: &'a Outcome, case: &'a Case) -> Self {
        let attempts = match case.verdict {
            CaseVerdict::Passed => case
                .evidence
                .iter()
                .flat_map(|folder| attempts::failed(folder))
                .collect(),
            _ => Vec::new(),
        };
        Self {
            outcome,
            case,
            attempts,
        }
    }

    /// Whether it failed, and passed when it was tried again.
    fn is_flaky(&self) -> bool {
        !self.attempts.is_empty()
    }

    fn word(&self) -> &'static str {
        match self.is_flaky() {
            true => "flaky",
            false => self.case.verdict.word(),
        }
    }

    /// Why it failed or did not run, or why its earlier attempts failed.
    fn why(&self) -> String {
        let attempts: Vec<_> = self.attempts.iter().map(|attempt| attempt.why.as_str()).collect();
        match self.case.verdict {
            CaseVerdict::Ignored => "ignored".to_owned(),
            _ if self.is_flaky() => attempts.join("\n"),
            _ => self.case.why.clone(),
        }
    }

    /// Its evidence, and that of its earlier attempts.
    fn evidence(&self) -> impl Iterator<Item = &PathBuf> {
        let attempts = self.attempts.iter().map(|attempt| &attempt.folder);
        self.case.evidence.iter().chain(attempts)
    }
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
    use crate::runner::Test;

    /// A rabbit test with its evidence, and an executable of a crate.
    pub(super) fn outcomes(folder: &Path) -> Vec<Outcome> {
        let evidence = folder.join("nat");
        fs::create_dir_all(&evidence).unwrap();
        fs::write(evidence.join(REPORT), "").unwrap();
        let case = |name: &str, verdict, why: &str, output: &str| Case {
            name: name.to_owned(),
            verdict,
            why: why.to_owned(),
            seconds: 1.5,
            output: output.to_owned(),
            evidence: Vec::new(),
        };
        let outcome = |name: &str, rabbit, cases| Outcome {
            test: Test {
                name: name.to_owned(),
                rabbit,
                chosen_by: String::new(),
                executable: PathBuf::new(),
                folder: PathBuf::new(),
                programs: Vec::new(),
            },
            cases,
        };
        let cause = "saw <b> \u{7}\nand more (Send requests)";
        let mut nat = case("forwards", CaseVerdict::TimedOut, cause, "]]> \x1b[31m");
        nat.evidence.push(evidence);
        vec![
            outcome("nat", true, vec![nat]),
            outcome(
                "alpy",
                false,
                vec![
                    case("good", CaseVerdict::Passed, "", ""),
                    case(
                        "module::bad",
                        CaseVerdict::Failed,
                        "left is \"right\"",
                        "it panicked\n",
                    ),
                    case("absent", CaseVerdict::Skipped, "this test needs qemu", ""),
                    case("child", CaseVerdict::Ignored, "", ""),
                ],
            ),
        ]
    }

    /// A rabbit test that passed at its third attempt.
    pub(super) fn flaky(folder: &Path) -> Vec<Outcome> {
        let mut outcomes = outcomes(folder);
        outcomes.truncate(1);
        let case = &mut outcomes[0].cases[0];
        case.verdict = CaseVerdict::Passed;
        case.why.clear();
        case.evidence = vec![attempts::tests::wavering(folder)];
        outcomes
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
