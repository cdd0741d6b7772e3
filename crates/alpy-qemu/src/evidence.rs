// SPDX-License-Identifier: GPL-3.0-or-later
//! The files that stay.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use alpy_qmp::Direction;

use crate::error::{Error, Result};

/// The files that keep what the process writes.
#[derive(Default)]
pub(crate) struct Copies {
    pub(crate) stdout: Option<File>,
    pub(crate) stderr: Option<File>,
}

impl Copies {
    /// Creates them, and the file with the command line.
    pub(crate) fn create(folder: Option<&Path>, command_line: &str) -> Result<Self> {
        let Some(folder) = folder else {
            return Ok(Self::default());
        };
        let path = folder.join("qemu-command.txt");
        writeln!(create(&path)?, "{command_line}").map_err(|source| Error::Evidence { path, source })?;
        Ok(Self {
            stdout: Some(create(&folder.join("qemu-stdout.log"))?),
            stderr: Some(create(&folder.join("qemu-stderr.log"))?),
        })
    }
}

/// Writes all messages of the monitor to a file, each with the seconds since `begin`.
pub(crate) fn wire_log(
    options: alpy_qmp::Options,
    folder: &Path,
    begin: Instant,
) -> Result<alpy_qmp::Options> {
    let file = Mutex::new(create(&folder.join("qmp.log"))?);
    Ok(options.wire_log(move |direction, line| {
        let arrow = match direction {
            Direction::ToServer => "->",
            Direction::FromServer => "<-",
        };
        let seconds = begin.elapsed().as_secs_f64();
        let text = format!("{seconds:10.6} {arrow} {}\n", String::from_utf8_lossy(line));
        if let Ok(mut file) = file.lock() {
            // A test goes on without this log.
            let _ = file.write_all(text.as_bytes());
        }
    }))
}

/// Creates or empties a file of evidence. A symbolic link is not followed: whoever put it there might have it lead elsewhere.
pub(crate) fn create(path: &Path) -> Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        // A pipe that nobody reads is an error then, instead of a wait.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|source| Error::Evidence {
            path: path.to_owned(),
            source,
        })
}
