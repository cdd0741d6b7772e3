// SPDX-License-Identifier: GPL-3.0-or-later
//! Finds the images that `cargo xtask images` built.

mod manifest;

use std::path::PathBuf;

use anyhow::{Context, Result};

pub use manifest::{Appliance, Container, Machine, Manifest};

/// Reads the manifest of the images: in the folder that `ALPY_IMAGES` names, else in `alpy/images` of the target folder
/// that this executable is in, else of the one in the current folder.
pub fn manifest() -> Result<Manifest> {
    let images = folder();
    Manifest::read(&images).with_context(|| {
        format!(
            "no usable images in {}: run `cargo xtask images`",
            images.display()
        )
    })
}

fn folder() -> PathBuf {
    if let Some(images) = std::env::var_os("ALPY_IMAGES") {
        return images.into();
    }
    let executable = std::env::current_exe().unwrap_or_default();
    // Cargo marks its target folder with this file.
    let target = executable
        .ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").is_file());
    target
        .map_or_else(|| PathBuf::from("target"), PathBuf::from)
        .join("alpy/images")
}
