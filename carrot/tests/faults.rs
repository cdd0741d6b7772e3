// SPDX-License-Identifier: GPL-3.0-or-later
//! Faults of a guest that boots, and of the disk that its captures go to.
#![expect(clippy::unwrap_used, reason = "what a test relies on")]

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use alpy::{Link, TestResult, Testbed};
use alpy_need::need;
use carrot::iperf3;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

#[tokio::test]
async fn a_kernel_that_panics_is_an_error_at_once() {
    need!(docker, qemu);
    let mut took = None;
    let failure = Testbed::builder("kernel-panic")
        .machine(
            rabbit::machine()
                .unwrap()
                .without_saved_state()
                .append("console=ttyS0 quiet rdinit=/no/such/program"),
        )
        .link(Link::new())
        .run(async |bed| -> TestResult {
            let began = Instant::now();
            bed.start_cpu().await?;
            let panicked = carrot::login(bed).await;
            let machine = bed.dut(0).processor_time();
            let starved = machine.map_or(Duration::ZERO, |machine| machine.starved());
            took = Some(began.elapsed().saturating_sub(starved));
            panicked?;
            Ok(())
        })
        .await
        .unwrap_err();
    // Half of the boot limit. Like that limit, it does not count starved time.
    assert!(took.unwrap() < Duration::from_secs(30), "{took:?}");
    let text = failure.to_string();
    println!("{text}");
    for part in [
        "the guest has given up: Kernel panic - not syncing",
        "step: Wait for the system to boot",
        "last lines seen:",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    // Once is enough.
    assert!(!text.contains("last lines of the console"), "{text}");
}

#[tokio::test]
async fn a_disk_that_is_full_fails_the_test_and_names_the_capture() {
    need!(docker, qemu);
    let folder = tempfile::tempdir().unwrap();
    // Only root can mount a small file system where the engine sees it too; the others have a limit for files.
    let small = nix::unistd::geteuid()
        .is_root()
        .then(|| Small::mount(folder.path()));
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command
        .args(["a_child_whose_body_passes", "--exact", "--ignored", "--nocapture"])
        .env("ALPY_EVIDENCE", folder.path())
        .envs(small.is_none().then_some((LIMITED, "1")))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    // No timeout here: the child's testbed has a deadline, which does not count starved time.
    let output = command.output().await.unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(101), "{text}");
    assert!(text.contains("its body passed, its teardown did not"), "{text}");
    let capture = folder.path().join("disk-full/link0.pcap");
    let incomplete = format!("capture {} is not complete", capture.display());
    assert!(text.contains(&incomplete), "no {incomplete:?} in {text}");
    drop(small);
}

#[tokio::test]
#[ignore = "the child that another test starts"]
async fn a_child_whose_body_passes() {
    if std::env::var_os(LIMITED).is_some() {
        // QEMU inherits both, and gets an error from a write that goes too far.
        setrlimit(Resource::RLIMIT_FSIZE, ROOM_BYTES, ROOM_BYTES).unwrap();
        // SAFETY: to ignore a signal runs no code.
        unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }.unwrap();
    }
    Testbed::builder("disk-full")
        // What a state takes is more than the room.
        .machine(rabbit::machine().unwrap().without_saved_state())
        .link(Link::new().address("192.168.0.1/24"))
        .link(Link::new().address("192.168.0.2/24"))
        .run(async |bed| -> anyhow::Result<()> {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            let bridge = include_str!("bridge");
            carrot::configure(&mut shell, "bridge", bridge).await?;
            let server = iperf3::serve(bed.node(1)).await?;
            iperf3::measure(bed.node(0), "192.168.0.2", iperf3::Load::TcpBytes(8_000_000)).await?;
            server.stop().await
        })
        .await
        .unwrap();
}

/// Less than what goes over a link, and more than any other file, the guardian in its memory included.
const ROOM_BYTES: u64 = 4 << 20;

/// Tells the child to set a limit.
const LIMITED: &str = "ALPY_TEST_LIMITED";

/// A file system of that size, until it is dropped.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(folder: &'a Path) -> Self {
        let size = format!("size={ROOM_BYTES}");
        mount(
            Some("none"),
            folder,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(&*size),
        )
        .unwrap();
        Self(folder)
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        umount2(self.0, MntFlags::MNT_DETACH).unwrap();
    }
}
