// SPDX-License-Identifier: GPL-3.0-or-later
//! A root file system in memory, and its two forms: a tar file and an initramfs. Everything belongs to root and is of
//! the same moment, so equal trees make equal bytes.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

/// 1 January 2000, in seconds since 1970.
const MTIME: u32 = 946_684_800;

const S_IFCHR: u32 = 0o020_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// Entries by path, which has no slash at either end. A folder sorts before what is in it.
#[derive(Debug, Default)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
enum Entry {
    Folder { mode: u32 },
    File { mode: u32, bytes: Vec<u8> },
    Link { target: String },
    Terminal { major: u32, minor: u32 },
}

impl Tree {
    /// Whether there is anything at `path`.
    pub fn contains(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    /// Adds a folder.
    pub fn folder(&mut self, path: &str, mode: u32) {
        self.add(path, Entry::Folder { mode });
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, executable: bool, bytes: Vec<u8>) {
        self.add(
            path,
            Entry::File {
                mode: if executable { 0o755 } else { 0o644 },
                bytes,
            },
        );
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.add(
            path,
            Entry::Link {
                target: target.to_owned(),
            },
        );
    }

    /// Adds a character device that only root may use.
    pub fn terminal(&mut self, path: &str, major: u32, minor: u32) {
        self.add(path, Entry::Terminal { major, minor });
    }

    fn add(&mut self, path: &str, entry: Entry) {
        let slashes = path.match_indices('/').map(|(at, _)| at);
        for parent in slashes.map(|at| &path[..at]) {
            if !self.contains(parent) {
                self.entries
                    .insert(parent.to_owned(), Entry::Folder { mode: 0o755 });
            }
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// The tree as a tar file in the format that POSIX calls ustar.
    pub fn tar(&self) -> Result<Vec<u8>> {
        let mut archive = Vec::new();
        for (path, entry) in &self.entries {
            let (kind, mode, target, bytes): (_, _, &str, &[u8]) = match entry {
                Entry::Folder { mode } => (b'5', *mode, "", &[]),
                Entry::File { mode, bytes } => (b'0', *mode, "", bytes),
                Entry::Link { target } => (b'2', 0o777, target, &[]),
                Entry::Terminal { .. } => (b'3', 0o600, "", &[]),
            };
            let (major, minor) = entry.device();
            ensure!(
                path.len() < 100 && target.len() < 100,
                "too long for a tar file: {path} {target}"
            );
            let mut header = [0; 512];
            let mut put =
                |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
            put(0, path);
            put(100, &format!("{mode:07o}"));
            put(108, "0000000");
            put(116, "0000000");
            put(124, &format!("{:011o}", bytes.len()));
            put(136, &format!("{MTIME:011o}"));
            // The checksum is taken over a header in which it is blank.
            put(148, "        ");
            put(157, target);
            put(257, "ustar\x0000");
            put(329, &format!("{major:07o}"));
            put(337, &format!("{minor:07o}"));
            header[156] = kind;
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            archive.extend(header);
            archive.extend(bytes);
            archive.resize(archive.len().next_multiple_of(512), 0);
        }
        archive.resize(archive.len() + 1024, 0);
        Ok(archive)
    }

    /// The tree as an initramfs: a cpio archive in the format that cpio calls newc. The kernel's
    /// Documentation/driver-api/early-userspace/buffer-format.rst has it.
    pub fn cpio(&self) -> Vec<u8> {
        let mut archive = Vec::new();
        for (number, (path, entry)) in (1..).zip(&self.entries) {
            let (mode, bytes): (_, &[u8]) = match entry {
                Entry::Folder { mode } => (S_IFDIR | mode, &[]),
                Entry::File { mode, bytes } => (S_IFREG | mode, bytes),
                Entry::Link { target } => (S_IFLNK | 0o777, target.as_bytes()),
                Entry::Terminal { .. } => (S_IFCHR | 0o600, &[]),
            };
            cpio_entry(&mut archive, number, mode, entry.device(), path, bytes);
        }
        cpio_entry(&mut archive, 0, 0, (0, 0), "TRAILER!!!", &[]);
        archive
    }
}

impl Entry {
    fn device(&self) -> (u32, u32) {
        if let Self::Terminal { major, minor } = self {
            (*major, *minor)
        } else {
            (0, 0)
        }
    }
}

fn cpio_entry(archive: &mut Vec<u8>, inode: u32, mode: u32, device: (u32, u32), path: &str, bytes: &[u8]) {
    let (uid, gid, links, checksum) = (0, 0, 1, 0);
    let size = u32::try_from(bytes.len()).expect("no file of an image is as large as 4 GiB");
    let name_size = u32::try_from(path.len() + 1).expect("no path is as long as 4 GiB");
    archive.extend(b"070701");
    let fields = [
        inode, mode, uid, gid, links, MTIME, size, 0, 0, device.0, device.1, name_size, checksum,
    ];
    for field in fields {
        archive.extend(format!("{field:08x}").into_bytes());
    }
    archive.extend(path.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(bytes);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::process::{Kind, command, output};

    fn sample() -> Tree {
        let mut tree = Tree::default();
        tree.file("bin/tool", true, b"#!/bin/sh\n".to_vec());
        tree.file("etc/odd", false, vec![b'x'; 513]);
        tree.link("sbin", "bin");
        tree.folder("tmp", 0o1777);
        tree.terminal("dev/console", 5, 1);
        tree
    }

    /// Lists the archive with the program that knows it best, without the times.
    fn list(program: &str, arguments: &str, bytes: &[u8]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive");
        fs::write(&path, bytes).unwrap();
        let mut list = command(program);
        list.env("TZ", "UTC").args(arguments.split(' ')).arg(&path);
        let listing = output(list, Kind::Group).unwrap().success(program).unwrap();
        listing
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    }

    #[test]
    fn tar_reads_the_tar_file() {
        let lines = list("tar", "--numeric-owner -tvf", &sample().tar().unwrap());
        assert_eq!(
            lines,
            [
                "drwxr-xr-x 0/0 0 2000-01-01 00:00 bin",
                "-rwxr-xr-x 0/0 10 2000-01-01 00:00 bin/tool",
                "drwxr-xr-x 0/0 0 2000-01-01 00:00 dev",
                "crw------- 0/0 5,1 2000-01-01 00:00 dev/console",
                "drwxr-xr-x 0/0 0 2000-01-01 00:00 etc",
                "-rw-r--r-- 0/0 513 2000-01-01 00:00 etc/odd",
                "lrwxrwxrwx 0/0 0 2000-01-01 00:00 sbin -> bin",
                "drwxrwxrwt 0/0 0 2000-01-01 00:00 tmp",
            ]
        );
    }

    #[test]
    fn cpio_reads_the_initramfs() {
        let lines = list("cpio", "-tvn --quiet -F", &sample().cpio());
        assert_eq!(
            lines,
            [
                "drwxr-xr-x 1 0 0 0 Jan 1 2000 bin",
                "-rwxr-xr-x 1 0 0 10 Jan 1 2000 bin/tool",
                "drwxr-xr-x 1 0 0 0 Jan 1 2000 dev",
                "crw------- 1 0 0 5, 1 Jan 1 2000 dev/console",
                "drwxr-xr-x 1 0 0 0 Jan 1 2000 etc",
                "-rw-r--r-- 1 0 0 513 Jan 1 2000 etc/odd",
                "lrwxrwxrwx 1 0 0 3 Jan 1 2000 sbin -> bin",
                "drwxrwxrwt 1 0 0 0 Jan 1 2000 tmp",
            ]
        );
    }

    #[test]
    fn a_path_that_tar_cannot_hold_is_refused() {
        let mut tree = Tree::default();
        tree.file(&"long/".repeat(30), false, Vec::new());
        assert!(tree.tar().unwrap_err().to_string().contains("long/long"));
    }
}
