// SPDX-License-Identifier: GPL-3.0-or-later
//! A machine's state in a folder: its memory as it is mapped, its devices in QEMU's format of migration, its disks as overlays.
//!
//! The memory is a file that the machine to be saved has mapped for all to see and one to be restored for itself, so it is neither
//! written at the end nor read at the start (QEMU, docs/system/vm-templating; migration capability `x-ignore-shared`).

use std::ffi::OsString;
use std::fmt::Write;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use alpy_qmp::Client;
use alpy_qmp::commands::{AddFd, AddedFd, Getfd, Migrate, MigrateIncoming, QueryMigrate, RemoveFd, Stop};
use serde_json::json;
use tokio::time::Instant;

use crate::accelerator::Accelerator;
use crate::content::{Checksum, Identity, checksum};
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::nic::Nic;
use crate::option::OptionValue;
use crate::process;
use crate::recipe::Recipe;

/// The memory's id in QEMU.
pub(crate) const MEMORY_ID: &str = "memory0";

const MEMORY: &str = "memory";
const DEVICES: &str = "devices";

/// How long the machine had run when it was saved, in microseconds.
const RAN: &str = "ran";

/// Where a machine's memory is kept.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// Its own folder, for it to be saved.
    Save(PathBuf),
    /// That of one that was saved.
    Restore(PathBuf),
}

impl Place {
    pub(crate) fn memory(&self, mib: u32) -> OsString {
        let (folder, share) = match self {
            Self::Save(folder) => (folder, "on"),
            Self::Restore(folder) => (folder, "off"),
        };
        OptionValue::new("memory-backend-file")
            .set("id", MEMORY_ID)
            .set("size", format!("{mib}M"))
            .set("mem-path", folder.join(MEMORY))
            .set("share", share)
            .into()
    }
}

/// The value of `-rtc` for a machine that was saved in this folder.
///
/// The times in captures are those of the guest's clock, which goes on where it was, from the moment when QEMU believes to begin. So it
/// is told to have begun as much earlier. The guest's RTC is part of the state, and is not changed by this.
///
/// # Errors
/// The folder does not say how long the machine had run.
pub(crate) fn clock(folder: &Path) -> Result<String> {
    let path = folder.join(RAN);
    let ran = fs::read_to_string(&path).map_err(|source| Error::File {
        what: "read",
        path: path.clone(),
        source,
    })?;
    let bad = || {
        let path = path.display();
        failed(
            "load",
            format!("{path} holds {ran:?}, not the microseconds that the machine had run"),
        )
    };
    let ran = ran.strip_suffix('\n').and_then(|ran| ran.parse().ok());
    let ran = Duration::from_micros(ran.ok_or_else(bad)?);
    let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok();
    let began = began.and_then(|now| now.checked_sub(ran)).ok_or_else(bad)?;
    Ok(format!("base={}", date(began.as_secs())))
}

/// Seconds since 1970 as `2026-11-24T15:37:57`.
fn date(seconds: u64) -> String {
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    let leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!(
        "{year}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}",
        days + 1
    )
}

/// The name of the file that holds what a disk's image does not.
pub(crate) fn overlay(disk: usize) -> String {
    format!("disk{disk}.qcow2")
}

pub(crate) fn failed(what: &'static str, reason: impl Into<String>) -> Error {
    Error::State {
        what,
        reason: reason.into(),
    }
}

/// Saves a machine whose CPUs were started then, and not stopped since.
pub(crate) async fn save(
    qmp: &Client,
    folder: &Path,
    disks: usize,
    started: Option<std::time::Instant>,
    timeout: Duration,
) -> Result<()> {
    let when = at("when its machine was saved");
    let end = Instant::now() + timeout;
    qmp.execute(Stop).await.map_err(when)?;
    let ran = started.map(|started| started.elapsed()).unwrap_or_default();
    let path = folder.join(RAN);
    fs::write(&path, format!("{}\n", ran.as_micros())).map_err(|source| Error::File {
        what: "write",
        path,
        source,
    })?;
    for disk in 0..disks {
        let path = folder.join(overlay(disk));
        new_file(&path)?;
        save_disk(qmp, disk, &path, end).await.map_err(when)?;
    }
    capabilities(qmp).await.map_err(when)?;
    let path = folder.join(DEVICES);
    let file = new_file(&path)?;
    let channel = Channel::open(qmp, file).await.map_err(when)?;
    let before = qmp.position();
    let uri = channel.uri();
    qmp.execute(Migrate { uri }).await.map_err(when)?;
    let migration = ended(qmp, before, end).await.map_err(when)?;
    channel.close(qmp).await.map_err(when)?;
    migration.map_err(|reason| failed("save", reason))
}

/// A new file for this user alone.
fn new_file(path: &Path) -> Result<File> {
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    file.map_err(|source| Error::File {
        what: "create",
        path: path.to_owned(),
        source,
    })
}

/// Copies what of a disk is not in its image.
///
/// QEMU's `drive-backup`, which would be one command, must not be used: it opens images as the temporary overlay is opened, and that
/// is to unlink them at once (seen with 7.2).
async fn save_disk(qmp: &Client, disk: usize, path: &Path, end: Instant) -> alpy_qmp::Result<()> {
    let (device, node, file) = (
        format!("disk{disk}"),
        format!("save{disk}"),
        format!("save{disk}-file"),
    );
    let left = || end.saturating_duration_since(Instant::now());
    let blocks = qmp.execute_raw("query-block", json!(null)).await?;
    let blocks = blocks.as_array().into_iter().flatten();
    let image = blocks
        .into_iter()
        .find(|block| block["device"] == device.as_str())
        .map(|block| block["inserted"]["image"].clone())
        .unwrap_or_default();
    let add = json!({"driver": "file", "node-name": file, "filename": path.to_string_lossy()});
    qmp.execute_raw("blockdev-add", add).await?;
    let mut options = json!({"driver": "qcow2", "file": file, "size": image["virtual-size"]});
    let backing = &image["backing-image"];
    if backing.is_object() {
        options["backing-file"] = backing["filename"].clone();
        options["backing-fmt"] = backing["format"].clone();
    }
    let create = qmp.execute_raw("blockdev-create", json!({"job-id": node, "options": options}));
    qmp.run_job(&node, create, left()).await?;
    // Without its backing file, which is not to be opened twice.
    let add = json!({"driver": "qcow2", "node-name": node, "file": file, "backing": null});
    qmp.execute_raw("blockdev-add", add).await?;
    let backup =
        json!({"job-id": node, "device": device, "target": node, "sync": "top", "auto-dismiss": false});
    let backup = qmp.execute_raw("blockdev-backup", backup);
    qmp.run_job(&node, backup, left()).await?;
    for node in [node, file] {
        qmp.execute_raw("blockdev-del", json!({"node-name": node}))
            .await?;
    }
    Ok(())
}

pub(crate) async fn restore(qmp: &Client, folder: &Path, timeout: Duration) -> Result<()> {
    let when = at("when its machine was restored");
    let end = Instant::now() + timeout;
    let path = folder.join(DEVICES);
    let file = File::open(&path).map_err(|source| Error::File {
        what: "open",
        path,
        source,
    })?;
    capabilities(qmp).await.map_err(when)?;
    // QEMU would announce where a guest has moved to: frames that a booted one does not send.
    qmp.execute_raw("migrate-set-parameters", json!({"announce-rounds": 0}))
        .await
        .map_err(when)?;
    let channel = Channel::open(qmp, file).await.map_err(when)?;
    let before = qmp.position();
    let uri = channel.uri();
    qmp.execute(MigrateIncoming { uri }).await.map_err(when)?;
    let migration = ended(qmp, before, end).await.map_err(when)?;
    channel.close(qmp).await.map_err(when)?;
    migration.map_err(|reason| failed("load", reason))
}

fn at(when: &'static str) -> impl Fn(alpy_qmp::Error) -> Error + Copy {
    move |source| Error::Qmp { when, source }
}

async fn capabilities(qmp: &Client) -> alpy_qmp::Result<()> {
    let on = |name| json!({"capability": name, "state": true});
    let capabilities = json!({"capabilities": [on("events"), on("x-ignore-shared")]});
    qmp.execute_raw("migrate-set-capabilities", capabilities)
        .await
        .map(drop)
}

/// The file of the devices, open in QEMU, as a channel of migration.
enum Channel {
    /// By the name of a descriptor: up to QEMU 11.0.
    Descriptor,
    /// By a path that leads to a descriptor: from QEMU 9.0 on.
    File(AddedFd),
}

impl Channel {
    /// Passes the file on to QEMU.
    async fn open(qmp: &Client, file: File) -> alpy_qmp::Result<Self> {
        if !migrates_to_files(qmp).await? {
            let fdname = DEVICES.to_owned();
            qmp.execute(Getfd { fdname }).descriptor(file).await?;
            return Ok(Self::Descriptor);
        }
        let add = AddFd {
            fdset_id: None,
            opaque: Some(DEVICES.to_owned()),
        };
        qmp.execute(add).descriptor(file).await.map(Self::File)
    }

    fn uri(&self) -> String {
        match self {
            Self::Descriptor => format!("fd:{DEVICES}"),
            // Not by its own path: QMP takes UTF-8 alone, and `file:` splits a path at `,offset=`. Not `/dev/fdset/N`, which QEMU 9.0 does
            // not open.
            Self::File(added) => format!("file:/proc/self/fd/{}", added.fd),
        }
    }

    /// Closes the descriptor that was passed. A migration closes one that it was given by name.
    async fn close(self, qmp: &Client) -> alpy_qmp::Result<()> {
        let Self::File(AddedFd { fdset_id, fd, .. }) = self else {
            return Ok(());
        };
        let fd = Some(fd);
        qmp.execute(RemoveFd { fdset_id, fd }).await.map(drop)
    }
}

/// Whether migration knows addresses of the form `file:`. They are in QEMU since 8.2; the capability `mapped-ram`, which works with no others,
/// since 9.0.
async fn migrates_to_files(qmp: &Client) -> alpy_qmp::Result<bool> {
    let offered = qmp.execute_raw("query-migrate-capabilities", json!(null)).await?;
    let mut offered = offered.as_array().into_iter().flatten();
    Ok(offered.any(|offer| offer["capability"] == "mapped-ram"))
}

/// Waits for the end of a migration, and says why it failed if it has.
async fn ended(
    qmp: &Client,
    before: alpy_qmp::Position,
    end: Instant,
) -> alpy_qmp::Result<std::result::Result<(), String>> {
    let left = end.saturating_duration_since(Instant::now());
    let last = |event: &alpy_qmp::Event| {
        event.name == "MIGRATION"
            && ["completed", "failed"]
                .map(Some)
                .contains(&event.data["status"].as_str())
    };
    let event = qmp.wait_until("MIGRATION to its end", before, left, last).await?;
    if event.data["status"] == "completed" {
        return Ok(Ok(()));
    }
    let migration = qmp.execute(QueryMigrate).await?;
    let reason = migration.error_desc;
    Ok(Err(reason.unwrap_or_else(|| "QEMU does not say why".to_owned())))
}

/// A text in which everything is that shapes a machine at the end of its recipe: the content of QEMU's executable and of all files of
/// the machine, backing files of disks too, what the guest sees of the machine and its network interfaces, the accelerator, and the recipe. Where
/// files and taps are is not in it.
///
/// The checksums of files that have not changed since the last time come from `memory`, a file that is made and kept up to date
/// there.
///
/// # Errors
/// [`Error::ProgramMissing`]. [`Error::NotSavable`] for a disk that can be written to or whose format is not known well enough.
/// [`Error::File`]. As [`Machine::check`].
pub fn fingerprint(
    machine: &Machine,
    nics: &[Nic],
    accelerator: &Accelerator,
    memory: &Path,
) -> Result<String> {
    machine.check()?;
    machine.check_savable()?;
    let program = process::find(machine.program_path()).ok_or_else(|| Error::ProgramMissing {
        program: machine.program_path().to_owned(),
    })?;
    let mut contents = Contents::recall(memory);
    let mut text = format!("alpy state 1\nqemu {}\n", contents.of(&program)?);
    if accelerator.name() == "kvm" {
        // What a CPU of the model `max` or `host` can do.
        let host = of_host("/proc/cpuinfo")?;
        let host: String = host
            .lines()
            .take_while(|line| !line.is_empty())
            .filter(|line| !line.contains("MHz"))
            .collect();
        let kernel = of_host("/proc/sys/kernel/osrelease")?;
        let _ = writeln!(text, "host {} {kernel:?}", Checksum::of(host.as_bytes()));
    }
    let _ = writeln!(text, "machine {}", machine.shape(accelerator, nics));
    if let Some(shell) = machine.recipe().and_then(Recipe::shell) {
        let _ = writeln!(text, "shell {}", Checksum::of(shell.install_line().as_bytes()));
    }
    if let Some(seed) = machine.seed_of_cloud() {
        let _ = writeln!(text, "seed {}", Checksum::of(&seed.iso()));
    }
    for file in machine.files() {
        let _ = writeln!(text, "file {}", contents.of(&file)?);
    }
    for disk in machine.disks() {
        let mut path = Some(disk.path().to_owned());
        let mut format = disk.format_name().map(str::to_owned);
        // A chain that is longer is a circle.
        for _ in 0..100 {
            let Some(file) = path else { break };
            let _ = writeln!(text, "disk {} {format:?}", contents.of(&file)?);
            path = backing_file(&file, format.as_deref())?;
            format = None;
        }
    }
    contents.keep(memory);
    Ok(text)
}

/// What the kernel says of the host.
fn of_host(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(|source| Error::File {
        what: "read",
        path: path.into(),
        source,
    })
}

/// What a qcow2 image begins with (QEMU's docs/interop/qcow2).
pub(crate) const QCOW2: &[u8; 4] = b"QFI\xfb";

/// The file that a disk image is an overlay on.
pub(crate) fn backing_file(image: &Path, format: Option<&str>) -> Result<Option<PathBuf>> {
    let not_savable = |what: String| Error::NotSavable { what };
    match format {
        Some("raw") => return Ok(None),
        None | Some("qcow2") => {}
        Some(other) => return Err(not_savable(format!("a disk in the format {other}"))),
    }
    let mut head = Vec::new();
    let read = File::open(image).and_then(|file| file.take(64 << 10).read_to_end(&mut head));
    read.map_err(|source| Error::File {
        what: "read",
        path: image.to_owned(),
        source,
    })?;
    // Those that QEMU would find by their first bytes.
    for (magic, name) in [
        (&b"KDMV"[..], "vmdk"),
        (b"# Disk DescriptorFile", "vmdk"),
        (b"QED\0", "qed"),
        (b"vhdxfile", "vhdx"),
        (b"conectix", "vpc"),
        (b"LUKS\xba\xbe", "luks"),
        (b"OOOM", "cow"),
    ] {
        if head.starts_with(magic) {
            return Err(not_savable(format!("a disk in the format {name}")));
        }
    }
    if !head.starts_with(QCOW2) {
        return Ok(None);
    }
    // QEMU, docs/interop/qcow2: offset and length of the backing file's name, and incompatible features, of which bit 2 says that
    // the data is in another file.
    let number = |at: usize, length: usize| {
        let bytes = head.get(at..at + length)?;
        Some(bytes.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
    };
    let damaged = || not_savable(format!("the damaged qcow2 image {}", image.display()));
    let version = number(4, 4).ok_or_else(damaged)?;
    if version >= 3 && number(72, 8).ok_or_else(damaged)? & 4 != 0 {
        return Err(not_savable(
            "a qcow2 image that has its data in another file".to_owned(),
        ));
    }
    let (offset, length) = (
        number(8, 8).ok_or_else(damaged)?,
        number(16, 4).ok_or_else(damaged)?,
    );
    if offset == 0 {
        return Ok(None);
    }
    let name = usize::try_from(offset)
        .ok()
        .zip(usize::try_from(length).ok())
        .and_then(|(offset, length)| head.get(offset..offset.checked_add(length)?))
        .ok_or_else(damaged)?;
    let name = Path::new(std::ffi::OsStr::from_bytes(name));
    if name.as_os_str().as_bytes().contains(&b':') {
        return Err(not_savable(format!("a backing file {}", name.display())));
    }
    let folder = image.parent().unwrap_or(Path::new("."));
    Ok(Some(folder.join(name)))
}

/// The checksums of files, with those of earlier runs.
struct Contents {
    known: Vec<(String, String)>,
    new: bool,
}

/// How many checksums are remembered.
const REMEMBERED: usize = 200;

impl Contents {
    fn recall(memory: &Path) -> Self {
        let text = fs::read_to_string(memory).unwrap_or_default();
        // The sum of the line says that it is whole.
        let known = text.lines().filter_map(|line| {
            let (entry, sum) = line.rsplit_once(' ')?;
            let (identity, content) = entry.split_once(' ')?;
            (Checksum::of(entry.as_bytes()).to_string() == sum)
                .then(|| (identity.to_owned(), content.to_owned()))
        });
        Self {
            known: known.collect(),
            new: false,
        }
    }

    fn of(&mut self, path: &Path) -> Result<String> {
        let failed = |source| Error::File {
            what: "read",
            path: path.to_owned(),
            source,
        };
        let identity = Identity::of(path).map_err(failed)?;
        let text = identity.to_string();
        if let Some((_, content)) = self.known.iter().find(|(known, _)| *known == text) {
            return Ok(content.clone());
        }
        let content = checksum(path).map_err(failed)?.to_string();
        // Not one that is being written to.
        if identity.is_settled() && Identity::of(path).is_ok_and(|now| now == identity) {
            self.known.push((text, content.clone()));
            self.new = true;
        }
        Ok(content)
    }

    /// Remembers, if it can.
    fn keep(&self, memory: &Path) {
        if !self.new {
            return;
        }
        let mut text = String::new();
        for (identity, content) in &self.known[self.known.len().saturating_sub(REMEMBERED)..] {
            let entry = format!("{identity} {content}");
            let _ = writeln!(text, "{entry} {}", Checksum::of(entry.as_bytes()));
        }
        // Of two that do this at once one wins, and the other one's files are read again some time. A line that is not whole is none.
        if let Err(error) = fs::write(memory, text) {
            tracing::debug!(file = %memory.display(), %error, "checksums not remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_dates_as_qemu_reads_them() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (1_795_540_536, "2026-11-24T17:15:36"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(date(seconds), expected);
        }
    }

    #[test]
    fn a_clock_that_is_not_known_is_an_error_that_names_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let ran = folder.path().join(RAN);
        let error = clock(folder.path()).unwrap_err();
        assert!(
            matches!(&error, Error::File { path, .. } if *path == ran),
            "{error}"
        );
        // Empty, cut off, no number, too large, and longer ago than 1970.
        let bad = [
            "",
            "\n",
            "1000",
            "1s\n",
            "-1\n",
            "99999999999999999999\n",
            "18446744073709551615\n",
        ];
        for text in bad {
            fs::write(&ran, text).unwrap();
            let error = clock(folder.path()).unwrap_err().to_string();
            assert!(error.contains(&ran.display().to_string()), "{text:?}: {error}");
        }
        fs::write(&ran, "1000000\n").unwrap();
        assert!(clock(folder.path()).unwrap().starts_with("base=20"));
    }
}
