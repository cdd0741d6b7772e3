// SPDX-License-Identifier: GPL-3.0-or-later
//! Whether the files of a machine are there, and may be used: a clear error before QEMU starts instead of QEMU's own.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::state::{self, QCOW2};

/// How many overlays may be on an image. A chain that is longer is a circle.
const CHAIN: usize = 100;

/// A file that is read.
pub(crate) fn readable(what: &str, path: &Path) -> Result<()> {
    usable(what, path, false).map(drop)
}

/// A disk's image, and the images that it is an overlay on.
pub(crate) fn disk(disk: &Disk) -> Result<()> {
    let mut file = usable("disk image", disk.path(), disk.is_persistent())?;
    let first = beginning(&mut file);
    // Its guest would find a disk with nothing on it.
    if disk.format_name() == Some("raw") && first.starts_with(QCOW2) {
        return Err(Error::ImageFormat {
            path: full(disk.path()),
        });
    }
    if let Some(remedy) = compression(&first).filter(|_| matches!(disk.format_name(), None | Some("raw"))) {
        return Err(Error::ImageCompressed {
            path: full(disk.path()),
            remedy,
        });
    }
    let (mut image, mut format) = (disk.path().to_owned(), disk.format_name());
    for _ in 0..CHAIN {
        // What is not understood here, QEMU may understand.
        let Ok(Some(backing)) = state::backing_file(&image, format) else {
            break;
        };
        let what = format!("backing file of the disk image {}", image.display());
        usable(&what, &backing, false)?;
        (image, format) = (backing, None);
    }
    Ok(())
}

/// The first bytes; all, if there are fewer.
fn beginning(file: &mut File) -> Vec<u8> {
    let mut first = Vec::new();
    // A file that cannot be read is for QEMU to tell of.
    let _ = file.take(8).read_to_end(&mut first);
    first
}

/// The command that decompresses what begins like this, if it is compressed. No boot sector and no file system begins so.
fn compression(first: &[u8]) -> Option<&'static str> {
    const FORMATS: [(&[u8], &str); 6] = [
        (b"\x1f\x8b\x08", "gunzip"),
        (b"\xfd7zXZ\0", "xz --decompress"),
        (b"\x28\xb5\x2f\xfd", "unzstd"),
        (b"BZh", "bunzip2"),
        (b"\x04\x22\x4d\x18", "unlz4"),
        (b"PK\x03\x04", "unzip"),
    ];
    let of = FORMATS.iter().find(|(magic, _)| first.starts_with(magic));
    of.map(|(_, command)| *command)
}

/// The folder in which QEMU makes overlays, as `TMPDIR` names it. Without that, it is `/var/tmp` or `/tmp`.
pub(crate) fn temporary_folder(named: Option<PathBuf>) -> Result<()> {
    let usable =
        |path: &PathBuf| path.is_dir() && access(path, AccessFlags::W_OK | AccessFlags::X_OK).is_ok();
    match named.filter(|path| !path.as_os_str().is_empty() && !usable(path)) {
        Some(path) => Err(Error::NoTemporaryFolder { path }),
        None => Ok(()),
    }
}

/// The folder that a relative path begins in is what the reader of an error does not know.
fn full(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn usable(what: &str, path: &Path, write: bool) -> Result<File> {
    let opened = File::options()
        .read(true)
        .write(write)
        // A pipe is not waited for.
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .and_then(|file| Ok((file.metadata()?.file_type(), file)));
    let source = match opened {
        Ok((kind, file)) if kind.is_file() || kind.is_block_device() => return Ok(file),
        Ok((kind, _)) if kind.is_dir() => io::ErrorKind::IsADirectory.into(),
        // QEMU would wait for the other end of a pipe, and read some devices for ever.
        Ok(_) => io::Error::other("it is neither a regular file nor a block device"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::ImageMissing {
                what: what.to_owned(),
                path: full(path),
            });
        }
        Err(error) => error,
    };
    Err(Error::ImageUnusable {
        what: what.to_owned(),
        path: full(path),
        mode: if write { "written to" } else { "read" },
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn refuses_a_compressed_image_and_names_the_command() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        for (content, command) in [
            (&b"\x1f\x8b\x08\0\0\0\0\0\0"[..], "gunzip"),
            (b"\xfd7zXZ\0\0\x04", "xz --decompress"),
            (b"\x28\xb5\x2f\xfd\x04\0", "unzstd"),
            (b"BZh91AY&SY", "bunzip2"),
            (b"\x04\x22\x4d\x18", "unlz4"),
            (b"PK\x03\x04\x14\0", "unzip"),
        ] {
            fs::write(&image, content).unwrap();
            for image in [Disk::new(&image), Disk::new(&image).format("raw")] {
                let error = disk(&image).unwrap_err().to_string();
                let remedy = format!("is compressed; remedy: {command} {}", image.path().display());
                assert!(error.ends_with(&remedy), "{error}");
            }
        }
        for content in [&b""[..], b"\x1f", b"BZ", b"\xeb\x63\x90boot", QCOW2, &[0; 1000]] {
            fs::write(&image, content).unwrap();
            disk(&Disk::new(&image)).unwrap();
        }
    }

    #[test]
    fn names_a_tmpdir_that_is_of_no_use() {
        let folder = tempfile::tempdir().unwrap();
        let (absent, file) = (folder.path().join("absent"), folder.path().join("file"));
        fs::write(&file, "").unwrap();
        for path in [absent, file] {
            let error = temporary_folder(Some(path.clone())).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("TMPDIR={} is not", path.display())),
                "{error}"
            );
        }
        for good in [None, Some(PathBuf::new()), Some(folder.path().to_owned())] {
            temporary_folder(good).unwrap();
        }
    }
}
