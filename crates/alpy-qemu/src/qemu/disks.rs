// SPDX-License-Identifier: GPL-3.0-or-later
//! Disks that the host cannot read or write.

use std::env;
use std::time::Duration;

use alpy_qmp::{Client, Error as QmpError, Event, Position};

use crate::disk::Disk;
use crate::error::Error;

/// Waits until the host cannot read or write a disk; `None` when no event can come any more.
///
/// QEMU reports each such request (qapi/block-core.json, `BLOCK_IO_ERROR`). By default it then stops the machine for want of space, and gives
/// any other error to the guest, which would be blamed for it. Errors of disks that the caller has added to QEMU are left
/// to the guest, unless they stop the machine: the caller may want them.
pub(super) async fn failed(qmp: &Client, disks: &[Disk]) -> Option<Error> {
    const FOREVER: Duration = Duration::from_secs(365 * 86_400);
    let mut events = qmp.events(Position::START);
    loop {
        match events.next(FOREVER).await {
            Ok(event) => {
                if let Some(error) = error_in(&event, disks) {
                    return Some(error);
                }
            }
            Err(QmpError::Lagged { .. } | QmpError::EventTimeout { .. }) => {}
            Err(_) => return None,
        }
    }
}

/// The error that an event reports, if the machine cannot go on or one of its own disks has it.
fn error_in(event: &Event, disks: &[Disk]) -> Option<Error> {
    if event.name != "BLOCK_IO_ERROR" {
        return None;
    }
    let text = |field: &str| event.data[field].as_str().unwrap_or_default();
    let device = match text("device") {
        "" => text("node-name"),
        device => device,
    };
    let index: Option<usize> = device.strip_prefix("disk").and_then(|index| index.parse().ok());
    let disk = index.and_then(|index| disks.get(index));
    let is_own = disk.is_some() || ["cdrom0", "seed0"].contains(&device);
    if !is_own && text("action") != "stop" {
        return None;
    }
    let no_space = event.data["nospace"] == true;
    let place = match disk {
        Some(disk) if disk.is_persistent() => disk.path().display().to_string(),
        Some(disk) => format!(
            "the overlay of {} in {}",
            disk.path().display(),
            env::var_os("TMPDIR").map_or("/var/tmp".into(), |folder| folder.to_string_lossy().into_owned())
        ),
        None => "its file".to_owned(),
    };
    let remedy = match disk {
        Some(disk) if disk.is_persistent() => "free space on its file system",
        Some(_) => "free space there, or set TMPDIR to a folder of a file system with more space",
        None => "free space on its file system",
    };
    Some(Error::DiskFailed {
        disk: device.to_owned(),
        operation: match text("operation") {
            "read" => "read",
            _ => "write",
        },
        place,
        reason: match (no_space, text("reason")) {
            (true, reason) => format!("{reason} (ENOSPC)"),
            (false, "") => "QEMU does not say why".to_owned(),
            (false, reason) => reason.to_owned(),
        },
        remedy,
    })
}
