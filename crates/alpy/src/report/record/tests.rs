// SPDX-License-Identifier: GPL-3.0-or-later
//! Tests of `run.json`.

use serde_json::{Value, json};

use super::*;

/// A record in which the value at this place is another one.
fn record(place: &str, value: &Value) -> String {
    let mut record = json!({
        "format": 1,
        "test": "nat",
        "id": "7-0-0badc0de",
        "engine": "unix:///run/docker.sock",
        "machines": [{"folder": ""}, {"folder": "machine1"}],
        "links": [{"capture": "link0.pcap"}],
        "containers": [{"name": "node0-http.2"}],
        "files": [{"name": "machine1/console.log", "bytes": 1}],
    });
    *record.pointer_mut(place).unwrap() = value.clone();
    record.to_string()
}

#[test]
fn a_step_is_followed_by_the_steps_within_it_though_others_began_in_between() {
    let step = |number, within, text: &str| StepRecord {
        number,
        within,
        text: text.to_owned(),
        began: SystemTime::UNIX_EPOCH + Duration::from_secs(number),
        ended: None,
        is_command: false,
        exit_code: None,
    };
    let list = vec![
        step(1, None, "Boot 0"),
        step(2, None, "Boot 1"),
        step(3, Some(2), "Log in 1"),
        step(4, Some(1), "Log in 0"),
        step(5, Some(4), "$ id"),
        // Its outer step is not recorded.
        step(7, Some(6), "Ping"),
    ];
    let teardown = vec![step(1, None, "Quit QEMU")];
    let steps = steps(&[list, teardown]);
    let steps: Vec<_> = steps.iter().map(|step| (&*step.text, step.depth)).collect();
    assert_eq!(
        steps,
        [
            ("Boot 0", 0),
            ("Log in 0", 1),
            ("$ id", 2),
            ("Boot 1", 0),
            ("Log in 1", 1),
            ("Ping", 0),
            ("Quit QEMU", 0)
        ]
    );
}

#[test]
fn a_record_of_alpys_own_is_read() {
    let record = Record::parse(&record("/test", &json!("forward-ipv4"))).unwrap();
    assert_eq!(record.test, "forward-ipv4");
}

#[test]
fn a_name_that_leads_out_of_the_directory_is_refused_wherever_it_is() {
    let places = [
        ("/test", "test"),
        ("/id", "id"),
        ("/machines/1/folder", "machines[1].folder"),
        ("/links/0/capture", "links[0].capture"),
        ("/containers/0/name", "containers[0].name"),
        ("/files/0/name", "files[0].name"),
    ];
    let values = [
        "..",
        ".",
        "../victim",
        "a/../../victim",
        "/etc/passwd",
        "a//b/..",
        "a/",
        "a/.",
        "\0",
        "a\0b",
        "/",
    ];
    for (place, field) in places {
        for value in values {
            let error = Record::parse(&record(place, &json!(value))).unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with(&format!("run.json: {field} is {value:?}")),
                "{text}"
            );
        }
    }
    for (place, value) in [
        ("/test", ""),
        ("/id", ""),
        ("/id", "-x"),
        ("/id", "a b"),
        ("/links/0/capture", ""),
        ("/links/0/capture", "machine1/link0.pcap"),
        ("/machines/1/folder", "a/b"),
        ("/containers/0/name", "a/b"),
        ("/engine", "ssh://elsewhere"),
        ("/engine", "-oProxyCommand=x"),
    ] {
        assert!(
            Record::parse(&record(place, &json!(value))).is_err(),
            "{place}: {value:?}"
        );
    }
}
