// SPDX-License-Identifier: GPL-3.0-or-later
//! Reads what test executables print.

use std::collections::HashMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
}

impl Counts {
    /// Reads a line such as `test result: ok. 3 passed; 0 failed; 0 ignored; ...`.
    pub fn parse(line: &str) -> Option<Self> {
        // With --nocapture, output without a line feed may come before.
        let (_, rest) = line.split_once("test result: ")?;
        let (_, numbers) = rest.split_once(". ")?;
        let number = |word: &str| {
            let part = numbers
                .split(';')
                .find_map(|part| part.trim().strip_suffix(word))?;
            part.trim().parse().ok()
        };
        Some(Self {
            passed: number("passed")?,
            failed: number("failed")?,
        })
    }

    /// Counts tests by their verdicts.
    pub fn of_cases(cases: &[Case]) -> Self {
        let count = |wanted| cases.iter().filter(|case| case.verdict == wanted).count() as u64;
        Self {
            passed: count(CaseVerdict::Passed),
            failed: count(CaseVerdict::Failed),
        }
    }

    /// Sums the result lines of an output. What ended badly and admits no failed test counts as one.
    pub fn of_run(output: &str, success: bool) -> Self {
        let mut counts = Self::default();
        for line in output.lines() {
            counts += Self::parse(line).unwrap_or_default();
        }
        if !success && counts.failed == 0 {
            counts.failed = 1;
        }
        counts
    }
}

/// A test of an executable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// Its name, with its modules.
    pub name: String,
    /// How it went.
    pub verdict: CaseVerdict,
    /// The end of what it printed.
    pub output: String,
}

/// How a test of an executable went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CaseVerdict {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It was ignored, or said that it cannot run here.
    Skipped,
}

/// How much of a test's output is kept, in bytes.
const KEPT: usize = 8 << 10;

/// The tests in an output that has each line whole, as without `--nocapture`, and what they printed, where `--show-output` shows it.
pub fn cases(output: &str) -> Vec<Case> {
    let mut outputs: HashMap<&str, String> = HashMap::new();
    let mut printing = None;
    for line in output.lines() {
        if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            printing = Some(name);
        } else if line == "failures:" || line == "successes:" {
            printing = None;
        } else if let Some(name) = printing {
            let text = outputs.entry(name).or_default();
            text.push_str(line);
            text.push('\n');
        }
    }
    let case = |line: &str| {
        let (name, result) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
        let name = name.strip_suffix(" - should panic").unwrap_or(name);
        let output = outputs.get(name).map(String::as_str).unwrap_or_default();
        let verdict = match result {
            "ok" if output.lines().any(|line| line.starts_with("SKIPPED: ")) => CaseVerdict::Skipped,
            "ok" => CaseVerdict::Passed,
            "FAILED" => CaseVerdict::Failed,
            _ if result.starts_with("ignored") => CaseVerdict::Skipped,
            _ => return None,
        };
        Some(Case {
            name: name.to_owned(),
            verdict,
            output: end_of(output.trim_end()),
        })
    };
    output.lines().filter_map(case).collect()
}

/// The end of a text, from the beginning of a line if it can be.
pub fn end_of(text: &str) -> String {
    let Some(from) = text.len().checked_sub(KEPT) else {
        return text.to_owned();
    };
    let from = (from..)
        .find(|from| text.is_char_boundary(*from))
        .unwrap_or(text.len());
    let end = &text[from..];
    match end.split_once('\n') {
        Some((_, lines)) => format!("...\n{lines}"),
        None => format!("...{end}"),
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str =
        "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.51s";

    #[test]
    fn reads_result_lines_and_nothing_else() {
        assert_eq!(
            Counts::parse(OK),
            Some(Counts {
                passed: 12,
                failed: 0
            })
        );
        let failed =
            "left over test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(Counts::parse(failed), Some(Counts { passed: 2, failed: 1 }));
        assert_eq!(Counts::parse("test forwards ... ok"), None);
        assert_eq!(Counts::parse("test result: "), None);
    }

    #[test]
    fn tells_each_test_and_what_it_printed() {
        let output = "
running 4 tests
test good ... ok
test module::bad ... FAILED
test later ... ignored, the child that other tests start
test absent ... ok

successes:

---- absent stdout ----
SKIPPED: this test needs qemu, and it is not in PATH

successes:
    absent
    good

failures:

---- module::bad stdout ----
only hay
  evidence: /t/alpy/bad

failures:
    module::bad

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out
";
        let cases = cases(output);
        let short: Vec<_> = cases
            .iter()
            .map(|case| (case.name.as_str(), case.verdict, case.output.as_str()))
            .collect();
        assert_eq!(
            short,
            [
                ("good", CaseVerdict::Passed, ""),
                (
                    "module::bad",
                    CaseVerdict::Failed,
                    "only hay\n  evidence: /t/alpy/bad"
                ),
                ("later", CaseVerdict::Skipped, ""),
                (
                    "absent",
                    CaseVerdict::Skipped,
                    "SKIPPED: this test needs qemu, and it is not in PATH"
                ),
            ]
        );
    }

    #[test]
    fn of_a_long_output_the_end_is_kept() {
        let long: String = (0..10_000).map(|line| format!("zeile ü {line}\n")).collect();
        let end = end_of(&long);
        assert!(end.len() <= KEPT + 4 && end.starts_with("...\nzeile ü "), "{end}");
        assert!(end.ends_with("zeile ü 9999\n"), "{end}");
        assert!(end_of(&"ü".repeat(KEPT)).len() <= KEPT + 4);
        assert_eq!(end_of("short"), "short");
    }

    #[test]
    fn a_crash_counts_as_a_failure() {
        assert_eq!(
            Counts::of_run("running 3 tests\n", false),
            Counts { passed: 0, failed: 1 }
        );
        assert_eq!(
            Counts::of_run(&format!("{OK}\n{OK}\n"), true),
            Counts {
                passed: 24,
                failed: 0
            }
        );
    }
}
