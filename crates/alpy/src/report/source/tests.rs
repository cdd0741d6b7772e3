// SPDX-License-Identifier: GPL-3.0-or-later
//! Tests of what the files of the evidence say.

use std::time::Instant;

use alpy_console::CommandEnd;
use tracing_subscriber::layer::SubscriberExt;

use super::*;
use crate::logging::{EvidenceLayer, RunLog};
use crate::report::record::{Container, Machine};

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn puts_what_was_said_on_one_clock() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(
        dir,
        "debug.log",
        "    0.001  INFO alpy::node           Create nodes...\n\
         \x20   0.300 DEBUG alpy_docker::running   started a container name=\"alpy-a-t-7-0-ab12-node1-http-server\" id=\"1\" argv=[\"httpd\"]\n\
         \x20   0.400  INFO alpy::node           Create nodes... done\n\
         \x20   0.900  INFO alpy::node           Ping... failed\nand more\n",
    );
    write(dir, "console.log", "< of the state\n< hello\n> id\n");
    write(dir, "console.times", "15 1000.500\n23 1000.700\n");
    // The log has the time at which the event arrived, not the event's own.
    let event = "{\"timestamp\": {\"seconds\": 2000, \"microseconds\": 0}, \"event\": \"RESUME\"}";
    write(
        dir,
        "qmp.log",
        &format!("  0.350000 -> {{}}\n  0.600000 <- {event}\n"),
    );
    write(dir, "containers/server.stdout", "one\ntwo\n");
    let record = Record {
        test: "a-t".to_owned(),
        began: 1000.0,
        machines: vec![Machine::default()],
        containers: vec![Container {
            name: "server".to_owned(),
            stdout: vec![(0, 1000.2), (4, 1000.8)],
            ..Container::default()
        }],
        ..Record::default()
    };
    let (said, started) = all(dir, &record);
    let short: Vec<_> = said
        .iter()
        .map(|said| {
            let at = said.at.map(|at| (at * 1000.0).round() as i64);
            (at, said.lane, said.text.as_str())
        })
        .collect();
    assert_eq!(
        short,
        [
            (None, Lane::Console, "< of the state"),
            (Some(1), Lane::Log, "Create nodes..."),
            (Some(200), Lane::Container, "one"),
            (Some(350), Lane::Qmp, "-> {}"),
            (Some(500), Lane::Console, "< hello"),
            (Some(600), Lane::Qmp, "<- RESUME"),
            (Some(700), Lane::Console, "> id"),
            (Some(800), Lane::Container, "two"),
            (Some(900), Lane::Log, "Ping... failed"),
        ]
    );
    assert_eq!(said.iter().filter(|said| said.bad).count(), 1);
    let server = Started {
        name: "node1-http-server".to_owned(),
        at: 0.3,
        argv: "[\"httpd\"]".to_owned(),
    };
    assert_eq!(started, [server]);
}

#[test]
fn returns_at_the_ends_of_a_line_are_not_shown() {
    for (line, shown) in [
        ("< \\rSent SIGTERM\\r\\r", "< Sent SIGTERM"),
        ("> a\\rb", "> a\\rb"),
        ("< C:\\\\r", "< C:\\\\r"),
        ("$ id\\r", "$ id"),
        ("<", "<"),
        ("ü", "ü"),
    ] {
        assert_eq!(without_returns(line), shown);
    }
}

#[test]
fn the_log_tells_the_steps_of_a_run_that_could_not() {
    let dir = tempfile::tempdir().unwrap();
    let line = |at: f64, text: &str| format!("{at:9.3}  INFO alpy::node           {text}\n");
    let command = |at: f64, text: &str| format!("{at:9.3} DEBUG alpy::command          {text}\n");
    let log = [
        line(0.5, "Boot..."),
        line(10.5, "Boot... for 10 s now"),
        line(12.0, "Boot... done"),
        line(12.0, "Ping..."),
        line(13.0, "Ping... failed"),
        line(13.0, "Pong..."),
        line(14.0, "Pong... cancelled"),
        line(13.0, "Wait..."),
        line(23.0, "Wait... for 10 s now"),
        command(24.0, "$ ping..."),
        line(24.5, "$ ping..."),
        command(25.0, "$ ping... failed, exit code 1"),
        command(26.0, "$ sleep..."),
    ];
    write(dir.path(), "debug.log", &log.concat());
    let mut record = Record::default();
    complete(dir.path(), &mut record);
    let steps: Vec<_> = record
        .steps
        .iter()
        .map(|step| (step.text.as_str(), step.seconds, step.outcome, step.exit_code))
        .collect();
    assert_eq!(
        steps,
        [
            ("Boot", Some(11.5), Outcome::Done, None),
            ("Ping", Some(1.0), Outcome::Failed, None),
            ("Pong", Some(1.0), Outcome::Cancelled, None),
            ("Wait", None, Outcome::UnderWay, None),
            ("$ ping", Some(1.0), Outcome::Failed, Some(1)),
            ("$ ping", None, Outcome::UnderWay, None),
            ("$ sleep", None, Outcome::UnderWay, None),
        ]
    );
    let commands = record.steps.iter().map(|step| step.command);
    let commands: Vec<_> = commands.collect();
    assert_eq!(commands, [false, false, false, false, true, false, true]);
}

/// The lines come from the code that logs them in a run, so none of them can change without this test.
#[test]
fn reads_the_log_that_a_run_writes() {
    let dir = tempfile::tempdir().unwrap();
    let subscriber = tracing_subscriber::registry().with(EvidenceLayer::new());
    tracing::subscriber::with_default(subscriber, || {
        let run_log = RunLog::create("a-t", &dir.path().join("debug.log"), Instant::now()).unwrap();
        let _span = run_log.span().entered();
        let argv = ["httpd", "-f"].map(str::to_owned);
        alpy_docker::log_started(Some("alpy-a-t-7-0-ab12-node1-http-server"), "1", "busybox", &argv);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            crate::step!("Boot", async { Ok::<_, &str>(()) }).await.unwrap();
            crate::step!("Ping", async { Err::<(), _>("lost") })
                .await
                .unwrap_err();
            command::on_command("$ id".to_owned())(CommandEnd::Done(Some(0)));
        });
    });
    let mut record = Record {
        test: "a-t".to_owned(),
        ..Record::default()
    };
    complete(dir.path(), &mut record);
    let steps = record.steps.iter();
    let steps = steps.map(|step| (step.text.as_str(), step.outcome, step.exit_code));
    let steps: Vec<_> = steps.collect();
    assert_eq!(
        steps,
        [
            ("Boot", Outcome::Done, None),
            ("Ping", Outcome::Failed, None),
            ("$ id", Outcome::Done, Some(0)),
        ]
    );
    let names: Vec<_> = record
        .containers
        .iter()
        .map(|container| &*container.name)
        .collect();
    assert_eq!(names, ["node1-http-server"]);
    let (_, started) = log(dir.path(), &record);
    assert_eq!(started[0].argv, r#"["httpd", "-f"]"#);
}

#[test]
fn shortens_what_is_said_on_qmp() {
    for (text, short) in [
        (r#"-> {"execute":"cont","id":5}"#, "-> cont"),
        (
            r#"-> {"execute":"set_link","arguments":{"name":"nic0","up":true},"id":5}"#,
            r#"-> set_link {"name":"nic0","up":true}"#,
        ),
        (r#"<- {"return": {}, "id": 5}"#, "<- ok"),
        (r#"<- {"return": [1], "id": 5}"#, "<- [1]"),
        (
            r#"<- {"error": {"class": "GenericError", "desc": "no"}, "id": 5}"#,
            "<- error: no",
        ),
        (r#"<- {"QMP": {}}"#, r#"<- {"QMP": {}}"#),
        ("<- not JSON", "<- not JSON"),
    ] {
        assert_eq!(qmp_in_short(text), short);
    }
    let long = format!("<- {{\"return\": \"{}\"}}", "ü".repeat(1000));
    let short = format!("<- \"{}... (1002 characters)", "ü".repeat(119));
    assert_eq!(qmp_in_short(&long), short);
}

#[test]
fn of_a_long_file_the_middle_is_left_out_and_its_lines_are_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long");
    for count in [10, 11, 300_000] {
        let text: String = (0..count).map(|line| format!("line {line:06}\n")).collect();
        fs::write(&path, &text).unwrap();
        let Lines { lines, gap } = lines(&path, 4, 6);
        assert_eq!(lines.len(), 10);
        assert_eq!(gap, (count > 10).then_some(4));
        for (place, line) in &lines {
            assert!(
                text[usize::try_from(*place).unwrap()..].starts_with(line),
                "{line}"
            );
        }
        assert_eq!(lines[3].1, "line 000003");
        assert_eq!(lines[9].1, format!("line {:06}", count - 1));
    }
}

#[test]
fn one_endless_line_and_no_file_at_all_are_no_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long");
    fs::write(&path, vec![b'x'; 3 << 20]).unwrap();
    let long = lines(&path, 4, 6);
    assert_eq!(long.lines.len(), 2);
    assert!(long.lines[0].1.len() <= HEAD_BYTES, "{}", long.lines[0].1.len());
    assert_eq!(lines(&dir.path().join("absent"), 4, 6), Lines::default());
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
    assert_eq!(lines(&dir.path().join("link"), 4, 6), Lines::default());
}
