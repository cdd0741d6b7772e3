// SPDX-License-Identifier: GPL-3.0-or-later
//! The machine as data, and its command line.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::accelerator::Accelerator;
use crate::disk::Disk;
use crate::firmware::Firmware;
use crate::nic::{self, Nic, NicModel};
use crate::option::OptionValue;

/// What is in the box: a machine with a serial console, a source of entropy, and what the builder's words add.
///
/// It is plain data. Building one and asking for its [`arguments`](Self::arguments) reads no file and starts nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Machine {
    program: PathBuf,
    machine_type: String,
    cpu_model: String,
    cpus: u32,
    memory_mib: u32,
    firmware: Firmware,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    append: Option<String>,
    disks: Vec<Disk>,
    cdrom: Option<PathBuf>,
    nic_model: NicModel,
    network_boot: bool,
    extra: Vec<OsString>,
}

impl Machine {
    /// A machine of type `pc` with one CPU, 512 MiB of memory, SeaBIOS and nothing to boot from.
    pub fn new() -> Self {
        Self {
            program: "qemu-system-x86_64".into(),
            // As fast to boot as `q35`, and a device can be plugged in while it runs.
            machine_type: "pc".into(),
            // All that the accelerator can do: distributions ask for more than QEMU's default model from 2001 has.
            cpu_model: "max".into(),
            cpus: 1,
            memory_mib: 512,
            firmware: Firmware::Bios,
            kernel: None,
            initrd: None,
            append: None,
            disks: Vec::new(),
            cdrom: None,
            nic_model: NicModel::VirtioNet,
            network_boot: false,
            extra: Vec::new(),
        }
    }

    /// The emulator, a path or a name to look for in `PATH`. Without this word, `qemu-system-x86_64`.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// The chipset, as `-machine` takes it: `pc`, `q35`, `q35,smm=on`, ...
    pub fn machine_type(mut self, machine_type: impl Into<String>) -> Self {
        self.machine_type = machine_type.into();
        self
    }

    /// The CPU, as `-cpu` takes it. Without this word, `max`.
    pub fn cpu_model(mut self, model: impl Into<String>) -> Self {
        self.cpu_model = model.into();
        self
    }

    /// How many CPUs.
    pub fn cpus(mut self, count: u32) -> Self {
        self.cpus = count;
        self
    }

    /// How much memory, in MiB.
    pub fn memory_mib(mut self, memory: u32) -> Self {
        self.memory_mib = memory;
        self
    }

    /// What runs before the guest.
    pub fn firmware(mut self, firmware: Firmware) -> Self {
        self.firmware = firmware;
        self
    }

    /// A Linux kernel to boot, without a boot loader.
    pub fn kernel(mut self, path: impl Into<PathBuf>) -> Self {
        self.kernel = Some(path.into());
        self
    }

    /// The kernel's initial RAM disk.
    pub fn initrd(mut self, path: impl Into<PathBuf>) -> Self {
        self.initrd = Some(path.into());
        self
    }

    /// The kernel's command line. `console=ttyS0` makes it speak on the console.
    pub fn append(mut self, command_line: impl Into<String>) -> Self {
        self.append = Some(command_line.into());
        self
    }

    /// One disk more. They are `disk0`, `disk1`, ... to QMP.
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// A CD image in a drive.
    pub fn cdrom(mut self, image: impl Into<PathBuf>) -> Self {
        self.cdrom = Some(image.into());
        self
    }

    /// What kind of network interfaces the guest sees.
    pub fn nic_model(mut self, model: NicModel) -> Self {
        self.nic_model = model;
        self
    }

    /// Gives the network interfaces their boot ROM (iPXE). Without this word they have none: it costs time, and a machine that
    /// finds nothing to boot would send frames that no guest has sent.
    pub fn network_boot(mut self) -> Self {
        self.network_boot = true;
        self
    }

    /// More arguments, passed on as they are, behind all others.
    pub fn extra_arguments(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.extra.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// The emulator that [`program`](Self::program) chose.
    pub fn program_path(&self) -> &Path {
        &self.program
    }

    /// The arguments for this machine with these network interfaces.
    ///
    /// They say nothing of monitor and console: [`Qemu::start`](crate::Qemu::start) adds its own, and who starts a QEMU without it adds theirs, such
    /// as `-serial mon:stdio`. Where a tap is a descriptor, the arguments name its number: QEMU must inherit it under the same.
    pub fn arguments(&self, accelerator: &Accelerator, nics: &[Nic]) -> Vec<OsString> {
        let mut arguments = Arguments::default();
        arguments.flag("-no-user-config");
        arguments.flag("-nodefaults");
        arguments.pair("-display", "none");
        // A guest that powers off stays, stopped, until the test has looked at it; one that resets does reset.
        arguments.flag("-no-shutdown");
        arguments.pair("-machine", &self.machine_type);
        arguments.pair("-accel", accelerator.name());
        arguments.pair("-cpu", &self.cpu_model);
        arguments.pair("-smp", self.cpus.to_string());
        arguments.pair("-m", format!("{}M", self.memory_mib));
        arguments.0.extend(self.firmware.arguments());
        if let Some(kernel) = &self.kernel {
            arguments.pair("-kernel", kernel);
        }
        if let Some(initrd) = &self.initrd {
            arguments.pair("-initrd", initrd);
        }
        if let Some(append) = &self.append {
            arguments.pair("-append", append);
        }
        // First among the devices, so that a disk more or less does not move them to other PCI slots, from which guests derive
        // interface names.
        arguments
            .0
            .extend(nic::arguments(self.nic_model, nics, self.network_boot));
        for (index, disk) in self.disks.iter().enumerate() {
            arguments.0.extend(disk.arguments(index));
        }
        if let Some(cdrom) = &self.cdrom {
            let drive = OptionValue::new("")
                .set("id", "cdrom0")
                .set("if", "none")
                .set("media", "cdrom")
                .set("readonly", "on")
                .file(cdrom);
            arguments.pair("-drive", OsString::from(drive));
            arguments.pair("-device", "ide-cd,drive=cdrom0");
        }
        // Without entropy a guest may wait for it at boot; and two guests restored from one saved state need a sign that they
        // are two.
        arguments.pair("-device", "virtio-rng-pci");
        arguments.pair("-device", "vmgenid,guid=auto");
        arguments.0.extend(self.extra.iter().cloned());
        arguments.0
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn pair(&mut self, option: &str, value: impl AsRef<OsStr>) {
        self.0.extend([option.into(), value.as_ref().to_owned()]);
    }
}
