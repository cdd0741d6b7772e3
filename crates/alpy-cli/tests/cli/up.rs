// SPDX-License-Identifier: GPL-3.0-or-later
//! A testbed that `alpy up` makes, seen and worked at with all the other commands.

use std::process::Stdio;
use std::time::Duration;

use alpy::docker::Engine;
use alpy::pcap::Reader;
use alpy_need::need;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rexpect::session::spawn_command;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::{Desk, eventually, is_process};

/// Longer than a script takes on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// SeaBIOS speaks on the serial port whose number is in this file, and offers a menu.
const SERIAL_PORT: [u8; 2] = 0x3f8_u16.to_le_bytes();

fn topology(name: &str) -> String {
    format!(
        "name = \"{name}\"\n\
         [[machine]]\nmemory_mib = 64\n\
         extra_arguments = [\"-boot\", \"menu=on,splash-time=20000\", \"-fw_cfg\", \"name=etc/sercon-port,file=SERCON\"]\n\
         [[link]]\naddresses = [\"192.0.2.1/24\"]\n\
         [[link]]\naddresses = [\"198.51.100.1/24\"]\nunplugged = true\n"
    )
}

#[tokio::test]
async fn a_topology_is_up_until_it_is_taken_down() {
    need!(docker, qemu);
    let desk = Desk::new();
    let port = desk.write("sercon", SERIAL_PORT);
    desk.write(
        "bed.toml",
        topology("bed").replace("SERCON", port.to_str().unwrap()),
    );
    let up = desk.alpy(&["up", "bed.toml", "--json"]).await.good();
    assert!(
        up.stderr.contains("Create nodes... done") && up.stderr.contains("alpy console bed"),
        "{up:?}"
    );
    assert!(
        up.stderr.contains("alpy down bed    (takes it down)") && !up.stderr.contains("alpy resume"),
        "{up:?}"
    );
    let up = up.json();
    let row = desk.row("bed").await;
    assert_eq!(
        (&row["state"], &row["held"]),
        (&"held".into(), &"bed is up".into())
    );
    assert_eq!((&row["pid"], &row["id"]), (&up["pid"], &up["run"]));

    let again = desk.alpy(&["up", "bed.toml"]).await;
    assert!(
        again.status == 2 && again.stderr.contains("alpy down bed"),
        "{again:?}"
    );
    let resume = desk.alpy(&["resume", "bed"]).await;
    assert!(
        resume.status == 2 && resume.stderr.contains("alpy down bed"),
        "{resume:?}"
    );
    exec(&desk).await;
    cables(&desk).await;
    capture(&desk).await;
    console(&desk).await;
    terminal(&desk).await;

    let down = desk.alpy(&["down", "bed", "--json"]).await.good().json();
    assert_eq!(down["state"], "passed");
    eventually("its process is gone", async || !is_process(&up["pid"])).await;
    let engine = Engine::connect().await.unwrap();
    let label = format!("{}={}", alpy::RUN_LABEL, up["run"].as_str().unwrap());
    assert_eq!(engine.labelled(&label).await.unwrap(), [""; 0]);
    let report = desk.alpy(&["report", "bed", "--json"]).await.good().json();
    assert!(
        std::path::Path::new(report[0]["report"].as_str().unwrap()).is_file(),
        "{report}"
    );
    let all = desk.command(&["capture", "bed", "all"]).output().await.unwrap();
    assert_eq!(all.stdout[..4], [0x0a, 0x0d, 0x0d, 0x0a], "that is no pcapng");
    assert_eq!(desk.alpy(&["down", "bed"]).await.status, 3);
}

/// A command of this machine in a node, with its exit status, and the rights that it has and has not.
async fn exec(desk: &Desk) {
    let address = desk
        .alpy(&["exec", "bed", "node0", "--", "ip", "-brief", "address"])
        .await
        .good();
    assert!(
        address.stdout.contains("192.0.2.1/24") && !address.stdout.contains("198.51.100.1"),
        "{address:?}"
    );
    let status = desk.alpy(&["exec", "bed", "1", "--", "sh", "-c", "exit 7"]).await;
    assert_eq!(status.status, 7, "{status:?}");
    let here = desk.alpy(&["exec", "bed", "0", "--", "cat", "bed.toml"]).await;
    // A test's own folder is below /tmp, which an engine elsewhere, as in a container, has another of.
    assert!(here.stdout.contains("name = \"bed\""), "{here:?}");
    let write = desk
        .alpy(&["exec", "bed", "0", "--", "touch", "/etc/alpy-was-here"])
        .await;
    assert!(
        write.status != 0 && write.stderr.contains("Read-only"),
        "{write:?}"
    );
    let absent = desk
        .alpy(&["exec", "bed", "0", "--", "alpy-no-such-program"])
        .await;
    assert!(
        absent.status == 127 && absent.stderr.contains("remedy: install it"),
        "{absent:?}"
    );
    let absent = desk.alpy(&["exec", "bed", "2", "--", "true"]).await;
    assert!(
        absent.status == 3 && absent.stderr.contains("no node 2"),
        "{absent:?}"
    );
}

async fn cables(desk: &Desk) {
    let carrier = async || {
        let said = desk
            .alpy(&["exec", "bed", "1", "--", "cat", "/sys/class/net/eth0/carrier"])
            .await;
        said.good().stdout
    };
    assert_eq!(carrier().await, "0\n", "it starts pulled out");
    desk.alpy(&["link", "bed", "link1", "up"]).await.good();
    assert_eq!(carrier().await, "1\n");
    desk.alpy(&["link", "bed", "1", "down"]).await.good();
    assert_eq!(carrier().await, "0\n");
    let absent = desk.alpy(&["link", "bed", "2", "down"]).await;
    assert!(
        absent.status == 3 && absent.stderr.contains("has no link 2"),
        "{absent:?}"
    );
}

/// Frames come while they are sent, and the stream is whole when the reader ends.
async fn capture(desk: &Desk) {
    let mut command = desk.command(&["capture", "bed", "link0"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let ask = "echo > /dev/udp/192.0.2.77/9";
    desk.alpy(&["exec", "bed", "0", "--", "bash", "-c", ask])
        .await
        .good();
    let mut stream = Vec::new();
    let mut stdout = child.stdout.take().unwrap();
    eventually("the capture has the question for the address", async || {
        let mut bytes = [0; 4096];
        let count = stdout.read(&mut bytes).await.unwrap();
        stream.extend_from_slice(&bytes[..count]);
        asked_for(&stream)
    })
    .await;
    child.kill().await.unwrap();
}

/// Whether a frame of a stream asks for the address, by ARP.
fn asked_for(stream: &[u8]) -> bool {
    let Ok(mut reader) = Reader::new(stream, "the stream") else {
        return false;
    };
    while let Ok(Some(frame)) = reader.next_frame() {
        if frame.bytes().ends_with(&[192, 0, 2, 77]) || frame.bytes().get(38..42) == Some(&[192, 0, 2, 77]) {
            return true;
        }
    }
    false
}

/// What is typed arrives, and what is said is shown: Esc brings the firmware's menu.
async fn console(desk: &Desk) {
    let mut command: Command = desk.command(&["console", "bed"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut said = Vec::new();
    let mut typed = false;
    eventually("the firmware shows its menu", async || {
        let mut bytes = [0; 4096];
        let count = stdout.read(&mut bytes).await.unwrap();
        said.extend_from_slice(&bytes[..count]);
        let text = String::from_utf8_lossy(&said);
        if text.contains("Press ESC for boot menu") && !typed {
            stdin.write_all(b"\x1b").await.unwrap();
            typed = true;
        }
        text.contains("Select boot device")
    })
    .await;
    child.kill().await.unwrap();
    // A script ends, though the machine does not.
    let mut script = desk.command(&["console", "bed", "--wait", "0.2"]);
    let mut script = script.stdin(Stdio::piped()).spawn().unwrap();
    drop(script.stdin.take());
    assert!(
        timeout(SOON, script.wait())
            .await
            .expect("it ends")
            .unwrap()
            .success()
    );
    let absent = desk.alpy(&["console", "bed", "--machine", "1"]).await;
    assert!(
        absent.status == 3 && absent.stderr.contains("no machine 1"),
        "{absent:?}"
    );
}

/// On a terminal, keys go through as they are, but for the one that leaves; a command in a node has a terminal too.
async fn terminal(desk: &Desk) {
    let command = |arguments: &[&str]| {
        let mut command = desk.command(arguments);
        // The terminal takes its place.
        command.stdin(Stdio::inherit());
        command.into_std()
    };
    let (console, exec) = (
        command(&["console", "bed"]),
        command(&["exec", "bed", "0", "--", "sh", "-c", "tty; stty -a"]),
    );
    let typed = tokio::task::spawn_blocking(move || {
        let mut console = spawn_command(console, Some(30_000)).unwrap();
        console.exp_string("Ctrl-] leaves it").unwrap();
        // The menu is on the screen, and a key that chooses nothing changes nothing. Ctrl-C goes to the machine.
        console.exp_string("Select boot device").unwrap();
        console.send_control('c').unwrap();
        console.send_control(']').unwrap();
        console.exp_eof().unwrap();
        let status = console.process().wait().unwrap();
        let mut exec = spawn_command(exec, Some(30_000)).unwrap();
        exec.exp_string("/dev/pts/").unwrap();
        // It is a terminal again that deals with lines.
        exec.exp_regex(" icanon").unwrap();
        exec.exp_eof().unwrap();
        format!("{status:?}")
    });
    let status = typed.await.unwrap();
    assert!(status.contains("Exited") && status.ends_with(" 0)"), "{status}");
}

#[tokio::test]
async fn in_the_foreground_ctrl_c_takes_it_down_and_that_is_a_success() {
    need!(docker, qemu);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let desk = Desk::new();
        desk.write(
            "bed.toml",
            "name = \"bed\"\n[[machine]]\nmemory_mib = 64\n[[link]]\n",
        );
        let mut command = desk.command(&["up", "--foreground", "bed.toml"]);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut row = serde_json::Value::Null;
        eventually("it is held", async || {
            row = desk.row("bed").await;
            row["state"] == "held"
        })
        .await;
        kill(Pid::from_raw(child.id().unwrap().try_into().unwrap()), signal).unwrap();
        let output = timeout(SOON * 6, child.wait_with_output())
            .await
            .expect("it ends")
            .unwrap();
        assert!(output.status.success(), "{signal}: {output:?}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("bed is down; its evidence"),
            "{output:?}"
        );
        assert_eq!(desk.row("bed").await["state"], "passed");
        eventually("its process is gone", async || !is_process(&row["pid"])).await;
    }
}

#[tokio::test]
async fn a_topology_that_does_not_come_up_leaves_nothing_but_the_reason() {
    need!(docker, qemu);
    let desk = Desk::new();
    let text = "name = \"bed\"\n[[machine]]\nmemory_mib = 64\n[[link]]\n[[application]]\nnode = 0\nname = \"godot\"\nimage = \"alpy-no-such-image:3\"\n";
    desk.write("bed.toml", text);
    let up = desk.alpy(&["up", "bed.toml"]).await;
    assert!(
        up.status == 1 && up.stderr.contains("alpy-no-such-image:3"),
        "{up:?}"
    );
    let row = desk.row("bed").await;
    assert_eq!(row["state"], "failed", "{row}");
    assert!(!is_process(&row["pid"]));
}

#[tokio::test]
async fn what_a_run_without_its_process_has_left_is_swept() {
    need!(docker, qemu);
    let desk = Desk::new();
    desk.write(
        "bed.toml",
        "name = \"bed\"\n[[machine]]\nmemory_mib = 64\n[[link]]\n",
    );
    let up = desk.alpy(&["up", "bed.toml", "--json"]).await.good().json();
    let engine = Engine::connect().await.unwrap();
    let label = format!("{}={}", alpy::RUN_LABEL, up["run"].as_str().unwrap());
    let [node] = &engine.labelled(&label).await.unwrap()[..] else {
        panic!("one node")
    };
    let host = up["engine"].as_str().unwrap();
    let docker = async |arguments: &[&str]| {
        let output = Command::new("docker")
            .env("DOCKER_HOST", host)
            .args(arguments)
            .output();
        let output = output.await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let image = docker(&["inspect", "--format", "{{.Image}}", node]).await;
    let plant = async |pid: u32| {
        let run = format!("{pid}-{}-0badc0de", std::process::id());
        let (name, label) = (
            format!("alpy-bed-{run}-node0"),
            format!("{}={run}", alpy::RUN_LABEL),
        );
        docker(&["create", "--name", &name, "--label", &label, &image, "guard"]).await;
        name
    };
    // No process has this id: the kernel's greatest is 4194304.
    let planted = plant(4_999_999).await;
    let of_this_process = plant(std::process::id()).await;

    let has = |said: &serde_json::Value, name: &str| {
        said["containers"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one == name)
    };
    let dry = desk.alpy(&["sweep", "--dry-run", "--json"]).await.good().json();
    assert!(has(&dry, &planted) && !has(&dry, &of_this_process), "{dry}");
    assert_eq!(dry["removed"], false);
    let swept = desk.alpy(&["sweep", "--json"]).await.good().json();
    assert!(has(&swept, &planted), "{swept}");
    let left = engine.containers(alpy::RUN_LABEL).await.unwrap();
    let is_left = |name: &str| left.iter().any(|one| one.id == name || one.name == name);
    assert!(is_left(node), "the node of a run under way is left alone");
    assert!(is_left(&of_this_process), "so is what a process may still be at");
    docker(&["rm", &of_this_process]).await;
    let dry = desk.alpy(&["sweep", "--dry-run", "--json"]).await.good().json();
    assert!(!has(&dry, &planted), "{dry}");
    desk.alpy(&["down", "bed"]).await.good();
}
