// SPDX-License-Identifier: GPL-3.0-or-later
//! Makes sure that the programs are there that a task runs: installs them as root, says how to as anyone else.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::process::{self, Kind};
use crate::stop::{self, Stop};

/// A program, or the path of a file; the Debian package that has it; and what it is for.
pub type Need = (&'static str, &'static str, &'static str);

const MACHINES: &str = "the machines of the tests";
const UEFI: &str = "machines that boot by UEFI";
const DISKS: &str = "tests of disks";
const NETWORK: &str = "tests of taps, links and captures";
const CONTAINERS: &str = "tests of containers";
const ACCOUNTS: &str = "the users who run the tests again";

/// For the rabbit tests. The images and the engine have lists of their own.
pub const RABBIT_TESTS: &[Need] = &[
    ("qemu-system-x86_64", "qemu-system-x86", MACHINES),
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf", UEFI),
];

/// For the tests of the crates, which ask independent tools whether alpy is right.
pub const CRATE_TESTS: &[Need] = &[
    // In the one or the other, depending on the version of Debian.
    ("qemu-storage-daemon", "qemu-system-common", "tests of QMP"),
    ("qemu-storage-daemon", "qemu-utils", "tests of QMP"),
    ("qemu-img", "qemu-utils", DISKS),
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf", UEFI),
    ("/usr/share/OVMF/OVMF_VARS_4M.ms.fd", "ovmf", UEFI),
    ("ip", "iproute2", NETWORK),
    ("cpio", "cpio", "tests of the images"),
    ("docker", "docker.io", CONTAINERS),
    ("docker", "docker-cli", CONTAINERS),
    ("tcpdump", "tcpdump", NETWORK),
    ("busybox", "busybox-static", CONTAINERS),
    ("unshare", "util-linux", NETWORK),
    ("partx", "util-linux", DISKS),
    ("blkid", "util-linux", DISKS),
    ("isoinfo", "genisoimage", "tests of CD images"),
    ("swtpm", "swtpm", "machines with a TPM"),
];

/// A browser, for the tests that look at reports with one. It is large, and where it is missing these tests say so and are skipped: it is
/// needed where a skip is a failure, as in CI.
const BROWSER: &[Need] = &[("chromium", "chromium", "tests of reports")];

/// For users to be made, as root, who run the tests again.
pub const USERS: &[Need] = &[
    ("useradd", "passwd", ACCOUNTS),
    ("usermod", "passwd", ACCOUNTS),
    ("userdel", "passwd", ACCOUNTS),
    ("groupadd", "passwd", ACCOUNTS),
    ("groupdel", "passwd", ACCOUNTS),
];

/// What the tests of the crates need, and a browser if they are to skip nothing.
pub fn crate_tests() -> Vec<Need> {
    match skips_fail() && alpy_need::has_chromium_package() {
        true => [CRATE_TESTS, BROWSER].concat(),
        false => CRATE_TESTS.to_vec(),
    }
}

/// Whether a test that cannot run here is one that fails.
pub fn skips_fail() -> bool {
    std::env::var_os("ALPY_REQUIRE").is_some_and(|value| value == "all")
}

/// Makes all these preparations, and ends with what the caller has to do for any of them: one answer, not one after the other.
pub fn together(preparations: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let mut tasks = Vec::new();
    for prepared in preparations {
        match prepared {
            Ok(()) => {}
            Err(error) if error.is::<Stop>() => tasks.push(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    match tasks.is_empty() {
        true => Ok(()),
        false => Err(stop::before_start(tasks.join("\n"))),
    }
}

/// Installs what is missing, or ends with the command that does.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let packages = missing(needs);
    if packages.is_empty() {
        return Ok(());
    }
    if process::find("apt-get").is_none() || !nix::unistd::geteuid().is_root() {
        let words = words(needs, &offered(&packages));
        return Err(stop::before_start(words));
    }
    // apt locks its lists, and gives up at once where they are locked: one xtask at a time.
    let folder = File::open("/var/lib/apt").context("open /var/lib/apt")?;
    let _lock =
        lock(folder, Duration::from_secs(900)).context("wait for another xtask that installs packages")?;
    let packages = missing(needs);
    if packages.is_empty() {
        return Ok(());
    }
    eprintln!("xtask: {}", words(needs, &offered(&packages)));
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

/// Which packages are missing, what each is for, and how to install them all.
fn words(needs: &[Need], packages: &[&str]) -> String {
    let mut words = "programs are missing; to install these Debian packages:\n    ".to_owned();
    words += &format!(
        "sudo apt-get install --no-install-recommends {}",
        packages.join(" ")
    );
    for package in packages {
        let mut purposes: Vec<&str> = needs
            .iter()
            .filter(|(_, of, _)| of == package)
            .map(|(.., purpose)| *purpose)
            .collect();
        purposes.dedup();
        words += &format!("\n    {package}: {}", purposes.join(", "));
    }
    words
}

fn missing_where(needs: &[Need], installed: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for &(program, package, _) in needs {
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
        let needs = [
            ("a", "pack", "one"),
            ("b", "pack", "two"),
            ("c", "other", "three"),
            ("d", "there", "four"),
        ];
        assert_eq!(missing_where(&needs, |program| program == "d"), ["pack", "other"]);
        assert!(missing_where(&needs, |_| true).is_empty());
        assert_eq!(
            words(&needs, &["pack", "other"]),
            "programs are missing; to install these Debian packages:\n    \
             sudo apt-get install --no-install-recommends pack other\n    pack: one, two\n    other: three"
        );
    }

    #[test]
    fn asks_for_all_at_once() {
        let stop = |words: &str| Err(stop::before_start(words));
        together([Ok(()), Ok(())]).unwrap();
        let error = together([stop("programs"), Ok(()), stop("a device")]).unwrap_err();
        assert_eq!(error.to_string(), "programs\na device");
        assert_eq!(error.downcast_ref::<Stop>().unwrap().status, 2);
        let other = together([stop("programs"), Err(anyhow::anyhow!("broken"))]).unwrap_err();
        assert_eq!(other.to_string(), "broken");
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
