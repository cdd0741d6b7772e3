// SPDX-License-Identifier: GPL-3.0-or-later
//! What a test needs of the machine it runs on, said out loud.
//!
//! A test of the real tier begins with [`need!`]. Where the machine has what is named, nothing happens. Where it has not, the
//! reason is printed and the test returns; with `ALPY_REQUIRE=all` in the environment, as in CI, it fails instead, so that a
//! skip never counts as a pass there.
//!
//! ```
//! # fn main() {
//! alpy_need::need!(ip);
//! // from here on, `ip` is in PATH
//! # }
//! ```

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns from the enclosing test, saying why, unless this machine has everything named.
///
/// The names are the functions of this crate: `need!(qemu, docker, tun)`. A test that returns a `Result` gives the value to
/// return after an arrow: `need!(docker => Ok(()))`.
#[macro_export]
macro_rules! need {
    ($($what:ident),+ $(,)?) => { $crate::need!($($what),+ => ()) };
    ($($what:ident),+ => $skipped:expr) => {
        $(if let Err(reason) = $crate::$what() {
            $crate::skip(stringify!($what), &reason);
            return $skipped;
        })+
    };
}

/// The variable with the name of a file to which [`skip`] appends a line, so that the program that runs the tests need not search their
/// output: the id of the process, a blank, and the reason.
pub const SKIPS: &str = "ALPY_SKIPS";

/// Says that a test is skipped.
///
/// # Panics
/// With `ALPY_REQUIRE=all` in the environment: there, a test that cannot run is a test that fails. If the file that [`SKIPS`] names cannot
/// be written: the test would count as passed.
pub fn skip(what: &str, reason: &str) {
    let message = format!("this test needs {what}, and {reason}");
    assert!(
        env::var("ALPY_REQUIRE").as_deref() != Ok("all"),
        "{message} (ALPY_REQUIRE=all)"
    );
    eprintln!("SKIPPED: {message}");
    if let Some(file) = env::var_os(SKIPS) {
        // One write, so that lines of several processes do not mix.
        let note = format!("{} {}\n", std::process::id(), message.replace('\n', " "));
        let noted = fs::File::options()
            .append(true)
            .open(&file)
            .and_then(|mut file| file.write_all(note.as_bytes()));
        noted.unwrap_or_else(|error| panic!("{SKIPS}={}: {error}", Path::new(&file).display()));
    }
}

/// What a check answers: nothing, or why this machine lacks the thing.
pub type Check = Result<(), String>;

/// That root runs the test.
pub fn root() -> Check {
    let user = fs::metadata("/proc/self").map(|process| process.uid());
    match user {
        Ok(0) => Ok(()),
        _ => Err("somebody else runs it; remedy: sudo".to_owned()),
    }
}

/// A kernel that can forbid to execute what is in memory alone, and namespaces in which root can try it.
pub fn memfd_noexec() -> Check {
    fs::metadata("/proc/sys/vm/memfd_noexec")
        .map_err(|error| format!("/proc/sys/vm/memfd_noexec: {error}; remedy: Linux 6.3 or later"))?;
    program("unshare", "util-linux")
}

/// Runs a test of this executable again where the sysctl `vm.memfd_noexec` is 1, and where it is 2. The sysctl belongs to a process namespace, and
/// only root can set it. At 1, a file in memory is executable only if its creator asks for that; at 2, never.
///
/// # Panics
/// The test fails there, or is none of this executable.
#[expect(clippy::disallowed_methods, reason = "it is waited for at once")]
pub fn again_with_memfd_noexec(test: &str) {
    for value in ["1", "2"] {
        let program = env::current_exe().expect("the path of this executable");
        let output = Command::new("unshare")
            .args(["-Urpf", "--mount-proc", "sh", "-c"])
            .arg("echo $0 > /proc/sys/vm/memfd_noexec && exec \"$@\"")
            .arg(value)
            .arg(program)
            .args([test, "--exact"])
            .output()
            .expect("unshare starts");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "vm.memfd_noexec={value}: {output:?}"
        );
    }
}

/// A QEMU that emulates x86-64.
pub fn qemu() -> Check {
    program("qemu-system-x86_64", "qemu-system-x86")
}

/// QEMU's tool for disk images.
pub fn qemu_img() -> Check {
    program("qemu-img", "qemu-utils")
}

/// A reader of ISO 9660 that is not the kernel's.
pub fn isoinfo() -> Check {
    program("isoinfo", "genisoimage")
}

/// `blkid`, which tells what is on a disk.
pub fn blkid() -> Check {
    program("blkid", "util-linux")
}

/// UEFI firmware for QEMU, where Debian and its like install it.
pub fn ovmf() -> Check {
    let found = ["OVMF_CODE_4M.fd", "OVMF_CODE.fd"]
        .iter()
        .any(|name| Path::new("/usr/share/OVMF").join(name).is_file());
    found
        .then_some(())
        .ok_or_else(|| "no /usr/share/OVMF/OVMF_CODE_4M.fd; remedy: sudo apt-get install ovmf".to_owned())
}

/// The same with secure boot and Microsoft's keys.
pub fn ovmf_secure_boot() -> Check {
    let found = ["OVMF_VARS_4M.ms.fd", "OVMF_VARS.ms.fd"]
        .iter()
        .any(|name| Path::new("/usr/share/OVMF").join(name).is_file());
    found
        .then_some(())
        .ok_or_else(|| "no /usr/share/OVMF/OVMF_VARS_4M.ms.fd; remedy: sudo apt-get install ovmf".to_owned())
}

/// An emulator of TPMs.
pub fn swtpm() -> Check {
    program("swtpm", "swtpm")
}

/// The QEMU storage daemon, which speaks QMP too.
pub fn storage_daemon() -> Check {
    program("qemu-storage-daemon", "qemu-system-common")
}

/// `ip` of iproute2.
pub fn ip() -> Check {
    program("ip", "iproute2")
}

/// `tcpdump`.
pub fn tcpdump() -> Check {
    program("tcpdump", "tcpdump")
}

/// Chromium, to look at pages with. [`chromium_path`] says where.
pub fn chromium() -> Check {
    chromium_path()
        .map(drop)
        .ok_or_else(|| "chromium is not in PATH; remedy: sudo apt-get install chromium".to_owned())
}

/// Whether this distribution has Chromium as a package: Ubuntu has a snap instead, and in a container there are no snaps.
pub fn has_chromium_package() -> bool {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    !release.lines().any(|line| line == "ID=ubuntu")
}

/// Where Chromium is, or its brother Chrome.
pub fn chromium_path() -> Option<PathBuf> {
    ["chromium", "google-chrome"].into_iter().find_map(find)
}

/// A busybox that needs no other file, so that it runs in an image made of it alone. [`busybox_path`] says where.
pub fn busybox() -> Check {
    busybox_path()
        .map(drop)
        .ok_or_else(|| "no static busybox is in PATH; remedy: sudo apt-get install busybox-static".to_owned())
}

/// Where the static busybox is.
pub fn busybox_path() -> Option<PathBuf> {
    find("busybox").filter(|file| std::fs::read(file).is_ok_and(|program| is_static(&program)))
}

/// A 64-bit ELF program whose program headers, see elf(5), name no interpreter.
fn is_static(program: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, size: usize| {
        let bytes = program.get(at..at + size)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |sum, &byte| sum << 8 | u64::from(byte)),
        )
    };
    let headers = || {
        let (start, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
        (0..count)
            .map(|i| number(usize::try_from(start + i * size).ok()?, 4))
            .collect::<Option<Vec<u64>>>()
    };
    program.starts_with(b"\x7fELF\x02\x01") && headers().is_some_and(|kinds| !kinds.contains(&PT_INTERP))
}

/// A container engine that answers. [`engine_socket`] says where.
pub fn docker() -> Check {
    engine_socket().map(drop)
}

/// The socket of the container engine that alpy itself would use.
///
/// # Errors
/// Why there is none.
pub fn engine_socket() -> Result<PathBuf, String> {
    match alpy_engine_address::find() {
        Ok(engine) => Ok(engine.socket),
        Err(error) => Err(format!("{error}; `cargo xtask test` starts a private engine")),
    }
}

/// A `/dev/net/tun` that the test itself may open.
pub fn tun() -> Check {
    std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map(drop)
        .map_err(|error| format!("/dev/net/tun: {error}; remedy: sudo chmod 666 /dev/net/tun"))
}

/// User and network namespaces for this user, through `unshare` of util-linux.
#[expect(clippy::disallowed_methods, reason = "a probe that is waited for at once")]
pub fn user_namespaces() -> Check {
    let status = std::process::Command::new("unshare")
        .args(["-Urn", "true"])
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`unshare -Urn true` ended with {status}")),
        Err(error) => Err(format!("unshare: {error}")),
    }
}

fn program(name: &str, package: &str) -> Check {
    find(name)
        .map(drop)
        .ok_or_else(|| format!("{name} is not in PATH; remedy: sudo apt-get install {package}"))
}

fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .chain([Path::new("/usr/sbin").to_owned()])
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
