// SPDX-License-Identifier: GPL-3.0-or-later
//! All figures that `--smoke` measures. A missing figure is an error, and so is a figure that is not listed here.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::figures::Figures;

/// Figures of an area: each metric, of each case, for each subject.
struct Group {
    area: &'static str,
    cases: &'static [&'static str],
    metrics: &'static [&'static str],
    subjects: &'static [&'static str],
    needs: Needs,
}

/// What figures need besides an engine and the images.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// The peers in Python.
    Python,
    /// The memory of processes that root's engine runs.
    Root,
}

const fn group(
    area: &'static str,
    needs: Needs,
    cases: &'static [&'static str],
    metrics: &'static [&'static str],
    subjects: &'static [&'static str],
) -> Group {
    Group {
        area,
        cases,
        metrics,
        subjects,
        needs,
    }
}

const PHASES: &[&str] = &[
    "set-up, s",
    "boot, s",
    "login, s",
    "configure, s",
    "ping, s",
    "power-off, s",
    "teardown, s",
    "wall, s",
    "own time, s",
];
const CAPACITY: &[&str] = &[
    "wall of a test, s",
    "tests per minute",
    "alpy's own memory, peak, MB",
    "QEMU's memory, RSS, MB",
    "QEMU's memory, PSS, MB",
];
const QMP: &[&str] = &["round trips, 1/s", "processor, us each"];
const FLOOD: &[&str] = &["time, s", "peak memory, MiB", "processor, s"];
const CAPTURE: &[&str] = &["time, s", "million packets, 1/s"];

const GROUPS: [Group; 20] = [
    group(
        "testbed",
        Needs::Nothing,
        &["2 links"],
        PHASES,
        &["alpy", "alpy, restored"],
    ),
    group(
        "testbed",
        Needs::Python,
        &["2 links"],
        PHASES,
        &["alpy 3.0.0 (Python)"],
    ),
    group(
        "capacity",
        Needs::Nothing,
        &["1 at once"],
        CAPACITY,
        &["restored", "booted"],
    ),
    group(
        "capacity",
        Needs::Root,
        &["1 at once"],
        &["nodes and their shims, PSS, MB"],
        &["restored", "booted"],
    ),
    group(
        "capacity",
        Needs::Nothing,
        &["all"],
        &["at once before wall time doubles", "most tests per minute"],
        &["restored", "booted"],
    ),
    group(
        "qmp",
        Needs::Nothing,
        &["1 in flight"],
        QMP,
        &["bare blocking loop"],
    ),
    group(
        "qmp",
        Needs::Nothing,
        &["8 in flight"],
        QMP,
        &["bare pipelined loop"],
    ),
    group(
        "qmp",
        Needs::Nothing,
        &["1 in flight", "8 in flight"],
        QMP,
        &["alpy-qmp", "qapi"],
    ),
    group(
        "qmp",
        Needs::Python,
        &["1 in flight", "8 in flight"],
        QMP,
        &["qemu.qmp (Python)"],
    ),
    group(
        "console",
        Needs::Nothing,
        &["marker after 1 MB"],
        FLOOD,
        &[
            "bare loop that keeps log and transcript",
            "bare reads",
            "alpy-console",
            "rexpect",
        ],
    ),
    group(
        "console",
        Needs::Python,
        &["marker after 1 MB"],
        FLOOD,
        &["pexpect, tuned", "pexpect, default"],
    ),
    group(
        "console",
        Needs::Nothing,
        &["prompt turn"],
        &["median, us"],
        &["bare tokio loop", "bare blocking loop", "alpy-console", "rexpect"],
    ),
    group(
        "console",
        Needs::Python,
        &["prompt turn"],
        &["median, us"],
        &["pexpect"],
    ),
    group(
        "pcap",
        Needs::Nothing,
        &["1 MB in the page cache"],
        CAPTURE,
        &[
            "hand-written loop",
            "alpy-pcap, reading",
            "alpy-pcap, decoding to ports",
        ],
    ),
    group(
        "pcap",
        Needs::Nothing,
        &["1 MB in the page cache"],
        CAPTURE,
        &["tcpdump, a filter of ports", "tcpdump -nr, once"],
    ),
    group(
        "pcap",
        Needs::Nothing,
        &["live"],
        &["median, us", "p99, us"],
        &[
            "spinning bare reader",
            "bare reader, woken by inotify",
            "alpy-pcap, following",
        ],
    ),
    group(
        "netns",
        Needs::Nothing,
        &["helper"],
        &["size, MB"],
        &["alpy-netns"],
    ),
    group(
        "netns",
        Needs::Nothing,
        &["1 tap", "16 taps"],
        &["each, ms"],
        &[
            "bare ioctl loop, in place",
            "alpy-netns, in place",
            "ip(8), create and move",
            "ip -batch, create and move",
        ],
    ),
    group(
        "docker",
        Needs::Nothing,
        &["one-off container"],
        &["time, s"],
        &["docker run --rm", "alpy-docker", "bare requests"],
    ),
    group(
        "docker",
        Needs::Python,
        &["one-off container"],
        &["time, s"],
        &["docker-py"],
    ),
];

/// Compares the figures of these areas with the list: each must be there once, with any value. Returns their number.
pub fn check(figures: &Figures, areas: &[String], has_python: bool, is_root: bool) -> Result<usize> {
    let is_there = |needs| match needs {
        Needs::Nothing => true,
        Needs::Python => has_python,
        Needs::Root => is_root,
    };
    // How often each is expected, less how often it was measured.
    let mut balance = BTreeMap::<_, i32>::new();
    let mut count = 0;
    for group in GROUPS.iter().filter(|group| is_there(group.needs)) {
        if !areas.iter().any(|area| area == group.area) {
            continue;
        }
        for case in group.cases {
            for metric in group.metrics {
                for subject in group.subjects {
                    count += 1;
                    *balance.entry((group.area, *case, *metric, *subject)).or_default() += 1;
                }
            }
        }
    }
    for figure in figures.all() {
        *balance.entry(figure.place()).or_default() -= 1;
    }
    let wrong: Vec<String> = balance
        .iter()
        .filter(|(_, balance)| **balance != 0)
        .map(|((area, case, metric, subject), balance)| {
            let what = if *balance > 0 {
                "is missing"
            } else {
                "is not expected"
            };
            format!("{area}: {case}: {metric}: {subject}: {what}")
        })
        .collect();
    ensure!(wrong.is_empty(), "figures:\n{}", wrong.join("\n"));
    ensure!(count > 0, "no figure is expected of {}", areas.join(", "));
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::super::AREAS;
    use super::*;

    fn line(subject: &str) -> String {
        format!(r#"{{"case":"one-off container","metric":"time, s","subject":"{subject}","value":1.5}}"#)
    }

    fn said(subjects: &[&str], has_python: bool) -> Result<usize, String> {
        let mut figures = Figures::default();
        for subject in subjects {
            figures.take("docker", &line(subject)).unwrap();
        }
        check(&figures, &["docker".to_owned()], has_python, true).map_err(|error| error.to_string())
    }

    #[test]
    fn each_figure_has_to_be_there_once() {
        let all = ["docker run --rm", "alpy-docker", "bare requests"];
        assert_eq!(said(&all, false), Ok(3));
        assert_eq!(said(&[&all[..], &["docker-py"]].concat(), true), Ok(4));
        let place = "figures:\ndocker: one-off container: time, s";
        assert_eq!(said(&all, true), Err(format!("{place}: docker-py: is missing")));
        assert_eq!(
            said(&all[..2], false),
            Err(format!("{place}: bare requests: is missing"))
        );
        let twice = [&all[..], &["alpy-docker"]].concat();
        assert_eq!(
            said(&twice, false),
            Err(format!("{place}: alpy-docker: is not expected"))
        );
        let other = [&all[..], &["podman"]].concat();
        assert_eq!(
            said(&other, false),
            Err(format!("{place}: podman: is not expected"))
        );
    }

    #[test]
    fn every_area_has_figures() {
        for area in AREAS {
            assert!(
                GROUPS
                    .iter()
                    .any(|group| group.area == area && group.needs == Needs::Nothing),
                "{area}"
            );
        }
        let none = check(&Figures::default(), &["disk".to_owned()], true, true);
        assert_eq!(none.unwrap_err().to_string(), "no figure is expected of disk");
    }
}
