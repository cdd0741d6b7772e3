// SPDX-License-Identifier: GPL-3.0-or-later
//! The end of a run: what failed, why in a line or two, and the command that does it again.

use std::fmt::Write;
use std::path::PathBuf;

use crate::libtest::Case;
use crate::runner::Outcome;

/// How much of a reason is repeated: lines, and characters of a line.
const LINES: usize = 2;
const LINE: usize = 200;

/// Something that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What.
    pub name: String,
    /// Why. It may have many lines.
    pub why: String,
    /// The command that runs it again.
    pub again: String,
    /// Where its evidence is.
    pub evidence: Option<PathBuf>,
}

impl Failure {
    /// A test that failed.
    pub fn of(case: &Case, name: String, again: String) -> Self {
        Self {
            name,
            why: case.why.clone(),
            again,
            evidence: case.evidence.last().cloned(),
        }
    }

    /// The tests of executables that failed.
    pub fn all_of(outcomes: &[Outcome]) -> Vec<Self> {
        let all = outcomes.iter().flat_map(|outcome| {
            let failed = outcome.cases.iter().filter(|case| case.verdict.is_failure());
            failed.map(|case| {
                let test = &outcome.test;
                let name = match test.rabbit && outcome.cases.len() == 1 {
                    true => test.name.clone(),
                    false => format!("{}: {}", test.name, case.name),
                };
                Self::of(case, name, test.again(&case.name))
            })
        });
        all.collect()
    }
}

/// A paragraph for each failure.
pub fn failures(all: &[Failure]) -> String {
    let mut text = String::new();
    for Failure {
        name,
        why,
        again,
        evidence,
    } in all
    {
        // Writing to a String cannot fail.
        let _ = write!(text, "{name}: {}\n  again: {again}\n", short(why));
        if let Some(evidence) = evidence {
            let _ = writeln!(text, "  evidence: {}", evidence.display());
        }
        text.push('\n');
    }
    text
}

/// The first lines of a reason.
fn short(why: &str) -> String {
    let lines = why.lines().filter(|line| !line.trim().is_empty());
    let cut = |line: &str| match line.char_indices().nth(LINE) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    };
    let lines: Vec<_> = lines.take(LINES).map(cut).collect();
    lines.join("\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_two_lines_at_most() {
        let failure = |why: &str, evidence: Option<&str>| Failure {
            name: "nat".to_owned(),
            why: why.to_owned(),
            again: "cargo xtask rabbit-tests nat".to_owned(),
            evidence: evidence.map(PathBuf::from),
        };
        let all = [
            failure("saw 0\n\nwanted 3\nand more\n", Some("/t/alpy/nat")),
            failure(&"ü".repeat(1000), None),
        ];
        let long = "ü".repeat(LINE);
        assert_eq!(
            failures(&all),
            format!(
                "nat: saw 0\n  wanted 3\n  again: cargo xtask rabbit-tests nat\n  evidence: /t/alpy/nat\n\n\
                 nat: {long}...\n  again: cargo xtask rabbit-tests nat\n\n"
            )
        );
    }
}
