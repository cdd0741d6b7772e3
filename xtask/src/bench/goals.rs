// SPDX-License-Identifier: GPL-3.0-or-later
//! What the figures shall be. They are goals: nothing fails if one is missed.

use serde::Serialize;

use super::figures::{Figures, short};
use crate::table;

/// A goal, and whether it is met.
#[derive(Debug, Serialize)]
pub struct Goal {
    area: &'static str,
    what: String,
    at_least: bool,
    limit: f64,
    /// None if one of the figures is missing.
    measured: Option<f64>,
}

impl Goal {
    fn verdict(&self) -> &'static str {
        match self.measured {
            None => "not measured",
            Some(value) if (value >= self.limit) == self.at_least || value == self.limit => "met",
            Some(_) => "missed",
        }
    }
}

/// The goals of these areas.
pub fn all(figures: &Figures, areas: &[String]) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut goal = |area: &'static str, what: String, at_least: bool, limit: f64, measured: Option<f64>| {
        if areas.iter().any(|asked| asked == area) {
            goals.push(Goal {
                area,
                what,
                at_least,
                limit,
                measured,
            });
        }
    };
    let ratio = |area: &str, case: &str, metric: &str, of: &str, to: &str| {
        Some(figures.median(area, case, metric, of)? / figures.median(area, case, metric, to)?)
    };

    for (links, limit) in [(2, 7.0), (8, 10.0), (16, 12.0)] {
        let measured = ratio(
            "testbed",
            &format!("{links} links"),
            "own time, s",
            "alpy 3.0.0 (Python)",
            "alpy",
        );
        let what = format!("own time of the original to alpy's, {links} links");
        goal("testbed", what, true, limit, measured);
    }
    let wall = |subject| figures.median("testbed", "2 links", "wall, s", subject);
    let restored = wall("alpy, restored");
    let original = ratio(
        "testbed",
        "2 links",
        "wall, s",
        "alpy 3.0.0 (Python)",
        "alpy, restored",
    );
    goal(
        "testbed",
        "wall time of a restored test, 2 links, s".to_owned(),
        false,
        1.3,
        restored,
    );
    goal(
        "testbed",
        "wall time of the original to a restored test's, 2 links".to_owned(),
        true,
        8.0,
        original,
    );
    let own = |case| figures.median("testbed", case, "own time, s", "alpy");
    let further = own("16 links")
        .zip(own("2 links"))
        .map(|(many, few)| (many - few) / 14.0);
    goal(
        "testbed",
        "own time of one more link, s".to_owned(),
        false,
        0.12,
        further,
    );

    // Of a release build; that of a test, without optimization, is larger.
    let memory = figures.median("capacity", "1 at once", "alpy's own memory, peak, MB", "restored");
    goal(
        "capacity",
        "memory of alpy's own process, MB".to_owned(),
        false,
        25.0,
        memory,
    );

    for (case, bare, limit) in [
        ("1 in flight", "bare blocking loop", 0.93),
        ("8 in flight", "bare pipelined loop", 0.95),
    ] {
        let trips = ratio("qmp", case, "round trips, 1/s", "alpy-qmp", bare);
        goal(
            "qmp",
            format!("round trips to a {bare}'s, {case}"),
            true,
            limit,
            trips,
        );
        let processor = ratio("qmp", case, "processor, us each", "alpy-qmp", bare);
        goal(
            "qmp",
            format!("processor to a {bare}'s, {case}"),
            false,
            2.0,
            processor,
        );
    }

    let flood = "marker after 50 MB";
    let time = |of: &str, to: &str| ratio("console", flood, "time, s", of, to);
    let keeping = "bare loop that keeps log and transcript";
    for (what, at_least, limit, measured) in [
        (
            "50 MB to a bare loop that keeps both",
            false,
            2.0,
            time("alpy-console", keeping),
        ),
        (
            "50 MB to pexpect, tuned",
            false,
            1.0,
            time("alpy-console", "pexpect, tuned"),
        ),
        (
            "50 MB of rexpect to alpy's",
            true,
            12.0,
            time("rexpect", "alpy-console"),
        ),
        (
            "peak memory in MiB: 16 and the window's 4",
            false,
            20.0,
            figures.median("console", flood, "peak memory, MiB", "alpy-console"),
        ),
        (
            "prompt turn to a bare tokio loop's",
            false,
            2.0,
            ratio(
                "console",
                "prompt turn",
                "median, us",
                "alpy-console",
                "bare tokio loop",
            ),
        ),
    ] {
        goal("console", what.to_owned(), at_least, limit, measured);
    }

    let large = |of: &str| {
        ratio(
            "pcap",
            "1000 MB in the page cache",
            "time, s",
            of,
            "hand-written loop",
        )
    };
    let live = "alpy-pcap, following";
    for (what, limit, measured) in [
        (
            "reading to a hand-written loop",
            1.15,
            large("alpy-pcap, reading"),
        ),
        (
            "decoding to a hand-written loop that reads",
            2.1,
            large("alpy-pcap, decoding to ports"),
        ),
        (
            "live, median to a spinning reader's",
            1.3,
            ratio("pcap", "live", "median, us", live, "spinning bare reader"),
        ),
        (
            "live, p99 in us",
            1000.0,
            figures.median("pcap", "live", "p99, us", live),
        ),
    ] {
        goal("pcap", what.to_owned(), false, limit, measured);
    }

    let tap = figures.median("netns", "16 taps", "each, ms", "alpy-netns, in place");
    goal("netns", "a tap in place, ms".to_owned(), false, 0.2, tap);
    let helper = figures.median("netns", "helper", "size, MB", "alpy-netns");
    goal("netns", "the helper, MB".to_owned(), false, 2.5, helper);

    let one_off = ratio(
        "docker",
        "one-off container",
        "time, s",
        "alpy-docker",
        "docker run --rm",
    );
    goal(
        "docker",
        "one-off container to docker run --rm".to_owned(),
        false,
        0.9,
        one_off,
    );
    goals
}

/// The goals for people.
pub fn table(goals: &[Goal]) -> String {
    let row = |goal: &Goal| {
        let relation = if goal.at_least { "at least" } else { "at most" };
        [
            goal.area.to_owned(),
            goal.what.clone(),
            format!("{relation} {}", goal.limit),
            goal.measured.map(short).unwrap_or_default(),
            goal.verdict().to_owned(),
        ]
    };
    let rows: Vec<[String; 5]> = goals.iter().map(row).collect();
    table::render(
        ["area", "goal", "limit", "measured", "verdict"],
        &rows,
        &["measured"],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judges_by_the_ratio_of_the_medians() {
        let mut figures = Figures::default();
        for (subject, value) in [("docker run --rm", 0.5), ("alpy-docker", 0.4)] {
            let line = format!(
                r#"{{"case":"one-off container","metric":"time, s","subject":"{subject}","value":{value}}}"#
            );
            figures.take("docker", &line).unwrap();
        }
        let goals = all(&figures, &["docker".to_owned(), "netns".to_owned()]);
        let expected = "\
area    goal                                  limit        measured  verdict
netns   a tap in place, ms                    at most 0.2            not measured
netns   the helper, MB                        at most 2.5            not measured
docker  one-off container to docker run --rm  at most 0.9     0.800  met
";
        assert_eq!(table(&goals), expected);
    }

    #[test]
    fn a_limit_itself_meets_the_goal_from_either_side() {
        let goal = |at_least, measured| Goal {
            area: "qmp",
            what: String::new(),
            at_least,
            limit: 2.0,
            measured: Some(measured),
        };
        let verdicts = |at_least| [1.0, 2.0, 3.0].map(|measured| goal(at_least, measured).verdict());
        assert_eq!(verdicts(true), ["missed", "met", "met"]);
        assert_eq!(verdicts(false), ["met", "met", "missed"]);
    }
}
