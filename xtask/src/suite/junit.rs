// SPDX-License-Identifier: GPL-3.0-or-later
//! JUnit XML, as GitLab reads it: <https://docs.gitlab.com/ci/testing/unit_test_reports/>.

use std::fmt::Write;

use super::{Suite, Text, entries};
use crate::libtest::CaseVerdict;
use crate::runner::Outcome;

/// GitLab reads files of 30 MB.
const MOST: usize = 20_000_000;

/// All suites. GitLab knows a test by its class and its name, and these are those of one test only: the class has the suite.
pub(super) fn xml(suites: &[Suite<'_>]) -> String {
    let mut xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n".to_owned();
    for (name, outcomes) in suites {
        let seconds: f64 = outcomes.iter().map(Outcome::seconds).sum();
        let _ = write!(xml, "<testsuite name=\"{}\" time=\"{seconds:.3}\"", Text(name));
        attributes(&mut xml, entries(outcomes).map(|entry| entry.case.verdict));
        xml.push_str(">\n");
        for entry in entries(outcomes) {
            let _ = write!(
                xml,
                "<testcase classname=\"{}: {}\" name=\"{}\" time=\"{:.3}\">",
                Text(name),
                Text(&entry.outcome.test.name),
                Text(&entry.case.name),
                entry.case.seconds
            );
            let verdict = entry.case.verdict;
            // An error is a fault of the surroundings, and a failure one of what is tested. CI systems take neither for passed.
            let element = match verdict {
                CaseVerdict::Unjudged => "error",
                _ => "failure",
            };
            let whole = entry.why();
            let why = Text(whole.lines().next().unwrap_or_default());
            let _ = match verdict {
                // As nextest and Maven's Surefire write it.
                CaseVerdict::Passed if entry.is_flaky() => write!(
                    xml,
                    "<flakyFailure message=\"{why}\" type=\"flaky\">{}</flakyFailure>",
                    Text(&whole)
                ),
                CaseVerdict::Passed => Ok(()),
                CaseVerdict::Skipped | CaseVerdict::Ignored => write!(xml, "<skipped message=\"{why}\"/>"),
                _ if xml.len() > MOST => {
                    write!(xml, "<{element} message=\"{why}\" type=\"{}\"/>", verdict.word())
                }
                // What GitLab shows is the text of the element.
                CaseVerdict::Failed | CaseVerdict::TimedOut | CaseVerdict::Unjudged => write!(
                    xml,
                    "<{element} message=\"{why}\" type=\"{}\">{}\n\n{}</{element}>",
                    verdict.word(),
                    Text(&whole),
                    Text(&entry.case.output)
                ),
            };
            if !entry.case.evidence.is_empty() {
                xml.push_str("<system-out>");
                for folder in entry.evidence() {
                    let _ = writeln!(xml, "evidence: {}", Text(&folder.display().to_string()));
                }
                xml.push_str("</system-out>");
            }
            xml.push_str("</testcase>\n");
        }
        xml.push_str("</testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

fn attributes(xml: &mut String, verdicts: impl Iterator<Item = CaseVerdict>) {
    let verdicts: Vec<_> = verdicts.collect();
    let count = |wanted: fn(CaseVerdict) -> bool| verdicts.iter().filter(|verdict| wanted(**verdict)).count();
    let _ = write!(
        xml,
        " tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\"",
        verdicts.len(),
        count(|verdict| verdict.is_failure() && verdict != CaseVerdict::Unjudged),
        count(|verdict| verdict == CaseVerdict::Unjudged),
        count(|verdict| matches!(verdict, CaseVerdict::Skipped | CaseVerdict::Ignored))
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_cannot_be_judged_is_an_error_and_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let mut outcomes = super::super::tests::outcomes(folder.path());
        outcomes[0].cases[0].verdict = CaseVerdict::Unjudged;
        let xml = xml(&[("tests as root".to_owned(), &outcomes)]);
        assert!(
            xml.contains(r#" tests="5" failures="1" errors="1" skipped="2""#),
            "{xml}"
        );
        assert!(
            xml.contains(r#"type="cannot be judged">saw &lt;b&gt;"#) && xml.contains("</error>"),
            "{xml}"
        );
    }

    #[test]
    fn says_flaky_and_where_each_attempt_is() {
        let folder = tempfile::tempdir().unwrap();
        let outcomes = super::super::tests::flaky(folder.path());
        let xml = xml(&[("rabbit tests".to_owned(), &outcomes)]);
        let evidence = folder.path().join("wavering").display().to_string();
        for part in [
            "failures=\"0\"",
            "<flakyFailure message=\"attempt2: no &lt;answer&gt;\" type=\"flaky\">attempt2: no &lt;answer&gt;</flakyFailure>",
            &format!("evidence: {evidence}\nevidence: {evidence}/attempt2\n"),
        ] {
            assert!(xml.contains(part), "{part} is missing: {xml}");
        }
    }

    #[test]
    fn has_each_test_once_with_why_it_failed() {
        let folder = tempfile::tempdir().unwrap();
        let outcomes = super::super::tests::outcomes(folder.path());
        let evidence = folder.path().join("nat").display().to_string();
        assert_eq!(
            xml(&[("tests as root".to_owned(), &outcomes)]),
            format!(
                r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
<testsuite name="tests as root" time="7.500" tests="5" failures="2" errors="0" skipped="2">
<testcase classname="tests as root: nat" name="forwards" time="1.500"><failure message="saw &lt;b&gt; \u{{7}}" type="timed out">saw &lt;b&gt; \u{{7}}
and more (Send requests)

]]&gt; \u{{1b}}[31m</failure><system-out>evidence: {evidence}
</system-out></testcase>
<testcase classname="tests as root: alpy" name="good" time="1.500"></testcase>
<testcase classname="tests as root: alpy" name="module::bad" time="1.500"><failure message="left is &quot;right&quot;" type="failed">left is &quot;right&quot;

it panicked
</failure></testcase>
<testcase classname="tests as root: alpy" name="absent" time="1.500"><skipped message="this test needs qemu"/></testcase>
<testcase classname="tests as root: alpy" name="child" time="1.500"><skipped message="ignored"/></testcase>
</testsuite>
</testsuites>
"#
            )
        );
    }
}
