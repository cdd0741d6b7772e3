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
            "office.toml:3:1: unknown key `adresses`",
        ),
        (
            "name = \"office\"\n\n[[link]]\nmachine = 3\n",
            "office.toml:3:1: link 0 is of machine 3, and the testbed has 1",
        ),
        ("name = \"of fice\"\n", "office.toml:1:8: test name \"of fice\""),
        (
            "name = \"office\"\n[[machine]]\nkernel = \"absent\"\n",
            "office.toml:3:10: `kernel`: ",
        ),
        (
            "name = \"office\"\n[[machine]]\nfirmware = \"coreboot\"\n",
            "office.toml:3:12: unknown value `coreboot`",
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
        ("3:10", "kernel"),
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

/// What `--check` says about a topology that cannot be right.
async fn refusal(desk: &Desk, text: &str) -> String {
    desk.write("office.toml", text);
    let said = desk.alpy(&["up", "--check", "office.toml"]).await;
    assert_eq!(said.status, 2, "{text}: {said:?}");
    // The user has a file, and has never seen the library.
    for rust in ["::", "()", "u32", "usize", "struct ", "field", "variant"] {
        assert!(
            !said.stderr.contains(rust),
            "{rust} is a word of Rust: {}",
            said.stderr
        );
    }
    said.stderr
}

#[tokio::test]
async fn a_file_that_cannot_be_what_its_key_says_is_refused() {
    let desk = Desk::new();
    desk.write("text", "no image at all\n".repeat(100));
    desk.write("empty", "");
    desk.write("qcow2", b"QFI\xfb\0\0\0\x03 and so on");
    desk.write("gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\0\0\0");
    let fifo = desk.write("fifo", "").with_file_name("pipe");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let machine = |line: &str| format!("name = \"office\"\n[[machine]]\n{line}\n");
    let root = |file: &str| {
        format!(
            "name = \"office\"\n[[machine]]\n[[link]]\n[[application]]\nnode = 0\nname = \"a\"\nimage = \"b\"\nroot = \"{file}\"\n"
        )
    };
    for (text, expected) in [
        (root("absent"), "8:8: `root`"),
        (root("/etc"), "it is a directory"),
        (root("text"), "it is not a tar archive"),
        (root("empty"), "it is empty"),
        (root("pipe"), "it is not a regular file"),
        (root("/dev/zero"), "it is not a regular file"),
        (root("gz"), "there is no tar archive in it"),
        (root("qcow2"), "it is not a tar archive"),
        (machine("kernel = \"absent\""), "3:10: `kernel`"),
        (machine("kernel = \".\""), "it is a directory"),
        (machine("kernel = \"text\""), "it is not a Linux kernel"),
        (machine("initrd = \"text\""), "`initrd` without `kernel`"),
        (machine("append = \"quiet\""), "`append` without `kernel`"),
        (machine("cdrom = \"absent\""), "`cdrom`"),
        (machine("program = \"./absent\""), "`program`"),
        (
            machine("program = \"qemu-system-godot\""),
            "no qemu-system-godot in PATH",
        ),
        (machine("disk = [{file = \"absent\"}]"), "`disk.file`"),
        (machine("disk = [{file = \"gz\"}]"), "it is compressed"),
        (
            machine("disk = [{file = \"text\", format = \"qcow2\"}]"),
            "it is not a qcow2 image",
        ),
        (
            machine("disk = [{file = \"qcow2\", format = \"raw\"}]"),
            "remedy: format = \"qcow2\"",
        ),
        (
            machine("disk = [{file = \"text\", format = \"qcow3\"}]"),
            "it is one of: raw, qcow2",
        ),
        (
            machine("seed = {instance_id = \"a\", user_data = \"pipe\"}"),
            "`seed.user_data`",
        ),
    ] {
        let said = refusal(&desk, &text).await;
        assert!(said.contains(expected), "{text}: {said}");
    }
}

#[tokio::test]
async fn a_value_that_cannot_be_right_is_refused() {
    let desk = Desk::new();
    let machine = |line: &str| format!("name = \"office\"\n[[machine]]\n{line}\n");
    let link = |lines: &str| format!("name = \"office\"\n[[machine]]\n[[link]]\n{lines}\n");
    let application = |lines: &str| link(&format!("[[application]]\nnode = 0\n{lines}"));
    for (text, expected) in [
        ("name = \"office\"\n".to_owned(), "the topology has no machine"),
        (
            "name = \"office\"\n[[link]]\n".to_owned(),
            "the topology has no machine",
        ),
        ("[[machine]]\n".to_owned(), "missing key `name`"),
        (machine("memory_mib = 0"), "3:14: `memory_mib` is 0"),
        (machine("memory_mib = -1"), "3:14: "),
        (machine("memory_mib = \"256\""), "a whole number from 0"),
        (machine("cpus = 0"), "3:8: `cpus` is 0"),
        (machine("machine_type = \"\""), "`machine_type` is empty"),
        (
            machine("machine_type = \"pc\"\nfirmware = \"secure-boot\""),
            "2:1: ",
        ),
        (
            machine("nic_model = \"rtl8139\""),
            "3:13: unknown value `rtl8139`",
        ),
        (machine("disk = 3"), "expected a list"),
        (machine("cpus = 1\ncpus = 2"), "duplicate key"),
        (link("between = [0]"), "a list of two numbers"),
        (link("between = [0, 1]"), "one more table [[machine]]"),
        (link("mtu_bytes = 1"), "mtu"),
        (link("gateways = [\"192.0.2.1\"]"), "in none of the networks"),
        (
            link("addresses = [\"192.0.2.1/24\", \"192.0.2.1/24\"]"),
            "is there twice",
        ),
        (
            link("node_mac = \"52:54:00:00:00:01\"\nmachine_mac = \"52:54:00:00:00:01\""),
            "the same hardware address",
        ),
        (
            application("name = \"../a\"\nimage = \"b\""),
            "application name \"../a\"",
        ),
        (application("name = \"a\"\nimage = \"b c\""), "image name \"b c\""),
        (
            application("name = \"a\"\nimage = \"b\"\ncapabilities = [\"NET_ROW\"]"),
            "8:17: there is no capability \"NET_ROW\"",
        ),
        (
            application(
                "name = \"a\"\nimage = \"b\"\n[[application]]\nnode = 0\nname = \"a\"\nimage = \"b\"",
            ),
            "a second application is called \"a\"",
        ),
    ] {
        let said = refusal(&desk, &text).await;
        assert!(said.contains(expected), "{text}: {said}");
    }
}

#[tokio::test]
async fn a_topology_with_files_of_each_kind_is_right() {
    let desk = Desk::new();
    let mut kernel = vec![0; 1024];
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    desk.write("kernel", &kernel);
    desk.write("initrd", "any");
    desk.write("disk", "any");
    let tar = alpy::docker::Archive::new()
        .file("etc/hosts", 0o644, b"")
        .unwrap()
        .finish();
    desk.write("root.tar", &tar);
    let text = "name = \"office\"\n[[machine]]\nkernel = \"kernel\"\ninitrd = \"initrd\"\nappend = \"quiet\"\n\
        disk = [{file = \"disk\", format = \"raw\"}]\n[[link]]\naddresses = [\"192.0.2.1/24\"]\n\
        [[application]]\nnode = 0\nname = \"a\"\nimage = \"b:1\"\ncapabilities = [\"NET_RAW\", \"CAP_KILL\"]\nroot = ";
    desk.write("office.toml", format!("{text}\"root.tar\"\n"));
    desk.alpy(&["up", "--check", "office.toml"]).await.good();
    // Compressed too, where the program is there that checks it.
    let zip = "gzip -k root.tar";
    let mut shell = tokio::process::Command::new("sh");
    let zipped = shell.args(["-c", zip]).current_dir(desk.folder()).status().await;
    assert!(zipped.unwrap().success());
    desk.write("office.toml", format!("{text}\"root.tar.gz\"\n"));
    desk.alpy(&["up", "--check", "office.toml"]).await.good();
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
