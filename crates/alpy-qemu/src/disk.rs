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

    pub(crate) fn arguments(&self, index: usize) -> [OsString; 4] {
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
        let device = OptionValue::new(self.model.device()).set("drive", &id);
        ["-drive".into(), drive.into(), "-device".into(), device.into()]
    }

    /// The arguments for a disk that goes on where it was saved: an overlay on the one in the folder, which is one on the image.
    pub(crate) fn restored_arguments(&self, index: usize, folder: &Path) -> [OsString; 4] {
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
        let device = OptionValue::new(self.model.device()).set("drive", &id);
        ["-drive".into(), drive.into(), "-device".into(), device.into()]
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_persistent(&self) -> bool {
        self.persistent
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
