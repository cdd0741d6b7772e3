// SPDX-License-Identifier: GPL-3.0-or-later
//! Faults that come from outside: each is an error that says what happened and in which step, in time, and nothing stays. The
//! machine has nothing to boot: it stays in its firmware.
#![expect(clippy::unwrap_used, reason = "what a test relies on")]

mod proxy;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use alpy::docker::Engine;
use alpy::qemu::Machine;
use alpy::qmp::commands::QueryStatus;
use alpy::{Failure, Link, TestResult, Testbed, TestbedBuilder, step};
use alpy_need::need;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proxy::{Mode, Proxy};
use support::{containers_of, eventually, seen};

fn bed(test: &str) -> TestbedBuilder {
    Testbed::builder(test)
        .machine(Machine::new().memory_mib(32))
        .link(Link::new().address("192.0.2.1/24"))
        .link(Link::new().address("198.51.100.1/24"))
}

/// Runs a test that has to fail, and looks whether its containers and its QEMU are gone.
async fn failure(bed: TestbedBuilder, body: impl AsyncFnOnce(&Testbed) -> TestResult) -> Failure {
    let mut traces = None;
    let result = bed
        .run(async |bed| {
            traces = Some((bed.run_id().to_owned(), bed.qemu().pid()));
            body(bed).await
        })
        .await;
    let (run, qemu) = traces.unwrap();
    let engine = Engine::connect().await.unwrap();
    eventually("the containers are gone", async || {
        containers_of(&engine, &run).await.is_empty()
    })
    .await;
    assert!(
        !fs::exists(format!("/proc/{qemu}")).unwrap(),
        "QEMU is still there"
    );
    let failure = result.unwrap_err();
    // For whoever wants to see what users see: --show-output.
    println!("{failure}");
    failure
}

fn has(failure: &Failure, parts: &[&str]) {
    let text = failure.to_string();
    for part in parts {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

#[tokio::test]
async fn a_qemu_that_is_killed_ends_the_test_at_once() {
    need!(docker, qemu);
    let mut killed = None;
    let failure = failure(bed("qemu-killed"), async |bed| {
        bed.start_cpu().await?;
        signal(bed.qemu().pid(), Signal::SIGKILL);
        killed = Some(Instant::now());
        step!("Wait for Godot", std::future::pending::<TestResult>()).await
    })
    .await;
    // The teardown included.
    assert!(killed.unwrap().elapsed() < Duration::from_secs(10));
    has(
        &failure,
        &[
            "QEMU ended with signal: 9 (SIGKILL) unexpectedly",
            "step: Wait for Godot",
        ],
    );
}

#[tokio::test]
async fn a_test_that_cannot_judge_has_neither_passed_nor_failed() {
    need!(docker, qemu);
    let failure = failure(bed("unjudged"), async |bed| {
        bed.start_cpu().await?;
        let time = bed.dut(0).processor_time().ok_or("there is no schedstat")?;
        assert!(
            time.ran() > Duration::ZERO && time.starved() <= time.passed(),
            "{time:?}"
        );
        let measure = async { Err::<(), _>(bed.cannot_be_judged("nothing was measured")) };
        let measured = step!("Measure a rate", measure).await;
        // anyhow hides the type of the error that it holds.
        Err(anyhow::Error::from(measured.unwrap_err()).into())
    })
    .await;
    assert!(failure.is_unjudged());
    has(
        &failure,
        &[
            "test unjudged: cannot be judged: the host was overloaded: nothing was measured",
            "step: Measure a rate",
            "the host gave machine 0 ",
            " % of the processor time it was ready to use, ",
            " % in the failing step",
        ],
    );
    let dir = failure.evidence().unwrap();
    let record = fs::read_to_string(dir.join("run.json")).unwrap();
    assert!(
        record.contains("\"verdict\": \"unjudged\"") && record.contains("\"kind\": \"unjudged\""),
        "{record}"
    );
    let page = fs::read_to_string(dir.join("report.html")).unwrap();
    assert!(
        page.contains("cannot be judged") && page.contains("the host gave machine 0"),
        "{page}"
    );
}

#[tokio::test]
async fn an_error_is_a_failure_though_another_measurement_could_not_be_judged() {
    need!(docker, qemu);
    let failure = failure(bed("judged"), async |bed| {
        let _ = bed.cannot_be_judged("the first measurement");
        Err("the second measurement is wrong".into())
    })
    .await;
    assert!(!failure.is_unjudged());
    has(&failure, &["test judged failed: the second measurement is wrong"]);
}

#[tokio::test]
async fn a_qemu_that_is_stopped_is_found_out() {
    need!(docker, qemu);
    let failure = failure(bed("qemu-stopped"), async |bed| {
        bed.start_cpu().await?;
        signal(bed.qemu().pid(), Signal::SIGSTOP);
        let limit = Duration::from_millis(300);
        let status = async { Ok(bed.qmp().execute(QueryStatus).timeout(limit).await?) };
        step!("Ask for the status", status).await.map(drop)
    })
    .await;
    let teardown = "quit QEMU: QEMU did not quit within 10s and was killed";
    has(
        &failure,
        &[
            "query-status",
            "300ms",
            "step: Ask for the status",
            "QEMU is stopped by a signal",
            teardown,
        ],
    );
}

#[tokio::test]
async fn a_guest_that_shows_no_login_is_a_timeout_that_shows_what_it_did() {
    need!(docker, qemu);
    let failure = failure(bed("no-login"), async |bed| {
        bed.start_cpu().await?;
        let login = bed.console().expect("login: ", Duration::from_secs(1));
        step!("Wait for the system to boot", login).await?;
        Ok(())
    })
    .await;
    has(
        &failure,
        &[
            "\"login: \"",
            "within 1s",
            "step: Wait for the system to boot",
            "last events of QEMU",
            "RESUME",
        ],
    );
}

#[tokio::test]
async fn a_deadline_shows_the_console_the_events_and_where_the_time_went() {
    need!(docker, qemu);
    let failure = failure(bed("deadline").deadline(Duration::from_secs(12)), async |bed| {
        bed.start_cpu().await?;
        assert!(bed.time_left() < Duration::from_secs(12));
        step!("Have a look", async { TestResult::Ok(()) }).await?;
        step!("Wait for Godot", std::future::pending::<TestResult>()).await
    })
    .await;
    has(
        &failure,
        &[
            "deadline of 12s",
            "step: Wait for Godot",
            "the time went to",
            "s  Create nodes",
            "s  Have a look",
            "RESUME",
        ],
    );
}

#[tokio::test]
async fn each_failure_of_a_silent_guest_says_so_once_and_what_to_try() {
    need!(docker, qemu);
    // No virtual CPU runs, so nothing can be printed.
    let body = failure(bed("silent-body"), async |_| Err("it is not so".into())).await;
    let console = failure(bed("silent-console"), async |bed| {
        let limit = Duration::from_millis(100);
        bed.console().expect("login: ", limit).await?;
        Ok(())
    })
    .await;
    let panic = failure(bed("silent-panic"), async |_| panic!("as planned")).await;
    let limit = Duration::from_secs(12);
    let deadline = failure(bed("silent-deadline").deadline(limit), async |_| {
        std::future::pending().await
    })
    .await;
    for failure in [body, console, panic, deadline] {
        let text = failure.to_string();
        for part in [
            "nothing was printed on the console. What to try:",
            "`start_cpu`, if the test has not called it",
        ] {
            assert_eq!(text.matches(part).count(), 1, "{part:?} in:\n{text}");
        }
        let page = fs::read_to_string(failure.evidence().unwrap().join("report.html")).unwrap();
        assert_eq!(page.matches("nothing was printed on the console").count(), 1);
    }
}

#[tokio::test]
async fn each_time_of_a_run_counts_from_its_begin() {
    need!(docker, qemu);
    let failure = failure(bed("one-clock"), async |bed| {
        bed.start_cpu().await?;
        // No frame matches: the error lists the frames with their times.
        bed.capture(0)
            .expect(|_| false, Duration::from_millis(300))
            .await?;
        Ok(())
    })
    .await;
    let read = |name: &str| fs::read_to_string(failure.evidence().unwrap().join(name)).unwrap();
    let seconds = |line: &str| {
        let first = line.split_whitespace().next();
        first.and_then(|first| first.parse::<f64>().ok())
    };
    let log = read("debug.log");
    let logged = |end: &str| {
        let mut lines = log.lines().filter(|line| line.ends_with(end));
        seconds(lines.next().unwrap()).unwrap()
    };
    // The times from debug.log, qmp.log and run.json, in the order of the events.
    let qmp = read("qmp.log");
    let greeted = seconds(qmp.lines().next().unwrap()).unwrap();
    let resumed = qmp.lines().find(|line| line.contains("\"RESUME\"")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&read("run.json")).unwrap();
    let since_begin = |value: &serde_json::Value| value.as_f64().unwrap() - record["began"].as_f64().unwrap();
    let mut steps = record["steps"].as_array().unwrap().iter();
    let started = steps.find(|step| step["text"] == "Start QEMU").unwrap();
    let times = [
        logged(" Create nodes... done"),
        logged(" Start QEMU..."),
        since_begin(&started["began"]),
        greeted,
        logged(" Start QEMU... done"),
        logged(" Enter test environment"),
        since_begin(&record["entered"]),
        logged(" Start virtual CPU..."),
        seconds(resumed).unwrap(),
        logged(" Start virtual CPU... done"),
        since_begin(&record["left"]),
        logged(" Exit test environment with failure"),
        since_begin(&record["ended"]),
    ];
    // Each is rounded to a millisecond or better.
    assert!(
        times.is_sorted_by(|one, next| *one <= next + 0.002),
        "{times:?}\n{log}"
    );
    assert!(times[0] > 0.0, "{times:?}");
    let page = read("report.html");
    assert!(
        page.contains("debug.log and in qmp.log are seconds since the run began"),
        "{page}"
    );
}

#[tokio::test]
async fn a_step_past_its_own_time_is_told_from_the_others() {
    need!(docker, qemu);
    let failure = failure(bed("step-late"), async |_| {
        let limit = Duration::from_millis(200);
        step!(within: limit, "Wait for Godot", std::future::pending::<TestResult>()).await
    })
    .await;
    has(&failure, &["did not end within 200ms", "step: Wait for Godot"]);
}

#[tokio::test]
async fn a_node_that_is_killed_ends_the_test_at_once() {
    need!(docker, qemu);
    let mut killed = None;
    let failure = failure(bed("node-killed"), async |bed| {
        bed.start_cpu().await?;
        killed = Some(Instant::now());
        step!("Wait for Godot", async {
            bed.engine().remove(bed.node(1).id()).await?;
            std::future::pending::<TestResult>().await
        })
        .await
    })
    .await;
    assert!(killed.unwrap().elapsed() < Duration::from_secs(10));
    has(
        &failure,
        &["node 1 is gone: it ended with", "137", "step: Wait for Godot"],
    );
}

#[tokio::test]
async fn an_application_that_ends_early_says_its_name_its_status_and_its_last_words() {
    need!(docker, qemu, busybox);
    let failure = failure(bed("application-ends"), async |bed| {
        let image = support::busybox(bed.engine()).await;
        let server = bed.node(0).application("server", &image)?;
        let server = server.command(["sh", "-c", "echo no route >&2; exit 3"]);
        let server = server.start(bed.engine()).await?;
        let ready = server.wait_output("listening", Duration::from_secs(10));
        step!("Start the server", ready).await?;
        Ok(())
    })
    .await;
    has(
        &failure,
        &[
            "node0-server",
            "exit code 3",
            "no route",
            "\"listening\"",
            "step: Start the server",
        ],
    );
}

#[tokio::test]
async fn an_image_that_is_missing_is_named_with_the_remedy() {
    need!(docker, qemu);
    let failure = failure(bed("no-image"), async |bed| {
        let ping = bed
            .node(0)
            .application("ping", "alpy-no-such-image:1")?
            .run(bed.engine());
        step!("Ping", ping).await?;
        Ok(())
    })
    .await;
    has(
        &failure,
        &[
            "the engine has no image \"alpy-no-such-image:1\"",
            "remedy",
            "step: Ping",
        ],
    );
    let failure = bed("no-node-image")
        .node_image("alpy-no-such-image:2")
        .run(async |_| TestResult::Ok(()))
        .await
        .unwrap_err();
    has(
        &failure,
        &[
            "the engine has no image \"alpy-no-such-image:2\"",
            "step: Create nodes",
        ],
    );
}

#[tokio::test]
async fn an_engine_that_goes_in_the_middle_ends_the_test_at_once() {
    need!(docker, qemu);
    let proxy = Proxy::start().await;
    let mut gone = None;
    let failure = failure(bed("engine-gone").engine(proxy.engine().await), async |bed| {
        bed.start_cpu().await?;
        proxy.set(Mode::Gone);
        gone = Some(Instant::now());
        step!("Wait for Godot", std::future::pending::<TestResult>()).await
    })
    .await;
    assert!(gone.unwrap().elapsed() < Duration::from_secs(10));
    has(&failure, &["is gone: lost the engine", "step: Wait for Godot"]);
}

#[tokio::test]
async fn an_engine_that_says_nothing_any_more_is_a_timeout_of_its_step() {
    need!(docker, qemu);
    let proxy = Proxy::start().await;
    let limit = Duration::from_secs(2);
    let engine = proxy.engine().await.request_limit(limit);
    let mut dumb = None;
    let failure = failure(bed("engine-dumb").engine(engine), async |bed| {
        bed.start_cpu().await?;
        proxy.set(Mode::Dumb);
        dumb = Some(Instant::now());
        let interface = async { Ok(bed.node(0).interface().await?) };
        step!("Look at the interface", interface).await.map(drop)
    })
    .await;
    // The limit once for the step, and as often as there are requests one after another in the teardown.
    assert!(dumb.unwrap().elapsed() < Duration::from_secs(40));
    has(
        &failure,
        &[
            "timed out after 2s: create container",
            "step: Look at the interface",
            "remove nodes: timed out after 2s: remove container",
        ],
    );
}

#[tokio::test]
async fn an_engine_that_is_slow_is_waited_for() {
    need!(docker, qemu);
    let proxy = Proxy::start().await;
    let engine = proxy.engine().await;
    proxy.set(Mode::Slow(Duration::from_millis(150)));
    bed("engine-slow")
        .engine(engine)
        .run(async |bed| -> TestResult { Ok(bed.start_cpu().await?) })
        .await
        .unwrap();
}

#[tokio::test]
async fn an_engine_that_is_too_slow_is_told_by_the_step_that_it_holds_up() {
    need!(docker, qemu);
    let proxy = Proxy::start().await;
    let engine = proxy.engine().await;
    proxy.set(Mode::Slow(Duration::from_secs(4)));
    let failure = bed("engine-too-slow")
        .engine(engine)
        .deadline(Duration::from_secs(10))
        .run(async |_| TestResult::Ok(()))
        .await
        .unwrap_err();
    // Half of the deadline is what a step of the set-up may take.
    has(&failure, &["did not end within 5s", "step: "]);
    proxy.set(Mode::Pass);
    let engine = Engine::connect().await.unwrap();
    eventually("the containers are gone", async || {
        engine
            .labelled("alpy.test=engine-too-slow")
            .await
            .unwrap()
            .is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_helper_that_is_killed_is_an_error_of_its_step() {
    const TRIES: usize = 20;
    need!(docker, qemu);
    for attempt in 1.. {
        let test = format!("helper-killed-{attempt}");
        let of_test = test.clone();
        let killing = tokio::spawn(async move {
            let engine = Engine::connect().await.unwrap();
            let helper = seen(&engine, &of_test, "-create-taps").await;
            engine.remove(helper["Id"].as_str().unwrap()).await
        });
        let result = bed(&test).run(async |_| TestResult::Ok(())).await;
        killing.abort();
        let Err(failure) = result else {
            // It was done before it was killed.
            assert!(attempt < TRIES, "no helper could be caught");
            continue;
        };
        println!("{failure}");
        // It starts with the nodes: the one step or the other has it.
        has(&failure, &["create-taps"]);
        let text = failure.to_string();
        let steps = ["step: Create nodes", "step: Create tap interfaces"];
        assert!(steps.iter().any(|step| text.contains(step)), "{text}");
        let engine = Engine::connect().await.unwrap();
        eventually("the containers are gone", async || {
            engine
                .labelled(&format!("alpy.test={test}"))
                .await
                .unwrap()
                .is_empty()
        })
        .await;
        return;
    }
}

#[tokio::test]
async fn a_place_for_evidence_that_cannot_be_written_to_is_named_before_anything_starts() {
    need!(docker, qemu);
    // Nobody can make a folder there, not even root.
    let output = child("evidence-nowhere", Path::new("/proc/alpy-evidence")).await;
    assert!(
        output.contains(
            "test evidence-nowhere failed: evidence directory /proc/alpy-evidence/evidence-nowhere"
        ),
        "{output}"
    );
    let engine = Engine::connect().await.unwrap();
    assert_eq!(
        engine.labelled("alpy.test=evidence-nowhere").await.unwrap(),
        [""; 0]
    );
}

#[tokio::test]
async fn a_link_planted_among_the_evidence_is_not_followed() {
    need!(docker, qemu, busybox);
    let outside = tempfile::tempdir().unwrap();
    let failure = failure(bed("planted-link"), async |bed| {
        let image = support::busybox(bed.engine()).await;
        let status = bed.evidence().file("containers/node0-planted.status");
        std::os::unix::fs::symlink(outside.path().join("status"), status)?;
        let cat = bed.node(0).application("planted", &image)?.command(["cat"]);
        cat.run(bed.engine()).await?.success()?;
        let stdout = bed.evidence().file("containers/node0-next.stdout");
        std::os::unix::fs::symlink(outside.path().join("stdout"), stdout)?;
        step!("Prepare the next", async {
            bed.node(0).application("next", &image)
        })
        .await?;
        Ok(())
    })
    .await;
    has(
        &failure,
        &["containers/node0-next.stdout", "step: Prepare the next"],
    );
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

/// A test in a process of its own, with another place for evidence: this executable again. Gives all that it prints.
async fn child(test: &str, evidence: &Path) -> String {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["a_child", "--exact", "--ignored", "--nocapture"])
        .env("ALPY_TEST_CHILD", test)
        .env("ALPY_EVIDENCE", evidence)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(60), command.output());
    let output = output.await.unwrap().unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test]
#[ignore = "the child that other tests start"]
async fn a_child() {
    let test = std::env::var("ALPY_TEST_CHILD").expect("another test starts this one");
    bed(&test).run(async |_| TestResult::Ok(())).await.unwrap();
}
