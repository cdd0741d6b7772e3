// SPDX-License-Identifier: GPL-3.0-or-later
//! A machine of a topology file.

use std::ops::Range;
use std::path::{Path, PathBuf};

use alpy::qemu::{Disk, DiskModel, Firmware, Machine, NicModel, Seed};
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::files::{self, Kind};
use super::place::Source;
use crate::programs;

/// A machine. Paths are relative to the topology file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineTable {
    /// QEMU's program, a path or a name: qemu-system-x86_64 if not set.
    #[schemars(with = "Option<PathBuf>")]
    program: Option<Spanned<PathBuf>>,
    /// The chipset, as `-machine` of QEMU takes it: `pc` if not set, `q35` for secure boot.
    #[schemars(with = "Option<String>")]
    machine_type: Option<Spanned<String>>,
    /// The CPU, as `-cpu` of QEMU takes it: `max` if not set.
    #[schemars(with = "Option<String>")]
    cpu_model: Option<Spanned<String>>,
    /// How many CPUs: 1 if not set.
    #[schemars(with = "Option<u32>", range(min = 1))]
    cpus: Option<Spanned<u32>>,
    /// How much memory, in MiB: 512 if not set.
    #[schemars(with = "Option<u32>", range(min = 1))]
    memory_mib: Option<Spanned<u32>>,
    /// What runs before the guest: `bios` if not set.
    #[serde(default)]
    firmware: FirmwareName,
    /// A Linux kernel to boot without a boot loader.
    #[schemars(with = "Option<PathBuf>")]
    kernel: Option<Spanned<PathBuf>>,
    /// Its initial RAM disk.
    #[schemars(with = "Option<PathBuf>")]
    initrd: Option<Spanned<PathBuf>>,
    /// Its command line.
    append: Option<String>,
    /// The disks, in their order.
    #[serde(default)]
    disk: Vec<DiskTable>,
    /// A CD image.
    #[schemars(with = "Option<PathBuf>")]
    cdrom: Option<Spanned<PathBuf>>,
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
    #[schemars(with = "PathBuf")]
    file: Spanned<PathBuf>,
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
    #[schemars(with = "Option<PathBuf>")]
    user_data: Option<Spanned<PathBuf>>,
    /// The file with the network-config.
    #[schemars(with = "Option<PathBuf>")]
    network_config: Option<Spanned<PathBuf>>,
}

impl MachineTable {
    /// The machine, whose files are relative to a folder. Where something is wrong, that is noted, and the machine is a bare one. `span` is
    /// where the table is.
    pub fn machine(&self, source: &Source<'_>, folder: &Path, span: Range<usize>) -> Machine {
        let before = source.count();
        let mut machine = Machine::new().nic_model(match self.nic_model {
            NicModelName::VirtioNet => NicModel::VirtioNet,
            NicModelName::E1000 => NicModel::E1000,
        });
        if let FirmwareName::SecureBoot = self.firmware {
            machine = machine.machine_type("q35");
        }
        let firmware = match self.firmware {
            FirmwareName::Bios => Ok(Firmware::Bios),
            FirmwareName::Uefi => Firmware::uefi(),
            FirmwareName::SecureBoot => Firmware::secure_boot(),
        };
        match firmware {
            Ok(firmware) => machine = machine.firmware(firmware),
            Err(error) => source.mistake(span.clone(), &error.to_string()),
        }
        if let Some(program) = &self.program {
            // A name without a slash is searched for in PATH.
            let is_name = program.as_ref().components().count() == 1;
            machine = machine.program(if is_name {
                if programs::find(program.as_ref()).is_none() {
                    let name = program.as_ref().display();
                    source.mistake(program.span(), &format!("`program`: there is no {name} in PATH"));
                }
                program.as_ref().clone()
            } else {
                files::check(source, folder, "program", program, Kind::Any)
            });
        }
        for (key, value) in [
            ("machine_type", &self.machine_type),
            ("cpu_model", &self.cpu_model),
        ] {
            let empty = value.iter().filter(|value| value.as_ref().trim().is_empty());
            empty.for_each(|value| source.mistake(value.span(), &format!("`{key}` is empty")));
        }
        if let Some(machine_type) = &self.machine_type {
            machine = machine.machine_type(machine_type.as_ref());
        }
        if let Some(model) = &self.cpu_model {
            machine = machine.cpu_model(model.as_ref());
        }
        for (key, value) in [("cpus", &self.cpus), ("memory_mib", &self.memory_mib)] {
            let none = value.iter().filter(|value| *value.as_ref() == 0);
            none.for_each(|value| source.mistake(value.span(), &format!("`{key}` is 0; it is 1 at least")));
        }
        if let Some(cpus) = &self.cpus {
            machine = machine.cpus(*cpus.as_ref());
        }
        if let Some(memory) = &self.memory_mib {
            machine = machine.memory_mib(*memory.as_ref());
        }
        // What another emulator boots is not known here.
        let kernel = if self.program.is_none() {
            Kind::Kernel
        } else {
            Kind::Any
        };
        if let Some(file) = &self.kernel {
            machine = machine.kernel(files::check(source, folder, "kernel", file, kernel));
        }
        for (key, needs) in [
            ("initrd", self.initrd.is_some()),
            ("append", self.append.is_some()),
        ] {
            if needs && self.kernel.is_none() {
                source.mistake(
                    span.clone(),
                    &format!("`{key}` without `kernel`: QEMU passes it to a kernel only"),
                );
            }
        }
        if let Some(file) = &self.initrd {
            machine = machine.initrd(files::check(source, folder, "initrd", file, Kind::Any));
        }
        if let Some(append) = &self.append {
            machine = machine.append(append);
        }
        for disk in &self.disk {
            machine = machine.disk(disk.disk(source, folder));
        }
        if let Some(file) = &self.cdrom {
            machine = machine.cdrom(files::check(
                source,
                folder,
                "cdrom",
                file,
                Kind::Disk(None, false),
            ));
        }
        if let Some(seed) = &self.seed {
            machine = machine.seed(seed.seed(source, folder));
        }
        if self.tpm {
            machine = machine.tpm();
        }
        if self.network_boot {
            machine = machine.network_boot();
        }
        let machine = machine.extra_arguments(&self.extra_arguments);
        // The machine's own check would repeat what is noted already.
        if source.count() == before {
            if let Err(error) = machine.check() {
                source.mistake(span, &format!("{:#}", anyhow::Error::from(error)));
            }
        }
        match source.count() == before {
            true => machine,
            false => Machine::new(),
        }
    }
}

impl DiskTable {
    fn disk(&self, source: &Source<'_>, folder: &Path) -> Disk {
        let kind = Kind::Disk(self.format.as_deref(), self.persistent);
        let file = files::check(source, folder, "disk.file", &self.file, kind);
        let mut disk = Disk::new(file).model(match self.model {
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
    fn seed(&self, source: &Source<'_>, folder: &Path) -> Seed {
        let read = |key: &str, file: &Spanned<PathBuf>| {
            let before = source.count();
            let path = files::check(source, folder, key, file, Kind::Any);
            let text = match source.count() == before {
                true => crate::files::text(&path),
                // What is noted once need not be read.
                false => Ok(String::new()),
            };
            text.unwrap_or_else(|error| {
                source.mistake(file.span(), &format!("`{key}`: {error:#}"));
                String::new()
            })
        };
        let mut seed = Seed::new(&self.instance_id);
        if let Some(name) = &self.local_hostname {
            seed = seed.local_hostname(name);
        }
        if let Some(file) = &self.user_data {
            seed = seed.user_data(read("seed.user_data", file));
        }
        if let Some(file) = &self.network_config {
            seed = seed.network_config(read("seed.network_config", file));
        }
        seed
    }
}
