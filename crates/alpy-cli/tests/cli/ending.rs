// SPDX-License-Identifier: GPL-3.0-or-later
//! Testbeds that do not come to be: what is wrong is told, and nothing stays.

use std::path::Path;
use std::process::Stdio;

use alpy::docker::Engine;
use alpy_need::need;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{Desk, eventually, is_process};

#[tokio::test]
async fn a_front_end_that_is_ended_takes_down_what_is_there() {
    need!(docker, qemu);
    for (signal, status) in [
        (Signal::SIGTERM, Some(143)),
        (Signal::SIGINT, Some(130)),
        // Only the background can clean up then.
        (Signal::SIGHUP, None),
        (Signal::SIGKILL, None),
    ] {
        let desk = Desk::new();
        desk.write(
            "bed.toml",
            "name = \"bed\"\n[[machine]]\nmemory_mib = 64\n[[link]]\n",
        );
        let mut front = desk
            .command(&["up", "bed.toml"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(front.stderr.take().unwrap()).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("Create nodes...") {
                break;
            }
        }
        let run = alpy::runs::read(&desk.base().join("bed")).unwrap();
        let pid = i32::try_from(front.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
        let ended = front.wait().await.unwrap();
        assert_eq!(ended.code(), status, "{signal}");
        let background = run.pid.into();
        eventually("the background is gone", async || !is_process(&background)).await;
        let engine = Engine::connect().await.unwrap();
        let label = format!("{}={}", alpy::RUN_LABEL, run.id.unwrap());
        eventually("its containers are gone", async || {
            engine.labelled(&label).await.unwrap().is_empty()
        })
        .await;
        assert_eq!(desk.row("bed").await["state"], "failed", "{signal}");
    }
}

#[tokio::test]
async fn a_root_that_is_no_archive_is_an_error_at_once() {
    need!(docker, qemu);
    let desk = Desk::new();
    let pipe = desk.write("x", "").with_file_name("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    for (root, kind) in [
        (Path::new("/etc"), "it is a directory"),
        (&pipe, "it is not a regular file"),
    ] {
        let root = root.display();
        let text = format!(
            "name = \"bed\"\n[[machine]]\nmemory_mib = 64\n[[link]]\n[[application]]\nnode = 0\nname = \"http\"\n\
             image = \"alpy-no-such-image:4\"\nroot = \"{root}\"\n"
        );
        desk.write("bed.toml", text);
        let up = desk.alpy(&["up", "bed.toml"]).await;
        let reason = format!("`root`: {root}: {kind}");
        assert!(up.status == 2 && up.stderr.contains(&reason), "{up:?}");
        assert_eq!(desk.row("bed").await, serde_json::Value::Null, "nothing was made");
    }
}

#[tokio::test]
async fn a_topology_that_is_not_a_regular_file_is_not_waited_for() {
    let desk = Desk::new();
    let pipe = desk.write("x", "").with_file_name("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    for path in [pipe.to_str().unwrap(), "/etc", "/dev/zero"] {
        for arguments in [&["up", path][..], &["up", "--check", path]] {
            let up = desk.alpy(arguments).await;
            let reason = format!("cannot read {path}: it is not a regular file");
            assert!(up.status == 2 && up.stderr.contains(&reason), "{up:?}");
        }
    }
    // Nor is a file that it names.
    for line in [
        "kernel = \"pipe\"",
        "[[machine.disk]]\nfile = \"pipe\"",
        "[machine.seed]\ninstance_id = \"i\"\nuser_data = \"pipe\"",
    ] {
        desk.write("bed.toml", format!("name = \"bed\"\n[[machine]]\n{line}\n"));
        let up = desk.alpy(&["up", "--check", "bed.toml"]).await;
        assert!(up.status == 2 && up.stderr.contains("regular file"), "{up:?}");
    }
}

#[tokio::test]
async fn a_report_of_each_good_run_is_made_beside_one_that_cannot_be() {
    let desk = Desk::new();
    for (name, capture) in [("bad", "../link0.pcap"), ("good", "link0.pcap")] {
        std::fs::create_dir_all(desk.base().join(name)).unwrap();
        let text = format!(
            "{{\"format\": 1, \"test\": \"{name}\", \"ended\": 1, \"links\": [{{\"capture\": \"{capture}\"}}]}}"
        );
        std::fs::write(desk.base().join(name).join("run.json"), text).unwrap();
    }
    let base = desk.base();
    let one = desk.alpy(&["report", base.join("bad").to_str().unwrap()]).await;
    assert!(
        one.status == 3 && one.stderr.contains("links[0].capture is \"../link0.pcap\""),
        "{one:?}"
    );
    let page = base.join("good/report.html");
    std::fs::create_dir(&page).unwrap();
    let all = desk.alpy(&["report"]).await;
    assert!(
        all.status == 1 && all.stderr.contains("make the report of"),
        "{all:?}"
    );
    std::fs::remove_dir(&page).unwrap();
    // Of whatever else is under way on this machine, not all can be made.
    desk.alpy(&["report"]).await;
    assert!(page.is_file());
}
