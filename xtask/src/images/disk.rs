// SPDX-License-Identifier: GPL-3.0-or-later
//! A disk image that boots by BIOS and by UEFI: a partition table, and one FAT file system with kernel, initrd and both boot loaders. Made
//! by programs of the packages, which work on plain files and so need no privilege.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::programs;
use crate::process::{Kind, command, output};

/// Name of the file system. The rabbit finds it by that.
const LABEL: &str = "RABBIT";

/// For what the guest keeps.
const FREE: u64 = 16 << 20;
/// FAT32 needs so much at least.
const LEAST: u64 = 48 << 20;

const SECTOR: u64 = 512;
/// Where the partition begins, in sectors: the usual place, at 1 MiB.
const START: u32 = 2048;
/// The geometry that BIOSes pretend. Nobody looks at it but the file system's header, which has to name one.
const HEADS: u32 = 255;
const SECTORS_A_TRACK: u32 = 63;

/// The first sector's code, which starts the active partition; from Debian and Ubuntu, and from Alpine.
const BOOT_CODE: &[&str] = &["usr/lib/SYSLINUX/mbr.bin", "usr/share/syslinux/mbr.bin"];
/// As much as there is before the partition table.
const BOOT_CODE_LENGTH: usize = 440;
const PARTITION_TABLE: usize = 446;
const ACTIVE: u8 = 0x80;
/// FAT32, to be addressed by sector numbers.
const FAT32_LBA: u8 = 0x0c;

const UEFI_LOADER: &[&str] = &["usr/lib/systemd/boot/efi/systemd-bootx64.efi"];

/// Those of mtools that are used here or by syslinux.
const MTOOLS: &[&str] = &["mattrib", "mcopy", "mformat", "mmd", "mmove"];

/// Writes the disk image `image`, with a file system that has kernel and initrd and that boots them with a command line. Programs and boot
/// loaders are those of the packages in the folder `root`.
pub fn write(root: &Path, image: &Path, kernel: &Path, initrd: &Path, cmdline: &str) -> Result<()> {
    let content = fs::metadata(kernel)?.len() + fs::metadata(initrd)?.len();
    let partition = (content + FREE).max(LEAST).next_multiple_of(1 << 20);
    let sectors = u32::try_from(partition / SECTOR).context("kernel and initrd are too large for a disk")?;
    let boot_code = fs::read(programs::find_file(root, BOOT_CODE)?)?;
    let mut file = File::create(image)?;
    file.write_all(&first_sector(&boot_code, sectors)?)?;
    // The rest is a hole until somebody writes there.
    file.set_len(u64::from(START) * SECTOR + partition)?;

    let tools = Tools::new(root)?;
    let system = format!("{}@@{}", image.display(), u64::from(START) * SECTOR);
    let geometry = [HEADS, SECTORS_A_TRACK, sectors, START].map(|number| number.to_string());
    let [heads, sectors_a_track, sectors, start] = geometry.each_ref().map(String::as_str);
    let mut format = tools.command("mformat");
    format
        .args(["-i", &system, "-F", "-v", LABEL, "-N", "20000101"])
        .args(["-h", heads, "-s", sectors_a_track])
        .args(["-T", sectors, "-H", start, "::"]);
    output(format, Kind::Group)?.success("mformat")?;

    let mut folders = tools.command("mmd");
    folders
        .args(["-i", &system, "::/EFI", "::/EFI/BOOT"])
        .args(["::/loader", "::/loader/entries"]);
    output(folders, Kind::Group)?.success("mmd")?;
    let copy = |from: &Path, to: &str| {
        let mut copy = tools.command("mcopy");
        copy.args(["-i", &system]).arg(from).arg(format!("::/{to}"));
        output(copy, Kind::Group)?.success(&format!("mcopy of {to}"))
    };
    copy(kernel, "vmlinuz")?;
    copy(initrd, "initrd")?;
    copy(&programs::find_file(root, UEFI_LOADER)?, "EFI/BOOT/BOOTX64.EFI")?;
    // By https://wiki.syslinux.org/wiki/index.php?title=Config, and by loader.conf(5) and https://uapi-group.org/specifications/specs/boot_loader_specification.
    for (name, text) in [
        (
            "syslinux.cfg",
            format!("DEFAULT rabbit\nLABEL rabbit\nKERNEL /vmlinuz\nINITRD /initrd\nAPPEND {cmdline}\n"),
        ),
        (
            "loader/loader.conf",
            "default rabbit.conf\ntimeout 0\n".to_owned(),
        ),
        (
            "loader/entries/rabbit.conf",
            format!("title rabbit\nlinux /vmlinuz\ninitrd /initrd\noptions {cmdline}\n"),
        ),
    ] {
        let path = tools.folder.path().join("text");
        fs::write(&path, text)?;
        copy(&path, name)?;
    }

    let mut install = tools.command("syslinux");
    install
        .args(["--install", "--offset", &(u64::from(START) * SECTOR).to_string()])
        .arg(image);
    output(install, Kind::Group)?.success("syslinux")?;
    Ok(())
}

/// Boot code, and a table of one active partition. The kernel's block/partitions/msdos.c reads the same.
fn first_sector(boot_code: &[u8], sectors: u32) -> Result<[u8; SECTOR as usize]> {
    ensure!(
        boot_code.len() <= BOOT_CODE_LENGTH,
        "the boot code of {} bytes is too large for a first sector",
        boot_code.len()
    );
    let mut sector = [0; SECTOR as usize];
    sector[..boot_code.len()].copy_from_slice(boot_code);
    // First and last sector in the old numbers: beyond what these can say.
    let far = [0xfe, 0xff, 0xff];
    let mut entry = vec![ACTIVE];
    entry.extend(far);
    entry.push(FAT32_LBA);
    entry.extend(far);
    entry.extend(START.to_le_bytes());
    entry.extend(sectors.to_le_bytes());
    sector[PARTITION_TABLE..PARTITION_TABLE + entry.len()].copy_from_slice(&entry);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(sector)
}

/// A folder of programs from packages that are unpacked, not installed: scripts that run them, for syslinux runs mtools by their names.
struct Tools {
    folder: tempfile::TempDir,
}

impl Tools {
    fn new(root: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let programs = MTOOLS
            .iter()
            .map(|name| (*name, "mtools"))
            .chain([("syslinux", "syslinux")]);
        for (name, program) in programs {
            let path = programs::find_program(root, program)?;
            let loader = programs::loader(root, &path)?.with_context(|| format!("{path} is static"))?;
            let script = format!(
                "#!/bin/sh\nexec {} --library-path {} --argv0 {name} {} \"$@\"\n",
                quote(&loader.path)?,
                quote(&loader.libraries)?,
                quote(root.join(&path))?,
            );
            let tool = folder.path().join(name);
            fs::write(&tool, script)?;
            fs::set_permissions(&tool, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { folder })
    }

    fn command(&self, name: &str) -> Command {
        let mut command = command(self.folder.path().join(name));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.folder.path().to_owned()).chain(std::env::split_paths(&path));
        command
            .env("PATH", std::env::join_paths(folders).unwrap_or_default())
            .env("LC_ALL", "C")
            // Nobody's own drives.
            .env("HOME", self.folder.path())
            // Equal files make equal bytes.
            .env("SOURCE_DATE_EPOCH", "946684800")
            .env("TZ", "UTC")
            .env("TMPDIR", self.folder.path());
        command
    }
}

/// As one word for a shell.
fn quote(text: impl AsRef<OsStr>) -> Result<String> {
    let text = text.as_ref().to_str();
    let text = text.context("a folder for packages must have a name in UTF-8")?;
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sector_has_one_active_partition() {
        let sector = first_sector(&[0x90; 440], 98_304).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::write(&image, sector).unwrap();
        File::options()
            .write(true)
            .open(&image)
            .unwrap()
            .set_len(49 << 20)
            .unwrap();
        let mut list = command("partx");
        list.args(["--noheadings", "--raw", "--output", "START,SECTORS,TYPE,FLAGS"])
            .arg(&image);
        let listing = output(list, Kind::Group).unwrap().success("partx").unwrap();
        assert_eq!(listing, "2048 98304 0xc 0x80\n");
    }

    #[test]
    fn boot_code_that_would_cover_the_table_is_refused() {
        let error = first_sector(&[0; 441], 98_304).unwrap_err().to_string();
        assert!(error.contains("441 bytes"), "{error}");
    }
}
