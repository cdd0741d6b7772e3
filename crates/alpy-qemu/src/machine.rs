// SPDX-License-Identifier: GPL-3.0-or-later
//! The machine as data, and its command line.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::accelerator::Accelerator;
use crate::disk::{DevicePlace, Disk};
use crate::error::{Error, Result};
use crate::files;
use crate::firmware::Firmware;
use crate::nic::{self, Look, Nic, NicModel};
use crate::option::OptionValue;
use crate::recipe::Recipe;
use crate::seed::Seed;
use crate::state::{self, Place};
use crate::tpm;

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
    seed: Option<Seed>,
    tpm: bool,
    nic_model: NicModel,
    network_boot: bool,
    extra: Vec<OsString>,
    recipe: Option<Recipe>,
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
            seed: None,
            tpm: false,
            nic_model: NicModel::VirtioNet,
            network_boot: false,
            extra: Vec::new(),
            recipe: None,
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
    ///
    /// A machine boots from the first one, whatever their models are, then from the [`cdrom`](Self::cdrom), then from the
    /// [network](Self::network_boot).
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// A CD image in a drive.
    pub fn cdrom(mut self, image: impl Into<PathBuf>) -> Self {
        self.cdrom = Some(image.into());
        self
    }

    /// What a cloud image is told at its first boot, on a disk or CD more, `seed0`. It is part of a [saved state](Self::saved_state).
    pub fn seed(mut self, seed: Seed) -> Self {
        self.seed = Some(seed);
        self
    }

    /// A TPM 2.0, emulated by the program swtpm, in version 0.7 or newer. It is new with each start, and part of a
    /// [saved state](Self::saved_state).
    pub fn tpm(mut self) -> Self {
        self.tpm = true;
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

    /// A test begins where this recipe ends. Whoever runs machines for tests, as the crate `alpy` does, boots one to that point once,
    /// [saves](crate::Qemu::save) it, and has later tests begin with what was saved.
    ///
    /// Such a machine has no [persistent](Disk::persistent) disk, its disks are raw or qcow2, and no extra argument names a disk.
    pub fn saved_state(mut self, recipe: Recipe) -> Self {
        self.recipe = Some(recipe);
        self
    }

    /// The machine without [`saved_state`](Self::saved_state): a test begins with its first instruction.
    pub fn without_saved_state(mut self) -> Self {
        self.recipe = None;
        self
    }

    /// The recipe at whose end a test begins.
    pub fn recipe(&self) -> Option<&Recipe> {
        self.recipe.as_ref()
    }

    /// How much memory it has, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.memory_mib) << 20
    }

    /// The emulator that [`program`](Self::program) chose.
    pub fn program_path(&self) -> &Path {
        &self.program
    }

    /// Whether all files that it is made of are there and can be used, backing files of disks too, and fit to each other.
    ///
    /// [`Qemu::start`](crate::Qemu::start) asks this itself. Whoever has other things to do before asks it first.
    ///
    /// # Errors
    /// [`Error::ImageMissing`], [`Error::ImageUnusable`], [`Error::ImageFormat`], [`Error::ImageCompressed`],
    /// [`Error::NoTemporaryFolder`], [`Error::NoSecureBoot`], [`Error::TpmMissing`].
    pub fn check(&self) -> Result<()> {
        let has_smm = self.is_q35() && !self.machine_type.contains("smm=off");
        if matches!(self.firmware, Firmware::SecureBoot { .. }) && !has_smm {
            return Err(Error::NoSecureBoot {
                machine_type: self.machine_type.clone(),
            });
        }
        if self.tpm {
            tpm::check()?;
        }
        let files = [
            ("kernel", &self.kernel),
            ("initrd", &self.initrd),
            ("CD image", &self.cdrom),
        ];
        for (what, path) in files {
            path.iter().try_for_each(|path| files::readable(what, path))?;
        }
        for file in self.firmware.files() {
            files::readable("firmware", file)?;
        }
        self.disks.iter().try_for_each(files::disk)?;
        if self.disks.iter().all(Disk::is_persistent) {
            return Ok(());
        }
        files::temporary_folder(env::var_os("TMPDIR").map(PathBuf::from))
    }

    /// The arguments for this machine with these network interfaces.
    ///
    /// They say nothing of monitor and console: [`Qemu::start`](crate::Qemu::start) adds its own, and who starts a QEMU without it adds theirs, such
    /// as `-serial mon:stdio`. Where a backend is a descriptor, the arguments name its number: QEMU must inherit it under the same.
    ///
    /// Nor do they say anything of a [`seed`](Self::seed), which is no file: [`Seed::iso`] makes one of it, for a [`disk`](Self::disk). Nor of a
    /// [`tpm`](Self::tpm), which is a process.
    pub fn arguments(&self, accelerator: &Accelerator, nics: &[Nic]) -> Vec<OsString> {
        self.arguments_in(accelerator, nics, None, &Passed::default())
    }

    /// The arguments for this machine where its memory is kept in a folder, and QEMU has more under these numbers.
    pub(crate) fn arguments_in(
        &self,
        accelerator: &Accelerator,
        nics: &[Nic],
        place: Option<&Place>,
        passed: &Passed,
    ) -> Vec<OsString> {
        let mut arguments = Arguments::default();
        arguments.flag("-no-user-config");
        arguments.flag("-nodefaults");
        arguments.pair("-display", "none");
        // A guest that powers off stays, stopped, until the test has looked at it; one that resets does reset.
        arguments.flag("-no-shutdown");
        let machine_type = self.firmware.machine_type(&self.machine_type);
        match place {
            None => arguments.pair("-machine", &machine_type),
            Some(place) => {
                let memory = state::MEMORY_ID;
                arguments.pair("-machine", format!("{machine_type},memory-backend={memory}"));
                arguments.pair("-object", place.memory(self.memory_mib));
            }
        }
        if let Some(clock) = &passed.clock {
            arguments.pair("-rtc", clock);
        }
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
        // SeaBIOS has its own order of disks, IDE before virtio, and boots from the first in it. With one disk it has nothing to choose.
        // The index 0 is that of a kernel without a boot loader.
        let is_ordered = self.disks.len() > 1;
        let boot_index = |place: usize| is_ordered.then_some(place + 1);
        // First among the devices, so that a disk more or less does not move them to other PCI slots, from which guests derive
        // interface names.
        let look = Look {
            model: self.nic_model,
            network_boot: self.network_boot,
            // Whether it boots or is restored, so that the guest sees the same.
            restorable: self.recipe.is_some() || place.is_some(),
            boot_index: boot_index(self.disks.len() + 1),
        };
        arguments.0.extend(nic::arguments(look, nics));
        for (index, disk) in self.disks.iter().enumerate() {
            let on = DevicePlace {
                boot_index: boot_index(index),
                ide: self.ide_place(self.ide_before(index)).filter(|_| disk.is_ide()),
            };
            arguments.0.extend(match place {
                Some(Place::Restore(folder)) => disk.restored_arguments(index, folder, on),
                _ => disk.arguments(index, on),
            });
        }
        if let Some(cdrom) = &self.cdrom {
            let drive = OptionValue::new("")
                .set("id", "cdrom0")
                .set("if", "none")
                .set("media", "cdrom")
                .set("readonly", "on")
                .file(cdrom);
            arguments.pair("-drive", OsString::from(drive));
            let on = DevicePlace {
                boot_index: boot_index(self.disks.len()),
                ide: self.ide_place(self.ide_before(self.disks.len())),
            };
            let device = on.add_to(OptionValue::new("ide-cd").set("drive", "cdrom0"));
            arguments.pair("-device", OsString::from(device));
        }
        if let Some((seed, descriptor)) = self.seed.as_ref().zip(passed.seed) {
            let before = self.ide_before(self.disks.len()) + usize::from(self.cdrom.is_some());
            let on = DevicePlace {
                boot_index: None,
                ide: self.ide_place(before),
            };
            arguments.0.extend(seed.arguments(descriptor, on));
        }
        if let Some(descriptor) = passed.tpm.filter(|_| self.tpm) {
            arguments.0.extend(tpm::arguments(descriptor));
        }
        // Without entropy a guest may wait for it at boot; and two guests restored from one saved state need a sign that they
        // are two.
        arguments.pair("-device", "virtio-rng-pci");
        arguments.pair("-device", "vmgenid,guid=auto");
        arguments.0.extend(self.extra.iter().cloned());
        if let Some(Place::Restore(_)) = place {
            arguments.pair("-incoming", "defer");
        }
        arguments.0
    }

    /// How many IDE disks come before this one.
    fn ide_before(&self, disk: usize) -> usize {
        self.disks[..disk].iter().filter(|disk| disk.is_ide()).count()
    }

    /// The place of an IDE device. Alone, it is where QEMU puts it. More than one need to be told: QEMU puts two on the second bus of `pc` and
    /// finds no place for a third, and on `q35`, where each has a bus of its own, none for a second.
    fn ide_place(&self, nth: usize) -> Option<(usize, usize)> {
        let all = self.ide_before(self.disks.len())
            + usize::from(self.cdrom.is_some())
            + usize::from(self.seed.as_ref().is_some_and(Seed::is_cdrom));
        let place = if self.is_q35() {
            (nth, 0)
        } else {
            (nth / 2, nth % 2)
        };
        (all > 1).then_some(place)
    }

    fn is_q35(&self) -> bool {
        self.machine_type
            .split(',')
            .next()
            .is_some_and(|name| name.contains("q35"))
    }

    pub(crate) fn model_of_nics(&self) -> NicModel {
        self.nic_model
    }

    pub(crate) fn disks(&self) -> &[Disk] {
        &self.disks
    }

    pub(crate) fn has_tpm(&self) -> bool {
        self.tpm
    }

    pub(crate) fn seed_of_cloud(&self) -> Option<&Seed> {
        self.seed.as_ref()
    }

    /// The files that the guest is made of, without the disks and their backing files.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = [&self.kernel, &self.initrd, &self.cdrom]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        files.extend(self.firmware.files().into_iter().cloned());
        // An argument may name a file anywhere in it: `-fw_cfg name=opt/x,file=y`.
        let words = self.extra.iter().flat_map(|argument| {
            let bytes = argument.as_encoded_bytes();
            bytes.split(|byte| b",=".contains(byte))
        });
        let paths = words.map(|word| Path::new(OsStr::from_bytes(word)));
        files.extend(paths.filter(|path| path.is_file()).map(Path::to_owned));
        files
    }

    /// Its arguments, as if all its files and taps were in the same place always, and the recipe: what is left shapes the guest by its text.
    pub(crate) fn shape(&self, accelerator: &Accelerator, nics: &[Nic]) -> String {
        let mut still = self.clone();
        let named = |file: &mut PathBuf| *file = "file".into();
        [&mut still.kernel, &mut still.initrd, &mut still.cdrom]
            .into_iter()
            .flatten()
            .for_each(named);
        still.firmware.files_mut().into_iter().for_each(named);
        still
            .disks
            .iter_mut()
            .for_each(|disk| *disk = disk.clone().at("file"));
        let nics: Vec<_> = nics.iter().map(Nic::without_backend).collect();
        let passed = Passed {
            clock: None,
            seed: Some(0),
            tpm: Some(0),
        };
        let place = Place::Save("folder".into());
        let arguments = still.arguments_in(accelerator, &nics, Some(&place), &passed);
        format!("{arguments:?} {:?}", self.recipe)
    }

    /// Whether all that the guest changes is in a saved state.
    pub(crate) fn check_savable(&self) -> Result<()> {
        if self.disks.iter().any(Disk::is_persistent) {
            return Err(Error::NotSavable {
                what: "a persistent disk".to_owned(),
            });
        }
        const DISKS: [&str; 15] = [
            "-drive",
            "-blockdev",
            "-hda",
            "-hdb",
            "-hdc",
            "-hdd",
            "-sd",
            "-mtdblock",
            "-pflash",
            "-fda",
            "-fdb",
            "-cdrom",
            "-virtfs",
            "-fsdev",
            "-incoming",
        ];
        let names = |argument: &&OsString| {
            argument
                .to_str()
                .is_some_and(|text| DISKS.contains(&text.replace("--", "-").as_str()))
        };
        match self.extra.iter().find(names) {
            Some(argument) => Err(Error::NotSavable {
                what: format!("the extra argument {}", argument.to_string_lossy()),
            }),
            None => Ok(()),
        }
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

/// What is known when QEMU starts: the numbers of descriptors that it inherits for what is no file, and its clock.
#[derive(Debug, Clone, Default)]
pub(crate) struct Passed {
    /// The value of `-rtc`, for a machine that is restored.
    pub(crate) clock: Option<String>,
    pub(crate) seed: Option<RawFd>,
    pub(crate) tpm: Option<RawFd>,
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
