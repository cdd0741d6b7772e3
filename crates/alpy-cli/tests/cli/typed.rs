// SPDX-License-Identifier: GPL-3.0-or-later
//! What can be typed without a testbed, and what is wrong with it.

use std::process::Stdio;

use serde_json::Value;

use crate::support::Desk;

#[tokio::test]
async fn a_test_that_is_not_there_has_an_exit_status_of_its_own() {
    let desk = Desk::new();
    for arguments in [
        &["resume", "godot"][..],
        &["down", "godot"],
        &["link", "godot", "0", "down"],
        &["exec", "godot", "0", "--", "true"],
        &["capture", "godot", "0"],
        &["console", "godot"],
        &["report", "godot"],
    ] {
        let said = desk.alpy(arguments).await;
        assert_eq!(said.status, 3, "{arguments:?}: {said:?}");
        assert!(said.stderr.contains("no test \"godot\""), "{said:?}");
    }
    let said = desk.alpy(&["resume", "godot", "--json"]).await;
    assert_eq!((said.status, said.json()["status"].as_i64()), (3, Some(3)));
}

#[tokio::test]
async fn what_cannot_be_right_has_an_exit_status_of_its_own() {
    let desk = Desk::new();
    for arguments in [
        &["pause"][..],
        &["link", "t", "0", "sideways"],
        &["exec", "t", "0", "true"],
        &[],
    ] {
        let said = desk.alpy(arguments).await;
        assert_eq!(said.status, 2, "{arguments:?}: {said:?}");
    }
}

#[tokio::test]
async fn a_topology_that_is_wrong_is_told_with_line_and_column() {
    let desk = Desk::new();
    let cases = [
        (
            "name = \"office\"\n[[link]]\naddresses = [\"192.0.2.1/24\", \"192.0.2.300/24\"]\n",
            "office.toml:3:30: bad address prefix \"192.0.2.300/24\"",
        ),
        (
            "name = \"office\"\n[[link]]\nadresses = []\n",
            "office.toml:3:1: unknown field `adresses`",
        ),
        (
            "name = \"office\"\n\n[[link]]\nmachine = 3\n",
            "office.toml:3:1: link 0 is of machine 3, and the testbed has 1",
        ),
        ("name = \"of fice\"\n", "office.toml:1:8: test name \"of fice\""),
        (
            "name = \"office\"\n[[machine]]\nkernel = \"absent\"\n",
            "office.toml:2:1: ",
        ),
        (
            "name = \"office\"\n[[machine]]\nfirmware = \"coreboot\"\n",
            "office.toml:3:12: unknown variant `coreboot`",
        ),
        (
            "name = \"office\"\n[[link]]\n[[application]]\nnode = 1\nname = \"a\"\nimage = \"b\"\n",
            "office.toml:4:8: there is no node 1",
        ),
        (
            "name = \"ü\"\n[[link]]\nbetween = [0, 0]\nmtu_bytes = 9000\n",
            "office.toml:1:8: test name",
        ),
        ("name = \"office\n", "office.toml:1:"),
    ];
    for (text, expected) in cases {
        desk.write("office.toml", text);
        let said = desk.alpy(&["up", "--check", "office.toml"]).await;
        assert_eq!(said.status, 2, "{text}: {said:?}");
        assert!(said.stderr.contains(expected), "{text}: {}", said.stderr);
    }
    desk.write(
        "office.toml",
        "name = \"office\"\n[[machine]]\n[[machine]]\n[[link]]\nbetween = [0, 1]\n",
    );
    desk.alpy(&["up", "--check", "office.toml"]).await.good();
}

#[tokio::test]
async fn all_mistakes_of_a_topology_are_told_at_once() {
    let desk = Desk::new();
    desk.write(
        "office.toml",
        "name = \"office\"
[[machine]]
kernel = \"absent\"
[[link]]
machine = 3
addresses = [\"192.0.2.300/24\"]
[[link]]
gateways = [\"nowhere\"]
node_mac = \"x\"
[[link]]
machine = 4
[[application]]
node = 5
name = \"a\"
image = \"b\"
",
    );
    let said = desk.alpy(&["up", "--check", "office.toml"]).await;
    let places = said.stderr.lines().filter_map(|line| {
        let place = line.trim_start_matches("alpy: ").strip_prefix("office.toml:")?;
        place.split_once(": ")
    });
    let places: Vec<_> = places.collect();
    // That link 2 is of no machine is told when link 0 is right.
    let expected = [
        ("2:1", "kernel"),
        ("4:1", "link 0 is of machine 3"),
        ("6:14", "192.0.2.300/24"),
        ("8:13", "nowhere"),
        ("9:12", "\"x\""),
        ("13:8", "there is no node 5"),
    ];
    assert_eq!(places.len(), expected.len(), "{}", said.stderr);
    for ((place, text), (at, what)) in places.into_iter().zip(expected) {
        assert!(place == at && text.contains(what), "{at} {what}: {}", said.stderr);
    }
}

#[tokio::test]
async fn the_doctor_has_a_line_for_each_thing_and_a_remedy_for_what_is_missing() {
    let desk = Desk::new();
    let mut command = desk.command(&["doctor", "--json"]);
    let nowhere = desk.base().join("absent.sock");
    let output = command
        .env("PATH", "/nonexistent")
        .env("DOCKER_HOST", format!("unix://{}", nowhere.display()))
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let of = |what: &str| findings.iter().find(|finding| finding["what"] == what).unwrap();
    for (what, state, remedy) in [
        ("QEMU", "missing", "qemu-system-x86"),
        ("container engine", "missing", "DOCKER_HOST"),
        ("swtpm", "optional", "swtpm"),
        ("docker command", "optional", "docker.io"),
    ] {
        let finding = of(what);
        assert_eq!(finding["state"], state, "{finding}");
        assert!(finding["remedy"].as_str().unwrap().contains(remedy), "{finding}");
    }
    let text = desk.alpy(&["doctor"]).await.stdout;
    assert_eq!(text.lines().count(), findings.len(), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours but on a terminal: {text:?}");
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_no_error() {
    let desk = Desk::new();
    let mut command = desk.command(&["schema"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[tokio::test]
async fn the_schema_knows_the_words_of_a_topology() {
    let schema = Desk::new().alpy(&["schema"]).await.good().json();
    let link = &schema["$defs"]["LinkTable"]["properties"];
    assert_eq!(link["addresses"]["items"]["type"], "string", "{schema}");
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["required"], serde_json::json!(["name"]));
}

#[tokio::test]
async fn a_shell_completes_the_commands() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = desk.alpy(&["completion", shell]).await.good().stdout;
        assert!(
            script.contains("capture") && script.contains("doctor"),
            "{script}"
        );
    }
}
