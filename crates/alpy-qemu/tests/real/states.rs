// SPDX-License-Identifier: GPL-3.0-or-later
//! A machine that is saved and restored.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use alpy_need::need;
use alpy_qemu::{
    Accelerator, Backend, Disk, DiskModel, Error, Machine, Nic, Qemu, Recipe, Seed, fingerprint,
};
use alpy_qmp::ErrorClass;
use alpy_qmp::commands::{HumanMonitorCommand, QueryStatus};
use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::guest::{self, LONG};

/// The guest of these tests, after it has written its boot sector to the second sector and powered off; saved into a folder.
async fn saved(machine: &Machine, folder: &Path) {
    let nics = vec![Nic::new(Backend::Nowhere), Nic::new(Backend::Nowhere)];
    let qemu = Qemu::start(machine, nics, guest::tcg().save_to(folder))
        .await
        .unwrap();
    qemu.start_cpu().await.unwrap();
    qemu.wait_stopped(LONG).await.unwrap();
    qemu.save(LONG).await.unwrap();
    qemu.quit(LONG).await.unwrap();
}

async fn restored(machine: &Machine, folder: &Path, evidence: &Path) -> Qemu {
    let nics = vec![Nic::new(Backend::Nowhere), Nic::new(Backend::Nowhere)];
    let qemu = Qemu::start(
        machine,
        nics,
        guest::tcg().restore_from(folder).evidence(evidence),
    )
    .await
    .unwrap();
    qemu.restore(LONG).await.unwrap();
    qemu
}

async fn monitor(qemu: &Qemu, line: &str) -> String {
    let command_line = line.to_owned();
    qemu.qmp()
        .execute(HumanMonitorCommand { command_line })
        .await
        .unwrap()
}

/// Has QEMU write to the disks of a restored machine before its CPUs start. From QEMU 10 on they are inactive until then.
async fn activate_disks(qemu: &Qemu) {
    let activate = qemu
        .qmp()
        .execute_raw("blockdev-set-active", json!({"active": true}));
    match activate.await {
        Err(alpy_qmp::Error::Server(error)) if error.class == ErrorClass::CommandNotFound => {}
        result => drop(result.unwrap()),
    }
}

/// All files of a folder, with their content.
fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn memory_and_disk_are_as_they_were_and_the_image_and_the_state_are_not_written() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let disk = guest::disk(folder.path());
    // It ends within a sector.
    File::options()
        .write(true)
        .open(&disk)
        .unwrap()
        .set_len((1 << 20) - 24)
        .unwrap();
    let image = fs::read(&disk).unwrap();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    let machine = Machine::new().memory_mib(32).disk(Disk::new(&disk).format("raw"));
    saved(&machine, &state).await;
    assert!(fs::read(&disk).unwrap() == image, "the image was written to");
    let before = content(&state);
    // The same content somewhere else is as good: the path is no part of a state.
    let moved = folder.path().join("moved.img");
    fs::rename(&disk, &moved).unwrap();
    let machine = Machine::new()
        .memory_mib(32)
        .disk(Disk::new(&moved).format("raw"));
    for _ in 0..2 {
        let qemu = restored(&machine, &state, folder.path()).await;
        assert!(!qemu.qmp().execute(QueryStatus).await.unwrap().running);
        // The boot sector, where it was loaded to: `xor ax, ax; mov ds, ax`.
        let memory = monitor(&qemu, "xp /4xb 0x7c00").await;
        assert!(memory.contains("0x31 0xc0 0x8e 0xd8"), "{memory}");
        // What the guest has written, and what somebody writes now, which the next one does not see.
        activate_disks(&qemu).await;
        monitor(&qemu, "qemu-io disk0 \"read -P 0x31 512 1\"").await;
        monitor(&qemu, "qemu-io disk0 \"write -P 0x77 512 512\"").await;
        qemu.quit(LONG).await.unwrap();
        let said = fs::read_to_string(folder.path().join("qemu-stdout.log")).unwrap();
        assert!(
            said.contains("read 1/1 bytes") && !said.contains("verification failed"),
            "{said}"
        );
        assert!(said.contains("wrote 512/512 bytes"), "{said}");
    }
    assert!(content(&state) == before, "the state was written to");
    assert!(fs::read(&moved).unwrap() == image, "the image was written to");
}

#[tokio::test]
async fn goes_on_where_it_was_and_needs_its_folder_no_more() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::new()
        .memory_mib(32)
        .disk(Disk::new(guest::disk(folder.path())).format("raw"));
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    // Saved before its first instruction: all that it says is said by the restored one.
    let qemu = Qemu::start(&machine, Vec::new(), guest::tcg().save_to(&state))
        .await
        .unwrap();
    qemu.save(LONG).await.unwrap();
    qemu.quit(LONG).await.unwrap();
    let mut qemu = Qemu::start(&machine, Vec::new(), guest::tcg().restore_from(&state))
        .await
        .unwrap();
    qemu.restore(LONG).await.unwrap();
    fs::remove_dir_all(&state).unwrap();
    let mut console = qemu.take_console().unwrap();
    qemu.start_cpu().await.unwrap();
    qemu.wait_stopped(LONG).await.unwrap();
    qemu.quit(LONG).await.unwrap();
    let mut said = String::new();
    console.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "alpy\r\n");
}

#[tokio::test]
async fn uses_nothing_that_this_qemu_calls_deprecated() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let disk = guest::disk(folder.path());
    let machine = Machine::new()
        .memory_mib(32)
        .disk(Disk::new(&disk).format("raw"))
        .disk(Disk::new(&disk).format("raw").model(DiskModel::Ide))
        .cdrom(&disk)
        .seed(Seed::new("deprecated"))
        .network_boot();
    let nics = || vec![Nic::new(Backend::Nowhere).capture(folder.path().join("link0.pcap"))];
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    let saved = Qemu::start(&machine, nics(), guest::tcg().save_to(&state))
        .await
        .unwrap();
    saved.save(LONG).await.unwrap();
    saved.quit(LONG).await.unwrap();
    let restored = Qemu::start(&machine, nics(), guest::tcg().restore_from(&state))
        .await
        .unwrap();
    restored.restore(LONG).await.unwrap();
    restored.start_cpu().await.unwrap();
    restored.plug_nic(Nic::new(Backend::Nowhere)).await.unwrap();
    restored.quit(LONG).await.unwrap();
    for said in [saved, restored].map(|qemu| qemu.stderr_tail()) {
        assert!(!said.contains("deprecated"), "{said}");
    }
}

#[tokio::test]
async fn a_state_of_another_machine_does_not_load() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::new()
        .memory_mib(32)
        .disk(Disk::new(guest::disk(folder.path())).format("raw"));
    saved(&machine, folder.path()).await;
    // One network interface less.
    let nics = vec![Nic::new(Backend::Nowhere)];
    let options = guest::tcg().restore_from(folder.path());
    let qemu = Qemu::start(&machine, nics, options).await.unwrap();
    let error = qemu.restore(LONG).await.unwrap_err();
    assert!(
        matches!(error, Error::Exited { .. } | Error::State { .. }),
        "{error}"
    );
}

#[test]
fn everything_that_shapes_the_guest_is_in_the_fingerprint() {
    need!(qemu, swtpm);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let (kernel, initrd, disk) = (file("kernel", "k"), file("initrd", "i"), file("disk", "d"));
    let memory = folder.path().join("checksums");
    let tcg = Accelerator::tcg();
    let machine = || {
        Machine::new()
            .kernel(&kernel)
            .initrd(&initrd)
            .append("quiet")
            .disk(Disk::new(&disk).format("raw"))
            .saved_state(Recipe::new("r").expect("login: "))
    };
    let of = |machine: &Machine, macs: &[[u8; 6]]| {
        let nics: Vec<_> = macs
            .iter()
            .map(|mac| Nic::new(Backend::Nowhere).mac(*mac))
            .collect();
        fingerprint(machine, &nics, &tcg, &memory).unwrap()
    };
    let first = of(&machine(), &[[2; 6]]);
    assert_eq!(of(&machine(), &[[2; 6]]), first);
    let wrapper = file("qemu", "#!/bin/sh\nexec qemu-system-x86_64 \"$@\"\n");
    let others = [
        of(&machine(), &[]),
        of(&machine(), &[[3; 6]]),
        of(&machine(), &[[2; 6], [2; 6]]),
        of(&machine().memory_mib(7), &[[2; 6]]),
        of(&machine().cpus(2), &[[2; 6]]),
        of(&machine().append("debug"), &[[2; 6]]),
        of(&machine().kernel(&initrd), &[[2; 6]]),
        of(&machine().tpm(), &[[2; 6]]),
        of(&machine().seed(Seed::new("a")), &[[2; 6]]),
        of(&machine().seed(Seed::new("b")), &[[2; 6]]),
        of(&machine().seed(Seed::new("b").cdrom()), &[[2; 6]]),
        of(&machine().program(&wrapper), &[[2; 6]]),
        of(&machine().disk(Disk::new(&disk)), &[[2; 6]]),
        of(
            &machine().extra_arguments(["-device", "virtio-balloon"]),
            &[[2; 6]],
        ),
        of(
            &machine().saved_state(Recipe::new("r").expect("login:")),
            &[[2; 6]],
        ),
    ];
    for (index, other) in others.iter().enumerate() {
        assert_ne!(*other, first, "{index}");
    }
    assert_eq!(HashSet::from(others.clone()).len(), others.len());
    // The content counts, and the place does not.
    let copy = folder.path().join("copy");
    fs::copy(&kernel, &copy).unwrap();
    assert_eq!(of(&machine().kernel(&copy), &[[2; 6]]), first);
    for path in [&kernel, &initrd, &disk] {
        let before = of(&machine(), &[[2; 6]]);
        fs::write(path, "x").unwrap();
        assert_ne!(of(&machine(), &[[2; 6]]), before, "{}", path.display());
    }
    // So does that of a file in an extra argument, and that of a backing file.
    let extra = file("extra", "e");
    let with = || machine().extra_arguments([format!("-fw_cfg=opt/x,file={}", extra.display())]);
    let before = of(&with(), &[]);
    fs::write(&extra, "f").unwrap();
    assert_ne!(of(&with(), &[]), before);
    let mut overlay = vec![0; 512];
    overlay[..4].copy_from_slice(b"QFI\xfb");
    overlay[7] = 2;
    overlay[15] = 200;
    overlay[19] = 4;
    overlay[200..204].copy_from_slice(b"disk");
    let top = folder.path().join("top.qcow2");
    fs::write(&top, overlay).unwrap();
    let with = || Machine::new().disk(Disk::new(&top));
    let before = of(&with(), &[]);
    fs::write(&disk, "another").unwrap();
    assert_ne!(of(&with(), &[]), before);
}

#[test]
fn refuses_a_machine_whose_disks_would_not_be_in_the_state() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let disk = guest::disk(folder.path());
    let vmdk = folder.path().join("disk.vmdk");
    fs::write(&vmdk, "KDMV and more").unwrap();
    for (machine, part) in [
        (
            Machine::new().disk(Disk::new(&disk).persistent()),
            "a persistent disk",
        ),
        (Machine::new().extra_arguments(["-drive", "x"]), "argument -drive"),
        (Machine::new().disk(Disk::new(&vmdk)), "format vmdk"),
    ] {
        let error = fingerprint(&machine, &[], &Accelerator::tcg(), &folder.path().join("m")).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}
