// SPDX-License-Identifier: GPL-3.0-or-later
//! What a state consists of, written when all the rest is.

use std::fmt::Write as _;
use std::fs::{self, DirEntry, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use alpy_qemu::{Checksum, Identity, checksum};
use nix::fcntl::OFlag;
use tracing::debug;

use crate::report::{self, is_file_name};

const MANIFEST: &str = "manifest";
const FINGERPRINT: &str = "fingerprint";

/// The files as they were when their checksums were right, in this boot of the host.
const VERIFIED: &str = "verified";

const FIRST_LINE: &str = "alpy saved state 1";

/// A manifest that was read, of a state that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// The version of the QEMU that saved it, as that says it.
    pub(crate) qemu: String,
    files: Vec<(String, u64, String)>,
}

impl Manifest {
    /// Writes it for all that is in a folder.
    pub(crate) fn write(folder: &Path, fingerprint: &str, qemu: String) -> io::Result<Self> {
        fs::write(folder.join(FINGERPRINT), fingerprint)?;
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            files.push(file(&entry?)?);
        }
        files.sort();
        let manifest = Self { qemu, files };
        let text = manifest.text();
        fs::write(
            folder.join(MANIFEST),
            format!("{text}sum {}\n", Checksum::of(text.as_bytes())),
        )?;
        Ok(manifest)
    }

    /// Reads it, and looks at all that it names; says what is wrong.
    ///
    /// Files that have not changed since the last time in this boot of the host are not read again. After a boot they are: a machine that
    /// lost its power may have lost what it had not written.
    pub(crate) fn verify(folder: &Path, fingerprint: &str) -> Result<Self, String> {
        let text = match read(folder, MANIFEST) {
            Ok(text) => text,
            Err(error) => return Err(format!("its manifest cannot be read: {error}")),
        };
        let manifest = Self::read(&text).ok_or("its manifest is damaged")?;
        let mut seen = seen_before()?;
        let mut settled = true;
        for (name, size, _) in &manifest.files {
            let path = folder.join(name);
            // A link leads elsewhere, and a pipe may never end.
            let found = fs::symlink_metadata(&path)
                .map_err(|error| format!("its file {name} cannot be read: {error}"))?;
            if !found.is_file() {
                return Err(format!("its file {name} is not a regular file"));
            }
            if found.len() != *size {
                return Err(format!(
                    "its file {name} has {} bytes instead of {size}",
                    found.len()
                ));
            }
            let identity = Identity::from(&found);
            settled &= identity.is_settled();
            let _ = writeln!(seen, "{name} {identity}");
        }
        if read(folder, VERIFIED).ok().as_ref() != Some(&seen) {
            for (name, _, expected) in &manifest.files {
                let found = checksum(folder.join(name))
                    .map_err(|error| format!("its file {name} cannot be read: {error}"))?;
                if found.to_string() != *expected {
                    return Err(format!("its file {name} is damaged"));
                }
            }
            if settled {
                remember(folder, &seen);
            }
        }
        if read(folder, FINGERPRINT).ok().as_deref() != Some(fingerprint) {
            return Err("it is that of another machine".to_owned());
        }
        Ok(manifest)
    }

    fn text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\nqemu {}\n", self.qemu);
        for (name, size, sum) in &self.files {
            let _ = writeln!(text, "file {name} {size} {sum}");
        }
        text
    }

    fn read(text: &str) -> Option<Self> {
        let (body, sum) = text.strip_suffix('\n')?.rsplit_once("sum ")?;
        if Checksum::of(body.as_bytes()).to_string() != sum {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()? != FIRST_LINE {
            return None;
        }
        let qemu = lines.next()?.strip_prefix("qemu ")?.to_owned();
        let files = lines.map(|line| {
            let mut words = line.strip_prefix("file ")?.split(' ');
            let name = words.next().filter(|name| is_file_name(name))?;
            Some((
                name.to_owned(),
                words.next()?.parse().ok()?,
                words.next()?.to_owned(),
            ))
        });
        Some(Self {
            qemu,
            files: files.collect::<Option<_>>()?,
        })
    }
}

/// The text of a regular file of a state.
fn read(folder: &Path, name: &str) -> io::Result<String> {
    io::read_to_string(report::open(&folder.join(name))?)
}

fn file(entry: &DirEntry) -> io::Result<(String, u64, String)> {
    let name = entry.file_name().into_string();
    let name = name.map_err(|name| io::Error::other(format!("a file of the name {name:?}")))?;
    Ok((name, entry.metadata()?.len(), checksum(entry.path())?.to_string()))
}

/// The first line of what is remembered.
fn seen_before() -> Result<String, String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    boot.map_err(|error| format!("the host's boot cannot be told from others: {error}"))
}

/// Remembers, if it can.
fn remember(folder: &Path, seen: &str) {
    // Others may do so at this moment: the same text, unless one of them is wrong and has it read again.
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(folder.join(VERIFIED));
    if let Err(error) = file.and_then(|mut file| file.write_all(seen.as_bytes())) {
        debug!(%error, "that the state is whole is not remembered");
    }
}
