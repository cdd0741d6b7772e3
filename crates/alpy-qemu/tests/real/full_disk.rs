// SPDX-License-Identifier: GPL-3.0-or-later
//! Disks that the host cannot write: the machine would wait, or its guest would be blamed.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use alpy_need::need;
use alpy_qemu::{Disk, DiskModel, Error, Machine, Options, Qemu};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;
use tokio::time::timeout;

use crate::guest::{self, LONG};

/// QEMU with something done before it starts.
fn qemu_after(folder: &Path, line: &str) -> PathBuf {
    let path = folder.join("qemu");
    fs::write(
        &path,
        format!("#!/bin/sh\n{line}\nexec qemu-system-x86_64 \"$@\"\n"),
    )
    .unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

/// Runs a guest that writes to its disk, and returns the error that ends it.
async fn end(machine: &Machine, options: Options, before_it_runs: impl AsyncFnOnce(&Qemu)) -> Error {
    let is_restored = format!("{options:?}").contains("Restore");
    let qemu = Qemu::start(machine, Vec::new(), options).await.unwrap();
    if is_restored {
        qemu.restore(LONG).await.unwrap();
    }
    before_it_runs(&qemu).await;
    qemu.start_cpu().await.unwrap();
    let error = timeout(LONG, qemu.unexpected_end()).await.unwrap();
    // It comes again for whoever asks later, until the machine is told to end.
    timeout(LONG, qemu.unexpected_end()).await.unwrap();
    qemu.quit(LONG).await.unwrap();
    error
}

/// The overlay cannot grow beyond a limit: QEMU gives this error to the guest.
#[tokio::test]
async fn an_overlay_that_cannot_grow_ends_the_machine_and_names_disk_cause_and_tmpdir() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let image = guest::disk(folder.path());
    // 256 KiB: enough for an empty overlay. A write that goes too far is an error and not a signal.
    let program = qemu_after(folder.path(), "trap '' XFSZ; ulimit -f 512");
    for model in [DiskModel::VirtioBlk, DiskModel::Ide] {
        let disk = Disk::new(&image).format("raw").model(model);
        let machine = Machine::new().memory_mib(32).disk(disk);
        let state = tempfile::tempdir().unwrap();
        let saved = Qemu::start(&machine, Vec::new(), guest::tcg().save_to(state.path()));
        let saved = saved.await.unwrap();
        saved.save(LONG).await.unwrap();
        saved.quit(LONG).await.unwrap();
        let machine = machine.program(&program);
        for options in [guest::tcg(), guest::tcg().restore_from(state.path())] {
            let error = end(&machine, options, async |_| ()).await;
            assert!(matches!(error, Error::DiskFailed { .. }), "{error:?}");
            let text = error.to_string();
            for part in [
                "the host cannot write disk0, the overlay of ",
                image.to_str().unwrap(),
                "File too large",
                "TMPDIR",
            ] {
                assert!(text.contains(part), "no {part:?} in {text}");
            }
        }
    }
}

/// alpy itself never plugs a disk into a running machine; a caller can.
#[tokio::test]
async fn a_disk_that_the_caller_has_plugged_in_ends_the_machine_and_is_named() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let image = guest::disk(folder.path());
    let plug = async |qemu: &Qemu| {
        // As on a full file system: 28 is ENOSPC.
        let full = json!({"event": "none", "iotype": "write", "errno": 28});
        let file = json!({"driver": "blkdebug", "node-name": "extra0", "inject-error": [full],
            "image": {"driver": "file", "filename": image}});
        let disk = json!({"driver": "virtio-blk-pci", "drive": "extra0", "id": "extra"});
        for (command, arguments) in [("blockdev-add", file), ("device_add", disk)] {
            qemu.qmp().execute_raw(command, arguments).await.unwrap();
        }
    };
    let error = end(&guest::idle(), guest::tcg(), plug).await;
    let text = error.to_string();
    for part in ["the host cannot write extra0", "No space left on device (ENOSPC)"] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

/// Only root can mount a small file system. xtask leaves tests in a module of this name out for anybody else.
mod as_root {
    use super::*;

    /// The file system of the overlay is full: QEMU stops the machine.
    #[tokio::test]
    async fn an_overlay_on_a_full_file_system_ends_the_machine_and_names_enospc() {
        need!(root, qemu);
        let folder = tempfile::tempdir().unwrap();
        let image = guest::disk(folder.path());
        let small = Small::mount(folder.path().join("small"));
        let line = format!("export TMPDIR={}", small.0.display());
        let machine = Machine::new()
            .memory_mib(32)
            .program(qemu_after(folder.path(), &line))
            .disk(Disk::new(&image).format("raw"));
        let text = end(&machine, guest::tcg(), async |_| small.fill())
            .await
            .to_string();
        for part in [
            "the host cannot write disk0",
            "No space left on device (ENOSPC)",
            "remedy: free space there, or set TMPDIR",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
    }

    /// A file system of 1 MiB, until it is dropped.
    struct Small(PathBuf);

    impl Small {
        fn mount(folder: PathBuf) -> Self {
            fs::create_dir(&folder).unwrap();
            let (source, size) = (Some("none"), Some("size=1048576"));
            mount(source, &folder, Some("tmpfs"), MsFlags::empty(), size).unwrap();
            Self(folder)
        }

        /// Leaves no room in it.
        fn fill(&self) {
            let mut file = fs::File::create(self.0.join("filler")).unwrap();
            while file.write_all(&[1; 4096]).is_ok() {}
        }
    }

    impl Drop for Small {
        fn drop(&mut self) {
            umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
        }
    }
}
