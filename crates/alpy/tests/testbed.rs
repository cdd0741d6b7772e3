// SPDX-License-Identifier: GPL-3.0-or-later
//! The life of a testbed and its end, whatever ends it. The machine has nothing to boot: it stays in its firmware.

#![expect(clippy::unwrap_used, reason = "what a test relies on")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use alpy::docker::Engine;
use alpy::qemu::Machine;
use alpy::{Failure, Link, TestResult, Testbed, TestbedBuilder, step};
use alpy_need::need;
use serde_json::{Value, json};
use support::{containers_of, eventually};

fn bed(test: &str) -> TestbedBuilder {
    Testbed::builder(test)
        .machine(Machine::new().memory_mib(64))
        .link(Link::new().address("192.0.2.1/24"))
        .link(Link::new().address("198.51.100.1/24"))
}

/// What must be gone when a testbed has ended.
struct Traces {
    engine: Engine,
    run: String,
    qemu: u32,
}

impl Traces {
    fn of(bed: &Testbed) -> Self {
        Self {
            engine: bed.engine().clone(),
            run: bed.run_id().to_owned(),
            qemu: bed.qemu().pid(),
        }
    }

    async fn are_gone(&self) -> bool {
        containers_of(&self.engine, &self.run).await.is_empty()
            && !fs::exists(format!("/proc/{}", self.qemu)).unwrap()
    }
}

/// What a run has written of itself, and the page made of it.
fn report_in(evidence: &Path) -> (Value, String) {
    let read = |name| fs::read_to_string(evidence.join(name)).unwrap();
    (
        serde_json::from_str(&read("run.json")).unwrap(),
        read("report.html"),
    )
}

/// The evidence directory, as a log tells it.
fn evidence_in(log: &[String]) -> PathBuf {
    let dir = log.iter().find_map(|line| line.split_once("Evidence: "));
    PathBuf::from(dir.unwrap().1)
}

#[tokio::test]
async fn a_test_that_passes_leaves_its_evidence_and_nothing_else() {
    need!(docker, qemu);
    let body = async |bed: &Testbed| -> TestResult<_> {
        bed.start_cpu().await?;
        // What is there only meanwhile is this user's alone.
        let scratch = bed.evidence().file(format!("alpy-{}", bed.run_id()));
        assert_eq!(fs::metadata(scratch)?.permissions().mode() & 0o777, 0o700);
        Ok((Traces::of(bed), bed.evidence().dir().to_owned()))
    };
    let (traces, dir) = bed("passes").run(body).await.unwrap();
    assert!(traces.are_gone().await);
    for file in [
        "debug.log",
        "console.log",
        "link0.pcap",
        "link1.pcap",
        "qemu-command.txt",
        "qmp.log",
    ] {
        assert!(dir.join(file).is_file(), "{file} is missing");
    }
    assert_eq!(
        fs::read_to_string(dir.join("containers/create-taps.status")).unwrap(),
        "exit code 0\n"
    );
    let folders = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir());
    let folders: Vec<_> = folders.map(|entry| entry.file_name()).collect();
    assert_eq!(folders, ["containers"]);
    let log = fs::read_to_string(dir.join("debug.log")).unwrap();
    assert!(
        log.contains("Create nodes... done") && log.contains("Test passed"),
        "{log}"
    );
    let (run, page) = report_in(&dir);
    assert_eq!(run["verdict"], "passed");
    assert!(run["entered"].as_f64() < run["left"].as_f64(), "{run}");
    // The teardown's steps too, and nothing is under way at the end.
    let steps = run["steps"].as_array().unwrap();
    let outcome = |text: &str| {
        let step = steps.iter().find(|step| step["text"] == text).unwrap();
        step["outcome"].as_str().unwrap()
    };
    for text in ["Create nodes", "Start virtual CPU", "Quit QEMU"] {
        assert_eq!(outcome(text), "done");
    }
    assert_eq!(
        run["links"][1]["ends"][0]["addresses"],
        json!(["198.51.100.1/24"])
    );
    let of_containers = run["containers"].as_array().unwrap().iter();
    assert!(
        of_containers
            .clone()
            .any(|container| container["name"] == "node1" && container["ended"].is_f64()),
        "{run}"
    );
    assert!(
        page.contains("198.51.100.1/24") && page.contains(">passed<"),
        "{page}"
    );
}

#[tokio::test]
async fn an_error_of_the_body_comes_back_with_the_step_it_happened_in() {
    need!(docker, qemu);
    let mut traces = None;
    let failure = bed("fails")
        .run(async |bed| -> TestResult {
            traces = Some(Traces::of(bed));
            step!("Look for a needle", async {
                Err(std::io::Error::other("only hay"))
            })
            .await?;
            Ok(())
        })
        .await
        .unwrap_err();
    assert!(traces.unwrap().are_gone().await);
    assert_eq!(failure.step(), Some("Look for a needle"));
    let text = failure.to_string();
    assert!(
        text.starts_with("test fails failed: only hay\n  step: Look for a needle"),
        "{text}"
    );
    assert!(
        text.contains(&format!("evidence: {}", failure.evidence().unwrap().display())),
        "{text}"
    );
    let (run, page) = report_in(failure.evidence().unwrap());
    assert_eq!(
        (&run["verdict"], &run["failure"]["kind"]),
        (&json!("failed"), &json!("body"))
    );
    assert!(
        page.contains("only hay") && page.contains("Look for a needle,"),
        "{page}"
    );
}

#[tokio::test]
async fn a_capture_that_misses_a_frame_fails_the_test() {
    need!(docker, qemu, busybox);
    let body = async |bed: &Testbed| -> TestResult {
        bed.start_cpu().await?;
        let off = json!({"path": "/objects/capture1", "property": "status", "value": "off"});
        bed.qmp().execute_raw("qom-set", off).await?;
        let image = support::busybox(bed.engine()).await;
        for node in bed.nodes() {
            // There is no guest that answers.
            let ask = node.application("arping", &image)?.command([
                "busybox",
                "arping",
                "-c1",
                "-w1",
                "203.0.113.9",
            ]);
            ask.capability("NET_RAW").run(bed.engine()).await?;
            eventually("QEMU takes a frame", async || {
                node.link_state().unwrap().counters.tx_packets == 1
            })
            .await;
        }
        assert_eq!(bed.capture(0).count(|_| true)?, 1);
        Ok(())
    };
    let failure = bed("misses").run(body).await.unwrap_err().to_string();
    let expected = "link1.pcap is not complete: 1 frames passed the tap, and 0 are in it";
    assert!(
        failure.contains(expected) && !failure.contains("link0.pcap"),
        "{failure}"
    );
}

#[tokio::test]
async fn a_link_without_a_capture_carries_frames_and_has_none() {
    need!(docker, qemu, busybox);
    let body = async |bed: &Testbed| -> TestResult {
        bed.start_cpu().await?;
        let image = support::busybox(bed.engine()).await;
        for node in bed.nodes() {
            // There is no guest that answers.
            let ask = "busybox arping -c1 -w1 203.0.113.9".split(' ');
            let ask = node.application("arping", &image)?.command(ask);
            ask.capability("NET_RAW").run(bed.engine()).await?;
            eventually("QEMU takes a frame", async || {
                node.link_state().unwrap().counters.tx_packets == 1
            })
            .await;
        }
        assert_eq!(bed.capture(1).count(|_| true)?, 1);
        for file in ["link0.pcap", "link1.pcap"] {
            assert_eq!(bed.evidence().file(file).exists(), file == "link1.pcap", "{file}");
        }
        bed.capture(0);
        Ok(())
    };
    let failure = Testbed::builder("without-capture")
        .machine(Machine::new().memory_mib(64))
        .link(Link::new().address("192.0.2.1/24").without_capture())
        .link(Link::new().address("198.51.100.1/24"))
        .run(body)
        .await
        .unwrap_err();
    // That the body asks for the capture is all that is wrong.
    let text = failure.to_string();
    assert!(
        text.contains("link 0 has no capture: it was made without"),
        "{text}"
    );
    assert!(
        !text.contains("not complete") && !text.contains("links.pcapng"),
        "{text}"
    );
    // The clock that was learnt is that of the link which has a capture.
    let (run, _) = report_in(failure.evidence().unwrap());
    let clocks = [0, 1].map(|link: usize| run["links"][link]["clock_ahead"].is_number());
    assert_eq!(clocks, [false, true], "{run}");
}

#[tokio::test]
async fn an_error_between_two_steps_names_the_one_before_it() {
    need!(docker, qemu);
    let failure = bed("between")
        .run(async |_| -> TestResult {
            step!("Look for a needle", async { TestResult::Ok(()) }).await?;
            Err("only hay".into())
        })
        .await
        .unwrap_err();
    assert_eq!(failure.step(), None);
    let text = failure.to_string();
    let told = "test between failed: only hay\n  after the step: Look for a needle\n";
    assert!(text.starts_with(told), "{text}");
    let (run, page) = report_in(failure.evidence().unwrap());
    assert_eq!(run["failure"]["after"], "Look for a needle");
    assert!(page.contains("after Look for a needle"), "{page}");
}

#[tokio::test]
async fn a_panic_of_the_body_is_a_failure_after_an_orderly_teardown() {
    need!(docker, qemu);
    let mut traces = None;
    let line = line!() + 4;
    let failure = bed("panics")
        .run(async |bed| -> TestResult {
            traces = Some(Traces::of(bed));
            panic!("one and one is {}", 3)
        })
        .await
        .unwrap_err();
    assert!(traces.unwrap().are_gone().await);
    let told = format!("it panicked at {}:{line}:13: one and one is 3", file!());
    assert!(failure.to_string().contains(&told), "{failure}");
    let (run, page) = report_in(failure.evidence().unwrap());
    assert_eq!(run["failure"]["kind"], "panic");
    assert!(page.contains(&told), "{page}");
}

#[tokio::test]
async fn a_deadline_that_passes_names_the_step_under_way() {
    need!(docker, qemu);
    let mut traces = None;
    let failure = bed("late")
        .deadline(Duration::from_secs(15))
        .run(async |bed| -> TestResult {
            traces = Some(Traces::of(bed));
            step!("Wait for Godot", std::future::pending::<TestResult>()).await
        })
        .await
        .unwrap_err();
    assert!(traces.unwrap().are_gone().await);
    let text = failure.to_string();
    assert!(
        text.contains("did not end within its deadline of 15s\n  step: Wait for Godot"),
        "{text}"
    );
    let (run, page) = report_in(failure.evidence().unwrap());
    assert_eq!(run["failure"]["kind"], "deadline");
    assert!(page.contains("Where the time went"), "{page}");
}

#[tokio::test]
async fn a_machine_that_does_not_start_leaves_nothing() {
    need!(docker, qemu);
    let machine = Machine::new().extra_arguments(["-device", "flux-capacitor"]);
    let failure = Testbed::builder("no-start")
        .machine(machine)
        .link(Link::new())
        .run(async |_| -> TestResult { Ok(()) })
        .await
        .unwrap_err();
    assert_eq!(failure.step(), Some("Start QEMU"));
    assert!(
        failure
            .to_string()
            .contains("'flux-capacitor' is not a valid device model name"),
        "{failure}"
    );
    let (run, page) = report_in(failure.evidence().unwrap());
    assert_eq!(run["failure"]["kind"], "set-up");
    assert!(page.contains("&#39;flux-capacitor&#39; is not a valid"), "{page}");
    let engine = Engine::connect().await.unwrap();
    let left = engine.labelled("alpy.test=no-start").await.unwrap();
    assert_eq!(left, [""; 0]);
}

#[test]
fn a_test_needs_no_runtime_of_its_own() -> Result<(), Failure> {
    need!(docker, qemu => Ok(()));
    bed("blocking").run_blocking(async |bed| -> TestResult {
        bed.start_cpu().await?;
        Ok(())
    })
}

#[tokio::test]
async fn a_test_that_is_killed_leaves_no_container_and_no_machine() {
    need!(docker, qemu);
    let mut child = child::start("child-killed");
    let traces = child.traces().await;
    child.signal(nix::sys::signal::Signal::SIGKILL);
    eventually("containers and QEMU of a killed test are gone", async || {
        traces.are_gone().await
    })
    .await;
    // Nobody has made a report, and whoever makes one later learns how far it came.
    let evidence = evidence_in(&child.log().await);
    assert!(!evidence.join("report.html").exists());
    alpy::report::render(&evidence).unwrap();
    let (run, page) = report_in(&evidence);
    assert_eq!(run["verdict"], "under-way");
    for part in [
        "This run has no end",
        ">Speak to the console<",
        ">node1</span><i>",
        "198.51.100.1/24",
    ] {
        assert!(page.contains(part), "{part} is missing: {page}");
    }
}

#[tokio::test]
async fn the_log_on_stderr_has_the_end_of_every_step() {
    need!(docker, qemu);
    let mut child = child::start("child-log");
    let traces = child.traces().await;
    child.signal(nix::sys::signal::Signal::SIGTERM);
    child.ended_by().await;
    assert!(traces.are_gone().await);
    let log = child.log().await;
    // Sorted, for at the end two go on at the same time.
    let said = |end: &str| {
        let step = |line: &String| {
            let (_, step) = line.strip_prefix("INFO ")?.trim().split_once(' ')?;
            Some(step.trim_start().strip_suffix(end)?.to_owned())
        };
        let mut steps: Vec<String> = log.iter().filter_map(step).collect();
        steps.sort();
        steps
    };
    let (begun, done) = (said("..."), said("... done"));
    let steps = [
        "Check and merge captures",
        "Choose the accelerator",
        "Close console",
        "Connect to console",
        "Create nodes",
        "Create tap interfaces",
        "Find the engine and the images",
        "Quit QEMU",
        "Remove nodes",
        "Speak to the console",
        "Start QEMU",
    ];
    assert_eq!([begun, done], [steps, steps], "{log:#?}");
    // Nobody else says why it ended.
    assert!(
        log.iter().any(|line| line.contains("failed: SIGTERM came")),
        "{log:#?}"
    );
    let (run, page) = report_in(&evidence_in(&log));
    assert_eq!(run["failure"]["kind"], "signal");
    assert!(page.contains("SIGTERM came"), "{page}");
}

#[tokio::test]
async fn a_test_that_is_terminated_tears_down_and_ends_by_the_signal() {
    need!(docker, qemu);
    let mut child = child::start("child-terminated");
    let traces = child.traces().await;
    child.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(child.ended_by().await, Some(nix::libc::SIGTERM));
    assert!(traces.are_gone().await);
}

/// A test in a process of its own: this executable again.
#[tokio::test]
#[ignore = "the child that other tests start"]
async fn waits_to_be_ended() {
    let name = std::env::var("ALPY_TEST_CHILD").expect("another test starts this one");
    let body = async |bed: &Testbed| -> TestResult {
        // A line that has no end yet has once cost the next line of the log.
        bed.console().send("a part of a line").await?;
        step!("Speak to the console", async { TestResult::Ok(()) }).await?;
        eprintln!("CHILD {} {}", bed.run_id(), bed.qemu().pid());
        std::future::pending().await
    };
    let _ = bed(&name).run(body).await;
}

mod child {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Stdio;
    use std::time::Duration;

    use alpy::docker::Engine;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::process::{Child as Process, Command};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::Traces;

    pub(super) struct Child {
        process: Process,
        log: Option<JoinHandle<Vec<String>>>,
    }

    /// Starts the child with a testbed of this name. Tests run at the same time, so each needs a name of its own.
    pub(super) fn start(name: &str) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["waits_to_be_ended", "--exact", "--ignored", "--nocapture"]);
        let command = command
            .env("ALPY_TEST_CHILD", name)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let process = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        Child { process, log: None }
    }

    impl Child {
        /// What the child has made, as soon as all of it is there.
        pub(super) async fn traces(&mut self) -> Traces {
            let mut lines = BufReader::new(self.process.stderr.take().unwrap()).lines();
            let (sender, words) = oneshot::channel();
            let mut sender = Some(sender);
            self.log = Some(tokio::spawn(async move {
                let mut log = Vec::new();
                while let Ok(Some(line)) = lines.next_line().await {
                    if let Some(words) = line.strip_prefix("CHILD ") {
                        sender.take().unwrap().send(words.to_owned()).unwrap();
                    }
                    log.push(line);
                }
                log
            }));
            // An error says that the child ended before its testbed was there.
            let words = tokio::time::timeout(Duration::from_secs(60), words)
                .await
                .unwrap()
                .unwrap();
            let (run, qemu) = words.split_once(' ').unwrap();
            let engine = Engine::connect().await.unwrap();
            Traces {
                engine,
                run: run.to_owned(),
                qemu: qemu.parse().unwrap(),
            }
        }

        pub(super) fn signal(&self, signal: Signal) {
            kill(
                Pid::from_raw(self.process.id().unwrap().try_into().unwrap()),
                signal,
            )
            .unwrap();
        }

        /// All that the child has logged, once it has ended.
        pub(super) async fn log(&mut self) -> Vec<String> {
            self.log.take().unwrap().await.unwrap()
        }

        pub(super) async fn ended_by(&mut self) -> Option<i32> {
            let ended = tokio::time::timeout(Duration::from_secs(30), self.process.wait()).await;
            ended.unwrap().unwrap().signal()
        }
    }
}
