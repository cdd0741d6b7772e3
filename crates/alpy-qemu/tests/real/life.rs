// SPDX-License-Identifier: GPL-3.0-or-later
//! A machine's life as it should be.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::time::Duration;

use alpy_need::need;
use alpy_qemu::{Disk, DiskModel, Firmware, Machine, Qemu};
use alpy_qmp::commands::QueryStatus;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::guest::{self, LONG};

/// Runs the guest from start to end, and gives what it said.
pub(crate) async fn whole_life(machine: &Machine) -> String {
    let mut qemu = Qemu::start(machine, Vec::new(), guest::tcg()).await.unwrap();
    let mut console = qemu.take_console().unwrap();
    assert!(qemu.take_console().is_none());
    assert!(!qemu.qmp().execute(QueryStatus).await.unwrap().running);
    qemu.start_cpu().await.unwrap();
    qemu.wait_powered_down(LONG).await.unwrap();
    qemu.wait_stopped(LONG).await.unwrap();
    assert_eq!(qemu.exit_status(), None, "it shall stay until told to quit");
    qemu.quit(LONG).await.unwrap();
    assert!(qemu.exit_status().unwrap().success());
    let mut said = String::new();
    console.read_to_string(&mut said).await.unwrap();
    said
}

#[tokio::test]
async fn starts_stopped_runs_powers_off_and_quits() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let disk = guest::disk(folder.path());
    for machine in [
        Machine::new().disk(Disk::new(&disk).format("raw")),
        Machine::new()
            .machine_type("q35")
            .disk(Disk::new(&disk).format("raw").model(DiskModel::Ide)),
    ] {
        assert_eq!(whole_life(&machine).await, "alpy\r\n");
    }
}

#[tokio::test]
async fn keeps_the_image_as_it_was_unless_told_otherwise() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let disk = guest::disk(folder.path());
    let before = fs::read(&disk).unwrap();
    // The guest writes, and QEMU could: the second half of the test shows it.
    whole_life(&Machine::new().disk(Disk::new(&disk).format("raw"))).await;
    assert!(fs::read(&disk).unwrap() == before, "the image was written to");
    whole_life(&Machine::new().disk(Disk::new(&disk).format("raw").persistent())).await;
    let after = fs::read(&disk).unwrap();
    assert_eq!(after[512..1024], before[..512]);
}

#[tokio::test]
async fn an_image_that_ends_within_a_sector_is_a_disk_like_others() {
    need!(qemu);
    for model in [DiskModel::VirtioBlk, DiskModel::Ide] {
        let folder = tempfile::tempdir().unwrap();
        let path = guest::disk(folder.path());
        let length = (1 << 20) - 24;
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(length)
            .unwrap();
        let disk = Disk::new(&path).format("raw").model(model).persistent();
        assert_eq!(
            whole_life(&Machine::new().disk(disk)).await,
            "alpy\r\n",
            "{model:?}"
        );
        let after = fs::read(&path).unwrap();
        assert_eq!(after.len() as u64, length, "{model:?}");
        assert_eq!(after[512..1024], after[..512], "{model:?}");
    }
}

#[tokio::test]
async fn leaves_nothing_of_an_overlay_behind() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let disk = guest::disk(folder.path());
    let machine = Machine::new().disk(Disk::new(&disk).format("raw"));
    let qemu = Qemu::start(&machine, Vec::new(), guest::tcg()).await.unwrap();
    // Already now it has no name, so that not even SIGKILL leaves it.
    let open: Vec<_> = fs::read_dir(format!("/proc/{}/fd", qemu.pid()))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.display().to_string())
        .collect();
    let overlays = open.iter().filter(|target| target.ends_with("(deleted)")).count();
    assert_eq!(overlays, 1, "{open:?}");
}

#[tokio::test]
async fn inherits_only_what_is_meant_for_it() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let secret = fs::File::create(folder.path().join("secret")).unwrap();
    // SAFETY: clears close-on-exec of a descriptor that `secret` owns.
    assert_eq!(unsafe { libc::fcntl(secret.as_raw_fd(), libc::F_SETFD, 0) }, 0);
    let qemu = Qemu::start(&guest::idle(), Vec::new(), guest::tcg())
        .await
        .unwrap();
    let target = |fd: String| fs::read_link(format!("/proc/{}/fd/{fd}", qemu.pid())).ok();
    assert_eq!(target("0".to_owned()).unwrap().to_str(), Some("/dev/null"));
    let leaked = (0..1000)
        .filter_map(|fd| target(fd.to_string()))
        .find(|target| target.ends_with("secret"));
    assert_eq!(leaked, None);
    // A group of its own: Ctrl-C on the terminal is not for it.
    let stat = fs::read_to_string(format!("/proc/{}/stat", qemu.pid())).unwrap();
    let group = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .nth(2)
        .unwrap();
    assert_eq!(group, qemu.pid().to_string());
}

#[tokio::test]
async fn writes_evidence() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let options = guest::tcg().evidence(folder.path());
    // QEMU warns of a disk that is to be written to and has no named format.
    let machine = Machine::new().disk(Disk::new(guest::disk(folder.path())).persistent());
    let qemu = Qemu::start(&machine, Vec::new(), options).await.unwrap();
    qemu.start_cpu().await.unwrap();
    qemu.wait_stopped(LONG).await.unwrap();
    qemu.quit(LONG).await.unwrap();
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read("qemu-command.txt").trim_end(), qemu.command_line());
    assert!(read("qemu-stderr.log").contains("probing guessed raw"));
    assert!(qemu.stderr_tail().contains("probing guessed raw"));
    assert_eq!(read("qemu-stdout.log"), "");
    let qmp = read("qmp.log");
    for expected in ["<- {\"QMP\"", "-> {\"execute\":\"cont\"", "\"SHUTDOWN\""] {
        assert!(qmp.contains(expected), "{expected} is missing in:\n{qmp}");
    }
}

#[tokio::test]
async fn boots_uefi_and_keeps_its_variables() {
    need!(qemu, ovmf);
    let Firmware::Uefi { code, variables } = Firmware::uefi().unwrap() else {
        panic!("UEFI is what was asked for");
    };
    // A copy, so that a failure of this test does not spoil the system's.
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("variables.fd");
    let before = fs::read(variables).unwrap();
    fs::write(&copy, &before).unwrap();
    let firmware = Firmware::Uefi {
        code,
        variables: copy.clone(),
    };
    let machine = Machine::new().memory_mib(128).firmware(firmware);
    let mut qemu = Qemu::start(&machine, Vec::new(), guest::tcg()).await.unwrap();
    let mut console = qemu.take_console().unwrap();
    qemu.start_cpu().await.unwrap();
    let mut said = Vec::new();
    // How firmware ends that finds nothing to boot: in its own shell, or where it has none, as OVMF of 2026, before its menu.
    let ends = ["UEFI Interactive Shell", "enter the Boot Manager Menu"];
    let end = async {
        while !ends
            .iter()
            .any(|end| String::from_utf8_lossy(&said).contains(end))
        {
            assert_ne!(console.read_buf(&mut said).await.unwrap(), 0);
        }
    };
    let limit = Duration::from_secs(120);
    if timeout(limit, end).await.is_err() {
        panic!(
            "none of {ends:?} within {limit:?}: {}",
            String::from_utf8_lossy(&said)
        );
    }
    qemu.quit(LONG).await.unwrap();
    assert!(fs::read(copy).unwrap() == before, "the variables were written to");
}
