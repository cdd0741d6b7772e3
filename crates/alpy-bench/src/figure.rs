// SPDX-License-Identifier: GPL-3.0-or-later
//! Figures as lines of JSON.

use serde_json::json;

/// One figure of one run: what was measured (`case`, such as `2 links`), in which respect and unit (`metric`, such as `boot, s`),
/// and of whom (`subject`).
pub(crate) fn print(case: &str, metric: &str, subject: &str, value: f64) {
    println!(
        "{}",
        json!({ "case": case, "metric": metric, "subject": subject, "value": value })
    );
}

/// A line for people, about what is missing or goes on.
pub(crate) fn note(text: &str) {
    eprintln!("bench: {text}");
}
