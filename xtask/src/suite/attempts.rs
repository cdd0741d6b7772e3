// SPDX-License-Identifier: GPL-3.0-or-later
//! Earlier attempts of a test that passed, in its evidence.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The record of a run in its evidence, as alpy writes it, and the longest that is read.
const RECORD: &str = "run.json";
const LONGEST: u64 = 64 << 20;

/// An attempt that did not pass.
pub(super) struct Attempt {
    /// Its evidence.
    pub(super) folder: PathBuf,
    /// Which one it is, and why it failed.
    pub(super) why: String,
}

/// The attempts before the last run that did not pass in the same call of a test runner, in their order. A failed run of an earlier call is
/// none: the test, or what it tests, may have changed since.
pub(super) fn failed(evidence: &Path) -> Vec<Attempt> {
    let Some(last) = record(evidence) else {
        return Vec::new();
    };
    let entries = fs::read_dir(evidence).into_iter().flatten().flatten();
    let mut attempts: Vec<(u64, Attempt)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let number = name.strip_prefix("attempt")?.parse().ok()?;
            let folder = entry.path();
            let attempt = record(&folder)?;
            let same = attempt["attempts_of"].is_string() && attempt["attempts_of"] == last["attempts_of"];
            if !same || attempt["verdict"] == "passed" {
                return None;
            }
            let cause = attempt["failure"]["cause"].as_str();
            let why = format!("{name}: {}", cause.unwrap_or("its process was killed"));
            Some((number, Attempt { folder, why }))
        })
        .collect();
    attempts.sort_by_key(|(number, _)| *number);
    attempts.into_iter().map(|(_, attempt)| attempt).collect()
}

fn record(folder: &Path) -> Option<Value> {
    let path = folder.join(RECORD);
    let file = fs::symlink_metadata(&path).ok()?;
    if !file.is_file() || file.len() > LONGEST {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Evidence of a test that passed at its third attempt. The first one was killed in an earlier call of the runner.
    pub(in crate::suite) fn wavering(folder: &Path) -> PathBuf {
        let evidence = folder.join("wavering");
        let write = |folder: PathBuf, record: &str| {
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(RECORD), record).unwrap();
        };
        write(
            evidence.clone(),
            r#"{"verdict": "passed", "attempts_of": "nextest 2"}"#,
        );
        write(
            evidence.join("attempt1"),
            r#"{"verdict": "under-way", "attempts_of": "nextest 1"}"#,
        );
        write(
            evidence.join("attempt2"),
            r#"{"verdict": "failed", "attempts_of": "nextest 2", "failure": {"cause": "no <answer>"}}"#,
        );
        evidence
    }

    #[test]
    fn attempts_of_one_call_count_and_others_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let evidence = wavering(folder.path());
        let whys: Vec<_> = failed(&evidence).into_iter().map(|attempt| attempt.why).collect();
        assert_eq!(whys, ["attempt2: no <answer>"]);
        let other = r#"{"verdict": "passed", "attempts_of": "nextest 3"}"#;
        fs::write(evidence.join(RECORD), other).unwrap();
        assert!(failed(&evidence).is_empty());
        assert!(failed(folder.path()).is_empty());
    }
}
