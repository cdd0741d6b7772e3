// SPDX-License-Identifier: GPL-3.0-or-later
//! Packages of Alpine Linux, by its own apk, from a mirror that the environment may choose.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::packages::Versions;
use crate::process::{Kind, command, output};

/// The environment variable that chooses the mirror.
const VARIABLE: &str = "ALPINE_MIRROR";
const MIRROR: &str = "https://dl-cdn.alpinelinux.org/alpine";

/// The mirror to use.
pub fn mirror() -> String {
    let mirror = std::env::var(VARIABLE).ok().filter(|mirror| !mirror.is_empty());
    mirror
        .unwrap_or_else(|| MIRROR.to_owned())
        .trim_end_matches('/')
        .to_owned()
}

/// Downloads `wanted` with its dependencies and unpacks all of it into the folder `root`. No script of theirs runs.
/// `cache` is a folder for what is needed in between.
pub fn unpack(wanted: &BTreeSet<&str>, cache: &Path, root: &Path) -> Result<Versions> {
    let main = format!("{}/latest-stable/main", mirror());
    let community = format!("{}/latest-stable/community", mirror());
    let index = extract(&format!("{main}/x86_64/APKINDEX.tar.gz"), cache, "index")?;
    let index = fs::read_to_string(index.join("APKINDEX")).context("read the mirror's index")?;
    let index = versions(&index);
    // apk checks each package against these keys; the keys themselves, and apk, are as safe as the way to the mirror.
    let package = |name: &str| {
        let version = index
            .get(name)
            .with_context(|| format!("{main} has no package {name}"))?;
        extract(&format!("{main}/x86_64/{name}-{version}.apk"), cache, name)
    };
    let tools = package("apk-tools-static")?;
    let keys = package("alpine-keys")?;
    let mut add = command(tools.join("sbin/apk.static"));
    add.args([
        "--arch",
        "x86_64",
        "--initdb",
        "--usermode",
        "--no-scripts",
        "--no-cache",
        "--root",
    ])
    .arg(root);
    add.arg("--keys-dir").arg(keys.join("usr/share/apk/keys/x86_64"));
    add.args(["--repository", &main, "--repository", &community, "add"])
        .args(wanted);
    output(add, Kind::Group)?.success("apk add")?;
    let installed = ["usr/lib/apk/db/installed", "lib/apk/db/installed"].map(|path| root.join(path));
    let installed = installed
        .iter()
        .find(|path| path.is_file())
        .context("apk has left no list of packages")?;
    Ok(versions(&fs::read_to_string(installed)?))
}

/// Downloads an archive from the mirror and unpacks it into a folder `name` of `cache`. By a helper of apt, which is
/// there and knows the host's proxy.
fn extract(url: &str, cache: &Path, name: &str) -> Result<PathBuf> {
    let (archive, folder) = (cache.join(format!("{name}.tar.gz")), cache.join(name));
    let mut download = command("/usr/lib/apt/apt-helper");
    download.env("LC_ALL", "C").args([
        "-o",
        "Acquire::http::Timeout=20",
        "-o",
        "Acquire::https::Timeout=20",
    ]);
    download
        .args(["-o", "APT::Sandbox::User=", "download-file", url])
        .arg(&archive);
    let done = output(download, Kind::Group)?;
    if !done.status.success() {
        let reason = done
            .stderr
            .lines()
            .find_map(|line| line.strip_prefix("E: "))
            .unwrap_or("no reason given");
        bail!(
            "no packages from the Alpine mirror {} ({VARIABLE} chooses another): {reason}",
            mirror()
        );
    }
    fs::create_dir_all(&folder)?;
    let mut extract = command("tar");
    // The format is tar with notes of its own, which tar would warn of.
    extract
        .args([
            "--extract",
            "--gzip",
            "--warning=no-unknown-keyword",
            "--no-same-owner",
            "--file",
        ])
        .arg(&archive);
    extract.arg("--directory").arg(&folder);
    output(extract, Kind::Group)?.success(&format!("unpack {url}"))?;
    Ok(folder)
}

/// Names and versions from apk's list of packages: of each a paragraph, of a field a line `LETTER:VALUE`.
fn versions(list: &str) -> Versions {
    let packages = list.split("\n\n").filter_map(|package| {
        let field = |letter: &str| {
            package
                .lines()
                .find_map(|line| line.strip_prefix(letter)?.strip_prefix(':'))
        };
        Some((field("P")?.to_owned(), field("V")?.to_owned()))
    });
    packages.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_names_each_version() {
        let list =
            "C:Q1abc=\nP:busybox\nV:1.37.0-r12\nA:x86_64\n\nC:Q1def=\nP:curl\nV:8.14.1-r1\nA:x86_64\n\n";
        let versions = versions(list);
        assert_eq!(versions.len(), 2);
        assert_eq!(versions["busybox"], "1.37.0-r12");
        assert_eq!(versions["curl"], "8.14.1-r1");
    }
}
