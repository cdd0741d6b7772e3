// SPDX-License-Identifier: GPL-3.0-or-later
//! A machine of a topology file.

use std::path::{Path, PathBuf};

use alpy::qemu::{Disk, DiskModel, Firmware, Machine, NicModel, Seed};
use anyhow::Result;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::files;

/// A machine. Paths are relative to the topology file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineTable {
    /// QEMU's program, a path or a name: qemu-system-x86_64 if not set.
    program: Option<PathBuf>,
    /// The chipset, as `-machine` of QEMU takes it: `pc` if not set, `q35` for secure boot.
    machine_type: Option<String>,
    /// The CPU, as `-cpu` of QEMU takes it: `max` if not set.
    cpu_model: Option<String>,
    /// How many CPUs: 1 if not set.
    cpus: Option<u32>,
    /// How much memory, in MiB: 512 if not set.
    memory_mib: Option<u32>,
    /// What runs before the guest: `bios` if not set.
    #[serde(default)]
    firmware: FirmwareName,
    /// A Linux kernel to boot without a boot loader.
    kernel: Option<PathBuf>,
    /// Its initial RAM disk.
    initrd: Option<PathBuf>,
    /// Its command line.
    append: Option<String>,
    /// The disks, in their order.
    #[serde(default)]
    disk: Vec<DiskTable>,
    /// A CD image.
    cdrom: Option<PathBuf>,
    /// What a cloud image is told at its first boot.
    seed: Option<SeedTable>,
    /// Whether it has a TPM 2.0, for which swtpm is needed.
    #[serde(default)]
    tpm: bool,
    /// What its NICs are: `virtio-net` if not set.
    #[serde(default)]
    nic_model: NicModelName,
    /// Whether its NICs boot from the network (iPXE).
    #[serde(default)]
    network_boot: bool,
    /// More arguments for QEMU.
    #[serde(default)]
    extra_arguments: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum FirmwareName {
    #[default]
    Bios,
    Uefi,
    SecureBoot,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum NicModelName {
    #[default]
    VirtioNet,
    E1000,
}

/// A disk. Unless it is persistent, what the guest writes is thrown away at the end.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DiskTable {
    /// The image file.
    file: PathBuf,
    /// Its format, such as `raw` or `qcow2`. QEMU looks for itself if it is not set.
    format: Option<String>,
    /// What the guest sees: `virtio-blk` if not set.
    #[serde(default)]
    model: DiskModelName,
    /// Whether the guest writes to the image itself.
    #[serde(default)]
    persistent: bool,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum DiskModelName {
    #[default]
    VirtioBlk,
    Ide,
}

/// A NoCloud seed. The files are relative to the topology file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SeedTable {
    /// The instance's id.
    instance_id: String,
    /// The host's name.
    local_hostname: Option<String>,
    /// The file with the user-data.
    user_data: Option<PathBuf>,
    /// The file with the network-config.
    network_config: Option<PathBuf>,
}

impl MachineTable {
    /// The machine, whose files are relative to a folder.
    pub fn machine(&self, folder: &Path) -> Result<Machine> {
        let path = |path: &PathBuf| folder.join(path);
        let mut machine = Machine::new().nic_model(match self.nic_model {
            NicModelName::VirtioNet => NicModel::VirtioNet,
            NicModelName::E1000 => NicModel::E1000,
        });
        if let FirmwareName::SecureBoot = self.firmware {
            machine = machine.machine_type("q35");
        }
        machine = machine.firmware(match self.firmware {
            FirmwareName::Bios => Firmware::Bios,
            FirmwareName::Uefi => Firmware::uefi()?,
            FirmwareName::SecureBoot => Firmware::secure_boot()?,
        });
        if let Some(program) = &self.program {
            // A name without a slash is looked for in PATH.
            let is_name = program.components().count() == 1;
            machine = machine.program(if is_name { program.clone() } else { path(program) });
        }
        if let Some(machine_type) = &self.machine_type {
            machine = machine.machine_type(machine_type);
        }
        if let Some(model) = &self.cpu_model {
            machine = machine.cpu_model(model);
        }
        if let Some(cpus) = self.cpus {
            machine = machine.cpus(cpus);
        }
        if let Some(memory) = self.memory_mib {
            machine = machine.memory_mib(memory);
        }
        if let Some(kernel) = &self.kernel {
            machine = machine.kernel(path(kernel));
        }
        if let Some(initrd) = &self.initrd {
            machine = machine.initrd(path(initrd));
        }
        if let Some(append) = &self.append {
            machine = machine.append(append);
        }
        for disk in &self.disk {
            machine = machine.disk(disk.disk(folder));
        }
        if let Some(cdrom) = &self.cdrom {
            machine = machine.cdrom(path(cdrom));
        }
        if let Some(seed) = &self.seed {
            machine = machine.seed(seed.seed(folder)?);
        }
        if self.tpm {
            machine = machine.tpm();
        }
        if self.network_boot {
            machine = machine.network_boot();
        }
        Ok(machine.extra_arguments(&self.extra_arguments))
    }
}

impl DiskTable {
    fn disk(&self, folder: &Path) -> Disk {
        let mut disk = Disk::new(folder.join(&self.file)).model(match self.model {
            DiskModelName::VirtioBlk => DiskModel::VirtioBlk,
            DiskModelName::Ide => DiskModel::Ide,
        });
        if let Some(format) = &self.format {
            disk = disk.format(format);
        }
        if self.persistent {
            disk = disk.persistent();
        }
        disk
    }
}

impl SeedTable {
    fn seed(&self, folder: &Path) -> Result<Seed> {
        let read = |file: &PathBuf| files::text(&folder.join(file));
        let mut seed = Seed::new(&self.instance_id);
        if let Some(name) = &self.local_hostname {
            seed = seed.local_hostname(name);
        }
        if let Some(file) = &self.user_data {
            seed = seed.user_data(read(file)?);
        }
        if let Some(file) = &self.network_config {
            seed = seed.network_config(read(file)?);
        }
        Ok(seed)
    }
}
