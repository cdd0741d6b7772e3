// SPDX-License-Identifier: GPL-3.0-or-later
//! Tar archives: how an engine wants to be given files.

use std::fmt;
use std::fs::{self, File, FileType};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;

use bytes::Bytes;
use nix::fcntl::OFlag;

use crate::{Error, Result};

/// A tar archive to give to an engine: bytes at hand, or a file that is streamed.
#[derive(Debug, Clone)]
pub struct Tar(pub(crate) Source);

#[derive(Debug, Clone)]
pub(crate) enum Source {
    Bytes(Bytes),
    File(PathBuf),
}

/// An archive that can be sent: its length is known.
pub(crate) enum Opened {
    Bytes(Bytes),
    File(File),
}

impl Tar {
    /// An archive that lies in a regular file. It may be compressed with gzip, bzip2 or xz.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(path.into()))
    }

    /// The archive and how many bytes it has. The error is for an image that was to be made of it by this verb.
    ///
    /// Anything but a regular file is refused: a directory has a length and no bytes, and a pipe may never open.
    pub(crate) fn open(self, verb: &'static str, image: &str) -> Result<(Opened, u64)> {
        let path = match self.0 {
            Source::Bytes(bytes) => {
                let length = bytes.len() as u64;
                return Ok((Opened::Bytes(bytes), length));
            }
            Source::File(path) => path,
        };
        let open = || {
            let flags = OFlag::O_NONBLOCK.bits();
            let file = File::options().read(true).custom_flags(flags).open(&path)?;
            Ok((file.metadata()?, file))
        };
        // A socket cannot be opened at all.
        let kind = match open() {
            Ok((found, file)) if found.is_file() => return Ok((Opened::File(file), found.len())),
            Ok((found, _)) => found.file_type(),
            Err(source) => match fs::metadata(&path) {
                Ok(found) if found.file_type().is_socket() => found.file_type(),
                _ => return Err(Error::File { path, source }),
            },
        };
        Err(Error::ImageFailed {
            verb,
            image: image.to_owned(),
            reason: format!("{} is {}; pass a tar archive", path.display(), name_of(kind)),
        })
    }
}

fn name_of(kind: FileType) -> &'static str {
    match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }
}

impl fmt::Display for Tar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Bytes(bytes) => write!(f, "an archive of {} bytes", bytes.len()),
            Source::File(path) => path.display().fmt(f),
        }
    }
}

impl From<Vec<u8>> for Tar {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Source::Bytes(bytes.into()))
    }
}

/// Makes a tar archive in memory, in the POSIX ustar format, every entry owned by root and dated 1970: the same content makes
/// the same bytes.
///
/// ```
/// use alpy_docker::{Archive, Tar};
///
/// let root = Archive::new()
///     .folder("bin", 0o755)?
///     .file("bin/hello", 0o755, b"#!/bin/sh\necho hello\n")?
///     .symlink("bin/hi", "hello")?;
/// let tar: Tar = root.finish().into();
/// # Ok::<(), alpy_docker::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Archive {
    bytes: Vec<u8>,
}

const BLOCK: usize = 512;

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a folder.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a path that is too long for the format: 100 bytes, or 155 and 100 at a slash.
    pub fn folder(self, path: &str, mode: u32) -> Result<Self> {
        let path = format!("{}/", path.trim_end_matches('/'));
        self.entry(&path, mode, b'5', "", &[])
    }

    /// Adds a file.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a path that is too long for the format, or 8 GiB and more of content.
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Result<Self> {
        self.entry(path, mode, b'0', "", content)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a path that is too long for the format, or a target longer than 100 bytes.
    pub fn symlink(self, path: &str, target: &str) -> Result<Self> {
        self.entry(path, 0o777, b'2', target, &[])
    }

    /// The archive, with its end marked.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    /// One header as POSIX.1-1988 (ustar) lays it out, then the content filled up to whole blocks.
    fn entry(mut self, path: &str, mode: u32, kind: u8, target: &str, content: &[u8]) -> Result<Self> {
        let path = path.trim_start_matches('/');
        let too_long = |what, value: &str| Error::Invalid {
            what,
            value: value.to_owned(),
            why: "it is empty or too long for the tar format",
        };
        let (prefix, name) = split(path).ok_or_else(|| too_long("archive path", path))?;
        if target.len() > 100 {
            return Err(too_long("link target", target));
        }
        if content.len() >= 1 << 33 {
            return Err(too_long("content of", path));
        }
        let mut header = [0; BLOCK];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, name.as_bytes());
        put(100, format!("{:07o}", mode & 0o7777).as_bytes());
        put(108, b"0000000"); // owner
        put(116, b"0000000"); // group
        put(124, format!("{:011o}", content.len()).as_bytes());
        put(136, b"00000000000"); // time of change
        put(148, b"        "); // the checksum counts itself as blanks
        put(156, &[kind]);
        put(157, target.as_bytes());
        put(257, b"ustar\x0000");
        put(345, prefix.as_bytes());
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        Ok(self)
    }
}

/// The path as prefix (155 bytes) and name (100 bytes), cut at a slash.
fn split(path: &str) -> Option<(&str, &str)> {
    if path.is_empty() || path.contains('\0') {
        return None;
    }
    if path.len() <= 100 {
        return Some(("", path));
    }
    path.match_indices('/')
        .map(|(at, _)| (&path[..at], &path[at + 1..]))
        .find(|(prefix, name)| prefix.len() <= 155 && !name.is_empty() && name.len() <= 100)
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_what_the_format_says() {
        let bytes = Archive::new()
            .file("bin/hello", 0o4755, b"hello")
            .unwrap()
            .finish();
        assert_eq!(bytes.len(), 4 * BLOCK);
        assert_eq!(&bytes[..10], b"bin/hello\0");
        assert_eq!(&bytes[100..108], b"0004755\0");
        assert_eq!(&bytes[124..136], b"00000000005\0");
        assert_eq!(&bytes[257..265], b"ustar\x0000");
        assert_eq!(&bytes[BLOCK..BLOCK + 6], b"hello\0");
    }

    /// tar(1) is the oracle: it checks the checksums, and lists what it sees.
    #[test]
    fn tar_reads_it() {
        let long = format!("{}/{}", "folder".repeat(20), "n".repeat(100));
        let archive = Archive::new()
            .folder("/etc/", 0o1777)
            .and_then(|archive| archive.file(&long, 0o640, &[7; 1000]))
            .and_then(|archive| archive.symlink("bin/sh", "busybox"))
            .unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, &archive.finish()).unwrap();
        let listed: Vec<String> = list(file.path()).lines().map(str::to_owned).collect();
        assert!(
            listed[0].starts_with("drwxrwxrwt 0/0 ") && listed[0].ends_with(" etc/"),
            "{listed:?}"
        );
        assert!(
            listed[1].starts_with("-rw-r----- 0/0 ") && listed[1].ends_with(&format!(" {long}")),
            "{listed:?}"
        );
        assert!(listed[1].contains(" 1000 1970-01-01 "), "{listed:?}");
        assert!(
            listed[2].starts_with("lrwxrwxrwx 0/0 ") && listed[2].ends_with(" bin/sh -> busybox"),
            "{listed:?}"
        );
        assert_eq!(listed.len(), 3);
    }

    #[expect(clippy::disallowed_methods, reason = "tar(1), waited for at once")]
    fn list(archive: &std::path::Path) -> String {
        let mut tar = std::process::Command::new("tar");
        let output = tar
            .env("TZ", "UTC")
            .arg("--numeric-owner")
            .arg("-tvf")
            .arg(archive)
            .output()
            .unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_name_that_does_not_fit_is_refused() {
        for path in [
            "",
            "/",
            "a\0b",
            &"n".repeat(101),
            &format!("{}/n", "p".repeat(156)),
        ] {
            let refused = Archive::new().file(path, 0o644, b"");
            assert!(matches!(refused, Err(Error::Invalid { .. })), "{path:?}");
        }
        let refused = Archive::new().symlink("a", &"t".repeat(101));
        assert!(matches!(refused, Err(Error::Invalid { .. })));
        assert!(Archive::new().symlink("a", &"t".repeat(100)).is_ok());
    }
}
