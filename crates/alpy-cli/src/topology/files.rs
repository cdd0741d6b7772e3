// SPDX-License-Identifier: GPL-3.0-or-later
//! The files that a topology names: whether they can be what they are named for.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::fcntl::OFlag;
use toml::Spanned;

use super::place::Source;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// Whatever is in it.
    Any,
    /// A kernel for the x86 machine of `qemu-system-x86_64`.
    Kernel,
    /// A disk image in a format, `None` if QEMU finds it out; whether it is written to.
    Disk(Option<&'a str>, bool),
    /// The root file system of a container: a tar archive, compressed or not.
    Tar,
}

/// A block of a tar archive.
const BLOCK: usize = 512;

/// Where a Linux kernel for x86 has its magic number, "HdrS" (Linux, Documentation/arch/x86/boot.rst).
const BOOT_HEADER: usize = 0x202;

/// How far into a kernel a multiboot header may be (Multiboot 0.6.96, "3.1.1 The layout of Multiboot header"), and its magic number.
const MULTIBOOT: (usize, [u8; 4]) = (8192, 0x1bad_b002_u32.to_le_bytes());

/// Notes what is wrong with the file that a key names. Returns its path.
pub fn check(
    source: &Source<'_>,
    folder: &Path,
    key: &str,
    file: &Spanned<PathBuf>,
    kind: Kind<'_>,
) -> PathBuf {
    let path = folder.join(file.as_ref());
    if let Err(why) = usable(&path, kind) {
        let full = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        source.mistake(file.span(), &format!("`{key}`: {}: {why}", full.display()));
    }
    path
}

fn usable(path: &Path, kind: Kind<'_>) -> Result<(), String> {
    if path.as_os_str().is_empty() {
        return Err("the path is empty".to_owned());
    }
    let write = matches!(kind, Kind::Disk(_, true));
    let opened = File::options()
        .read(true)
        .write(write)
        // A pipe is not waited for.
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path);
    let is_folder = || path.is_dir().then(|| "it is a directory; give a file".to_owned());
    let mut file = opened.map_err(|error| {
        let mode = if write { "written to" } else { "read" };
        let why = match error.kind() {
            io::ErrorKind::NotFound => {
                "there is no such file; paths are relative to the topology file".to_owned()
            }
            _ => format!("it cannot be {mode}: {error}"),
        };
        is_folder().unwrap_or(why)
    })?;
    is_folder().map_or(Ok(()), Err)?;
    let failed = |error: io::Error| format!("it cannot be read: {error}");
    let metadata = file.metadata().map_err(failed)?;
    let is_device = metadata.file_type().is_block_device();
    let is_right = metadata.is_file() || (is_device && matches!(kind, Kind::Disk(..)));
    if !is_right {
        return Err("it is not a regular file".to_owned());
    }
    if metadata.is_file() && metadata.len() == 0 && kind != Kind::Any {
        return Err("it is empty".to_owned());
    }
    let mut begin = Vec::new();
    file.by_ref()
        .take(MULTIBOOT.0 as u64)
        .read_to_end(&mut begin)
        .map_err(failed)?;
    match kind {
        Kind::Any => Ok(()),
        Kind::Kernel => kernel(&begin),
        Kind::Disk(format, _) => disk(&begin, format),
        Kind::Tar => tar(&begin, file),
    }
}

fn kernel(begin: &[u8]) -> Result<(), String> {
    let (_, multiboot) = MULTIBOOT;
    let linux = begin
        .get(BOOT_HEADER..)
        .is_some_and(|rest| rest.starts_with(b"HdrS"));
    let is_kernel =
        linux || begin.starts_with(b"\x7fELF") || begin.chunks_exact(4).any(|word| word == multiboot);
    let why = "it is not a Linux kernel for x86 (bzImage), an ELF file or a multiboot kernel";
    is_kernel.then_some(()).ok_or_else(|| why.to_owned())
}

/// The formats of QEMU's block drivers that are files (qemu-img(1), "Notes").
const FORMATS: [&str; 13] = [
    "raw",
    "qcow2",
    "qcow",
    "qed",
    "vmdk",
    "vdi",
    "vhdx",
    "vpc",
    "parallels",
    "dmg",
    "bochs",
    "cloop",
    "luks",
];

fn disk(begin: &[u8], format: Option<&str>) -> Result<(), String> {
    let is_qcow2 = begin.starts_with(b"QFI\xfb\0\0\0\x02") || begin.starts_with(b"QFI\xfb\0\0\0\x03");
    match format {
        Some(format) if !FORMATS.contains(&format) => Err(format!(
            "format = {format:?} is not known to QEMU; it is one of: {}",
            FORMATS.join(", ")
        )),
        Some("qcow2") if !is_qcow2 => Err("it is not a qcow2 image, as `format` says".to_owned()),
        Some("raw") if is_qcow2 => {
            Err("it is a qcow2 image, not a raw one; remedy: format = \"qcow2\", or no `format`".to_owned())
        }
        _ => match compressed_by(begin) {
            Some((program, _)) => Err(format!(
                "it is compressed, and QEMU reads no such disk; remedy: {program} -d, or qemu-img convert"
            )),
            None => Ok(()),
        },
    }
}

/// Programs that compress files, and how these begin.
const COMPRESSED: [(&str, &[u8]); 4] = [
    ("gzip", b"\x1f\x8b"),
    ("bzip2", b"BZh"),
    ("xz", b"\xfd7zXZ\0"),
    ("zstd", b"\x28\xb5\x2f\xfd"),
];

fn compressed_by(begin: &[u8]) -> Option<(&'static str, &'static [u8])> {
    COMPRESSED.into_iter().find(|(_, magic)| begin.starts_with(magic))
}

fn tar(begin: &[u8], file: File) -> Result<(), String> {
    match compressed_by(begin) {
        Some(("zstd", _)) => {
            Err("it is compressed by zstd, which not every engine reads; remedy: xz or gzip".to_owned())
        }
        Some((program, _)) => match decompressed(program, file) {
            // Without the program, the engine finds out.
            None => Ok(()),
            Some(begin) if is_tar(&begin) => Ok(()),
            Some(_) => Err(format!(
                "it is compressed by {program}, but there is no tar archive in it"
            )),
        },
        None if is_tar(begin) => Ok(()),
        None => Err("it is not a tar archive, nor one that gzip, bzip2 or xz compressed".to_owned()),
    }
}

/// The first block of a compressed file, if the program is there that reads it.
fn decompressed(program: &str, mut file: File) -> Option<Vec<u8>> {
    file.seek(SeekFrom::Start(0)).ok()?;
    #[expect(clippy::disallowed_methods, reason = "it is killed and waited for below")]
    let mut child = std::process::Command::new(program)
        .arg("-dc")
        .stdin(file)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut begin = Vec::new();
    let stdout = child.stdout.take();
    let read = stdout.map(|stdout| stdout.take(BLOCK as u64).read_to_end(&mut begin));
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
    read?.ok()?;
    Some(begin)
}

/// Whether a block is the header of an entry: its checksum, tar(5), is that of its bytes with blanks in its own place.
fn is_tar(begin: &[u8]) -> bool {
    const SUM: std::ops::Range<usize> = 148..156;
    let Some(block) = begin.get(..BLOCK) else {
        return false;
    };
    let digits = String::from_utf8_lossy(&block[SUM]);
    let said = u32::from_str_radix(digits.trim_matches([' ', '\0']), 8);
    let byte = |(at, byte): (usize, &u8)| u32::from(if SUM.contains(&at) { b' ' } else { *byte });
    said == Ok(block.iter().enumerate().map(byte).sum())
}
