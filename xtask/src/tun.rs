// SPDX-License-Identifier: GPL-3.0-or-later
//! The tun device, from which the helper container makes taps.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::geteuid;

use crate::process::{self, Kind};
use crate::stop;

const DEVICE: &str = "/dev/net/tun";

/// Makes sure that the device is there and, for a rootless engine, that anyone may open it, as udev has it.
pub fn ensure(rootless: bool) -> Result<()> {
    let mode = match fs::metadata(DEVICE) {
        Ok(meta) => Some(meta.mode()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).context(DEVICE),
    };
    let Some(remedy) = remedy(mode, rootless) else {
        return Ok(());
    };
    if !geteuid().is_root() {
        return Err(stop::before_start(remedy));
    }
    if mode.is_none() {
        make()?;
    }
    if rootless {
        eprintln!("xtask: chmod 666 {DEVICE}, which a rootless engine needs open");
        fs::set_permissions(DEVICE, fs::Permissions::from_mode(0o666)).context(DEVICE)?;
    }
    Ok(())
}

/// What is wrong with a device of this mode (`None`: there is none), and what to do.
fn remedy(mode: Option<u32>, rootless: bool) -> Option<String> {
    match mode {
        None => Some(format!(
            "{DEVICE} is missing; remedy: sudo modprobe tun && sudo chmod 666 {DEVICE}"
        )),
        Some(mode) if rootless && mode & 0o666 != 0o666 => {
            let mode = mode & 0o777;
            Some(format!(
                "{DEVICE} has mode {mode:04o}, closed to a rootless engine; remedy: sudo chmod 666 {DEVICE}"
            ))
        }
        Some(_) => None,
    }
}

fn make() -> Result<()> {
    eprintln!("xtask: make {DEVICE}, which is missing");
    if process::find("modprobe").is_some() {
        let mut command = process::command("modprobe");
        command.arg("tun");
        // Where the driver is built in there is no module, and `mknod` is all it takes.
        let _ = process::output(command, Kind::Group)?;
    }
    if Path::new(DEVICE).exists() {
        return Ok(());
    }
    fs::create_dir_all("/dev/net").context("create /dev/net")?;
    let mode = Mode::from_bits_truncate(0o666);
    // 10:200 in the kernel's Documentation/admin-guide/devices.txt.
    mknod(DEVICE, SFlag::S_IFCHR, mode, makedev(10, 200)).context(DEVICE)
}

#[cfg(test)]
mod tests {
    use super::remedy;

    #[test]
    fn a_closed_device_matters_to_a_rootless_engine_alone() {
        assert_eq!(remedy(Some(0o20_600), false), None);
        assert_eq!(remedy(Some(0o20_666), true), None);
        let closed = remedy(Some(0o20_600), true).unwrap();
        assert!(
            closed.contains("mode 0600") && closed.ends_with("sudo chmod 666 /dev/net/tun"),
            "{closed}"
        );
        assert!(remedy(None, false).unwrap().contains("missing"));
    }
}
