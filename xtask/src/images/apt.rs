// SPDX-License-Identifier: GPL-3.0-or-later
//! Packages of Debian and Ubuntu, by the host's apt: from the host's sources, checked against the host's keys, but with
//! folders of our own, so that any user may and the host's own packages play no part.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::packages::Versions;
use crate::process::{Kind, Output, command, output};

/// Downloads `wanted` with its dependencies into the folder `cache`, and unpacks all of it into the folder `root`.
/// Nothing is installed: no maintainer script runs. Dependencies in `absent` are left out.
pub fn unpack(
    wanted: &BTreeSet<&str>,
    absent: &BTreeSet<&str>,
    cache: &Path,
    root: &Path,
) -> Result<Versions> {
    let apt = Apt::new(absent, cache)?;
    let complaint = complaint(&apt.get(&["update"])?);
    let mut install = vec!["install", "--yes", "--quiet"];
    install.extend(wanted);
    let simulated = apt.get(&[&install[..], &["--simulate"]].concat())?;
    if !simulated.status.success() {
        // That a server is out of reach is the better reason, if there is one.
        let reason = complaint
            .or_else(|| self::complaint(&simulated))
            .unwrap_or(simulated.stderr);
        bail!("no packages to build from: {reason}");
    }
    if let Some(complaint) = complaint {
        eprintln!("The newest packages may be missing: {complaint}");
    }
    let packages: Vec<Package> = simulated.stdout.lines().filter_map(Package::parse).collect();
    let downloaded = apt.get(&[&install[..], &["--download-only"]].concat())?;
    if !downloaded.status.success() {
        bail!(
            "download of packages: {}",
            self::complaint(&downloaded).unwrap_or(downloaded.stderr)
        );
    }
    for package in &packages {
        let file = cache.join("archives").join(package.file());
        let mut unpack = command("dpkg-deb");
        unpack.arg("--extract").arg(file).arg(root);
        output(unpack, Kind::Group)?.success(&format!("unpack {}", package.name))?;
    }
    // Those that have no index any more.
    apt.get(&["autoclean"])?;
    Ok(packages
        .into_iter()
        .map(|package| (package.name, package.version))
        .collect())
}

struct Apt {
    configuration: PathBuf,
}

impl Apt {
    fn new(absent: &BTreeSet<&str>, cache: &Path) -> Result<Self> {
        for folder in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(cache.join(folder))?;
        }
        let status = cache.join("status");
        let mut installed = String::new();
        for name in absent {
            // Newer than any version that may be asked for.
            write!(
                installed,
                "Package: {name}\nStatus: install ok installed\nVersion: 99:0\nArchitecture: amd64\n\
                 Multi-Arch: foreign\nMaintainer: nobody\nDescription: taken as installed\n\n"
            )?;
        }
        fs::write(&status, installed)?;
        let configuration = cache.join("apt.conf");
        let folder = cache
            .to_str()
            .context("a folder for apt must have a name in UTF-8")?;
        ensure!(
            !folder.contains('"'),
            "apt cannot be told of a folder with a quote in its name: {folder}"
        );
        fs::write(
            &configuration,
            format!(
                "\
Dir::State::Lists \"{folder}/lists\";
Dir::State::status \"{folder}/status\";
Dir::State::extended_states \"{folder}/extended_states\";
Dir::Cache \"{folder}\";
Debug::NoLocking \"true\"; // there is a lock around all of this
APT::Sandbox::User \"\"; // another user could not write here
APT::Get::List-Cleanup \"true\";
APT::Install-Recommends \"false\";
APT::Keep-Downloaded-Packages \"true\";
Acquire::Retries \"2\";
Acquire::http::Timeout \"20\";
Acquire::https::Timeout \"20\";
Acquire::Languages \"none\";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";
Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled \"false\";
// What the host does after these concerns the host's own packages.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
"
            ),
        )?;
        Ok(Self { configuration })
    }

    fn get(&self, arguments: &[&str]) -> Result<Output> {
        let mut get = command("apt-get");
        get.env("LC_ALL", "C")
            .arg("--config-file")
            .arg(&self.configuration)
            .args(arguments);
        output(get, Kind::Group)
    }
}

/// The first complaint of apt-get, which only warns when a server is out of reach.
fn complaint(output: &Output) -> Option<String> {
    let line = |mark| {
        output
            .stderr
            .lines()
            .find_map(|line: &str| line.strip_prefix(mark))
    };
    line("E: ")
        .or_else(|| line("W: "))
        .map(|line| line.trim().to_owned())
}

#[derive(Debug, PartialEq, Eq)]
struct Package {
    name: String,
    version: String,
    architecture: String,
}

impl Package {
    /// Reads a line of apt-get's simulation: `Inst NAME (VERSION SOURCE.. [ARCHITECTURE])`, with more behind it.
    fn parse(line: &str) -> Option<Self> {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
        let (inside, _) = rest.split_once(')')?;
        let (version, rest) = inside.split_once(' ')?;
        let architecture = rest.rsplit_once('[')?.1.strip_suffix(']')?;
        Some(Self {
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: architecture.to_owned(),
        })
    }

    /// How apt names the file that it downloads.
    fn file(&self) -> String {
        format!(
            "{}_{}_{}.deb",
            self.name,
            self.version.replace(':', "%3a"),
            self.architecture
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_installation_names_the_files_to_come() {
        let line = "Inst busybox (1:1.35.0-4+deb12u1+b1 Debian:12.15/oldstable, Debian-Security:12 [amd64])";
        let package = Package::parse(line).unwrap();
        assert_eq!(package.version, "1:1.35.0-4+deb12u1+b1");
        assert_eq!(package.file(), "busybox_1%3a1.35.0-4+deb12u1+b1_amd64.deb");
        let pending = "Inst libc6 (2.36-9 Debian:12.15/oldstable [amd64]) [libc6:amd64 ]";
        assert_eq!(Package::parse(pending).unwrap().file(), "libc6_2.36-9_amd64.deb");
        assert_eq!(
            Package::parse("Conf busybox (1:1.35.0-4 Debian:12.15/oldstable [amd64])"),
            None
        );
    }
}
