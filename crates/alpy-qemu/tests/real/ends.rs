// SPDX-License-Identifier: GPL-3.0-or-later
//! Ends that nobody planned: QEMU's, this program's, and what is left then.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use alpy_need::need;
use alpy_qemu::{Error, Qemu};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::guest::{self, LONG, Watch};

fn signal(qemu: &Qemu, signal: Signal) {
    kill(Pid::from_raw(qemu.pid().try_into().unwrap()), signal).unwrap();
}

#[tokio::test]
async fn notices_at_once_that_qemu_was_killed() {
    need!(qemu);
    let qemu = Qemu::start(&guest::idle(), Vec::new(), guest::tcg())
        .await
        .unwrap();
    qemu.start_cpu().await.unwrap();
    let (_, result) = tokio::join!(
        async { signal(&qemu, Signal::SIGKILL) },
        qemu.wait_powered_down(LONG * 10)
    );
    let text = result.unwrap_err().to_string();
    assert!(
        text.starts_with("QEMU ended with signal: 9 (SIGKILL) before its guest powered off"),
        "{text}"
    );
    assert!(matches!(qemu.start_cpu().await, Err(Error::Exited { .. })));
    let end = qemu.quit(LONG).await;
    assert!(matches!(end, Err(Error::Exited { status, .. }) if status.signal() == Some(9)));
}

#[tokio::test]
async fn kills_a_qemu_that_does_not_quit() {
    need!(qemu);
    let qemu = Qemu::start(&guest::idle(), Vec::new(), guest::tcg())
        .await
        .unwrap();
    let watch = Watch::new(qemu.pid());
    signal(&qemu, Signal::SIGSTOP);
    let limit = Duration::from_millis(300);
    let begin = Instant::now();
    let error = qemu.quit(limit).await.unwrap_err();
    let elapsed = begin.elapsed();
    assert!(matches!(error, Error::Killed { .. }), "{error}");
    assert!(elapsed >= limit && elapsed < LONG / 2, "{elapsed:?}");
    assert!(watch.ends_within(Duration::ZERO));
    assert_eq!(qemu.exit_status().unwrap().signal(), Some(9));
}

#[tokio::test]
async fn kills_qemu_when_it_is_dropped() {
    need!(qemu);
    let qemu = Qemu::start(&guest::idle(), Vec::new(), guest::tcg())
        .await
        .unwrap();
    let watch = Watch::new(qemu.pid());
    drop(qemu);
    assert!(watch.ends_within(LONG));
}

#[tokio::test]
async fn leaves_no_qemu_when_the_start_is_cancelled() {
    need!(qemu);
    let name = format!("alpy-cancelled-{}", std::process::id());
    let machine = guest::idle().extra_arguments(["-name", &name]);
    for micros in (0..20_000).step_by(1_000) {
        let start = Qemu::start(&machine, Vec::new(), guest::tcg());
        let _ = tokio::time::timeout(Duration::from_micros(micros), start).await;
    }
    guest::eventually("no QEMU is left", || !guest::runs_with_argument(&name)).await;
}

#[test]
fn outlives_the_thread_that_asked_for_it() {
    need!(qemu);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let handle = runtime.handle().clone();
    let start = move || handle.block_on(Qemu::start(&guest::idle(), Vec::new(), guest::tcg()));
    let qemu = std::thread::spawn(start).join().unwrap().unwrap();
    // Had that thread made the process, the kernel would have killed it by now, or soon.
    assert!(!Watch::new(qemu.pid()).ends_within(Duration::from_millis(300)));
    runtime.block_on(qemu.quit(LONG)).unwrap();
}

/// The variable that tells a second instance of this test that it is the one to be killed.
const VICTIM: &str = "ALPY_TEST_VICTIM";

#[tokio::test]
async fn dies_with_its_parent() {
    need!(qemu);
    if std::env::var_os(VICTIM).is_some() {
        let qemu = Qemu::start(&guest::idle(), Vec::new(), guest::tcg())
            .await
            .unwrap();
        println!("\npid {}", qemu.pid());
        return std::future::pending().await;
    }
    let mut victim = guest::myself(&[], "ends::dies_with_its_parent", VICTIM, Path::new("yes"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = BufReader::new(victim.stdout.take().unwrap())
        .lines()
        .find_map(|line| line.unwrap().strip_prefix("pid ")?.parse().ok());
    let watch = pid.map(Watch::new);
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(watch.expect("the victim tells a pid").ends_within(LONG));
}
