// SPDX-License-Identifier: GPL-3.0-or-later
//! Whether the verdict of each rabbit test can be red: the rabbit is broken in the test, and the test has to say so.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::libtest::{Case, CaseVerdict, end_of};
use crate::process::{self, Kind, Stream};
use crate::progress::Progress;
use crate::runner::{self, Environment, Test};
use crate::suite;
use crate::summary::Failure;

/// What the script of a sabotage says in a line about the test's answer to it.
const EXPECTED: &str = "# expected: ";

/// How libtest ends when a test has failed.
const FAILED: i32 = 101;

/// Sabotages the tests, so many at once, and says which of them did not notice.
pub fn run(tests: &[Test], environment: &Environment, jobs: usize, progress: &Progress) -> Result<Vec<Case>> {
    let run = |test: &Test| {
        let label = format!("{}, sabotaged", test.name);
        let ticket = progress.begin(&label);
        let started = Instant::now();
        let noticed = run_one(test, environment, |stream, line| {
            progress.line(ticket, stream, line);
        });
        process::check_interrupted()?;
        let (verdict, said) = match noticed {
            Ok(words) => (CaseVerdict::Passed, format!("it says: {words}")),
            Err(error) => (CaseVerdict::Failed, format!("{error:#}")),
        };
        let case = Case {
            name: test.name.clone(),
            verdict,
            why: said.lines().next().unwrap_or_default().to_owned(),
            seconds: started.elapsed().as_secs_f64(),
            output: end_of(&said),
            evidence: Vec::new(),
        };
        let text = match verdict {
            CaseVerdict::Passed => runner::line("noticed", &label, case.seconds, &said),
            _ => runner::failure(&label, &case, &said),
        };
        progress.end(ticket, verdict.is_failure(), &text);
        Ok(case)
    };
    progress.during(tests.len(), || runner::at_once(tests, jobs, run))
}

/// The tests that did not notice.
pub fn failures(cases: &[Case]) -> Vec<Failure> {
    let failed = cases.iter().filter(|case| case.verdict.is_failure());
    let failure = |case: &Case| {
        let again = format!("cargo xtask rabbit-tests --sabotage {}", case.name);
        Failure::of(case, format!("{}, sabotaged", case.name), again)
    };
    failed.map(failure).collect()
}

/// The words in which the test noticed it.
fn run_one(test: &Test, environment: &Environment, mut line: impl FnMut(Stream, &str)) -> Result<String> {
    let path = test.folder.join("tests").join(&test.name).join("sabotage");
    let script = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let expected =
        expected_in(&script).with_context(|| format!("{}: no line {EXPECTED:?}", path.display()))?;
    // The guest echoes what is typed, and a failure shows the console: the words may come from the test alone.
    let lines = script.lines().filter(|line| !line.starts_with(EXPECTED));
    let typed: String = lines.map(|line| format!("{line}\n")).collect();
    let mut command = process::command(&test.executable);
    command
        .current_dir(&test.folder)
        .envs(environment.iter().cloned())
        .env("CARGO_MANIFEST_DIR", &test.folder)
        .env("ALPY_REQUIRE", "all")
        .env("RUST_BACKTRACE", "0")
        .env("RABBIT_SABOTAGE", typed);
    if let Some((_, evidence)) = environment.iter().find(|(name, _)| *name == "ALPY_EVIDENCE") {
        // Not in place of that of the test itself.
        command.env("ALPY_EVIDENCE", std::path::Path::new(evidence).join("sabotaged"));
    }
    let mut text = String::new();
    let ended = process::follow(command, Kind::Group, None, |stream, words| {
        line(stream, words);
        text.push_str(words);
    })?;
    if ended.status.code() != Some(FAILED) {
        bail!("the test did not notice: {}\n{text}", ended.status);
    }
    if !text.contains(expected) {
        bail!("the test fails, but does not say {expected:?}\n{text}");
    }
    // Whoever has the report alone is to learn it too.
    let folders: Vec<_> = text.lines().filter_map(runner::evidence_in).collect();
    if folders.is_empty() {
        bail!("the test does not say where its evidence is\n{text}");
    }
    for folder in folders {
        if !suite::report_says(&folder, expected) {
            bail!("the report in {} does not say {expected:?}", folder.display());
        }
    }
    Ok(expected.to_owned())
}

fn expected_in(script: &str) -> Option<&str> {
    script.lines().find_map(|line| line.strip_prefix(EXPECTED))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::progress;

    /// The verdict on a test whose executable is this script.
    fn verdict(executable: &str, sabotage: &str) -> CaseVerdict {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, format!("#!/bin/sh\n{executable}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        fs::create_dir_all(folder.path().join("tests/some")).unwrap();
        fs::write(folder.path().join("tests/some/sabotage"), sabotage).unwrap();
        let test = Test {
            name: "some".to_owned(),
            rabbit: true,
            chosen_by: String::new(),
            executable: program,
            folder: folder.path().to_owned(),
            programs: Vec::new(),
        };
        let (progress, _) = progress::tests::quiet(false, false);
        run(&[test], &Vec::new(), 1, &progress).unwrap()[0].verdict
    }

    #[test]
    fn only_a_test_that_fails_in_the_right_words_has_noticed() {
        let sabotage = "#!/bin/sh\n# expected: saw 0\nfalse\n";
        let (yes, no) = (CaseVerdict::Passed, CaseVerdict::Failed);
        let with_report = |report: &str, script: &str| {
            let evidence = "echo \"Evidence: $CARGO_MANIFEST_DIR\"";
            let report = format!("echo '{report}' > $CARGO_MANIFEST_DIR/report.html");
            verdict(&format!("{report}; {evidence}; {script}"), sabotage)
        };
        let cause = "<pre class=\"cause\">expected 3, saw 0</pre>";
        let says = "echo expected 3, saw 0; exit 101";
        assert_eq!(with_report(cause, says), yes);
        let typed = "echo \"$RABBIT_SABOTAGE\" | grep -q false && echo saw 0; exit 101";
        assert_eq!(with_report(cause, typed), yes);
        let echoed = "echo \"$RABBIT_SABOTAGE\"; exit 101";
        assert_eq!(with_report(cause, echoed), no);
        let elsewhere = "<pre class=\"cause\">failed</pre><pre>saw 0</pre>";
        assert_eq!(with_report(elsewhere, says), no);
        assert_eq!(verdict(says, sabotage), no, "there is no report");
        assert_eq!(verdict("echo saw 0; exit 0", sabotage), no);
        assert_eq!(verdict("echo saw 0; exit 1", sabotage), no);
        assert_eq!(verdict("echo no route; exit 101", sabotage), no);
        assert_eq!(verdict("echo saw 0; exit 101", "#!/bin/sh\nfalse\n"), no);
    }
}
