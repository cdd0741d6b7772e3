// SPDX-License-Identifier: GPL-3.0-or-later
//! The proof: a guest of one boot sector.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{Accelerator, Kind};
use crate::error::{Error, Result};
use crate::memory;
use crate::process::{Launch, Process};

/// How QEMU ends when the guest writes [`MAGIC`] to the device isa-debug-exit.
const PROVEN: i32 = (MAGIC << 1) | 1;
const MAGIC: i32 = 0x2a;

/// What came of it.
#[derive(Debug)]
pub(super) enum Proof {
    /// The guest ran to its end, in this time.
    Ran(Duration),
    /// It did not, and why.
    Failed(String),
}

/// Lets the guest run, for no longer than `limit`.
///
/// Cancel safe: QEMU is killed.
pub(super) async fn run(program: &Path, kind: Kind, limit: Duration) -> Result<Proof> {
    let image = image().map_err(|source| Error::System {
        what: "make a boot disk in memory",
        source,
    })?;
    let drive = format!("if=ide,format=raw,file=/proc/self/fd/{}", image.as_raw_fd());
    let accelerator = Accelerator::new(kind, "");
    let arguments = [
        ["-no-user-config", "-nodefaults"],
        ["-display", "none"],
        ["-machine", "pc"],
        ["-accel", accelerator.name()],
        ["-m", "16M"],
        ["-device", "isa-debug-exit,iobase=0xf4,iosize=1"],
        ["-drive", &drive],
    ];
    let begin = Instant::now();
    let process = Process::start(Launch {
        program: program.to_owned(),
        arguments: arguments.concat().into_iter().map(OsString::from).collect(),
        descriptors: vec![image.into()],
        evidence: None,
    })
    .await?;
    Ok(match timeout(limit, process.wait()).await {
        Err(_) => Proof::Failed(format!("it did not end within {limit:?}")),
        Ok(status) if status.code() == Some(PROVEN) => Proof::Ran(begin.elapsed()),
        Ok(status) => {
            let stderr = process.stderr_tail();
            let last = stderr.lines().last().unwrap_or("nothing on stderr");
            Proof::Failed(format!("{status}, {last}"))
        }
    })
}

/// A disk with the boot sector on it, in a file that has no name. SeaBIOS boots from no disk that is smaller than a cylinder.
fn image() -> std::io::Result<File> {
    let mut image = memory::file(c"alpy-proof")?;
    image.write_all(&boot_sector())?;
    image.set_len(1 << 20)?;
    Ok(image)
}

fn boot_sector() -> [u8; 512] {
    let mut sector = [0; 512];
    sector[..CODE.len()].copy_from_slice(CODE);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// From real through protected to long mode, with paging, then a count that takes milliseconds on hardware and half a minute
/// where the host's KVM emulates each instruction, and the magic number to the exit device.
#[rustfmt::skip]
const CODE: &[u8] = &[
    0xfa, 0xfc, // 00 start at 0x7c00, 16 bits: cli; cld
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, // 02 ax = ds = es = ss = 0
    0xbc, 0x00, 0x7c, // 0a mov sp, 0x7c00
    0xbf, 0x00, 0x10, 0xb9, 0x00, 0x18, 0xf3, 0xab, // 0d page tables at 0x1000: mov di, 0x1000; mov cx, 0x1800; rep stosw
    0xc7, 0x06, 0x00, 0x10, 0x03, 0x20, // 15 level 4: mov word [0x1000], 0x2003
    0xc7, 0x06, 0x00, 0x20, 0x03, 0x30, // 1b level 3: mov word [0x2000], 0x3003
    0xc7, 0x06, 0x00, 0x30, 0x83, 0x00, // 21 level 2, one page of 2 MiB: mov word [0x3000], 0x83
    0x0f, 0x01, 0x16, 0xb0, 0x7c, // 27 lgdt [gdtr]
    0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, // 2c protected mode: mov eax, cr0; or al, 1; mov cr0, eax; ..
    0xea, 0x39, 0x7c, 0x08, 0x00, // 34 .. jmp 8:protected
    0x66, 0xb8, 0x10, 0x00, 0x8e, 0xd8, 0x8e, 0xd0, // 39 protected, 32 bits: mov ax, 0x10; mov ds, ax; mov ss, ax
    0xb8, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x22, 0xd8, // 41 mov eax, 0x1000; mov cr3, eax
    0x0f, 0x20, 0xe0, 0x0c, 0x20, 0x0f, 0x22, 0xe0, // 49 PAE: mov eax, cr4; or al, 0x20; mov cr4, eax
    0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32, 0x80, 0xcc, 0x01, 0x0f, 0x30, // 51 long mode: mov ecx, 0xc0000080 (EFER); rdmsr; or ah, 1; wrmsr
    0x0f, 0x20, 0xc0, 0x0d, 0x00, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0, // 5d paging: mov eax, cr0; or eax, 0x80000000; mov cr0, eax; ..
    0xea, 0x6f, 0x7c, 0x00, 0x00, 0x18, 0x00, // 68 .. jmp 0x18:long
    0xb9, 0x80, 0x96, 0x98, 0x00, 0xff, 0xc9, 0x75, 0xfc, // 6f long, 64 bits: mov ecx, 10000000; spin: dec ecx; jnz spin
    0x48, 0xb8, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x2a, // 78 mov rax, 0x2a00000000000000
    0x50, 0x58, 0x48, 0xc1, 0xe8, 0x38, // 82 push rax; pop rax; shr rax, 56
    0xe6, 0xf4, // 88 out 0xf4, al: QEMU ends
    0xf4, 0xeb, 0xfd, 0x0f, 0x1f, 0x00, // 8a halt: hlt; jmp halt; (padding)
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 90 gdt: null
    0xff, 0xff, 0x00, 0x00, 0x00, 0x9a, 0xcf, 0x00, // 98 8: 32-bit code
    0xff, 0xff, 0x00, 0x00, 0x00, 0x92, 0xcf, 0x00, // a0 0x10: data
    0x00, 0x00, 0x00, 0x00, 0x00, 0x9a, 0x20, 0x00, // a8 0x18: 64-bit code
    0x1f, 0x00, 0x90, 0x7c, 0x00, 0x00, // b0 gdtr: limit 0x1f, base gdt
];

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn succeeds_under_tcg() {
        alpy_need::need!(qemu);
        // The limit is not what is tested here: it is long for a machine that is busy.
        let proof = run(
            Path::new("qemu-system-x86_64"),
            Kind::Tcg,
            Duration::from_secs(20),
        )
        .await;
        assert!(matches!(proof, Ok(Proof::Ran(_))), "{proof:?}");
    }

    #[tokio::test]
    async fn fails_with_what_the_program_said() {
        // `false` stands for a QEMU that cannot do what is asked.
        let proof = run(Path::new("false"), Kind::Kvm, Duration::from_secs(20)).await;
        let Ok(Proof::Failed(reason)) = proof else {
            panic!("{proof:?}");
        };
        assert_eq!(reason, "exit status: 1, nothing on stderr");
    }

    #[tokio::test]
    async fn ends_with_its_limit() {
        alpy_need::need!(qemu);
        // No QEMU gets that far in a millisecond.
        let limit = Duration::from_millis(1);
        let proof = run(Path::new("qemu-system-x86_64"), Kind::Tcg, limit).await;
        let Ok(Proof::Failed(reason)) = proof else {
            panic!("{proof:?}");
        };
        assert_eq!(reason, "it did not end within 1ms");
    }
}
