// SPDX-License-Identifier: GPL-3.0-or-later
//! Steps and containers over time.

use std::fmt::Write;
use std::path::Path;

use super::{lines, seconds};
use crate::report::html::{line, text};
use crate::report::record::{Outcome, Record, Step};
use crate::report::source::{self, Started};

/// A longer sequence of commands is folded.
const SHOWN_COMMANDS: usize = 8;

/// Steps, and containers, as bars.
pub(super) fn timeline(page: &mut String, record: &Record, started: &[Started], end: f64, dir: &Path) {
    page.push_str("<section id=\"timeline\"><h2>Steps</h2>\n<div class=\"bars\">\n");
    axis(page, end);
    // A long sequence of commands that succeeded is of little interest.
    let is_quiet = |step: &Step| step.command && step.outcome == Outcome::Done;
    let are_alike = |one: &Step, next: &Step| is_quiet(one) && is_quiet(next) && one.depth == next.depth;
    for steps in record.steps.chunk_by(are_alike) {
        let is_folded = steps.len() > SHOWN_COMMANDS;
        if is_folded {
            let took: f64 = steps.iter().filter_map(|step| step.seconds).sum();
            let _ = writeln!(
                page,
                "<details class=\"commands\"><summary class=\"d{}\">{} commands of the guest, {}</summary>",
                depth_class(steps[0].depth),
                steps.len(),
                seconds(took)
            );
        }
        for step in steps {
            bar_of_step(page, step, record.began, end);
        }
        if is_folded {
            page.push_str("</details>\n");
        }
    }
    page.push_str("</div>\n");
    if record.commands_left_out > 0 {
        let _ = writeln!(
            page,
            "<p class=\"note\">and {} more commands of the guest, which debug.log has</p>",
            record.commands_left_out
        );
    }
    if !record.containers.is_empty() {
        page.push_str("<h3>Containers</h3>\n<div class=\"bars\">\n");
        axis(page, end);
    }
    let mut started = started.to_vec();
    for container in &record.containers {
        let begin = started.iter().position(|start| start.name == container.name);
        let begin = begin.map(|place| started.remove(place));
        let from = begin
            .as_ref()
            .map_or(container.asked - record.began, |begin| begin.at);
        let to = container.ended.map_or(end, |ended| ended - record.began);
        let file = |ending: &str| {
            let path = source::of_container(dir, &container.name, ending);
            path.map_or_else(String::new, |path| source::whole(&path))
        };
        let status = file("status");
        let status = match status.trim() {
            "" => "no status",
            status => status,
        };
        // A test may expect any exit code. It is wrong where the failure of the run is about it.
        let class = match &record.failure {
            Some(failure) if status != "exit code 0" && failure.is_about(&container.name) => "container bad",
            _ => "container",
        };
        bar(page, class, 0, &container.name, status, [from, to], end);
        let outputs = ["stdout", "stderr"].map(|stream| (stream, file(stream)));
        let argv = begin.map_or_else(String::new, |begin| shell_line(&begin.argv));
        if outputs.iter().all(|(_, output)| output.is_empty()) && argv.is_empty() {
            continue;
        }
        let _ = write!(
            page,
            "<details><summary>{}</summary>",
            line(if argv.is_empty() { "Output" } else { &argv })
        );
        if !container.image.is_empty() {
            let _ = write!(page, "<p class=\"small\">Image {}</p>", text(&container.image));
        }
        for (stream, output) in outputs.iter().filter(|(_, output)| !output.is_empty()) {
            let _ = write!(page, "<p class=\"small\">{stream}</p>");
            lines(page, output);
        }
        page.push_str("</details>\n");
    }
    if !record.containers.is_empty() {
        page.push_str("</div>\n");
    }
    page.push_str("</section>\n");
}

/// The arguments of a program, as the log has them, as a line for a shell.
fn shell_line(argv: &str) -> String {
    let Ok(arguments) = serde_json::from_str::<Vec<String>>(argv) else {
        return argv.to_owned();
    };
    let is_plain = |argument: &str| {
        let plain = |character: char| character.is_alphanumeric() || "_-./:=,+@%^".contains(character);
        !argument.is_empty() && argument.chars().all(plain)
    };
    let word = |argument: &String| match is_plain(argument) {
        true => argument.clone(),
        false => format!("'{}'", argument.replace('\'', "'\\''")),
    };
    arguments.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn axis(page: &mut String, end: f64) {
    page.push_str("<div class=\"axis\"><i></i><div>");
    for part in 0..=4 {
        let _ = write!(page, "<span>{:.2} s</span>", end * f64::from(part) / 4.0);
    }
    page.push_str("</div></div>\n");
}

fn bar_of_step(page: &mut String, step: &Step, began: f64, end: f64) {
    let (class, mark) = match step.outcome {
        Outcome::Done => ("done", ""),
        Outcome::Failed => ("bad", "✗ "),
        Outcome::UnderWay => ("open", "… "),
        Outcome::Cancelled => ("open", "⊘ "),
    };
    let from = step.began - began;
    let to = step.seconds.map_or(end, |seconds| from + seconds);
    let code = step
        .exit_code
        .map_or_else(String::new, |code| format!("exit code {code}"));
    let label = format!("{mark}{}", step.text);
    bar(page, class, step.depth, &label, &code, [from, to], end);
}

/// The number of the class that indents a label.
fn depth_class(depth: usize) -> usize {
    depth.min(4)
}

/// A bar with its label, which is cut if it is long, and its status, which is never cut.
fn bar(
    page: &mut String,
    class: &str,
    depth: usize,
    label: &str,
    status: &str,
    [from, to]: [f64; 2],
    end: f64,
) {
    let status = match status {
        "" => String::new(),
        status => format!("<i>{}</i>", line(status)),
    };
    let left = (from / end * 100.0).clamp(0.0, 99.5);
    let width = ((to - from) / end * 100.0).min(100.0 - left).max(0.3);
    let _ = writeln!(
        page,
        "<div class=\"bar {class}\"><span class=\"label d{}\" title=\"{}\"><span>{}</span>{status}</span><span class=\"took\">{}</span>\
         <div class=\"track\" title=\"{from:.3} s to {to:.3} s\"><b style=\"left:{left:.2}%;width:{width:.2}%\"></b></div></div>",
        depth_class(depth),
        line(label),
        line(label),
        seconds((to - from).max(0.0))
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_line_for_a_shell() {
        for (argv, line) in [
            (r#"["ping", "-c3", "192.168.1.1"]"#, "ping -c3 192.168.1.1"),
            (
                r#"["sh", "-c", "echo \"it's\"; id"]"#,
                "sh -c 'echo \"it'\\''s\"; id'",
            ),
            (r#"["", "$HOME", "ü"]"#, "'' '$HOME' ü"),
            ("not a list", "not a list"),
        ] {
            assert_eq!(shell_line(argv), line);
        }
    }

    fn command(text: &str, code: i32, outcome: Outcome) -> Step {
        Step {
            text: format!("$ {text}"),
            seconds: Some(0.5),
            outcome,
            depth: 1,
            command: true,
            exit_code: Some(code),
            ..Step::default()
        }
    }

    fn page_of(steps: Vec<Step>) -> String {
        let record = Record {
            steps,
            commands_left_out: 7,
            ..Record::default()
        };
        let mut page = String::new();
        timeline(&mut page, &record, &[], 10.0, Path::new("/nonexistent"));
        page
    }

    #[test]
    fn a_command_has_its_exit_code_and_is_red_only_if_the_test_did_not_expect_it() {
        let page = page_of(vec![
            command("ip link", 0, Outcome::Done),
            command("test -e x", 1, Outcome::Done),
            command("ping", 2, Outcome::Failed),
        ]);
        for (class, label) in [
            ("bar done", ">$ ip link</span><i>exit code 0<"),
            ("bar done", ">$ test -e x</span><i>exit code 1<"),
            ("bar bad", ">✗ $ ping</span><i>exit code 2<"),
        ] {
            let line = page.lines().find(|line| line.contains(label)).unwrap();
            assert!(line.contains(&format!("<div class=\"{class}\">")), "{line}");
        }
        assert!(page.contains("7 more commands"), "{page}");
        assert!(!page.contains("<details"), "{page}");
    }

    #[test]
    fn many_commands_are_folded_around_one_that_failed() {
        let mut steps = vec![command("true", 0, Outcome::Done); 20];
        steps.insert(10, command("ping", 2, Outcome::Failed));
        let page = page_of(steps);
        assert_eq!(
            page.matches(">10 commands of the guest, 5.00 s</summary>")
                .count(),
            2,
            "{page}"
        );
        let open = page.rsplit_once("$ ping").unwrap().0;
        assert_eq!(
            open.matches("<details").count(),
            open.matches("</details>").count(),
            "the one that failed is not folded"
        );
    }

    #[test]
    fn the_output_of_a_container_is_folded_and_a_long_one_cut() {
        use crate::report::record::Container;

        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("containers")).unwrap();
        let output: String = (0..1000).map(|number| format!("line {number}\n")).collect();
        std::fs::write(dir.path().join("containers/node0-dd.stdout"), output).unwrap();
        let record = Record {
            containers: vec![Container {
                name: "node0-dd".to_owned(),
                ..Container::default()
            }],
            ..Record::default()
        };
        let started = Started {
            name: "node0-dd".to_owned(),
            at: 0.1,
            argv: r#"["dd", "if=/dev/zero"]"#.to_owned(),
        };
        let mut page = String::new();
        timeline(&mut page, &record, &[started], 1.0, dir.path());
        let (before, after) = page
            .split_once("<details><summary>dd if=/dev/zero</summary>")
            .unwrap();
        assert!(!before.contains("line 0"), "{before}");
        let (folded, rest) = after.split_once("</details>").unwrap();
        assert!(
            folded.contains("line 399\n(600 lines more)") && !rest.contains("line "),
            "{folded}"
        );
    }

    #[test]
    fn an_exit_code_is_red_only_where_the_failure_is_about_it() {
        use crate::report::record::{Container, FailureRecord};

        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("containers")).unwrap();
        std::fs::write(dir.path().join("containers/node0-curl.status"), "exit code 7\n").unwrap();
        let page = |failure: Option<&str>| {
            let record = Record {
                containers: vec![Container {
                    name: "node0-curl".to_owned(),
                    ..Container::default()
                }],
                failure: failure.map(|cause| FailureRecord {
                    cause: cause.to_owned(),
                    ..FailureRecord::default()
                }),
                ..Record::default()
            };
            let mut page = String::new();
            timeline(&mut page, &record, &[], 1.0, dir.path());
            page.contains("container bad")
        };
        assert!(!page(None));
        assert!(!page(Some(
            "container alpy-t-1-0-ab-node0-curl.2 of image x ended"
        )));
        assert!(page(Some("container alpy-t-1-0-ab-node0-curl of image x ended")));
    }
}
