// SPDX-License-Identifier: GPL-3.0-or-later
//! Reads what test executables print.

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
