// SPDX-License-Identifier: GPL-3.0-or-later
//! Disks.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::option::OptionValue;
use crate::state;

/// A disk image.
///
/// What the guest writes goes to an overlay that QEMU makes and unlinks before the guest runs (`snapshot=on`), so nothing
/// stays of it and the image is as it was. [`persistent`](Self::persistent) lets the guest write to the image.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Disk {
    path: PathBuf,
    format: Option<String>,
    model: DiskModel,
    persistent: bool,
}

impl Disk {
    /// A disk with the content of an image file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            format: None,
            model: DiskModel::VirtioBlk,
            persistent: false,
        }
    }

    /// The image's format as QEMU calls it: `raw`, `qcow2`, `vmdk`, ... Without this word QEMU looks for itself, and keeps a
    /// guest from writing the first sector of a [`persistent`](Self::persistent) raw image, which could make another format of
    /// it.
    pub fn format(mut self, format: impl Into<String>) -> Self {
        self.format = Some(format.into());
        self
    }

    /// What kind of disk the guest sees.
    pub fn model(mut self, model: DiskModel) -> Self {
        self.model = model;
        self
    }

    /// Lets the guest write to the image itself.
    pub fn persistent(mut self) -> Self {
        self.persistent = true;
        self
    }

    pub(crate) fn arguments(&self, index: usize, place: DevicePlace) -> [OsString; 4] {
        let id = format!("disk{index}");
        let mut drive = OptionValue::new("")
            .set("id", &id)
            .set("if", "none")
            .file(&self.path);
        if let Some(format) = &self.format {
            drive = drive.set("format", format);
        }
        if !self.persistent {
            drive = drive.set("snapshot", "on");
        }
        [
            "-drive".into(),
            drive.into(),
            "-device".into(),
            self.device(index, place),
        ]
    }

    /// The arguments for a disk that goes on where it was saved: an overlay on the one in the folder, which is one on the image.
    pub(crate) fn restored_arguments(
        &self,
        index: usize,
        folder: &Path,
        place: DevicePlace,
    ) -> [OsString; 4] {
        let id = format!("disk{index}");
        let image = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        let mut drive = OptionValue::new("")
            .set("id", &id)
            .set("if", "none")
            .file(&folder.join(state::overlay(index)))
            .set("format", "qcow2")
            .set("snapshot", "on")
            // The image may have another name by now.
            .set("backing.file.filename", image);
        if let Some(format) = &self.format {
            drive = drive.set("backing.driver", format);
        }
        [
            "-drive".into(),
            drive.into(),
            "-device".into(),
            self.device(index, place),
        ]
    }

    fn device(&self, index: usize, place: DevicePlace) -> OsString {
        let device = OptionValue::new(self.model.device()).set("drive", format!("disk{index}"));
        place.add_to(device).into()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_persistent(&self) -> bool {
        self.persistent
    }

    pub(crate) fn is_ide(&self) -> bool {
        self.model == DiskModel::Ide
    }

    pub(crate) fn format_name(&self) -> Option<&str> {
        self.format.as_deref()
    }

    /// The same disk with its image somewhere else.
    pub(crate) fn at(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = path.into();
        self
    }
}

/// Where a disk or a CD drive is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DevicePlace {
    /// In the boot order, if there is one.
    pub(crate) boot_index: Option<usize>,
    /// The IDE bus and the unit there, if QEMU does not find them itself.
    pub(crate) ide: Option<(usize, usize)>,
}

impl DevicePlace {
    pub(crate) fn add_to(self, mut device: OptionValue) -> OptionValue {
        if let Some((bus, unit)) = self.ide {
            device = device
                .set("bus", format!("ide.{bus}"))
                .set("unit", unit.to_string());
        }
        if let Some(index) = self.boot_index {
            device = device.set("bootindex", index.to_string());
        }
        device
    }
}

/// What kind of disk a guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskModel {
    /// virtio-blk, the fast one. The default.
    VirtioBlk,
    /// An IDE disk (SATA on the machine type `q35`), for a guest without a virtio driver.
    Ide,
}

impl DiskModel {
    fn device(self) -> &'static str {
        match self {
            Self::VirtioBlk => "virtio-blk-pci",
            Self::Ide => "ide-hd",
        }
    }
}
