// SPDX-License-Identifier: GPL-3.0-or-later
//! A test that is held for people.

use std::process::{Output, Stdio};
use std::time::Duration;

use alpy::qemu::Machine;
use alpy::{Link, TestResult, Testbed};
use alpy_need::need;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::support::{Desk, eventually};

/// The name of the test that the child runs.
const CHILD: &str = "held::a_child";

#[tokio::test]
#[ignore = "the child that other tests start"]
async fn a_child() {
    let name = std::env::var("ALPY_TEST_CHILD").expect("another test starts this one");
    let body = async |bed: &Testbed| -> TestResult {
        match name.as_str() {
            "breakpoint" => Ok(bed.hold("look at the routes").await?),
            "passes" => Ok(()),
            "waits" => alpy::step!("Wait for godot", std::future::pending()).await,
            _ => Err("the router forwards nothing".into()),
        }
    };
    let bed = Testbed::builder(&name).machine(Machine::new().memory_mib(64));
    let bed = bed.link(Link::new().address("192.0.2.1/24"));
    bed.run(body).await.unwrap();
}

fn child(desk: &Desk, name: &str, pause: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([CHILD, "--exact", "--ignored"]);
    command
        .env("ALPY_TEST_CHILD", name)
        .env("ALPY_PAUSE", pause)
        .env("ALPY_EVIDENCE", desk.base());
    command.env_remove("RUST_BACKTRACE");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.kill_on_drop(true).spawn().unwrap()
}

fn interrupt(child: &Child) {
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
}

async fn end(child: Child) -> (Output, String) {
    let output = timeout(Duration::from_secs(60), child.wait_with_output()).await;
    let output = output.expect("it ends").unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    (output, text)
}

async fn wait_held(desk: &Desk, name: &str) -> String {
    let mut why = String::new();
    eventually("it is held", async || {
        why = desk.row(name).await["held"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        !why.is_empty()
    })
    .await;
    why
}

#[tokio::test]
async fn a_test_that_fails_is_held_until_it_is_resumed() {
    need!(docker, qemu);
    let desk = Desk::new();
    let child = child(&desk, "fails", "failure");
    let why = wait_held(&desk, "fails").await;
    assert!(why.contains("the router forwards nothing"), "{why}");
    // All of it is there yet.
    desk.alpy(&["exec", "fails", "0", "--", "true"]).await.good();
    assert_eq!(
        desk.alpy(&["down", "fails"]).await.status,
        2,
        "`alpy up` has not made it"
    );
    desk.alpy(&["resume", "fails"]).await.good();
    let (output, text) = end(child).await;
    assert!(
        !output.status.success() && text.contains("test fails failed: the router forwards nothing"),
        "{text}"
    );
    // The harness of the test shows nothing of a test that runs: this has to come past it.
    assert!(
        text.contains("alpy console fails") && text.contains("alpy exec fails node0"),
        "{text}"
    );
    assert_eq!(desk.row("fails").await["state"], "failed");
    let resume = desk.alpy(&["resume", "fails"]).await;
    assert_eq!(resume.status, 3, "{resume:?}");
}

#[tokio::test]
async fn a_test_that_passes_is_held_only_if_all_are() {
    need!(docker, qemu);
    let desk = Desk::new();
    let (output, text) = end(child(&desk, "passes", "failure")).await;
    assert!(output.status.success() && !text.contains("Held"), "{text}");
    let child = child(&desk, "passes", "always");
    assert!(wait_held(&desk, "passes").await.contains("passed"));
    // Without the command, too.
    std::fs::remove_file(desk.base().join("passes/held")).unwrap();
    let (output, text) = end(child).await;
    assert!(output.status.success(), "{text}");
}

#[tokio::test]
async fn a_breakpoint_holds_a_test_in_its_middle() {
    need!(docker, qemu);
    let desk = Desk::new();
    let child = child(&desk, "breakpoint", "");
    assert_eq!(wait_held(&desk, "breakpoint").await, "look at the routes");
    desk.alpy(&["resume", "breakpoint"]).await.good();
    let (output, text) = end(child).await;
    assert!(output.status.success(), "{text}");
}

#[tokio::test]
async fn a_test_that_is_not_held_cannot_be_resumed() {
    need!(docker, qemu);
    let desk = Desk::new();
    let child = child(&desk, "waits", "");
    eventually("it waits", async || {
        desk.row("waits").await["step"] == "Wait for godot"
    })
    .await;
    let resume = desk.alpy(&["resume", "waits"]).await;
    assert!(
        resume.status == 3 && resume.stderr.contains("waits is not held"),
        "{resume:?}"
    );
    interrupt(&child);
    let (output, text) = end(child).await;
    assert!(!output.status.success(), "{text}");
}

#[tokio::test]
async fn ctrl_c_ends_the_hold_and_the_failure_is_told() {
    need!(docker, qemu);
    let desk = Desk::new();
    let child = child(&desk, "fails", "failure");
    wait_held(&desk, "fails").await;
    let run = desk.row("fails").await["id"].as_str().unwrap().to_owned();
    interrupt(&child);
    let (output, text) = end(child).await;
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&output.status),
        Some(2),
        "{text}"
    );
    let told = "test fails failed: the router forwards nothing\n";
    assert!(text.contains(told) && text.contains("\n  evidence: "), "{text}");
    let engine = alpy::docker::Engine::connect().await.unwrap();
    let left = engine
        .labelled(&format!("{}={run}", alpy::RUN_LABEL))
        .await
        .unwrap();
    assert_eq!(left, [""; 0]);
}

#[tokio::test]
async fn a_test_that_is_killed_is_told_from_one_that_runs() {
    need!(docker, qemu);
    let desk = Desk::new();
    let mut child = child(&desk, "fails", "failure");
    wait_held(&desk, "fails").await;
    let dir = desk.base().join("fails");
    let row = desk.row("fails").await;
    assert_eq!(
        (&row["state"], row["pid"].as_u64()),
        (&"held".into(), child.id().map(u64::from))
    );
    child.kill().await.unwrap();
    assert_eq!(desk.row("fails").await["state"], "killed");
    let resume = desk.alpy(&["resume", dir.to_str().unwrap()]).await;
    assert!(
        resume.status == 3 && resume.stderr.contains("killed"),
        "{resume:?}"
    );
    let report = desk.alpy(&["report", "fails", "--json"]).await.good().json();
    assert_eq!(report[0]["state"], "killed");
}

#[tokio::test]
async fn a_test_under_way_elsewhere_is_meant_only_where_there_is_none_of_its_name() {
    need!(docker, qemu);
    let (here, there) = (Desk::new(), Desk::new());
    let (output, text) = end(child(&here, "elsewhere", "")).await;
    assert!(!output.status.success(), "{text}");
    let child = child(&there, "elsewhere", "failure");
    wait_held(&there, "elsewhere").await;
    let resume = here.alpy(&["resume", "elsewhere"]).await;
    assert!(
        resume.status == 3 && resume.stderr.contains("failed"),
        "{resume:?}"
    );
    assert_eq!(there.row("elsewhere").await["state"], "held");
    Desk::new().alpy(&["resume", "elsewhere"]).await.good();
    end(child).await;
}

#[tokio::test]
async fn a_value_that_means_nothing_is_an_error_with_its_remedy() {
    let desk = Desk::new();
    let (output, text) = end(child(&desk, "fails", "on-failure")).await;
    assert!(!output.status.success(), "{text}");
    assert!(
        text.contains("ALPY_PAUSE=\"on-failure\" is not `failure`, `always` or `never`"),
        "{text}"
    );
}
