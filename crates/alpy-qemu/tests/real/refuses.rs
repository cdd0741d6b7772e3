// SPDX-License-Identifier: GPL-3.0-or-later
//! Machines that do not start, and guests that do not do what is waited for.

use std::fs;
use std::time::{Duration, Instant};

use alpy_need::need;
use alpy_qemu::{Error, Machine, Qemu};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::guest::{self, LONG};

#[tokio::test]
async fn says_what_qemu_said_of_a_bad_argument() {
    need!(qemu);
    let machine = guest::idle().extra_arguments(["-device", "no-such-device"]);
    let error = Qemu::start(&machine, Vec::new(), guest::tcg()).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Exited { .. }), "{text}");
    assert!(text.contains("ended with exit status: 1 at its start"), "{text}");
    assert!(
        text.contains("'no-such-device' is not a valid device model name"),
        "{text}"
    );
    assert!(text.contains("it was: qemu-system-x86_64 -S"), "{text}");
}

#[tokio::test]
async fn says_which_package_a_missing_program_is_in() {
    let machine = Machine::new().program("/no/such/qemu");
    let error = Qemu::start(&machine, Vec::new(), guest::tcg()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "/no/such/qemu is not installed; remedy: sudo apt-get install qemu-system-x86"
    );
}

#[tokio::test]
async fn starts_nothing_without_a_place_for_evidence() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    let machine = Machine::new().program("/no/such/qemu");
    let error = Qemu::start(&machine, Vec::new(), guest::tcg().evidence(&absent)).await;
    assert!(matches!(error, Err(Error::Evidence { path, .. }) if path.starts_with(&absent)));
}

#[tokio::test]
async fn does_not_write_through_a_symbolic_link() {
    let folder = tempfile::tempdir().unwrap();
    let precious = folder.path().join("precious");
    fs::write(&precious, "content").unwrap();
    std::os::unix::fs::symlink(&precious, folder.path().join("qemu-stderr.log")).unwrap();
    let machine = Machine::new().program("/no/such/qemu");
    let error = Qemu::start(&machine, Vec::new(), guest::tcg().evidence(folder.path())).await;
    assert!(matches!(error, Err(Error::Evidence { .. })));
    assert_eq!(fs::read_to_string(&precious).unwrap(), "content");
}

#[tokio::test]
async fn gives_up_on_a_qemu_that_does_not_greet() {
    need!(qemu);
    // QEMU blocks in open(2) of a pipe that nobody reads, before it gets to its monitor.
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let chardev = format!("file,id=stuck,path={}", pipe.display());
    let machine = guest::idle().extra_arguments(["-chardev", &chardev]);
    let options = guest::tcg().start_timeout(Duration::from_millis(500));
    let begin = Instant::now();
    let error = Qemu::start(&machine, Vec::new(), options).await.unwrap_err();
    assert!(matches!(error, Error::Qmp { .. }), "{error}");
    assert!(begin.elapsed() < LONG / 2);
    guest::eventually("QEMU is gone", || !guest::runs_with_argument(&chardev)).await;
}

#[tokio::test]
async fn says_when_a_guest_does_not_power_off() {
    need!(qemu);
    let qemu = Qemu::start(&guest::idle(), Vec::new(), guest::tcg())
        .await
        .unwrap();
    let error = qemu
        .wait_powered_down(Duration::from_millis(50))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "QMP failed before its guest powered off");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("no QMP event SHUTDOWN within 50ms"), "{source}");
}

#[tokio::test]
async fn does_not_take_any_end_for_a_power_off() {
    need!(qemu);
    let qemu = Qemu::start(&guest::idle(), Vec::new(), guest::tcg())
        .await
        .unwrap();
    kill(Pid::from_raw(qemu.pid().try_into().unwrap()), Signal::SIGTERM).unwrap();
    let error = qemu.wait_powered_down(LONG).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the machine went down for the reason host-signal, expected guest-shutdown"
    );
    qemu.quit(LONG).await.unwrap();
}
