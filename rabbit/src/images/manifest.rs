// SPDX-License-Identifier: GPL-3.0-or-later
//! What `cargo xtask images` writes and the tests read. xtask compiles this same file, so the two always agree, and
//! xtask need not depend on alpy.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Name of the file, in the folder of the images.
pub(super) const FILE: &str = "manifest.json";

/// The images that were built last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Hash of everything that was built from, package versions apart.
    pub key: String,
    /// When the packages were resolved, seconds since 1970.
    pub built: u64,
    /// Version of each package by name, of all that the images are made from.
    pub packages: BTreeMap<String, String>,
    /// The device under test.
    pub rabbit: Appliance,
    /// Further guests by name: `frr`, `installer`. Those that the distribution has no package of are missing.
    pub machines: BTreeMap<String, Machine>,
    /// Root file systems of containers by name: `bird`, `busybox`, `dnsmasq`, `http`, `iperf3`, `iproute2`, `tcpreplay`.
    pub containers: BTreeMap<String, Container>,
}

/// A guest that QEMU boots directly, from a kernel and an initrd, or from a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appliance {
    /// The kernel, for QEMU's `-kernel`.
    pub kernel: PathBuf,
    /// The whole root file system, for QEMU's `-initrd`.
    pub initrd: PathBuf,
    /// Kernel command line, for QEMU's `-append`.
    pub cmdline: String,
    /// A raw disk image that boots by BIOS and by UEFI. It has the same system.
    pub disk: PathBuf,
}

/// A guest that QEMU boots from a kernel and an initrd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The kernel, for QEMU's `-kernel`.
    pub kernel: PathBuf,
    /// The initrd, for QEMU's `-initrd`.
    pub initrd: PathBuf,
    /// Kernel command line, for QEMU's `-append`.
    pub cmdline: String,
}

/// A container image to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// `alpy/<name>:<hash of the tar file and the environment>`: an image of this name never changes.
    pub tag: String,
    /// Root file system as an uncompressed tar file, to import.
    pub rootfs: PathBuf,
    /// Environment as `NAME=value`. An import knows none, not even `PATH`.
    pub env: Vec<String>,
}

impl Manifest {
    /// Reads the manifest of the folder `images` and makes its paths start with `images`; in the file they are
    /// relative, so that the folder may be moved.
    pub fn read(images: &Path) -> io::Result<Self> {
        let mut manifest: Self = serde_json::from_slice(&std::fs::read(images.join(FILE))?)?;
        for path in manifest.paths_mut() {
            *path = images.join(&path);
        }
        Ok(manifest)
    }

    /// Every path in the manifest.
    pub fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Appliance {
            kernel, initrd, disk, ..
        } = &mut self.rabbit;
        let machines = self.machines.values_mut();
        let containers = self.containers.values_mut();
        [kernel, initrd, disk]
            .into_iter()
            .chain(machines.flat_map(|machine| [&mut machine.kernel, &mut machine.initrd]))
            .chain(containers.map(|container| &mut container.rootfs))
    }
}
