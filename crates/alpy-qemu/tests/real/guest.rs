// SPDX-License-Identifier: GPL-3.0-or-later
//! The guest of these tests, and what they share.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use alpy_qemu::{Accelerator, Machine, Options};

/// Long enough for a machine that is busy with other things; nothing waits that long unless it fails.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Says `alpy` on the first serial port, writes its boot sector to the disk's second sector, and powers off.
#[rustfmt::skip]
const CODE: &[u8] = &[
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, // at 0x7c00: ax = ds = es = 0
    0xfc, 0xbe, 0x30, 0x7c,             // cld; mov si, text
    0x89, 0xd3, 0xba, 0xf8, 0x03,       // mov bx, dx (the boot drive); mov dx, 0x3f8
    0xac, 0x84, 0xc0, 0x74, 0x03,       // next: lodsb; test al, al; jz write
    0xee, 0xeb, 0xf8,                   // out dx, al; jmp next
    0x89, 0xda, 0xb6, 0x00,             // write: mov dx, bx; mov dh, 0 (head)
    0xbb, 0x00, 0x7c,                   // mov bx, 0x7c00
    0xb9, 0x02, 0x00, 0xb8, 0x01, 0x03, // mov cx, 2 (sector); mov ax, 0x301 (write one)
    0xcd, 0x13,                         // int 0x13
    0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, // mov dx, 0x604 (PM1 control); mov ax, 0x2000 (soft off)
    0xef, 0xf4, 0xeb, 0xfd,             // out dx, ax; halt: hlt; jmp halt
    b'a', b'l', b'p', b'y', b'\r', b'\n', 0,
];

/// A disk with that guest on it.
pub(crate) fn disk(folder: &Path) -> PathBuf {
    let mut image = vec![0; 1 << 20];
    image[..CODE.len()].copy_from_slice(CODE);
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    let path = folder.join("disk.img");
    fs::write(&path, image).unwrap();
    path
}

/// Says its name, and the name on the first sector of the second disk (INT 13h, drive 0x81), or `none`; and powers off.
#[rustfmt::skip]
const NAMES: &[u8] = &[
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0xfc, // at 0x7c00: ax = ds = es = 0; cld
    0xbe, 0x40, 0x7c, 0xe8, 0x23, 0x00, // mov si, name; call print
    0xbb, 0x00, 0x7e, 0xba, 0x81, 0x00, // mov bx, 0x7e00; mov dx, 0x81 (head 0, drive)
    0xb9, 0x01, 0x00, 0xb8, 0x01, 0x02, // mov cx, 1 (sector); mov ax, 0x201 (read one)
    0xcd, 0x13,                         // int 0x13
    0xbe, 0x40, 0x7e, 0x73, 0x03,       // mov si, 0x7e40 (its name); jnc there
    0xbe, 0x60, 0x7c,                   // mov si, none
    0xe8, 0x0a, 0x00,                   // there: call print
    0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, // mov dx, 0x604 (PM1 control); mov ax, 0x2000 (soft off)
    0xef, 0xf4, 0xeb, 0xfd,             // out dx, ax; halt: hlt; jmp halt
    0xba, 0xf8, 0x03,                   // print: mov dx, 0x3f8
    0xac, 0x84, 0xc0, 0x74, 0x03,       // next: lodsb; test al, al; jz done
    0xee, 0xeb, 0xf8, 0xc3,             // out dx, al; jmp next; done: ret
];

/// A boot sector with that guest of this name.
pub(crate) fn named_sector(name: &str) -> [u8; 512] {
    let mut sector = [0; 512];
    sector[..NAMES.len()].copy_from_slice(NAMES);
    let line = format!("{name}\r\n");
    sector[0x40..0x40 + line.len()].copy_from_slice(line.as_bytes());
    sector[0x60..0x66].copy_from_slice(b"none\r\n");
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// A machine without anything to boot from: it runs until somebody ends it.
pub(crate) fn idle() -> Machine {
    Machine::new().memory_mib(32)
}

pub(crate) fn tcg() -> Options {
    Options::new().accelerator(Accelerator::tcg()).start_timeout(LONG)
}

/// A handle of a process that stays its handle when the number goes to another one (pidfd_open(2)).
pub(crate) struct Watch(OwnedFd);

impl Watch {
    pub(crate) fn new(pid: u32) -> Self {
        // SAFETY: two plain numbers; the result is checked.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let descriptor = i32::try_from(descriptor).unwrap();
        assert!(descriptor >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: just made, and nobody else's.
        Self(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }

    /// Waits until the process has ended, for at most `limit`.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        let mut poll = libc::pollfd {
            fd: self.0.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let limit = i32::try_from(limit.as_millis()).unwrap();
        // SAFETY: one structure, and its count is one.
        unsafe { libc::poll(&raw mut poll, 1, limit) == 1 }
    }
}

/// Whether a process has this among its arguments.
pub(crate) fn runs_with_argument(argument: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|process| fs::read(process.ok()?.path().join("cmdline")).ok())
        .any(|line| {
            line.split(|&byte| byte == 0)
                .any(|word| word == argument.as_bytes())
        })
}

/// This test executable again, to run one of its tests alone with a variable set.
#[expect(
    clippy::disallowed_methods,
    reason = "the tests supervise what they start here"
)]
pub(crate) fn myself(wrapper: &[&str], test: &str, variable: &str, value: &Path) -> Command {
    let executable = std::env::current_exe().unwrap();
    let mut command = match wrapper {
        [] => Command::new(executable),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(executable);
            command
        }
    };
    command
        .args(["--exact", test, "--nocapture"])
        .env(variable, value);
    command
}

/// Waits for a condition that nothing announces.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    while !condition() {
        assert!(begin.elapsed() < LONG, "not within {LONG:?}: {what}");
        tick.tick().await;
    }
}
