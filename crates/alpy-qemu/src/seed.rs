// SPDX-License-Identifier: GPL-3.0-or-later
//! What a cloud image is told at its first boot.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};

use crate::disk::DevicePlace;
use crate::error::{Error, Result};
use crate::iso;
use crate::memory;
use crate::option::OptionValue;

/// The number of the set of descriptors in which QEMU finds the image.
const SET: u32 = 9660;

/// What cloud-init, and whatever speaks its language, is told when a cloud image boots: a file system labelled `cidata`, on a disk of its own, which
/// can only be read (<https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html>).
///
/// It is made in memory, for the QEMU that runs with it: no file, no root, no program for it.
///
/// ```
/// # use alpy_qemu::{Disk, Machine, Seed};
/// let seed = Seed::new("alpy-1")
///     .local_hostname("router")
///     .user_data("#cloud-config\npassword: alpy\nchpasswd: {expire: false}\nssh_pwauth: true\n")
///     .network_config("version: 2\nethernets: {ens2: {addresses: [192.168.0.1/24]}}\n");
/// let machine = Machine::new().disk(Disk::new("debian-12-nocloud-amd64.qcow2")).seed(seed);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Seed {
    meta_data: String,
    user_data: String,
    vendor_data: Option<String>,
    network_config: Option<String>,
    cdrom: bool,
}

impl Seed {
    /// A seed that says nothing but its instance's id. To a guest that has booted with another one, it is a first boot.
    pub fn new(instance_id: &str) -> Self {
        let seed = Self {
            meta_data: String::new(),
            user_data: String::new(),
            vendor_data: None,
            network_config: None,
            cdrom: false,
        };
        seed.meta("instance-id", instance_id)
    }

    /// The host's name, as `local-hostname` of the meta-data.
    pub fn local_hostname(self, name: &str) -> Self {
        self.meta("local-hostname", name)
    }

    /// One line more of the meta-data, with a text as its value.
    pub fn meta(mut self, key: &str, value: &str) -> Self {
        // A string of JSON is one of YAML.
        let value = serde_json::Value::from(value);
        self.meta_data.push_str(&format!("{key}: {value}\n"));
        self
    }

    /// The user-data: `#cloud-config` and YAML behind it, or a script.
    pub fn user_data(mut self, text: impl Into<String>) -> Self {
        self.user_data = text.into();
        self
    }

    /// The vendor-data, in the format of the user-data, which comes first where the two differ.
    pub fn vendor_data(mut self, text: impl Into<String>) -> Self {
        self.vendor_data = Some(text.into());
        self
    }

    /// The network-config, of version 1 or 2. Without this word, cloud-init asks by DHCP on one interface.
    pub fn network_config(mut self, text: impl Into<String>) -> Self {
        self.network_config = Some(text.into());
        self
    }

    /// In a CD drive (IDE, on the machine type `q35` SATA), for a guest that looks for it there. Without this word it is a virtio-blk disk, which
    /// images without drivers for IDE see too.
    pub fn cdrom(mut self) -> Self {
        self.cdrom = true;
        self
    }

    /// The file system: ISO 9660 with the names in Rock Ridge and in Joliet. The same words make the same bytes.
    ///
    /// For a QEMU that somebody else starts: write it to a file, and give that as a [disk](crate::Disk).
    pub fn iso(&self) -> Vec<u8> {
        let mut files = vec![("META.;1", "meta-data", &self.meta_data)];
        if let Some(text) = &self.network_config {
            files.push(("NETWORK.;1", "network-config", text));
        }
        files.push(("USER.;1", "user-data", &self.user_data));
        if let Some(text) = &self.vendor_data {
            files.push(("VENDOR.;1", "vendor-data", text));
        }
        let files: Vec<_> = files
            .into_iter()
            .map(|(short, name, text)| iso::Entry {
                short,
                name,
                content: text.as_bytes(),
            })
            .collect();
        iso::image("cidata", &files)
    }

    /// The file system in memory, which nobody can change any more, open to be read.
    pub(crate) fn open(&self) -> Result<File> {
        self.open_memory().map_err(|source| Error::System {
            what: "make the seed",
            source,
        })
    }

    fn open_memory(&self) -> io::Result<File> {
        let mut memory = memory::file(c"alpy-seed")?;
        memory.write_all(&self.iso())?;
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK;
        fcntl(&memory, FcntlArg::F_ADD_SEALS(seals))?;
        // QEMU takes a descriptor of a set only if it was opened as QEMU would have opened it.
        File::open(format!("/proc/self/fd/{}", memory.as_raw_fd()))
    }

    pub(crate) fn is_cdrom(&self) -> bool {
        self.cdrom
    }

    /// The arguments for a QEMU that has it under a number. `place` is for a CD drive.
    pub(crate) fn arguments(&self, descriptor: i32, place: DevicePlace) -> [std::ffi::OsString; 6] {
        let pass = OptionValue::new("")
            .set("fd", descriptor.to_string())
            .set("set", SET.to_string());
        let mut drive = OptionValue::new("").set("id", "seed0").set("if", "none");
        if self.cdrom {
            drive = drive.set("media", "cdrom");
        }
        let drive = drive
            .set("readonly", "on")
            .set("format", "raw")
            .set("file", format!("/dev/fdset/{SET}"));
        let device = if self.cdrom {
            place.add_to(OptionValue::new("ide-cd").set("drive", "seed0"))
        } else {
            OptionValue::new("virtio-blk-pci").set("drive", "seed0")
        };
        [
            "-add-fd".into(),
            pass.into(),
            "-drive".into(),
            drive.into(),
            "-device".into(),
            device.into(),
        ]
    }
}
