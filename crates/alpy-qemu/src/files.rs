// SPDX-License-Identifier: GPL-3.0-or-later
//! Whether the files of a machine are there, and may be used: a clear error before QEMU starts instead of QEMU's own.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

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
    let mut first = [0; QCOW2.len()];
    // Its guest would find a disk with nothing on it.
    if disk.format_name() == Some("raw") && file.read_exact(&mut first).is_ok() && first == *QCOW2 {
        return Err(Error::ImageFormat {
            path: full(disk.path()),
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
