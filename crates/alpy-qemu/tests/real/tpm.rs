// SPDX-License-Identifier: GPL-3.0-or-later
//! A TPM, which comes and goes with its machine.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use alpy_need::need;
use alpy_qemu::{Error, Qemu};
use alpy_qmp::commands::HumanMonitorCommand;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::timeout;

use crate::guest::{self, LONG, Watch};

async fn memory(qemu: &Qemu, line: &str) -> String {
    let command_line = line.to_owned();
    let command = qemu.qmp().execute(HumanMonitorCommand { command_line });
    command.await.unwrap()
}

/// Waits until the firmware has taken the TPM: bit 5 of TPM_ACCESS of locality 0 (TCG PC Client Platform TPM Profile, 6.3).
async fn taken(qemu: &Qemu) {
    let begin = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    loop {
        let access = memory(qemu, "xp /1xb 0xfed40000").await;
        let value = access.trim().rsplit("0x").next().unwrap().to_owned();
        if u8::from_str_radix(&value, 16).unwrap() & 0x20 != 0 {
            return;
        }
        assert!(
            begin.elapsed() < LONG,
            "the firmware has not taken the TPM: {access}"
        );
        tick.tick().await;
    }
}

#[tokio::test]
async fn the_firmware_finds_it_and_it_goes_with_the_machine() {
    need!(qemu, swtpm);
    for machine_type in ["pc", "q35"] {
        let machine = guest::idle().machine_type(machine_type).tpm();
        let qemu = Qemu::start(&machine, Vec::new(), guest::tcg()).await.unwrap();
        let pid = qemu.tpm_pid().unwrap();
        let watch = Watch::new(pid);
        // IBM's, as swtpm says.
        let vendor = memory(&qemu, "xp /1xw 0xfed40f00").await;
        assert!(vendor.contains("0x00011014"), "{vendor}");
        qemu.start_cpu().await.unwrap();
        taken(&qemu).await;
        // What it remembers is in no file.
        let open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .filter(|target| target.exists() && target.starts_with("/"))
            .filter(|target| !target.starts_with("/dev"))
            .collect();
        assert!(open.is_empty(), "{open:?}");
        if machine_type == "pc" {
            qemu.quit(LONG).await.unwrap();
            let end = timeout(Duration::from_millis(200), qemu.unexpected_end()).await;
            assert!(end.is_err(), "{end:?}");
        } else {
            drop(qemu);
        }
        assert!(watch.ends_within(LONG), "swtpm is still there");
    }
}

#[tokio::test]
async fn is_missed_when_it_has_gone() {
    need!(qemu, swtpm);
    let qemu = Qemu::start(&guest::idle().tpm(), Vec::new(), guest::tcg())
        .await
        .unwrap();
    let pid = Pid::from_raw(qemu.tpm_pid().unwrap().try_into().unwrap());
    kill(pid, Signal::SIGKILL).unwrap();
    let error = timeout(LONG, qemu.unexpected_end()).await.unwrap();
    assert!(matches!(error, Error::TpmEnded { .. }), "{error}");
    assert!(
        error.to_string().starts_with("swtpm ended with signal: 9"),
        "{error}"
    );
}

#[tokio::test]
async fn a_saved_state_goes_on_with_it() {
    need!(qemu, swtpm);
    let folder = tempfile::tempdir().unwrap();
    let machine = guest::idle().tpm();
    let qemu = Qemu::start(&machine, Vec::new(), guest::tcg().save_to(folder.path()))
        .await
        .unwrap();
    qemu.start_cpu().await.unwrap();
    taken(&qemu).await;
    qemu.save(LONG).await.unwrap();
    qemu.quit(LONG).await.unwrap();
    let options = guest::tcg().restore_from(folder.path());
    let qemu = Qemu::start(&machine, Vec::new(), options).await.unwrap();
    qemu.restore(LONG).await.unwrap();
    // Still taken, though no firmware has run here.
    taken(&qemu).await;
    qemu.start_cpu().await.unwrap();
    qemu.quit(LONG).await.unwrap();
}

#[test]
fn says_which_package_it_is_in() {
    const HERE: &str = "ALPY_TEST_WITHOUT_SWTPM";
    if std::env::var_os(HERE).is_some() {
        let error = guest::idle().tpm().check().unwrap_err();
        assert_eq!(
            error.to_string(),
            "swtpm, which emulates the machine's TPM, is not installed; remedy: sudo apt-get install swtpm"
        );
        return;
    }
    let mut again = guest::myself(
        &["env", "PATH=/nowhere"],
        "tpm::says_which_package_it_is_in",
        HERE,
        Path::new("1"),
    );
    let output = again.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
}
