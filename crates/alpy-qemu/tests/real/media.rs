// SPDX-License-Identifier: GPL-3.0-or-later
//! What a machine boots from: images of several formats, which stay as they are, or are missed before QEMU starts.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use alpy_need::need;
use alpy_qemu::{Disk, DiskModel, Error, Identity, Machine, Qemu, checksum, fingerprint};

use crate::guest;
use crate::life::whole_life;

/// Runs `qemu-img` in a folder.
#[expect(clippy::disallowed_methods, reason = "it is waited for at once")]
fn qemu_img(folder: &Path, arguments: &str) {
    let output = std::process::Command::new("qemu-img")
        .current_dir(folder)
        .args(arguments.split(' '))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// A raw image with a guest that says its name.
pub(crate) fn named(folder: &Path, name: &str) -> PathBuf {
    let mut image = guest::named_sector(name).to_vec();
    image.resize(1 << 20, 0);
    let path = folder.join(name);
    fs::write(&path, image).unwrap();
    path
}

/// A CD with a guest that says its name (El Torito specification 1.0, no emulation).
fn bootable_cd(folder: &Path, name: &str) -> PathBuf {
    const SECTOR: usize = 2048;
    let mut image = vec![0; 64 * SECTOR];
    let mut write = |sector: usize, at: usize, bytes: &[u8]| {
        let at = sector * SECTOR + at;
        image[at..at + bytes.len()].copy_from_slice(bytes);
    };
    write(16, 0, b"\x01CD001\x01");
    write(17, 0, b"\x00CD001\x01EL TORITO SPECIFICATION");
    write(17, 0x47, &[19]);
    write(18, 0, b"\xffCD001\x01");
    // The validation entry, whose words are 0 in sum; and the entry of what is booted: one sector of 512 bytes.
    write(19, 0, &[1]);
    write(19, 28, &[0xaa, 0x55, 0x55, 0xaa]);
    write(19, 32, &[0x88, 0, 0, 0, 0, 0, 1, 0, 20]);
    write(20, 0, &guest::named_sector(name));
    let path = folder.join(name);
    fs::write(&path, image).unwrap();
    path
}

#[tokio::test]
async fn boots_from_every_format_and_writes_to_none() {
    need!(qemu, qemu_img);
    let folder = tempfile::tempdir().unwrap();
    let raw = guest::disk(folder.path());
    qemu_img(folder.path(), "convert -f raw -O qcow2 disk.img alone.qcow2");
    qemu_img(
        folder.path(),
        "create -q -f qcow2 -b disk.img -F raw overlay.qcow2",
    );
    let [alone, overlay] = ["alone.qcow2", "overlay.qcow2"].map(|name| folder.path().join(name));
    let cd = bootable_cd(folder.path(), "cd");
    let files = [&raw, &alone, &overlay, &cd];
    // Nothing here asks for more than to read.
    for file in files {
        fs::set_permissions(file, Permissions::from_mode(0o444)).unwrap();
    }
    fs::set_permissions(folder.path(), Permissions::from_mode(0o555)).unwrap();
    let before = files.map(|file| (checksum(file).unwrap(), Identity::of(file).unwrap()));
    // The guest on the disks writes to their second sector.
    for machine in [
        Machine::new().disk(Disk::new(&raw)),
        Machine::new().disk(Disk::new(&raw).format("raw").model(DiskModel::Ide)),
        Machine::new().disk(Disk::new(&alone)),
        Machine::new().disk(Disk::new(&overlay).format("qcow2")),
    ] {
        assert_eq!(whole_life(&machine).await, "alpy\r\n", "{machine:?}");
    }
    assert_eq!(whole_life(&Machine::new().cdrom(&cd)).await, "cd\r\nnone\r\n");
    // Which file it is, its size, its times.
    let after = files.map(|file| (checksum(file).unwrap(), Identity::of(file).unwrap()));
    assert_eq!(after, before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), files.len());
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn the_first_disk_is_the_first_whatever_its_model() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (named(folder.path(), "first"), named(folder.path(), "second"));
    let disk = |path: &Path, model| Disk::new(path).format("raw").model(model);
    let (ide, virtio) = (DiskModel::Ide, DiskModel::VirtioBlk);
    for (machine_type, models) in [
        ("pc", [ide, virtio]),
        ("pc", [virtio, ide]),
        ("pc", [ide, ide]),
        ("pc", [virtio, virtio]),
        ("q35", [virtio, ide]),
        ("q35", [ide, ide]),
    ] {
        let machine = Machine::new()
            .machine_type(machine_type)
            .disk(disk(&first, models[0]))
            .disk(disk(&second, models[1]))
            .cdrom(bootable_cd(folder.path(), "cd"));
        assert_eq!(
            whole_life(&machine).await,
            "first\r\nsecond\r\n",
            "{machine_type} {models:?}"
        );
    }
}

#[tokio::test]
async fn boots_from_the_cd_where_the_disks_are_empty() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    fs::write(&empty, vec![0; 1 << 20]).unwrap();
    let cd = bootable_cd(folder.path(), "cd");
    let second = named(folder.path(), "second");
    let machine = Machine::new()
        .disk(Disk::new(&empty).format("raw"))
        .disk(Disk::new(&second).format("raw"))
        .cdrom(cd);
    assert_eq!(whole_life(&machine).await, "cd\r\nsecond\r\n");
}

#[tokio::test]
async fn names_a_file_that_is_missing() {
    need!(qemu, qemu_img);
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent");
    let base = guest::disk(folder.path());
    qemu_img(
        folder.path(),
        "create -q -f qcow2 -b disk.img -F raw overlay.qcow2",
    );
    let overlay = folder.path().join("overlay.qcow2");
    fs::remove_file(&base).unwrap();
    let firmware = |code: &Path, variables: &Path| alpy_qemu::Firmware::Uefi {
        code: code.into(),
        variables: variables.into(),
    };
    for (machine, what, path) in [
        (Machine::new().kernel(&absent), "kernel", &absent),
        (Machine::new().initrd(&absent), "initrd", &absent),
        (Machine::new().cdrom(&absent), "CD image", &absent),
        (
            Machine::new().firmware(firmware(&overlay, &absent)),
            "firmware",
            &absent,
        ),
        (Machine::new().disk(Disk::new(&absent)), "disk image", &absent),
        (
            Machine::new().disk(Disk::new(&overlay)),
            &format!("backing file of the disk image {}", overlay.display()),
            &base,
        ),
    ] {
        // No program either: QEMU is not asked.
        let machine = machine.program("/no/such/qemu");
        let error = Qemu::start(&machine, Vec::new(), guest::tcg()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "the {what} {} is not there; remedy: create it, or correct its path",
                path.display()
            )
        );
        let error = fingerprint(
            &machine,
            &[],
            &alpy_qemu::Accelerator::tcg(),
            &folder.path().join("m"),
        );
        assert!(matches!(error, Err(Error::ImageMissing { .. })), "{error:?}");
    }
    // A relative path is told from the root.
    let error = Machine::new().kernel("no/such/kernel").check().unwrap_err();
    let full = std::env::current_dir().unwrap().join("no/such/kernel");
    assert!(error.to_string().contains(&full.display().to_string()), "{error}");
}

#[test]
fn a_qcow2_image_is_not_taken_for_a_raw_one() {
    need!(qemu_img);
    let folder = tempfile::tempdir().unwrap();
    qemu_img(folder.path(), "create -q -f qcow2 disk.qcow2 1M");
    let image = folder.path().join("disk.qcow2");
    let error = Machine::new().disk(Disk::new(&image).format("raw")).check();
    assert!(matches!(error, Err(Error::ImageFormat { .. })), "{error:?}");
    for disk in [Disk::new(&image), Disk::new(&image).format("qcow2")] {
        Machine::new().disk(disk).check().unwrap();
    }
    fs::write(&image, "QFI").unwrap();
    let short = Machine::new().disk(Disk::new(&image).format("raw"));
    short.check().unwrap();
}

#[test]
fn names_a_file_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let file = guest::disk(folder.path());
    let circle = folder.path().join("circle");
    std::os::unix::fs::symlink(&circle, &circle).unwrap();
    let mut cases = vec![
        (Disk::new(&circle), "read"),
        (Disk::new(folder.path()), "read"),
        (Disk::new(file.join("below")), "read"),
    ];
    // Nothing is forbidden to root.
    if !nix::unistd::geteuid().is_root() {
        let secret = folder.path().join("secret");
        fs::copy(&file, &secret).unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o444)).unwrap();
        cases.push((Disk::new(secret), "read"));
        cases.push((Disk::new(&file).persistent(), "written to"));
    }
    for (disk, mode) in cases {
        let error = Machine::new().disk(disk.clone()).check().unwrap_err();
        assert!(std::error::Error::source(&error).is_some());
        let text = error.to_string();
        assert!(text.contains(&format!("cannot be {mode}; remedy: ")), "{text}");
        assert!(text.starts_with("the disk image /"), "{text}");
    }
    Machine::new().disk(Disk::new(&file)).check().unwrap();
}
