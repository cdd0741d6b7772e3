// SPDX-License-Identifier: GPL-3.0-or-later
//! Makes sure that the programs are there that a task runs: installs them as root, says how to as anyone else.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::process::{self, Kind};
use crate::stop;

/// A program, or the path of a file, and the Debian package that has it.
pub type Need = (&'static str, &'static str);

/// For the rabbit tests. The images and the engine have lists of their own.
pub const RABBIT_TESTS: &[Need] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"),
];

/// For the tests of the crates, which ask independent tools whether alpy is right.
pub const CRATE_TESTS: &[Need] = &[
    // In the one or the other, depending on the version of Debian.
    ("qemu-storage-daemon", "qemu-system-common"),
    ("qemu-storage-daemon", "qemu-utils"),
    ("qemu-img", "qemu-utils"),
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"),
    ("/usr/share/OVMF/OVMF_VARS_4M.ms.fd", "ovmf"),
    ("ip", "iproute2"),
    ("cpio", "cpio"),
    ("docker", "docker.io"),
    ("docker", "docker-cli"),
    ("tcpdump", "tcpdump"),
    ("busybox", "busybox-static"),
    ("unshare", "util-linux"),
    ("partx", "util-linux"),
    ("blkid", "util-linux"),
    ("isoinfo", "genisoimage"),
    ("swtpm", "swtpm"),
];

/// A browser, for the tests that look at reports with one. It is large, and where it is missing these tests say so and are skipped: it is
/// needed where a skip is a failure, as in CI.
const BROWSER: &[Need] = &[("chromium", "chromium")];

/// For users to be made, as root, who run the tests again.
pub const USERS: &[Need] = &[
    ("useradd", "passwd"),
    ("usermod", "passwd"),
    ("userdel", "passwd"),
    ("groupadd", "passwd"),
    ("groupdel", "passwd"),
];

/// What the tests of the crates need, and a browser if they are to skip nothing.
pub fn crate_tests() -> Vec<Need> {
    let all = std::env::var_os("ALPY_REQUIRE").is_some_and(|value| value == "all");
    match all && alpy_need::has_chromium_package() {
        true => [CRATE_TESTS, BROWSER].concat(),
        false => CRATE_TESTS.to_vec(),
    }
}

/// Installs what is missing, or ends with the command that does.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let packages = missing(needs);
    if packages.is_empty() {
        return Ok(());
    }
    let names = offered(&packages).join(" ");
    if !nix::unistd::geteuid().is_root() {
        return Err(stop::before_start(format!(
            "programs are missing; to install them:\n    sudo apt-get install --no-install-recommends {names}"
        )));
    }
    if process::find("apt-get").is_none() {
        return Err(stop::before_start(format!(
            "apt-get is missing; install what these Debian packages have: {names}"
        )));
    }
    // apt locks its lists, and gives up at once where they are locked: one xtask at a time.
    let folder = File::open("/var/lib/apt").context("open /var/lib/apt")?;
    let _lock =
        lock(folder, Duration::from_secs(900)).context("wait for another xtask that installs packages")?;
    let packages = missing(needs);
    if packages.is_empty() {
        return Ok(());
    }
    eprintln!("xtask: install {}...", packages.join(" "));
    install(&packages)?;
    eprintln!("xtask: install {}... done", packages.join(" "));
    match missing(needs).as_slice() {
        [] => Ok(()),
        still => bail!(
            "still missing after their installation: programs of {}",
            still.join(", ")
        ),
    }
}

/// The packages of the programs that are not there, each once, in the order of the list.
pub fn missing(needs: &[Need]) -> Vec<&'static str> {
    missing_where(needs, |program| match program {
        // Debian's other busybox is of no use in an image made of it alone.
        "busybox" => alpy_need::busybox().is_ok(),
        _ => process::find(program).is_some(),
    })
}

fn missing_where(needs: &[Need], installed: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for &(program, package) in needs {
        if !installed(program) && !packages.contains(&package) {
            packages.push(package);
        }
    }
    packages
}

/// Those of the packages that this release of the distribution has, as far as apt knows; all if it knows nothing yet. A program
/// that lies in another package from one release to the next is in the list with both.
fn offered(packages: &[&'static str]) -> Vec<&'static str> {
    let known = |package: &str| {
        let mut show = process::command("apt-cache");
        show.args(["show", "--no-all-versions", package]);
        process::output(show, Kind::Group).is_ok_and(|shown| shown.success("apt-cache show").is_ok())
    };
    let offered: Vec<_> = packages
        .iter()
        .copied()
        .filter(|package| known(package))
        .collect();
    if offered.is_empty() {
        packages.to_vec()
    } else {
        offered
    }
}

fn install(packages: &[&'static str]) -> Result<()> {
    let install = || {
        let options = ["install", "--yes", "--no-install-recommends"];
        apt_get(&[&options, offered(packages).as_slice()].concat())
    };
    // What is known about packages may be absent or too old, and only the attempt shows.
    if install().is_ok() {
        return Ok(());
    }
    apt_get(&["update"])?;
    install().map(drop)
}

fn apt_get(arguments: &[&str]) -> Result<String> {
    let mut command = process::command("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args([
            "--quiet",
            "-o",
            "DPkg::Lock::Timeout=600",
            "-o",
            "Dpkg::Use-Pty=0",
        ])
        .args(arguments);
    process::output(command, Kind::Group)?.success(&format!("apt-get {}", arguments.join(" ")))
}

/// Takes the exclusive lock of an open file or folder.
pub fn lock(file: File, limit: Duration) -> Result<Flock<File>> {
    let mut file = Some(file);
    let locked = process::poll(limit, || {
        let Some(unlocked) = file.take() else {
            return Ok(None);
        };
        match Flock::lock(unlocked, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => Ok(Some(locked)),
            Err((unlocked, nix::errno::Errno::EWOULDBLOCK)) => {
                file = Some(unlocked);
                Ok(None)
            }
            Err((_, error)) => Err(error.into()),
        }
    })?;
    locked.with_context(|| format!("locked by another process for {} s", limit.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_for_each_missing_package_once() {
        let needs = [("a", "pack"), ("b", "pack"), ("c", "other"), ("d", "there")];
        assert_eq!(missing_where(&needs, |program| program == "d"), ["pack", "other"]);
        assert!(missing_where(&needs, |_| true).is_empty());
    }

    #[test]
    fn a_lock_that_is_taken_is_waited_for_and_then_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::open(file.path()).unwrap();
        let held = lock(open(), Duration::ZERO).unwrap();
        let error = lock(open(), Duration::from_millis(10)).unwrap_err();
        assert!(error.to_string().contains("locked by another process"), "{error}");
        drop(held);
        lock(open(), Duration::ZERO).unwrap();
    }
}
