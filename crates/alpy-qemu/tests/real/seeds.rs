// SPDX-License-Identifier: GPL-3.0-or-later
//! What a cloud image is told: read by others than alpy, and seen by a guest.

use std::fs;

use alpy_need::need;
use alpy_qemu::{Disk, DiskModel, Machine, Qemu, Seed};

use crate::guest::{self, LONG};
use crate::life::whole_life;

const USER_DATA: &str = "#cloud-config\npassword: alpy\n";
const NETWORK: &str = "version: 2\nethernets: {}\n";

/// One with all kinds of files, one of which needs more than a sector.
fn seed() -> (Seed, [(&'static str, String); 4]) {
    let vendor = "#!/bin/sh\n".to_owned() + &"true\n".repeat(1000);
    let seed = Seed::new("id: \"1\"")
        .local_hostname("router")
        .user_data(USER_DATA)
        .network_config(NETWORK)
        .vendor_data(&vendor);
    let files = [
        (
            "meta-data",
            "instance-id: \"id: \\\"1\\\"\"\nlocal-hostname: \"router\"\n".to_owned(),
        ),
        ("network-config", NETWORK.to_owned()),
        ("user-data", USER_DATA.to_owned()),
        ("vendor-data", vendor),
    ];
    (seed, files)
}

/// What a program says, if it ends well.
#[expect(clippy::disallowed_methods, reason = "it is waited for at once")]
fn output(program: &str, arguments: &[&str]) -> String {
    // Where Debian has blkid, which a user's PATH does not name.
    let path = std::env::var("PATH").unwrap() + ":/usr/sbin";
    let output = std::process::Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn others_find_label_names_and_contents() {
    need!(isoinfo, blkid);
    let folder = tempfile::tempdir().unwrap();
    let (seed, files) = seed();
    let iso = folder.path().join("seed.iso");
    fs::write(&iso, seed.iso()).unwrap();
    let iso = iso.to_str().unwrap();
    // cloud-init looks for it by what blkid says.
    let found = output("blkid", &["-p", "-o", "export", iso]);
    for line in ["LABEL=cidata", "TYPE=iso9660"] {
        assert!(found.lines().any(|text| text == line), "{found}");
    }
    let found = output("isoinfo", &["-d", "-i", iso]);
    for line in [
        "Joliet with UCS level 3 found",
        "Rock Ridge signatures version 1 found",
    ] {
        assert!(found.lines().any(|text| text == line), "{found}");
    }
    for names in ["-R", "-J"] {
        let listed = output("isoinfo", &[names, "-f", "-i", iso]);
        let expected: Vec<_> = files.iter().map(|(name, _)| format!("/{name}")).collect();
        assert_eq!(listed.lines().collect::<Vec<_>>(), expected, "{names}");
        for (name, content) in &files {
            let read = output("isoinfo", &[names, "-x", &format!("/{name}"), "-i", iso]);
            assert_eq!(read, *content, "{names} {name}");
        }
    }
    // Without either, the names are short.
    let read = output("isoinfo", &["-x", "/USER.;1", "-i", iso]);
    assert_eq!(read, USER_DATA);
}

#[tokio::test]
async fn a_guest_reads_it_and_boots_from_its_disk() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    // The guest of two disks reads the second one's volume descriptor: sector 64, which is head 1, sector 2.
    let mut sector = guest::named_sector("first");
    assert_eq!(sector[0x10..0x16], [0xba, 0x81, 0x00, 0xb9, 0x01, 0x00]);
    sector[0x12] = 1;
    sector[0x14] = 2;
    // The label.
    assert_eq!(sector[0x1b..0x1d], [0xbe, 0x40]);
    sector[0x1c] = 40;
    let disk = folder.path().join("disk");
    let mut image = sector.to_vec();
    image.resize(1 << 20, 0);
    fs::write(&disk, image).unwrap();
    for model in [DiskModel::VirtioBlk, DiskModel::Ide] {
        let machine = Machine::new()
            .disk(Disk::new(&disk).format("raw").model(model))
            .seed(Seed::new("1").user_data(USER_DATA));
        let said = whole_life(&machine).await;
        assert_eq!(said.trim_end(), "first\r\ncidata", "{model:?}");
    }
}

/// xtask leaves tests in a module of this name out for anybody but root.
mod as_root {
    use super::*;

    #[test]
    fn a_guest_reads_it_where_files_in_memory_are_not_executed() {
        need!(root, memfd_noexec, qemu);
        alpy_need::again_with_memfd_noexec("seeds::a_guest_reads_it_and_boots_from_its_disk");
    }
}

#[tokio::test]
async fn it_is_in_a_drive_too_and_leaves_no_file() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let options = guest::tcg().evidence(folder.path());
    let cd = folder.path().join("cd");
    fs::write(&cd, vec![0; 1 << 16]).unwrap();
    for machine_type in ["pc", "q35"] {
        let machine = guest::idle()
            .machine_type(machine_type)
            .cdrom(&cd)
            .seed(Seed::new("1").cdrom());
        let qemu = Qemu::start(&machine, Vec::new(), options.clone()).await.unwrap();
        let blocks = qemu
            .qmp()
            .execute_raw("query-block", serde_json::json!(null))
            .await;
        let blocks = blocks.unwrap();
        let seed = blocks
            .as_array()
            .unwrap()
            .iter()
            .find(|block| block["device"] == "seed0")
            .unwrap();
        assert_eq!(seed["inserted"]["ro"], true, "{seed}");
        assert!(seed["tray_open"].is_boolean(), "no CD drive: {seed}");
        // In QEMU it is a file that has no name any more.
        let open: Vec<_> = fs::read_dir(format!("/proc/{}/fd", qemu.pid()))
            .unwrap()
            .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
            .filter(|target| target.to_string_lossy().contains("alpy-seed"))
            .collect();
        assert!(!open.is_empty());
        assert!(open.iter().all(|target| !target.exists()), "{open:?}");
        qemu.quit(LONG).await.unwrap();
    }
}

#[tokio::test]
async fn a_saved_state_goes_on_with_it() {
    need!(qemu);
    let folder = tempfile::tempdir().unwrap();
    let machine = guest::idle().seed(Seed::new("1").cdrom());
    let qemu = Qemu::start(&machine, Vec::new(), guest::tcg().save_to(folder.path()))
        .await
        .unwrap();
    qemu.start_cpu().await.unwrap();
    qemu.save(LONG).await.unwrap();
    qemu.quit(LONG).await.unwrap();
    let options = guest::tcg().restore_from(folder.path());
    let qemu = Qemu::start(&machine, Vec::new(), options).await.unwrap();
    qemu.restore(LONG).await.unwrap();
    qemu.start_cpu().await.unwrap();
    qemu.quit(LONG).await.unwrap();
}
