// SPDX-License-Identifier: GPL-3.0-or-later
//! Secure boot: a program that nobody has signed does not run.

use std::fs;
use std::path::Path;
use std::time::Duration;

use alpy_need::need;
use alpy_qemu::{Error, Firmware, Machine, Qemu, checksum};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::guest::{self, LONG};

const SAYS: &str = "alpy, unsigned";

/// A program for UEFI (PE32+) that says so on the first serial port, and halts. Nobody has signed it.
#[rustfmt::skip]
fn program() -> Vec<u8> {
    let mut image = vec![0; 0x400];
    let mut write = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    write(0, b"MZ");
    write(0x3c, &[0x40]);
    write(0x40, b"PE\0\0\x64\x86\x01\0");     // for x86-64, with one section
    write(0x54, &[0xf0, 0, 0x22, 0]);           // the optional header's size; executable, large addresses
    write(0x58, &[0x0b, 0x02]);                 // PE32+
    write(0x68, &0x1000_u32.to_le_bytes());     // the entry
    write(0x6c, &0x1000_u32.to_le_bytes());     // the code
    write(0x78, &0x1000_u32.to_le_bytes());     // alignment of sections, and in the file
    write(0x7c, &0x200_u32.to_le_bytes());
    write(0x90, &0x2000_u32.to_le_bytes());     // size of the image, and of the headers
    write(0x94, &0x200_u32.to_le_bytes());
    write(0x9c, &[10]);                         // an EFI application
    write(0xc4, &[16]);                         // directories, all empty
    write(0x148, b".text\0\0\0");
    write(0x150, &0x200_u32.to_le_bytes());     // its size and place in memory, and in the file
    write(0x154, &0x1000_u32.to_le_bytes());
    write(0x158, &0x200_u32.to_le_bytes());
    write(0x15c, &0x200_u32.to_le_bytes());
    write(0x16c, &0x6000_0020_u32.to_le_bytes());
    write(0x200, &[
        0x48, 0x8d, 0x35, 0x11, 0, 0, 0,        // lea rsi, [rip + 0x11]
        0xba, 0xf8, 0x03, 0, 0, 0xfc,           // mov edx, 0x3f8; cld
        0xac, 0x84, 0xc0, 0x74, 0x03,           // next: lodsb; test al, al; jz halt
        0xee, 0xeb, 0xf8, 0xf4, 0xeb, 0xfd,     // out dx, al; jmp next; halt: hlt; jmp halt
    ]);
    write(0x218, SAYS.as_bytes());
    image
}

/// A machine with that program as what UEFI boots, on a disk that QEMU makes of a folder.
fn machine(folder: &Path, firmware: Firmware) -> Machine {
    let boot = folder.join("EFI/BOOT");
    fs::create_dir_all(&boot).unwrap();
    fs::write(boot.join("BOOTX64.EFI"), program()).unwrap();
    let drive = format!(
        "id=efi,if=none,format=raw,readonly=on,file=fat:{}",
        folder.display()
    );
    Machine::new()
        .machine_type("q35")
        .memory_mib(256)
        .firmware(firmware)
        .extra_arguments(["-drive", &drive, "-device", "virtio-blk-pci,drive=efi"])
}

/// Runs a machine until its console has said one of these.
async fn says(machine: &Machine, ends: &[&str]) -> String {
    let mut qemu = Qemu::start(machine, Vec::new(), guest::tcg()).await.unwrap();
    let mut console = qemu.take_console().unwrap();
    qemu.start_cpu().await.unwrap();
    let mut said = Vec::new();
    let text = |said: &[u8]| String::from_utf8_lossy(said).into_owned();
    let reading = async {
        while !ends.iter().any(|end| text(&said).contains(end)) {
            assert_ne!(console.read_buf(&mut said).await.unwrap(), 0, "{}", text(&said));
        }
    };
    let limit = Duration::from_secs(180);
    if timeout(limit, reading).await.is_err() {
        panic!("none of {ends:?} within {limit:?}: {}", text(&said));
    }
    qemu.quit(LONG).await.unwrap();
    text(&said)
}

#[tokio::test]
async fn refuses_a_program_that_uefi_without_it_runs() {
    need!(qemu, ovmf, ovmf_secure_boot);
    let folder = tempfile::tempdir().unwrap();
    let (uefi, secure) = (Firmware::uefi().unwrap(), Firmware::secure_boot().unwrap());
    let Firmware::SecureBoot { variables, .. } = &secure else {
        panic!("expected secure boot, saw {secure:?}");
    };
    let before = checksum(variables).unwrap();
    const REFUSED: &str = "Access Denied";
    let said = says(&machine(folder.path(), uefi), &[SAYS, REFUSED]).await;
    assert!(said.contains(SAYS), "{said}");
    let said = says(&machine(folder.path(), secure.clone()), &[SAYS, REFUSED]).await;
    assert!(said.contains(REFUSED), "{said}");
    assert_eq!(
        checksum(variables).unwrap(),
        before,
        "the variables were written to"
    );
}

#[tokio::test]
async fn refuses_a_machine_without_smm() {
    need!(ovmf_secure_boot);
    for machine_type in ["pc", "q35,smm=off"] {
        let machine = Machine::new()
            .machine_type(machine_type)
            .firmware(Firmware::secure_boot().unwrap());
        let error = Qemu::start(&machine, Vec::new(), guest::tcg()).await.unwrap_err();
        assert!(matches!(error, Error::NoSecureBoot { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            format!(
                "secure boot needs SMM, and so the machine type q35, but this machine is of type {machine_type}; remedy: \
                 machine_type(\"q35\")"
            )
        );
    }
}
