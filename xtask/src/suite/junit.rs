// SPDX-License-Identifier: GPL-3.0-or-later
//! JUnit XML, as GitLab reads it: <https://docs.gitlab.com/ci/testing/unit_test_reports/>.

use std::fmt::Write;

use super::{Suite, Text, entries};
use crate::libtest::CaseVerdict;

/// GitLab reads files of 30 MB.
const MOST: usize = 20_000_000;

/// All suites. GitLab knows a test by its class and its name, and these are those of one test only: the class has the suite.
pub(super) fn xml(suites: &[Suite<'_>]) -> String {
    let mut xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n".to_owned();
    for (name, outcomes) in suites {
        let seconds: f64 = outcomes.iter().map(|outcome| outcome.seconds).sum();
        let _ = write!(xml, "<testsuite name=\"{}\" time=\"{seconds:.3}\"", Text(name));
        attributes(&mut xml, entries(outcomes).map(|entry| entry.case.verdict));
        xml.push_str(">\n");
        for entry in entries(outcomes) {
            let _ = write!(
                xml,
                "<testcase classname=\"{}: {}\" name=\"{}\" time=\"{:.3}\">",
                Text(name),
                Text(&entry.outcome.name),
                Text(&entry.case.name),
                entry.seconds().unwrap_or(0.0)
            );
            let why = Text(entry.why.lines().next().unwrap_or_default());
            let _ = match entry.case.verdict {
                CaseVerdict::Passed => Ok(()),
                CaseVerdict::Skipped => write!(xml, "<skipped message=\"{why}\"/>"),
                CaseVerdict::Failed if xml.len() > MOST => {
                    write!(xml, "<failure message=\"{why}\" type=\"{}\"/>", entry.word())
                }
                // What GitLab shows is the text of the element.
                CaseVerdict::Failed => write!(
                    xml,
                    "<failure message=\"{why}\" type=\"{}\">{}\n\n{}</failure>",
                    entry.word(),
                    Text(&entry.why),
                    Text(&entry.case.output)
                ),
            };
            if !entry.evidence.is_empty() {
                xml.push_str("<system-out>");
                for folder in &entry.evidence {
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
    let count = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
    let _ = write!(
        xml,
        " tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\"",
        verdicts.len(),
        count(CaseVerdict::Failed),
        count(CaseVerdict::Skipped)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

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
<testsuite name="tests as root" time="3.000" tests="4" failures="2" errors="0" skipped="1">
<testcase classname="tests as root: nat" name="nat" time="1.500"><failure message="saw &lt;b&gt; \u{{7}}" type="failed">saw &lt;b&gt; \u{{7}}
and more (Send requests)

]]&gt; \u{{1b}}[31m</failure><system-out>evidence: {evidence}
</system-out></testcase>
<testcase classname="tests as root: alpy" name="good" time="0.000"></testcase>
<testcase classname="tests as root: alpy" name="module::bad" time="0.000"><failure message="left is &quot;right&quot;" type="failed">left is &quot;right&quot;

thread &#39;bad&#39; panicked at src/lib.rs:1:
left is &quot;right&quot;
note: run with
</failure></testcase>
<testcase classname="tests as root: alpy" name="absent" time="0.000"><skipped message="this test needs qemu"/></testcase>
</testsuite>
</testsuites>
"#
            )
        );
    }
}
